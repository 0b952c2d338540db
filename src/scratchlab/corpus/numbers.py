"""Numbers as tokens: whole numbers as they are, or all numbers in bins. A transformer is not only for words.

A text of numbers has white space or a comma between any two. It comes back with a space after each, and in bins with
each number replaced by the center of its bin. Bits per byte are those of the text as it was written.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from scratchlab.errors import CorpusError


class NoNumberError(CorpusError):
    """Something in a text is no number of the kind that is wanted, or missing. The message says at which position."""


Floats = npt.NDArray[np.float64]
Spans = npt.NDArray[np.int64]
Ids = npt.NDArray[np.integer]

SEPARATORS = r"[\s,]+"
FEWEST_BINS = 2
MOST_INTEGERS = 2**20
MOST_SAMPLED = 2**22
"""Numbers that bins are learned from: of more, a sample of half as many to all of these."""

_WORD = re.compile(r"[^\s,]+")
_NOTHING_BETWEEN = re.compile(r",\s*,")
_INTEGER = re.compile(r"[+-]?[0-9]{1,1000}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def kind_of(words: Sequence[str]) -> Literal["integers", "bins"] | None:
    """What the symbols of a tokenizer are, in the order of their ids; None if they are neither as written here."""
    if all(_INTEGER.fullmatch(word) and str(int(word)) == word for word in words):
        return "integers"
    if not all(map(_NUMBER.fullmatch, words)):
        return None
    centers = [float(word) for word in words]
    ascending = all(low < high for low, high in itertools.pairwise([-math.inf, *centers, math.inf]))
    return "bins" if ascending and [repr(center) for center in centers] == list(words) else None


def spans(text: str) -> Spans:
    """Where each number begins and ends in `text`, in characters; shape (numbers, 2)."""
    return np.array([word.span() for word in _WORD.finditer(text)], np.int64).reshape(-1, 2)


# Integers.


def learn_integers(texts: Iterable[str], origin: str) -> list[str]:
    """The distinct whole numbers of `texts` in their order: their ids are their places, so 0 to N, all there, are ids.

    CorpusError, naming `origin`, if there are none or too many.
    """
    found = set[int]()
    for text in texts:
        found.update(_values(text).values())
        if len(found) > MOST_INTEGERS:
            raise CorpusError(
                f"{origin} has more than {MOST_INTEGERS:,} different whole numbers, and each would be a symbol. Use "
                "bins:N, as in bins:256."
            )
    if not found:
        raise CorpusError(f"{origin} is empty: there are no numbers to take.")
    return [str(number) for number in sorted(found)]


def integer_encoder(words: Sequence[str]) -> Callable[[str], Ids]:
    """Looks each number up. CorpusError for one that is not among `words`, and for what is no whole number."""
    token_of = {word: token for token, word in enumerate(words) if word}

    def encode(text: str) -> Ids:
        found = _words(text)
        try:
            return np.array([token_of[word] for word in found], np.uint32)
        except KeyError:  # written otherwise, such as 007, or not there
            ids = {word: token_of.get(str(value)) for word, value in _values(text).items()}
        unknown = next((place for place, word in enumerate(found) if ids[word] is None), None)
        if unknown is not None:
            raise CorpusError(
                f"{_shown(text, unknown)} is not among the {len(token_of)} whole numbers of this tokenizer. Take it "
                "out, or use bins:N, which know all numbers."
            )
        return np.array([ids[word] for word in found], np.uint32)

    return encode


def _values(text: str) -> dict[str, int]:
    """The value of each different word. CorpusError if one is no whole number."""
    words = _words(text)
    distinct = set(words)
    if not all(map(_INTEGER.fullmatch, distinct)):
        place = next(place for place, word in enumerate(words) if not _INTEGER.fullmatch(word))
        raise NoNumberError(f"{_shown(text, place)} is not a whole number. For other numbers use bins:N.")
    return {word: int(word) for word in distinct}


# Bins.


def learn_bins(texts: Iterable[str], size: int, origin: str) -> list[str]:
    """The centers of `size` bins, so that each is the nearest of about as many of the numbers of `texts`.

    A number that is so frequent that it fills a bin has one to itself. CorpusError, naming `origin`, if there are
    fewer different numbers than bins.
    """
    numbers = _sample(_numbers(text) for text in texts)
    distinct = len(np.unique(numbers))
    if distinct < size:
        remedy = f"Use bins:{distinct} or fewer, or more text." if distinct >= FEWEST_BINS else "Use more text."
        raise CorpusError(f"{origin} is too small for bins:{size}: it has {distinct} different numbers. {remedy}")
    return [repr(center) for center in _centers(numbers, size)]


def _sample(parts: Iterable[Floats]) -> Floats:
    """All numbers if there are few, else a random part of them: the same for the same numbers, however they come."""
    random = np.random.Generator(np.random.Philox(key=0))
    kept, share = [np.empty((2, 0))], 1.0  # each number with what was drawn for it
    size = 0
    for numbers in parts:
        drawn = random.random(len(numbers))
        kept.append(np.stack([numbers, drawn])[:, drawn < share])
        size += kept[-1].shape[1]
        while size > MOST_SAMPLED:
            share /= 2
            both = np.concatenate(kept, axis=1)
            kept = [both[:, both[1] < share]]
            size = kept[0].shape[1]
    return np.concatenate(kept, axis=1)[0]


def _centers(numbers: Floats, size: int) -> list[float]:
    """`size` of the numbers, ascending. There must be as many different ones."""
    frequent = np.empty(0)
    while True:
        values, counts = np.unique(numbers, return_counts=True)
        heavy = values[counts * (size - len(frequent)) >= len(numbers)]
        if len(heavy) == 0 or len(numbers) == 0:
            break
        frequent = np.concatenate([frequent, heavy])
        numbers = numbers[~np.isin(numbers, heavy)]
    # No number is now as frequent as the places below are apart, so that they hold different ones.
    left = size - len(frequent)
    places = ((np.arange(left) + 0.5) * len(numbers) / max(left, 1)).astype(np.int64)
    return np.sort(np.concatenate([frequent, np.sort(numbers)[places]])).tolist()


def bin_encoder(words: Sequence[str]) -> Callable[[str], Ids]:
    """The nearest center of each number, of two the lower. CorpusError for what is no finite number."""
    tokens = np.array([token for token, word in enumerate(words) if word])
    centers = np.array([float(word) for word in words if word])
    # Halving first cannot overflow. A center that is the very next float must not be on the wrong side of the middle.
    middles = np.minimum(centers[:-1] / 2 + centers[1:] / 2, np.nextafter(centers[1:], -np.inf))

    def encode(text: str) -> Ids:
        return tokens[np.searchsorted(middles, _numbers(text), side="left")]

    return encode


def _numbers(text: str) -> Floats:
    words = _words(text)
    try:
        numbers = np.fromiter(map(float, words), np.float64, len(words)) + 0.0  # -0.0 is 0.0
    except ValueError:
        numbers = np.full(len(words), np.nan)
    # float also takes 1_000, digits of other scripts, nan and infinity.
    if not np.isfinite(numbers).all() or "_" in text or not text.isascii():
        for place, word in enumerate(words):
            if not _NUMBER.fullmatch(word) or not np.isfinite(float(word)):
                raise NoNumberError(f"{_shown(text, place)} is not a finite number. Fill it in or leave it out.")
    return numbers


# Words.


def _words(text: str) -> list[str]:
    """What is between white space and commas. CorpusError if there is nothing between two commas."""
    if "," in text and (gap := _NOTHING_BETWEEN.search(text)):
        raise NoNumberError(f"a number is missing between the commas at position {gap.start()}. Fill it in.")
    return text.replace(",", " ").split()


def _shown(text: str, place: int) -> str:
    """The word at a place among the words, with its position, for people."""
    word = list(_WORD.finditer(text))[place]
    shown = word[0] if len(word[0]) <= 40 else word[0][:40] + "..."
    return f"{shown!r} at position {word.start()}"
