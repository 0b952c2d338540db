"""Text that others made tokens of: nanoGPT's `.bin`, build-nanogpt's `.npy`, and gpjt's `.safetensors`.

Between documents there is a separator, `<|endoftext|>`: after each (nanoGPT, gpjt) or before each (build-nanogpt). Both
are read alike: a document is what lies between two of them, or between one and an end of the file.
"""

import contextlib
import itertools
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.sources.documents import Document, Span
from scratchlab.corpus.sources.opened import gone, require_plain
from scratchlab.corpus.tokenizer import TokenIds
from scratchlab.errors import CorpusError

RANGE_TOKENS = 2**24
"""One span is the documents that start in so many tokens."""

PART_TOKENS = 2**23
"""A longer document comes in parts. RANGE_TOKENS is a multiple, so that a set without documents has whole parts."""

SCAN_TOKENS = 2**20
"""Separators are looked for in so many tokens at once."""

TENSOR = "tokens"

LLMC_MAGIC, LLMC_HEADER_BYTES = 20240520, 1024
"""Of llm.c's and modded-nanogpt's `.bin`, which begin with 256 int32: magic, version, number of tokens."""


class Sliced(Protocol):
    """A file's tokens, of which only what is asked for is read."""

    def __getitem__(self, where: slice, /) -> npt.NDArray[np.integer]: ...


@dataclass(frozen=True, slots=True)
class TokenSet:
    """An opened file of integers."""

    tokens: Sliced
    length: int
    item_bytes: int
    name: str

    def read(self, start: int, stop: int) -> TokenIds:
        """A copy of a range, as uint16 if the file has at most two bytes a token. CorpusError for what is no token."""
        found = self.tokens[start:stop]
        if found.dtype.kind == "i" or self.item_bytes > 4:
            wrong = (found < 0) | (found > 2**32 - 1)
            if wrong.any():
                place = int(wrong.argmax())
                raise CorpusError(f"{self.name} has {found[place]} at token {start + place}: expected 0 to 2**32 - 1.")
        return found.astype(np.uint16 if self.item_bytes <= 2 else np.uint32)

    def separators(self, separator: int, start: int, stop: int) -> Iterator[int]:
        """The positions of `separator` in a range."""
        for low in range(start, stop, SCAN_TOKENS):
            found = self.tokens[low : min(low + SCAN_TOKENS, stop)]
            yield from (np.flatnonzero(found == separator) + low).tolist()

    def documents(self, separator: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """(begin, end) of each document that starts in a range, also of empty ones; the last may end beyond it."""
        before = -1 if start == 0 else next(self.separators(separator, start - 1, stop - 1), None)
        if before is None:
            return  # all of the range belongs to a document that starts before it
        for end in itertools.chain(self.separators(separator, before + 1, self.length), [self.length]):
            if before + 1 >= stop:
                return
            yield before + 1, end
            before = end


def open_token_set(path: Path) -> TokenSet:
    """The tokens of a file, of which nothing is read yet. CorpusError if it is damaged or holds no list of integers."""
    span = Span(str(path), "tokens")
    require_plain(span)
    with _opened(span) as found:
        return found  # what is mapped stays mapped for as long as it is held


def cut_tokens(span: Span) -> list[Span]:
    """Ranges of tokens; they continue one another where no separator parts the file into documents."""
    require_plain(span)
    with _opened(span) as found:
        edges = [*range(0, found.length, RANGE_TOKENS), found.length]
        whole = span.reading.separator is None
        return [
            replace(span, start=start, stop=stop, size=(stop - start) * found.item_bytes, continues=whole and start > 0)
            for start, stop in itertools.pairwise(edges)
        ]


def read_tokens(span: Span) -> Iterator[Document]:
    """The documents that start in the span's range, or all of it, in parts of PART_TOKENS."""
    with _opened(span) as found:
        stop = found.length if span.stop is None else span.stop
        if span.reading.separator is None:
            yield from _in_parts(found, span.start, stop, span.continues)
        else:
            for begin, end in found.documents(span.reading.separator, span.start, stop):
                yield from _in_parts(found, begin, end, False)


def _in_parts(found: TokenSet, begin: int, end: int, continues: bool) -> Iterator[Document]:
    name = f"{found.name}, token {begin}"
    for start in range(begin, end, PART_TOKENS):
        tokens = found.read(start, min(start + PART_TOKENS, end))
        yield Document("", name, continues or start > begin, tokens=tokens)


@contextlib.contextmanager
def _opened(span: Span) -> Generator[TokenSet]:
    """CorpusError, naming the file, if it is damaged or holds no list of integers."""
    from safetensors import SafetensorError

    try:
        match Path(span.path).suffix.lower():
            case ".npy":
                yield _npy(span)
            case ".safetensors":
                with _safetensors(span) as found:
                    yield found
            case _:
                yield _bin(span)
    except FileNotFoundError as error:
        raise gone(span) from error
    except (ValueError, SafetensorError, OSError) as error:
        raise CorpusError(f"{span.name} is damaged, or of another format: {error}. Fetch it again.") from error


def _npy(span: Span) -> TokenSet:
    return _token_set(span, np.lib.format.open_memmap(span.path, mode="r"))  # which never unpickles


def _bin(span: Span) -> TokenSet:
    """Little-endian uint16 without a header, or with that of llm.c."""
    size = Path(span.path).stat().st_size
    if size == 0:
        return _token_set(span, np.zeros(0, "<u2"))  # nothing cannot be mapped
    with open(span.path, "rb") as file:
        magic, version, count = np.frombuffer(file.read(12).ljust(12, b"\0"), "<i4").tolist()
    offset = LLMC_HEADER_BYTES if magic == LLMC_MAGIC else 0
    if offset and (version, size) != (1, offset + 2 * count):
        raise CorpusError(
            f"{span.name} has the header of llm.c, but of its version {version} where 1 is read, or it was cut off: "
            f"{size} bytes for {count} tokens."
        )
    if size % 2:
        raise CorpusError(
            f"{span.name} has {size} bytes: expected two a token (uint16). Was it cut off? Fetch it again."
        )
    return _token_set(span, np.memmap(span.path, "<u2", mode="r", offset=offset))


@contextlib.contextmanager
def _safetensors(span: Span) -> Generator[TokenSet]:
    """The tensor called `tokens`, or the only one there is."""
    from safetensors import safe_open

    with safe_open(span.path, framework="numpy") as file:
        names = sorted(file.keys())
        if TENSOR not in names and len(names) != 1:
            raise CorpusError(f"{span.name} has no tensor {TENSOR!r}, but {', '.join(names[:8]) or 'none at all'}.")
        tensor = file.get_slice(TENSOR if TENSOR in names else names[0])
        kind, shape = tensor.get_dtype(), tensor.get_shape()
        if kind[0] not in "UI" or len(shape) != 1:
            raise _no_list(span, kind, shape)
        yield TokenSet(tensor, shape[0], int(kind[1:]) // 8, span.name)


def _token_set(span: Span, array: npt.NDArray[np.integer]) -> TokenSet:
    if array.dtype.kind not in "ui" or array.ndim != 1:
        raise _no_list(span, str(array.dtype), array.shape)
    return TokenSet(np.asarray(array), len(array), array.dtype.itemsize, span.name)


def _no_list(span: Span, kind: str, shape: Sequence[int]) -> CorpusError:
    return CorpusError(
        f"{span.name} is no token set: expected integers in one dimension, not {kind} of shape {[*shape]}."
    )
