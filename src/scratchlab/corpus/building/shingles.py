"""Words and rows of words as hashes, many at a time: what repetition and resemblance are measured by."""

import functools
import re
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

BLOCK: Final = 2**15
"""Bytes hashed at a time: the arrays for them stay in the processor's cache."""

_FACTOR: Final = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_SIGNS = re.compile(  # beyond ASCII, what is no part of a word: of Latin-1, punctuation, symbols, CJK, full width
    "[\x80-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf×÷\u2000-\u206f\u2190-\u2bff\u3000-\u3004\u3008-\u303f\uff00-\uff0f\uff1a-\uff20]"
)
_LETTERS = bytes(byte if byte >= 128 or chr(byte).isalnum() else 0 for byte in range(256))


def word_hashes(text: str) -> Hashes:
    """A hash of each word of `text`, shape (words,): the same in any letter case and with any punctuation.

    A word is what stands between spaces and signs; in Chinese or Japanese that is a phrase.
    """
    if not text.isascii():
        text = _SIGNS.sub(" ", text)
    data = text.lower().encode().translate(_LETTERS)  # NUL between words
    return np.concatenate([_hash_words(block) for block in _blocks(data)] or [np.empty(0, np.uint64)])


def shingle_hashes(words: Hashes, size: int) -> Hashes:
    """A hash of each row of `size` words, shape (words - size + 1,)."""
    count = len(words) - size + 1
    shingles = words[:count].copy()
    for place in range(1, size):
        shingles *= np.uint64(_FACTOR)
        shingles += words[place : place + count]
    return shingles


def _blocks(data: bytes) -> Iterator[bytes]:
    """Blocks of whole words; only a word longer than a block is cut."""
    start = 0
    while start < len(data):
        stop = min(start + BLOCK, len(data))
        if stop < len(data):
            stop = data.rfind(b"\0", start, stop) + 1 or stop
        yield data[start:stop]
        start = stop


def _hash_words(block: bytes) -> Hashes:
    """The sum of byte * factor**place modulo 2**64, with places counted from 0 at the word's beginning.

    Each word is summed with places counted from the block's beginning, which numpy does for all of them at once, and
    moved by the inverse of factor**start.
    """
    powers, inverses = _powers()
    letters = np.frombuffer(b"\0" + block, np.uint8)
    inside = letters != 0
    starts = np.flatnonzero(inside[1:] > inside[:-1])
    return np.add.reduceat(letters[1:] * powers[: len(block)], starts) * inverses[starts]


@functools.cache
def _powers() -> tuple[Hashes, Hashes]:
    """factor**n and factor**-n for n from 1 to BLOCK."""
    factors = np.array([_FACTOR, pow(_FACTOR, -1, 2**64)], np.uint64)
    powers, inverses = np.cumprod(np.broadcast_to(factors[:, np.newaxis], (2, BLOCK)), axis=1, dtype=np.uint64)
    return powers, inverses
