"""The token stream of a split on disk: written once, in order, then memory-mapped.

train-00000.bin         token ids, little-endian uint16 or uint32, at most SHARD_TOKENS a file
train.documents.bin     little-endian int64: n + 1 token starts, then n counts of UTF-8 bytes, for n documents
"""

import functools
import hashlib
import itertools
from array import array
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.manifest import REBUILD, FileRecord, SplitRecord
from scratchlab.corpus.tokenizer import Dtype, TokenIds
from scratchlab.errors import CorpusError

SHARD_TOKENS = 2**28

Int64s = npt.NDArray[np.int64]


class Split:
    """One split as one token stream, memory-mapped: reading touches only the pages asked for."""

    def __init__(self, folder: Path, name: str, record: SplitRecord, dtype: Dtype, vocab_size: int) -> None:
        self.name, self._vocab_size = name, vocab_size
        self.bytes = record.bytes
        """UTF-8 bytes of the split's text; `<|endoftext|>` has none."""
        self._folder = folder
        self._record = record
        self._dtype = np.dtype(dtype).newbyteorder("<")

    def __len__(self) -> int:
        """Tokens, `<|endoftext|>` included."""
        return self._record.tokens

    def read(self, start: int, stop: int) -> TokenIds:
        """Tokens `start` to `stop`, shape (stop - start,), read-only unless they span shards. IndexError if outside,
        CorpusError if what is there cannot be tokens of this corpus.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens {start} to {stop} of split {self.name}, which has {len(self)}")
        parts = [
            shard[max(start - offset, 0) : stop - offset]
            for offset, shard in self._shards
            if offset < stop and start < offset + len(shard)
        ]
        tokens = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, self._dtype), *parts])
        if len(tokens) and int(tokens.max()) >= self._vocab_size:
            raise CorpusError(
                f"The {self.name} split of {self._folder} holds a token that its vocabulary of {self._vocab_size} does "
                f"not have: a file is damaged. `scratchlab corpus verify {self._folder}` names it. {REBUILD}"
            )
        return tokens

    @property
    def document_starts(self) -> Int64s:
        """Where each document starts in the token stream, and at the end its length; shape (documents + 1,)."""
        return self._table[: self._record.documents + 1]

    @property
    def document_bytes(self) -> Int64s:
        """UTF-8 bytes of each document; shape (documents,)."""
        return self._table[self._record.documents + 1 :]

    @functools.cached_property
    def _shards(self) -> list[tuple[int, TokenIds]]:
        """(offset in the stream, tokens) of each shard."""
        shards = [_memory_map(self._folder / shard.name, self._dtype) for shard in self._record.shards]
        return list(zip(itertools.accumulate(map(len, shards), initial=0), shards, strict=False))

    @functools.cached_property
    def _table(self) -> Int64s:
        return _memory_map(self._folder / self._record.document_table.name, np.dtype("<i8"))


def _memory_map(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    try:
        return np.asarray(np.memmap(path, dtype, mode="r"))
    except (OSError, ValueError) as error:
        raise CorpusError(f"{path} could not be opened: {error}. {REBUILD}") from error


class SplitWriter:
    """Writes the shards and the document table of one split into a folder, hashing on the way. A context manager."""

    def __init__(self, folder: Path, name: str, dtype: Dtype) -> None:
        self._folder = folder
        self._name = name
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._starts = array("q", [0])
        self._bytes = array("q")
        self._characters = 0
        self._shards: list[FileRecord] = []
        self._open: _HashedFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_shard()

    def add(self, text: str, tokens: TokenIds) -> None:
        """Append one document: its text, which is counted, and its tokens with what separates it from the next."""
        self._characters += len(text)
        self._bytes.append(len(text.encode()))
        self._starts.append(self._starts[-1] + len(tokens))
        place = self._starts[-2]
        while len(tokens):
            if place % SHARD_TOKENS == 0:
                self._next_shard()
            part, tokens = np.split(tokens, [SHARD_TOKENS - place % SHARD_TOKENS])
            place += len(part)
            assert self._open
            self._open.write(part.astype(self._dtype).tobytes())

    def finish(self) -> SplitRecord:
        """Write the document table and return the counts and hashes of all that was written."""
        self._close_shard()
        table = _HashedFile(self._folder / f"{self._name}.documents.bin")
        for column in (self._starts, self._bytes):
            table.write(np.asarray(column, "<i8").tobytes())
        return SplitRecord(
            documents=len(self._bytes),
            characters=self._characters,
            bytes=sum(self._bytes),
            tokens=self._starts[-1],
            shards=tuple(self._shards),
            document_table=table.close(),
        )

    def _next_shard(self) -> None:
        self._close_shard()
        self._open = _HashedFile(self._folder / f"{self._name}-{len(self._shards):05d}.bin")

    def _close_shard(self) -> None:
        if self._open:
            self._shards.append(self._open.close())
            self._open = None


class _HashedFile:
    """A new file whose size and hash are known when it is closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("xb")
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)

    def close(self) -> FileRecord:
        with self._file:
            size = self._file.tell()
        return FileRecord(name=self._path.name, size=size, sha256=self._hash.hexdigest())
