"""JSON Lines that are written while something runs: each is on the disk once it was added; a kill tears one at most."""

import contextlib
import json
import os
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

import filelock

from scratchlab.errors import UnfinishedError
from scratchlab.files import disk_errors

LOCK = ".lock"

Line = Mapping[str, Any]


@contextlib.contextmanager
def held(path: Path, what: str) -> Generator[None]:
    """Hold a file for writing. UnfinishedError while another process does; the lock dies with its process."""
    with disk_errors(path, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path.with_name(f".{path.stem}{LOCK}"))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UnfinishedError(
                f"{path} is being written by another process. Wait for it, or end it: what it kept counts."
            ) from None
    try:
        yield
    finally:
        lock.release()


def begin(path: Path, head: Line, what: str) -> None:
    """Make the file with its first line, or make it ready to go on."""
    if not mend(path, what):
        append(path, [head], what)


def mend(path: Path, what: str) -> bool:
    """Make a file ready to go on: a last line that a kill has torn is dropped, one that lacks its end alone gets it.

    Gives whether there is anything in it.
    """
    with disk_errors(path, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            file.seek(0)
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content) and _is_whole(content[whole:]):
                file.write(b"\n")
                whole = len(content) + 1
            file.truncate(whole)
    return whole > 0


def append(path: Path, lines: Iterable[Line], what: str) -> None:
    """Add lines, which are on the disk when this returns."""
    with disk_errors(path, what), path.open("ab") as file:
        file.write(b"".join(encoded(line) for line in lines))
        file.flush()
        os.fsync(file.fileno())


def encoded(line: Line) -> bytes:
    """A line as it is written: in UTF-8, and where that cannot hold it (half a surrogate pair) with escapes."""
    try:
        return (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(line, allow_nan=False) + "\n").encode()


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file but for one that was torn."""
    *whole, last = path.read_bytes().split(b"\n")
    return [*whole, *([last] if _is_whole(last) else [])]


def _is_whole(line: bytes) -> bool:
    """Whether a line without an end is one: no beginning of a JSON object is JSON."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
