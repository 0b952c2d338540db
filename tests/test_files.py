"""Files appear whole or not at all."""

import contextlib
import errno
import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from scratchlab.errors import CorpusError, ScratchlabError, UnfinishedError
from scratchlab.files import (
    canonical_json,
    disk_errors,
    folder_in_one_piece,
    nearest_existing,
    own_folder,
    sha256_of_file,
    sha256_of_json,
    unfinished_folder,
    write_atomically,
)
from scratchlab.training.checkpoint import write_tensors


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_atomically_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_atomically(path, "первый")
    assert path.read_bytes() == "первый".encode()
    write_atomically(path, b"\x00two")
    assert path.read_bytes() == b"\x00two"
    assert names(path.parent) == ["b.txt"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_who_may_read_a_file_is_for_the_umask_to_say(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "text", "a")
        write_tensors({"a": torch.zeros(2)}, tmp_path / "tensors")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [mode, mode]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


KILLED = """
import os, sys
from pathlib import Path
from scratchlab.files import folder_in_one_piece
with folder_in_one_piece(Path(sys.argv[1]), "it") as partial:
    (partial / "half").write_text("a")
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    """And not what others are at, or what goes on when it is run again."""
    path = tmp_path / "one"
    subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    (left,) = tmp_path.iterdir()
    assert names(left) == ["half"]
    with folder_in_one_piece(path, "it") as first:
        assert not left.exists()
        (first / "a").write_text("a")
        (tmp_path / ".one.partial-0123456789abcdef").mkdir()
        (tmp_path / ".one.partial-somefile").write_text("")
        (tmp_path / ".two.partial-12345678").mkdir()
        with folder_in_one_piece(path, "it", replace=True) as second:
            (second / "b").write_text("b")
        assert names(path) == ["b"]
        os.rename(path, tmp_path / "aside")
    assert names(path) == ["a"]
    others = [".one.partial-0123456789abcdef", ".one.partial-somefile", ".two.partial-12345678"]
    assert names(tmp_path) == [*others, "aside", "one"]


def test_a_folder_that_is_removed_before_it_is_held_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another process that takes it for one that was left."""
    made: list[Path] = []
    make = tempfile.mkdtemp

    def make_and_lose(**options: Any) -> str:
        made.append(Path(make(**options)))
        if len(made) == 1:
            made[0].rmdir()
        return str(made[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose)
    with own_folder(tmp_path, "some-") as folder:
        assert (folder.is_dir(), folder) == (True, made[1])
    assert names(tmp_path) == []


def test_where_nothing_can_be_locked_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network folders."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    (tmp_path / "some-12345678").mkdir()
    monkeypatch.setattr(fcntl, "flock", refuse)
    with own_folder(tmp_path, "some-") as folder:
        assert folder.is_dir()
    assert names(tmp_path) == ["some-12345678"]


def test_a_folder_appears_in_one_piece(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "one"
    with folder_in_one_piece(path, "it") as partial:
        (partial / "a.txt").write_text("a")
        assert not path.exists()
        assert partial.name.startswith("."), "hidden while it is not whole"
    assert names(path) == ["a.txt"]
    assert names(path.parent) == ["one"]


def test_a_folder_whose_filling_fails_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        with folder_in_one_piece(tmp_path / "one", "it") as partial:
            (partial / "a.txt").write_text("a")
            raise KeyError

    with pytest.raises(KeyError):
        fill()
    assert names(tmp_path) == []


def fail(within: contextlib.AbstractContextManager[Path], error: Exception, beside: Path | None = None) -> None:
    """Raise `error` while a folder is filled, and another program wrote a file `beside` it."""

    def fill() -> None:
        with within:
            if beside:
                beside.write_text("mine")
            raise error

    with pytest.raises(type(error)):
        fill()


def test_folders_that_were_made_for_one_that_fails_are_gone_with_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    mistake = CorpusError("no text")
    for path in (tmp_path / "a" / "b" / "c", Path("a") / "b" / "c", tmp_path / "c"):
        fail(unfinished_folder(path, "it", "key", "work"), mistake)
        fail(folder_in_one_piece(path, "it"), mistake)
        assert names(tmp_path) == []


def test_folders_that_were_there_or_hold_something_stay(tmp_path: Path) -> None:
    def unfinished(path: str) -> contextlib.AbstractContextManager[Path]:
        return unfinished_folder(tmp_path / path, "it", "key", "work")

    mistake = CorpusError("no text")
    (tmp_path / "mine").mkdir()
    fail(unfinished("mine/a"), mistake)
    assert names(tmp_path) == ["mine"]
    fail(unfinished("one/two/three"), mistake, beside=tmp_path / "one" / "note")
    assert names(tmp_path / "one") == ["note"]
    fail(unfinished("x/y"), UnfinishedError("no power"))
    assert names(tmp_path / "x") == [".y.partial-key"], "what was done is kept"


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "one"
    message = rf"the thing could not be written to {path}: {path.parent} is a file, and no folder\. Give another place"
    with pytest.raises(ScratchlabError, match=message), folder_in_one_piece(path, "the thing"):
        pass


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="without /proc")
def test_where_nothing_can_be_made_it_is_said() -> None:
    message = r"^the export could not be written to /proc/x: /proc takes no new folders\. Give another place"
    with pytest.raises(ScratchlabError, match=message), folder_in_one_piece(Path("/proc/x"), "the export"):
        pass


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EFBIG"])
def test_a_full_disk_says_what_is_free_and_what_to_do(tmp_path: Path, code: str) -> None:
    message = rf"the shards could not be written to {tmp_path}/x/y.*\d+ MB free.*Free some space"
    with pytest.raises(ScratchlabError, match=message), disk_errors(tmp_path / "x" / "y", "the shards"):
        raise OSError(getattr(errno, code), "no")


@pytest.mark.parametrize("code", ["EIO", "ESTALE", "ENOMEM", "EMFILE"])
def test_a_disk_that_fails_says_that_the_work_can_go_on(tmp_path: Path, code: str) -> None:
    number = getattr(errno, code)
    message = rf"the corpus could not be finished at {tmp_path}: {os.strerror(number)}\..*run the same command again"
    with pytest.raises(UnfinishedError, match=message), disk_errors(tmp_path, "the corpus"):
        raise OSError(number, "no")


@pytest.mark.parametrize("error", [ConnectionError(), OSError("no number"), OSError(errno.EBADF, "a closed file")])
def test_other_errors_of_the_system_pass_through(tmp_path: Path, error: OSError) -> None:
    with pytest.raises(OSError) as caught, disk_errors(tmp_path, "it"):  # noqa: PT011  the very error is looked at
        raise error
    assert caught.value is error


def test_nearest_existing(tmp_path: Path) -> None:
    assert nearest_existing(tmp_path / "no" / "such" / "folder") == tmp_path
    assert nearest_existing(tmp_path) == tmp_path


def test_hashes(tmp_path: Path) -> None:
    path = tmp_path / "large"
    content = os.urandom(3_000_000)
    path.write_bytes(content)
    assert sha256_of_file(path) == hashlib.sha256(content).hexdigest()
    assert canonical_json({"b": [1.0, None, "é"], "a": True}) == '{"a":true,"b":[1.0,null,"é"]}'
    assert sha256_of_json({"a": 1, "b": 2}) == sha256_of_json({"b": 2, "a": 1}) != sha256_of_json({"a": 1, "b": 3})
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))
