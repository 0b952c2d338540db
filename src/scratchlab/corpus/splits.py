"""Which document goes to which split: by a hash of its content, by contiguous regions, or by the names of the files.

By hash, a document's place depends on its content and on nothing else: adding, removing or reordering documents moves
no other, and identical texts can never lie on both sides. Contiguous regions are for one long text or a few; in a
mixture each source has its own. Names are for token sets that others have split already.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from scratchlab.errors import CorpusError, UsageError

SPLITS = ("train", "validation", "test")
DEFAULT_SHARES = (0.9, 0.05, 0.05)
ENOUGH_FOR_HASH = 8  # documents; below that, whole documents make splits too uneven to be of use


@dataclass(frozen=True, slots=True)
class SplitRule:
    """How to split, and which share of the text goes to train, validation and test (not for names)."""

    kind: Literal["hash", "contiguous", "names"]
    shares: tuple[float, float, float] = DEFAULT_SHARES

    def __str__(self) -> str:
        return self.kind if self.kind == "names" else f"{self.kind}:{','.join(map(str, self.shares))}"

    @property
    def wanted(self) -> tuple[int, ...]:
        """The places in SPLITS of those that must get some text."""
        return (0,) if self.kind == "names" else tuple(place for place, share in enumerate(self.shares) if share > 0)


def parse_split(text: str) -> SplitRule | None:
    """`hash` or `contiguous`, either with `:TRAIN,VALIDATION,TEST` shares, `names`, or `auto` (None). Or UsageError."""
    if text == "auto":
        return None
    kind, colon, shares = text.partition(":")
    if kind == "hash":
        return SplitRule("hash", _parse_shares(shares, text) if colon else DEFAULT_SHARES)
    if kind == "contiguous":
        return SplitRule("contiguous", _parse_shares(shares, text) if colon else DEFAULT_SHARES)
    if text == "names":
        return SplitRule("names")
    raise UsageError(f"split {text!r}: expected auto, hash, contiguous, hash:.9,.05,.05, contiguous:.9,.1,0 or names.")


def _parse_shares(text: str, whole: str) -> tuple[float, float, float]:
    try:
        train, validation, test = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"split {whole!r}: expected three numbers, as in .9,.05,.05 (train, validation, test)."
        ) from None
    shares = (train, validation, test)
    if not all(share >= 0 for share in shares) or train == 0 or not math.isclose(math.fsum(shares), 1, abs_tol=1e-9):
        raise UsageError(
            f"split {whole!r}: shares must be at least 0, train's above 0, and sum to 1 (here {math.fsum(shares):g})."
        )
    return shares


def places(high: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Where documents lie between 0 and 1, by the first 8 bytes of their keys."""
    return high.astype(np.float64) / 2.0**64


def interval(rule: SplitRule, split: int) -> tuple[float, float]:
    """The places that belong to a wanted split. The last one takes all that is left, whatever the rounding."""
    bounds = list(itertools.accumulate(rule.shares, initial=0.0))
    return bounds[split], math.inf if split == rule.wanted[-1] else bounds[split + 1]


def split_by_hash(rule: SplitRule, high: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """The place in SPLITS of each document."""
    ends = [interval(rule, split)[1] for split in rule.wanted]
    return np.array(rule.wanted, np.uint8)[np.searchsorted(ends, places(high), side="right")]


def fill_empty(rule: SplitRule, splits: npt.NDArray[np.uint8], high: npt.NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Move the nearest document into each wanted split that is empty, never the only one of another.

    Changes `splits`, the places in SPLITS of the documents with the keys `high`; gives each document that was moved and
    the split it came from. Raises CorpusError if there are too few.
    """
    moved: list[tuple[int, int]] = []
    at = places(high)
    for split in rule.wanted:
        sizes = np.bincount(splits, minlength=len(SPLITS))
        if sizes[split]:
            continue
        low, up = interval(rule, split)
        distance = np.where(sizes[splits] > 1, np.maximum(low - at, at - up), np.inf)
        if not len(at) or not np.isfinite(nearest := distance.min()):
            wanted = ", ".join(SPLITS[place] for place in rule.wanted)
            raise CorpusError(
                f"{len(at)} documents are too few for the splits {wanted} by hash: {SPLITS[split]} would be empty. "
                "Split by contiguous regions (--split contiguous), give more documents, or set its share to 0."
            )
        document = int(np.flatnonzero(distance == nearest)[0])
        moved.append((document, int(splits[document])))
        splits[document] = split
    return moved


def regions(rule: SplitRule, characters: int) -> list[tuple[int, int, int]]:
    """(split, start, stop) of all text in order, cut at int(total * a) and int(total * (a + b)): nanoGPT's rule."""
    a, b, c = rule.shares
    first = int(characters * a) if b or c else characters
    second = int(characters * (a + b)) if c else characters
    edges = (0, first, second, characters)
    return [(split, edges[split], edges[split + 1]) for split in range(3) if edges[split + 1] > edges[split]]
