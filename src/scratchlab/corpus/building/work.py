"""What a build has done so far, on disk: files that are whole or not there, so that a killed build goes on.

Work is divided into pieces. What a stage makes of a piece is a few arrays and a JSON record; the record is written last
and says that the piece is done.

    work/survey/00012.json         a piece of the sources has been read; and so on for each stage
"""

import contextlib
import functools
import io
import json
import os
import zlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.manifest import TOKENIZER
from scratchlab.corpus.sources.documents import Span, Spans, pack
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.files import disk_errors

PIECES = 512
"""So many are aimed at: enough for all workers to end at about the same time, and little is lost by a kill."""
SMALLEST_PIECE, LARGEST_PIECE = 2**22, 2**26
"""Bytes. A piece of many small files ends at PIECE_SPANS files."""
PIECE_SPANS = 2_000

SURVEYED = np.dtype([("high", "<u8"), ("low", "<u8"), ("characters", "<i8"), ("bytes", "<i8"), ("continues", "?")])
"""What is remembered of a document between two readings: its key in two halves, its lengths, its place in a text."""

ROW = np.dtype([("tokens", "<i8"), ("bytes", "<i8"), ("characters", "<i8"), ("continues", "?")])
"""What a document, or a part of one, became. `tokens` counts what separates it from the next."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """A share of the sources: what one worker does at a time, and the most that a kill can cost."""

    number: int
    source: int
    """The place of its source among all."""
    spans: Spans

    @property
    def size(self) -> int:
        """In bytes of the files, as a measure of the work."""
        return self.spans.size

    @property
    def split(self) -> str | None:
        """The split that its files' names say."""
        return self.spans[0].split


def in_pieces(listings: Sequence[Spans]) -> list[Piece]:
    """The spans of each source, gathered until a piece is worth a worker's while."""
    total = sum(spans.size for spans in listings)
    full = min(max(total // PIECES, SMALLEST_PIECE), LARGEST_PIECE)
    pieces: list[Piece] = []
    for source, spans in enumerate(listings):
        gathered, size = list[Span](), 0
        for span in spans:
            if gathered and (
                size + span.size > full or len(gathered) == PIECE_SPANS or span.split != gathered[0].split
            ):
                pieces.append(Piece(len(pieces), source, pack(gathered)))
                gathered, size = [], 0
            gathered.append(span)
            size += span.size
        if gathered:
            pieces.append(Piece(len(pieces), source, pack(gathered)))
    return pieces


def stored_tokenizer(work: "Work") -> Tokenizer:
    """The tokenizer of the corpus, once it is there; a process reads it once."""
    path = work.folder.parent / TOKENIZER
    status = path.stat()
    return _open_tokenizer(path, status.st_ino, status.st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _open_tokenizer(path: Path, *_: int) -> Tokenizer:
    return Tokenizer.load(path)


@dataclass(frozen=True, slots=True)
class Work:
    """The folder in which a build keeps what it has done."""

    folder: Path

    def path(self, stage: str, piece: int, what: str) -> Path:
        """Where a stage keeps something that it made of a piece."""
        return self.folder / stage / f"{piece:05d}.{what}"

    def is_done(self, stage: str, piece: int) -> bool:
        """Whether a piece is done and all that was made of it is still as it was.

        Nothing is forced to the disk while a build is under way, which would cost a seventh of its speed. So after a
        power cut, files may be there and hold nothing; their checksums tell.
        """
        try:
            files = self.record(stage, piece)["files"]
            return all(_checksum(self.path(stage, piece, what)) == checksum for what, checksum in files.items())
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return False

    def record(self, stage: str, piece: int) -> dict[str, Any]:
        """What a stage said of a piece when it was done."""
        return json.loads(self.path(stage, piece, "json").read_text(encoding="utf-8"))

    def finish(self, stage: str, piece: int, record: dict[str, Any], files: Sequence[str]) -> None:
        """Say that a piece is done; `files` of it are there already, and whole."""
        checksums = {what: _checksum(self.path(stage, piece, what)) for what in files}
        content = json.dumps({**record, "files": checksums}, ensure_ascii=False)
        with self.new_file(stage, piece, "json") as file:
            file.write(content.encode())

    def save(self, stage: str, piece: int, what: str, array: Array) -> None:
        """Write an array in one piece."""
        content = io.BytesIO()
        np.save(content, array)  # straight to a file it would not notice a full disk
        with self.new_file(stage, piece, what) as file:
            file.write(content.getbuffer())

    def load(self, stage: str, piece: int, what: str) -> Array:
        """An array that was written, memory-mapped where it is not empty."""
        path = self.path(stage, piece, what)
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError:  # an empty file cannot be mapped
            return np.load(path, allow_pickle=False)

    @contextlib.contextmanager
    def new_file(self, stage: str, piece: int, what: str) -> Generator[IO[bytes]]:
        """A file to write, which gets its name when it is whole."""
        path = self.path(stage, piece, what)
        partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
        with disk_errors(path, path.name):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb", buffering=2**20) as file:
                yield file
            os.replace(partial, path)


def _checksum(path: Path) -> int:
    with path.open("rb") as file:
        checksum = 0
        while block := file.read(2**20):
            checksum = zlib.crc32(block, checksum)
        return checksum
