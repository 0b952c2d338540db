"""The token stream of a split on disk, memory-mapped. building/join.py writes it.

train-00000.bin         token ids, little-endian uint16 or uint32, at most SHARD_TOKENS a file
train.documents.bin     little-endian int64: n + 1 token starts, then n counts of UTF-8 bytes, for n documents
train.marks.bin         of examples: a byte for each token, which says what is learned from it
"""

import bisect
import functools
import itertools
import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.manifest import REBUILD, SplitRecord
from scratchlab.corpus.tokenizer import Dtype, TokenIds
from scratchlab.errors import CorpusError

SHARD_TOKENS = 2**28
OPEN_SHARDS = 128
"""Of all splits of a process together: a map holds a file descriptor, of which a process may have 256 on a Mac."""

Int64s = npt.NDArray[np.int64]


class Split:
    """One split as one token stream, memory-mapped: a shard is opened when first read, and only the pages asked for."""

    def __init__(self, folder: Path, name: str, record: SplitRecord, dtype: Dtype, vocab_size: int) -> None:
        self.name, self._vocab_size = name, vocab_size
        self.bytes = record.bytes
        """UTF-8 bytes of the split's text; `<|endoftext|>` has none."""
        self._folder = folder
        self._record = record
        self._dtype = stored = np.dtype(dtype).newbyteorder("<")
        self._shards = [_File(folder, shard.name, shard.size // stored.itemsize, stored) for shard in record.shards]
        self._edges = list(itertools.accumulate((shard.size for shard in self._shards), initial=0))
        """Where each shard begins in the stream, and at the end where the last one ends."""

    def __len__(self) -> int:
        """Tokens, `<|endoftext|>` included."""
        return self._record.tokens

    def read(self, start: int, stop: int) -> TokenIds:
        """Tokens `start` to `stop`, shape (stop - start,), read-only unless they span shards. IndexError if outside,
        CorpusError if what is there cannot be tokens of this corpus.
        """
        parts = [_last_mapped(shard).numbers[first:last] for shard, first, last in self._parts(start, stop)]
        tokens = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, self._dtype), *parts])
        if len(tokens) and int(tokens.max()) >= self._vocab_size:
            raise CorpusError(
                f"The {self.name} split of {self._folder} holds a token that its vocabulary of {self._vocab_size} does "
                f"not have: a file is damaged. `scratchlab corpus verify {self._folder}` names it. {REBUILD}"
            )
        return tokens

    def expect(self, start: int, stop: int) -> None:
        """Have the system begin to fetch tokens `start` to `stop`, which will be read soon; does not wait for them.

        Said of a whole batch, it makes one wait of many, and spares the disk what the system would read around each
        place. Measured on a file of 4 GB that was not in memory, batches of 32 windows of 1,024: 2.2 ms each instead of
        18, and 0.04 GB read by 200 of them instead of all 4.
        """
        for shard, first, last in self._parts(start, stop):
            begin = first * self._dtype.itemsize // mmap.PAGESIZE * mmap.PAGESIZE
            _last_mapped(shard).pages.madvise(mmap.MADV_WILLNEED, begin, last * self._dtype.itemsize - begin)

    def _parts(self, start: int, stop: int) -> "Iterator[tuple[_File, int, int]]":
        """The shards that tokens `start` to `stop` lie in, each with the first and the end of them there."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens {start} to {stop} of split {self.name}, which has {len(self)}")
        for number in range(bisect.bisect_right(self._edges, start) - 1, bisect.bisect_left(self._edges, stop)):
            edge, end = self._edges[number : number + 2]
            yield self._shards[number], max(start, edge) - edge, min(stop, end) - edge

    @property
    def document_starts(self) -> Int64s:
        """Where each document starts in the token stream, and at the end its length; shape (documents + 1,)."""
        return self._table[: self._record.documents + 1]

    @property
    def document_bytes(self) -> Int64s:
        """UTF-8 bytes of each document; shape (documents,)."""
        return self._table[self._record.documents + 1 :]

    @functools.cached_property
    def marks(self) -> npt.NDArray[np.uint8] | None:
        """Of a corpus of examples, what is learned from each token; shape (tokens,)."""
        record = self._record.marks
        return record and _mapped(_File(self._folder, record.name, record.size, np.dtype(np.uint8))).numbers

    @functools.cached_property
    def ids(self) -> tuple[str, ...]:
        """Of a corpus of examples, what each is called where it came from."""
        assert self._record.ids is not None
        return tuple(json.loads((self._folder / self._record.ids.name).read_text(encoding="utf-8")))

    @functools.cached_property
    def _table(self) -> Int64s:
        size = 2 * self._record.documents + 1
        return _mapped(_File(self._folder, self._record.document_table.name, size, np.dtype("<i8"))).numbers


@dataclass(frozen=True, slots=True, eq=False)  # one that was built anew is not read from the maps of the old one
class _File:
    """A file of `size` numbers, of one opening of a corpus."""

    folder: Path
    name: str
    size: int
    dtype: np.dtype[Any]


class _Mapped(NamedTuple):
    """A file in memory: its pages, and the numbers that they hold."""

    pages: mmap.mmap
    numbers: npt.NDArray[Any]


def _mapped(file: _File) -> _Mapped:
    path = file.folder / file.name
    try:
        with path.open("rb") as opened:
            pages = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        return _Mapped(pages, np.frombuffer(pages, file.dtype, file.size))
    except (OSError, ValueError) as error:
        raise CorpusError(f"{path} could not be opened: {error}. {REBUILD}") from error


_last_mapped = functools.lru_cache(OPEN_SHARDS)(_mapped)
"""The shards that were read last; what was read of others keeps their maps until it is dropped itself."""
