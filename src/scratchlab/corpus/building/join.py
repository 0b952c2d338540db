"""The pieces of each split become its shards and its document table."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scratchlab.corpus.building.encode import ROWS, TOKENS
from scratchlab.corpus.building.encode import STAGE as ENCODE
from scratchlab.corpus.building.work import Array, Work
from scratchlab.corpus.building.workers import Map
from scratchlab.corpus.manifest import FileRecord, SplitRecord
from scratchlab.corpus.shards import OPEN_SHARDS
from scratchlab.corpus.tokenizer import Dtype
from scratchlab.files import sha256_of_file, write_zeros

BLOCK_TOKENS = 2**20


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens that follow one another in a file of a piece."""

    piece: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """Documents that follow one another in a split: their tokens, and their rows (ROW)."""

    run: Run
    rows: Array


Stretches = Callable[[], Iterator[Stretch]]
"""What a split is made of, in order. Called more than once, so that nothing of the corpus's size is held."""


def whole_pieces(work: Work, split: str, pieces: Sequence[int]) -> Iterator[Stretch]:
    """Everything that the pieces gave to a split, in order."""
    for piece in pieces:
        if work.path(ENCODE, piece, f"{split}.{ROWS}").exists():
            rows = work.load(ENCODE, piece, f"{split}.{ROWS}")
            yield Stretch(Run(piece, 0, int(rows["tokens"].sum())), rows)


def write_split(
    folder: Path, work: Work, split: str, stretches: Stretches, dtype: Dtype, shard_tokens: int, over: Map
) -> SplitRecord | None:
    """Write the shards and the document table of a split; None if it has no tokens."""
    shards = (
        Shard(work, split, number, runs, dtype, folder)
        for number, runs in enumerate(in_shards(stretches(), shard_tokens))
    )
    return describe_split(folder, split, stretches, list(over(write_shard, shards)), dtype)


def describe_split(
    folder: Path, split: str, stretches: Stretches, written: Sequence[FileRecord], dtype: Dtype
) -> SplitRecord | None:
    """Write the document table of a split whose shards were written; None if there are none."""
    if not written:
        return None
    path = folder / f"{split}.documents.bin"
    documents, characters, size = _write_table(path, stretches)
    return SplitRecord(
        documents=documents,
        characters=characters,
        bytes=size,
        tokens=sum(record.size for record in written) // np.dtype(dtype).itemsize,
        shards=tuple(sorted(written, key=lambda record: record.name)),
        document_table=FileRecord(name=path.name, size=path.stat().st_size, sha256=sha256_of_file(path)),
    )


def _write_table(path: Path, stretches: Stretches) -> tuple[int, int, int]:
    """The table of documents (see shards.py); gives their number, and the characters and bytes of all of them."""
    count = sum(int((~stretch.rows["continues"]).sum()) for stretch in stretches())
    write_zeros(path, 8 * (2 * count + 1))
    table = np.memmap(path, "<i8", "r+")
    starts, sizes = table[: count + 1], table[count + 1 :]
    document, token, characters = 0, 0, 0
    for stretch in stretches():
        rows, heads = stretch.rows, ~stretch.rows["continues"]
        places = document + np.cumsum(heads) - 1  # a row that continues belongs to the document before it
        starts[places[heads]] = (token + np.cumsum(rows["tokens"]) - rows["tokens"])[heads]
        np.add.at(sizes, places, rows["bytes"])
        document += int(heads.sum())
        token += int(rows["tokens"].sum())
        characters += int(rows["characters"].sum())
    starts[count] = token
    table.flush()
    return count, characters, int(sizes.sum())


# Shards.


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard to be written."""

    work: Work
    split: str
    number: int
    runs: tuple[Run, ...]
    dtype: Dtype
    folder: Path
    """Where it is to be."""

    @property
    def path(self) -> Path:
        return self.folder / f"{self.split}-{self.number:05d}.bin"


def write_shard(shard: Shard) -> FileRecord:
    """Copy the shard's tokens to where they belong, hashing on the way."""
    digest, size = hashlib.sha256(), 0
    dtype = np.dtype(shard.dtype).newbyteorder("<")

    @functools.lru_cache(OPEN_SHARDS)  # a mixture comes back to each piece many times, and open files are few
    def tokens_of(piece: int) -> Array:
        return np.memmap(shard.work.path(ENCODE, piece, f"{shard.split}.{TOKENS}"), dtype, "r")

    with shard.path.open("wb") as file:
        for run in shard.runs:
            tokens = tokens_of(run.piece)
            for start in range(run.start, run.stop, BLOCK_TOKENS):
                block = tokens[start : min(start + BLOCK_TOKENS, run.stop)].data
                digest.update(block)
                size += file.write(block)
    return FileRecord(name=shard.path.name, size=size, sha256=digest.hexdigest())


def in_shards(stretches: Iterable[Stretch], shard_tokens: int) -> Iterator[tuple[Run, ...]]:
    """The runs of each shard: those of the stretches, cut where a shard is full."""
    gathered: list[Run] = []
    room = shard_tokens
    for run in (stretch.run for stretch in stretches):
        start = run.start
        while start < run.stop:
            stop = min(run.stop, start + room)
            gathered.append(Run(run.piece, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield tuple(gathered)
                gathered, room = [], shard_tokens
    if gathered:
        yield tuple(gathered)
