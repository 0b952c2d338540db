"""Filters that throw a text away because it repeats itself or is no prose, by the rules of Gopher.

Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", section A.1.1. Made for
web pages; docs/cleaning.md says what they throw away of other texts.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.building.shingles import Hashes, shingle_hashes, word_hashes

LEAST_WORDS = 50
"""Gopher's shortest text. Of a shorter one, a pair of words that occurs twice is a large part."""

OF_PIECES, OF_CHARACTERS = 0.30, 0.20
MOST_FREQUENT = {2: 0.20, 3: 0.18, 4: 0.16}
FOUND_BEFORE = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


def not_repetitive(text: str) -> str | None:
    """Thrown away if it repeats itself (table A1).

    That is if more than 30% of its lines or of its paragraphs, or 20% of its characters, are lines or paragraphs that
    it had before; if its most frequent row of 2, 3 or 4 words is more than 20%, 18% or 16% of it; or if rows of 5, 6,
    ... 10 words that it had before are more than 15%, 14%, ... 10% of it. Rows are measured in words here, in
    characters there, and only from 50 words on.
    """
    if _repeats_pieces(text, "\n") or _repeats_pieces(text, "\n\n"):
        return None
    words = word_hashes(text)
    if len(words) < LEAST_WORDS:
        return text
    repetitive = _exceeds(words, most_frequent, MOST_FREQUENT) or _exceeds(words, found_before, FOUND_BEFORE)
    return None if repetitive else text


def _repeats_pieces(text: str, separator: str) -> bool:
    """Whether too many of the text's lines or paragraphs, or too much of it, had been there before."""
    pieces = [piece for piece in map(str.strip, text.split(separator)) if piece]
    counts = Counter(pieces)
    if len(pieces) - len(counts) > OF_PIECES * len(pieces):
        return True
    repeated = sum(len(piece) * (count - 1) for piece, count in counts.items())
    return repeated > OF_CHARACTERS * sum(map(len, pieces))


def _exceeds(words: Hashes, measure: Callable[[Hashes, int], int], limits: Mapping[int, float]) -> bool:
    """Whether a measure, in words, is above its limit for any size of row.

    A longer row is not found more often, and so makes more words only as it is longer: where the shorter ones are far
    below every limit, the longer ones need not be measured.
    """
    for size, limit in limits.items():
        found = measure(words, size)
        if found > limit * len(words):
            return True
        if found * max(limits) <= size * min(limits.values()) * len(words):
            return False
    return False


def most_frequent(words: Hashes, size: int) -> int:
    """How many words the most frequent row of `size` words makes."""
    return size * int(np.unique(shingle_hashes(words, size), return_counts=True)[1].max())


def found_before(words: Hashes, size: int) -> int:
    """How many words are in rows of `size` words that the text had before."""
    shingles = shingle_hashes(words, size)
    again = np.ones(len(shingles), np.bool_)
    again[np.unique(shingles, return_index=True)[1]] = False
    return int(_covered(again, size).sum())


def _covered(starts: npt.NDArray[np.bool_], size: int) -> npt.NDArray[np.bool_]:
    """The places within `size` of a start."""
    edges = np.zeros(len(starts) + size, np.int32)
    edges[:-size] += starts
    edges[size:] -= starts
    return np.cumsum(edges) > 0


_WITH_LETTER = re.compile(r"[^\W\d_]\S*")  # in a word, from its first letter on
_BULLETS = ("•", "‣", "◦", "*", "-", "–")


def prose(text: str) -> str | None:
    """Thrown away if it is no prose: tables, lists, menus, code, numbers.

    That is if the mean word has fewer than 3 or more than 10 characters, more than 20% of the words have no letter,
    there is more than one `#` or ellipsis in 10 words, 90% of the lines are items of a list, or 30% end with an
    ellipsis. For languages that put spaces between words. Gopher's rule of English stop words is left out, and its
    limits to the number of words are those of `short` and `long`.
    """
    words = text.split()
    lines = [line for line in map(str.strip, text.split("\n")) if line]
    ellipses = text.count("...") + text.count("…")
    bad = (
        not 3 * len(words) <= sum(map(len, words)) <= 10 * len(words)
        or len(_WITH_LETTER.findall(text)) < 0.8 * len(words)
        or max(text.count("#"), ellipses) > 0.1 * len(words)
        or sum(line.startswith(_BULLETS) for line in lines) > 0.9 * len(lines)
        or sum(line.endswith(("...", "…")) for line in lines) > 0.3 * len(lines)
    )
    return None if bad else text
