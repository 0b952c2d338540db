"""The folder that the tasks of a build share across machines, and what each has of it on its own.

On a file system that the machines share, tasks work in the folder where it lies. Of one at a URL (s3://, ...) a task
fetches the few files it needs to a scratch folder, works there, and puts back what it made.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scratchlab.corpus.building.work import Work
from scratchlab.corpus.manifest import MANIFEST
from scratchlab.files import sync_files, sync_folder

if TYPE_CHECKING:
    from datatrove.io import DataFolder

CORPUS, WORK = "corpus", "work"
PUBLISHING = "publishing"
NEAR_BYTES = 2**16
"""Ranges of a file that lie closer are fetched in one request: a request takes as long as so many bytes do."""


@dataclass(frozen=True, slots=True)
class Shared:
    """Where a build is made: in a hidden folder beside the place of the corpus."""

    out: "DataFolder"
    """The place of the corpus, which is not there before it is whole."""
    folder: "DataFolder"
    logs: "DataFolder"
    """What datatrove says of the tasks, and by which it knows those that are done. It stays."""

    @property
    def name(self) -> str:
        """The place of the corpus, for people."""
        return str(self.out.resolve_paths(""))

    def is_taken(self) -> bool:
        """Whether something else is in the place of the corpus."""
        return self.out.fs.lexists(self.out.path) and not self.folder.isfile(PUBLISHING)

    def clear(self) -> None:
        """Remove the hidden folder, and logs that would say that its stages are done."""
        for folder in (self.folder, self.logs):
            if folder.exists(""):
                folder.rm("", recursive=True)

    def publish(self) -> None:
        """Put the corpus, whose manifest is there, in its place. A second call does what is left to be done."""
        if not self.folder.isfile(PUBLISHING):
            self.folder.pipe_file(PUBLISHING, b"")
        if not self.out.isfile(MANIFEST):
            self._move()
        for folder in (WORK, CORPUS):
            if self.folder.exists(folder):
                self.folder.rm(folder, recursive=True)
        self.folder.rm("", recursive=True)

    def _move(self) -> None:
        if self.out.is_local():
            sync_files(Path(self.folder.path, CORPUS))
            os.replace(f"{self.folder.path}/{CORPUS}", self.out.path)
            sync_folder(Path(self.out.path).parent)
            return
        paths = [path for path in self.folder.list_files(CORPUS) if path != f"{CORPUS}/{MANIFEST}"]
        self.out.fs.makedirs(self.out.path, exist_ok=True)
        for some in (paths, [f"{CORPUS}/{MANIFEST}"]):  # the manifest is what makes a folder a corpus
            names = [path.removeprefix(f"{CORPUS}/") for path in some]
            self.out.fs.copy(
                [f"{self.folder.path}/{path}" for path in some], [f"{self.out.path}/{name}" for name in names]
            )


@dataclass(frozen=True, slots=True)
class Here:
    """What a task has of the hidden folder on its machine. Files are called by their paths here."""

    shared: Shared
    path: Path

    @property
    def work(self) -> Work:
        return Work(self.path / WORK)

    @property
    def corpus(self) -> Path:
        """What is to be the corpus."""
        return self.path / CORPUS

    @property
    def in_place(self) -> bool:
        """Whether this is the hidden folder itself."""
        return self.shared.folder.is_local()

    def has(self, path: Path) -> bool:
        """Whether the hidden folder has a file."""
        return path.exists() if self.in_place else self.shared.folder.isfile(self._name(path))

    def listed(self, folder: Path) -> list[Path]:
        """The files in a folder of the hidden one."""
        if self.in_place:
            return list(folder.iterdir()) if folder.exists() else []
        return [self.path / name for name in self.shared.folder.list_files(self._name(folder))]

    def fetch(self, paths: Iterable[Path]) -> None:
        """Have files here. FileNotFoundError for one that is not there."""
        if self.in_place:
            return
        missing = [path for path in paths if not path.exists()]
        for folder in {path.parent for path in missing}:
            folder.mkdir(parents=True, exist_ok=True)
        if missing:
            self.shared.folder.get([self._name(path) for path in missing], [str(path) for path in missing])

    def fetch_ranges(self, path: Path, ranges: Sequence[tuple[int, int]]) -> None:
        """Have ranges of a file here: bytes (start, stop). The rest of it is a hole that reads as zeros."""
        if self.in_place:
            return
        near = list(_together(ranges))
        starts, stops = [start for start, _ in near], [stop for _, stop in near]
        names = [self._name(path)] * len(near)
        parts = self.shared.folder.cat_ranges(names, starts, stops, on_error="raise")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for start, part in zip(starts, parts, strict=True):
                file.seek(start)
                file.write(part)

    def put(self, paths: Iterable[Path]) -> None:
        """Give files to the hidden folder."""
        if self.in_place:
            return
        given = list(paths)
        self._make_folders(given)
        if given:
            self.shared.folder.put([str(path) for path in given], [self._name(path) for path in given])

    def put_last(self, path: Path) -> None:
        """Give the file that says that something is done: it is never there in part, even where others may be."""
        if not self.in_place:
            name = self._name(path)
            self._make_folders([path])
            self.shared.folder.put_file(str(path), f"{name}.partial")
            self.shared.folder.mv(f"{name}.partial", name)

    def forget(self) -> None:
        """Make room: drop what was fetched and what was put."""
        if not self.in_place:
            shutil.rmtree(self.work.folder, ignore_errors=True)
            shutil.rmtree(self.corpus, ignore_errors=True)

    def _make_folders(self, paths: Iterable[Path]) -> None:
        for folder in {path.parent for path in paths}:
            self.shared.folder.makedirs(self._name(folder), exist_ok=True)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()


@contextlib.contextmanager
def here(shared: Shared) -> Generator[Here]:
    """The hidden folder on this machine, for the time of a task."""
    if shared.folder.is_local():
        os.makedirs(shared.folder.path, exist_ok=True)
        yield Here(shared, Path(shared.folder.path))
        return
    shared.folder.fs.invalidate_cache()  # other machines have put files there
    with tempfile.TemporaryDirectory(prefix="scratchlab-") as scratch:
        yield Here(shared, Path(scratch))


def _together(ranges: Iterable[tuple[int, int]]) -> Generator[tuple[int, int]]:
    """The ranges in order, joined where they lie near each other."""
    start, stop = 0, -NEAR_BYTES
    for next_start, next_stop in sorted(ranges):
        if next_start - stop >= NEAR_BYTES:
            if stop > 0:
                yield start, stop
            start = next_start
        stop = max(stop, next_stop)
    if stop > 0:
        yield start, stop
