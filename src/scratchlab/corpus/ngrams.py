"""N-grams of words as hashes: of a stretch of text, and of every so many words; and a filter to look them up in.

To find the 13-grams of a short text in a long one, each word of the long one would have to be hashed with the 12 after
it and looked up, though hardly any is found. But any 13 words in a row hold 7 in a row that begin at a multiple of 7.
So it is enough to look up every seventh 7-gram, here called a block, among all 7-grams of the short text, and 13-grams
only around those that are found.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from scratchlab.corpus.words import Bools, Documents, Ints, Uint64s, WordReader, Words, constants, read_words, stir

N = 13
"""Words of an n-gram."""

BLOCK = (N + 1) // 2

_FACTORS = constants("words of an n-gram", N)
_LENGTH_FACTOR = constants("bytes of a document", 1)[0]


class Stretch(NamedTuple):
    """Consecutive words of a stream, and the documents that end among them."""

    words: Words
    """The first N - 1 were the last of the stretch before: every n-gram is in one stretch."""
    ended: range
    fingerprints: Uint64s
    """Of these documents: equal for equal texts, and hardly ever for others."""
    tokens: int
    """How many it adds to those before."""


def stretches(stream: Documents, reader: WordReader, documents: range) -> Iterator[Stretch]:
    """The words of consecutive documents, stretch by stretch."""
    starts = stream.document_starts
    begun, sum_so_far = documents.start, np.zeros(1, np.uint64)  # of the document that the last stretch ended in
    before = Words(np.empty(0, np.uint64), np.empty(0, np.int64))
    for chunk, words in read_words(stream, reader, int(starts[documents.start]), int(starts[documents.stop])):
        ended = min(int(np.searchsorted(starts, chunk.stop, "right")) - 1, documents.stop)
        sums = _sums(words.numbers, np.searchsorted(words.places, starts[begun + 1 : ended + 1]))
        sums[:1] += sum_so_far
        lengths = stream.document_bytes[begun:ended].astype(np.uint64)
        numbers = np.concatenate([before.numbers, words.numbers])
        words = Words(numbers, np.concatenate([before.places, words.places]))
        yield Stretch(words, range(begun, ended), stir(sums[:-1] + lengths * _LENGTH_FACTOR), len(chunk))
        begun, sum_so_far = ended, sums[-1:]
        before = Words(words.numbers[1 - N :], words.places[1 - N :])


def _sums(numbers: Uint64s, cuts: Ints) -> Uint64s:
    """The sums, modulo 2**64, of what `numbers` falls into when cut before these indices; shape (cuts + 1,)."""
    sums = np.zeros(len(cuts) + 1, np.uint64)
    edges = np.concatenate([[0], cuts, [len(numbers)]])
    filled = np.flatnonzero(edges[1:] > edges[:-1])  # reduceat would take an empty one for one of a single number
    if len(filled):
        sums[filled] = np.add.reduceat(numbers, edges[filled])
    return sums


def hashes_at(numbers: Uint64s, at: Ints, length: int = N) -> Uint64s:
    """The hashes of the runs of `length` words (at most N) that begin at the words `at`."""
    return _windows(numbers, length)[at] @ _FACTORS[:length]


def blocks(numbers: Uint64s) -> Uint64s:
    """The hashes of the runs of BLOCK words that begin at a multiple of BLOCK."""
    return numbers[: len(numbers) // BLOCK * BLOCK].reshape(-1, BLOCK) @ _FACTORS[:BLOCK]


def _windows(numbers: Uint64s, length: int) -> Uint64s:
    """Shape (runs, length); a view."""
    return np.lib.stride_tricks.as_strided(numbers, (max(len(numbers) - length + 1, 0), length), 2 * numbers.strides)


def around(blocks: Ints, words: int) -> Ints:
    """Where the n-grams begin, among so many words, of which one of these blocks is the first block in them."""
    at = (blocks[:, None] * BLOCK - np.arange(BLOCK)).ravel()
    return at[(at >= 0) & (at <= words - N)]


def touched(kept: Bools) -> Ints:
    """Where the runs of BLOCK words begin that may be the first block of an n-gram that is kept."""
    begins = np.zeros(len(kept) + N - BLOCK, np.bool_)
    for place in range(BLOCK):
        begins[place : place + len(kept)] |= kept
    return np.flatnonzero(begins)


def documents_of(places: Ints, stream: Documents) -> Ints:
    """The document that each of these places, in their order, lies in."""
    if not len(places):
        return np.empty(0, np.int64)
    starts = stream.document_starts
    first, last = np.searchsorted(starts, [places[0], places[-1]], "right") - 1
    edges = np.searchsorted(places, starts[first + 1 : last + 1])
    return np.repeat(np.arange(first, last + 1), np.diff(edges, prepend=0, append=len(places)))


# Words with three of their 64 bits set, by 12 bits of a number.
_TWELVE = np.arange(2**12, dtype=np.uint64)
_MASKS = np.bitwise_or.reduce([np.uint64(1) << (_TWELVE >> np.uint64(bit) & np.uint64(63)) for bit in (0, 3, 6)])


class Filter:
    """A Bloom filter: passes all numbers that were added, and about one in a hundred others.

    A number's three bits lie in one 64-bit word, so that a look-up touches memory once (Putze et al. 2007).
    """

    def __init__(self, expected: int) -> None:
        bits = min(max((expected // 4).bit_length(), 10), 21)  # 16 MB at most
        self._words = np.zeros(2**bits, np.uint64)
        self._shift = np.uint64(64 - bits)

    def add(self, numbers: Uint64s) -> None:
        np.bitwise_or.at(self._words, self._places(numbers), self._masks(numbers))

    def passing(self, numbers: Uint64s) -> Ints:
        """The indices of the numbers that pass."""
        masks = self._masks(numbers)
        return np.flatnonzero(self._words.take(self._places(numbers)) & masks == masks)

    def _places(self, numbers: Uint64s) -> Ints:
        return (numbers >> self._shift).view(np.int64)

    def _masks(self, numbers: Uint64s) -> Uint64s:
        return _MASKS.take((numbers >> (self._shift - np.uint64(12)) & np.uint64(4095)).view(np.int64))
