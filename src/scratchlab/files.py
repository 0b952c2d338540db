"""Writing files so that nothing half-written is ever mistaken for a whole one; hashing and finding them."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from scratchlab.errors import ScratchlabError, UnfinishedError

# A file that belongs to something, by its name: where it lies on this machine, or None if there is no such file.
Find = Callable[[str], Path | None]


def inside(folder: Path) -> Find:
    """Finds the files of a folder."""
    return lambda name: folder / name if (folder / name).is_file() else None


def user_file(variable: str, fallback: str, name: str) -> Path:
    """Where a person's own file of this name is: below the folder that `variable` names, or `fallback` at home."""
    return Path(os.environ.get(variable) or Path.home() / fallback) / "scratchlab" / name


def file_name(name: str) -> str:
    """A name that can be a file's."""
    return re.sub(r"[^\w.=-]+", "-", name).strip("-.") or "model"


# What devices, network folders and a machine without memory say; a closed file or a bad argument is a fault of ours.
_OUTSIDE = frozenset(
    (
        "EIO",
        "EREMOTEIO",
        "ENXIO",
        "ENODEV",
        "ENOTCONN",
        "ESTALE",
        "ETIMEDOUT",
        "EHOSTDOWN",
        "ENOMEM",
        "EMFILE",
        "ENFILE",
    )
)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def stops() -> list[int]:
    """The numbers of what puts a stop to work that may work another time: no room, or what `failed_outside` knows."""
    return [number for number, name in errno.errorcode.items() if number in _FULL or name in _OUTSIDE]


def failed_outside(error: OSError) -> bool:
    """Whether something failed that may work another time, through no fault of a file or a program."""
    return error.errno is not None and errno.errorcode.get(error.errno) in _OUTSIDE


ELSEWHERE = "Give another place, or see to this one."


@contextlib.contextmanager
def disk_errors(path: Path, what: str) -> Generator[None]:
    """Turn what the system says while `what` is written at `path` into a message that can be acted on.

    It is an UnfinishedError for a full disk and for a disk, network folder or memory that fails.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            free = shutil.disk_usage(nearest_existing(path)).free
            remedy = "Free some space" + ("" if error.errno == errno.ENOSPC else " or raise the limit that was met")
            raise UnfinishedError(
                f"{what} could not be written to {path}: {os.strerror(error.errno)} ({free / 1e6:.0f} MB free there). "
                f"Nothing written earlier was lost. {remedy} and run the same command again."
            ) from error
        if error.errno in (
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOTDIR,
            errno.EEXIST,
            errno.EISDIR,
            errno.ENOTEMPTY,
        ):
            found = nearest_existing(path)
            reason = os.strerror(error.errno) if found.is_dir() else f"{found} is a file, and no folder"
            raise ScratchlabError(f"{what} could not be written to {path}: {reason}. {ELSEWHERE}") from error
        if failed_outside(error):
            raise UnfinishedError(
                f"{what} could not be finished at {path}: {os.strerror(error.errno or 0)}. Nothing written earlier was "
                "lost. See to the disk, network folder or memory that failed, and run the same command again."
            ) from error
        raise


def nearest_existing(path: Path) -> Path:
    """The deepest folder on the way to `path` that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def sync_file(path: Path) -> None:
    """Make what was written to a file survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make a rename or a creation inside `folder` survive a power cut (a no-op where folders cannot be synced)."""
    with contextlib.suppress(OSError):
        sync_file(folder)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` beside `path`, sync it and rename it: a reader sees the old file or the new one, never a part."""
    data = content.encode() if isinstance(content, str) else content
    with disk_errors(path, path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with temporary.open("xb") as file:  # for all to read whom the umask lets; mkstemp would let nobody
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextlib.contextmanager
def _parents_of(path: Path) -> Generator[None]:
    """Make the folders above `path`. If what follows fails, those that were made here and are empty go again."""
    made = [parent for parent in path.absolute().parents if not parent.exists()]  # the deepest first
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # something lies there, and so in all above
            for parent in made:
                parent.rmdir()
        raise


@contextlib.contextmanager
def folder_in_one_piece(path: Path, what: str, replace: bool = False) -> Generator[Path]:
    """Yield a hidden folder beside `path` to fill; renamed to `path` at the end, removed if anything goes wrong.

    With `replace` a folder that is there already makes way, once the new one is whole. What a killed process left of
    the same name is removed.
    """
    with disk_errors(path, what), _parents_of(path), contextlib.ExitStack() as held:
        try:
            partial = held.enter_context(own_folder(path.parent, f".{path.name}.partial-"))
        except FileNotFoundError as error:  # as below /proc, which is there
            said = f"{what} could not be written to {path}: {path.parent} takes no new folders. {ELSEWHERE}"
            raise ScratchlabError(said) from error
        os.chmod(partial, 0o755)
        yield partial
        sync_files(partial)
        aside = path.parent / f".{path.name}.old-{partial.name[-8:]}"
        if replace and path.exists():
            os.replace(path, aside)  # a rename is over in no time; removing what is there would take longer
        os.replace(partial, path)
        shutil.rmtree(aside, ignore_errors=True)
        sync_folder(path.parent)


@contextlib.contextmanager
def own_folder(parent: Path, prefix: str) -> Generator[Path]:
    """Yield a new folder in `parent` for this process alone; removed at the end, unless it was renamed.

    Those of the same prefix whose processes were killed are removed first. Each is known by a lock on the folder
    itself, which dies with its process; where folders cannot be locked, nothing is removed.
    """
    for other in parent.glob(f"{glob.escape(prefix)}{'?' * 8}"):  # as `mkdtemp` names them
        if other.is_dir() and not other.is_symlink():
            with contextlib.suppress(OSError), _locked_folder(other):
                shutil.rmtree(other, ignore_errors=True)
    with contextlib.ExitStack() as lock:
        folder = _new_locked_folder(parent, prefix, lock)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _new_locked_folder(parent: Path, prefix: str, lock: contextlib.ExitStack) -> Path:
    """Another process may take it for one that was left, until it is locked; then there is another one."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        try:
            lock.enter_context(_locked_folder(folder))
        except BlockingIOError:
            continue
        except OSError:  # there are no locks here
            pass
        if folder.exists():
            return folder


@contextlib.contextmanager
def _locked_folder(folder: Path) -> Generator[None]:
    """BlockingIOError if another process has it, another OSError where folders cannot be locked."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        import fcntl  # where there is none, folders cannot be opened either

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def sync_files(folder: Path) -> None:
    """Make the contents of all files below `folder` survive a power cut."""
    for file in folder.rglob("*"):
        sync_file(file)


def write_zeros(path: Path, size: int) -> None:
    """A file of `size` zero bytes that is all on disk: to write into a sparse one through a map would end the process
    where the disk is full.
    """
    with path.open("wb") as file:
        for start in range(0, size, ZEROS):
            file.write(bytes(min(ZEROS, size - start)))


ZEROS = 2**20  # written at once


@contextlib.contextmanager
def unfinished_folder(path: Path, what: str, key: str, scratch: str) -> Generator[Path]:
    """Yield a hidden folder beside `path` to fill, which gets that name at the end.

    Unlike that of `folder_in_one_piece` it outlives a kill, an interrupt and a full disk: the next one with the same
    `key`, which stands for everything that decides its content, finds what was done. Those with other keys are removed.
    A mistake of the user's removes it, with the folders above it that were made for it, and nothing else does. What
    lies in the folder `scratch` within it is removed at the end. Raises UnfinishedError while another process fills it.
    """
    partial = path.parent / f".{path.name}.partial-{key[:16]}"
    with disk_errors(path, what), _parents_of(path):
        partial.mkdir(exist_ok=True)
        for other in path.parent.glob(f".{glob.escape(path.name)}.partial-*"):
            if other != partial:
                with _only_process(other, what):
                    shutil.rmtree(other)
        with _only_process(partial, what):
            try:
                with disk_errors(path, what):
                    yield partial
            except UnfinishedError:
                raise
            except ScratchlabError:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            for file in partial.iterdir():
                sync_file(file)
            shutil.rmtree(partial / scratch)
            (partial / LOCK).unlink()
            os.replace(partial, path)
        sync_folder(path.parent)


LOCK = ".lock"


@contextlib.contextmanager
def _only_process(folder: Path, what: str) -> Generator[None]:
    """Hold a folder for writing; the lock dies with its process."""
    import filelock

    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise UnfinishedError(f"{what} is being made by another process in {folder}. Wait for it, or end it.") from None
    try:
        yield
    finally:
        lock.release()


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes as hex, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text, so that hashes of it can be compared."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of_json(value: Any) -> str:
    """SHA-256 of `canonical_json(value)` as hex."""
    return hashlib.sha256(canonical_json(value).encode(errors="surrogatepass")).hexdigest()


def pretty_json(value: Any) -> str:
    """JSON for files that people open."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
