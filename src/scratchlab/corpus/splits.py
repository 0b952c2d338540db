"""Which document goes to which split: by a hash of its content, or by contiguous regions.

By hash, a document's place depends on its content and on nothing else: adding, removing or reordering documents moves
no other, and identical texts can never lie on both sides. Contiguous regions are for one long text or a few.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from scratchlab.errors import CorpusError, UsageError

SPLITS = ("train", "validation", "test")
DEFAULT_SHARES = (0.9, 0.05, 0.05)
ENOUGH_FOR_HASH = 8  # documents; below that, whole documents make splits too uneven to be of use


@dataclass(frozen=True, slots=True)
class SplitRule:
    """How to split, and which share of the text goes to train, validation and test."""

    kind: Literal["hash", "contiguous"]
    shares: tuple[float, float, float] = DEFAULT_SHARES

    def __str__(self) -> str:
        return f"{self.kind}:{','.join(map(str, self.shares))}"


def parse_split(text: str) -> SplitRule | None:
    """`hash`, `contiguous`, either with `:TRAIN,VALIDATION,TEST` shares, or `auto` (None). Raises UsageError."""
    if text == "auto":
        return None
    kind, colon, shares = text.partition(":")
    if kind == "hash":
        return SplitRule("hash", _parse_shares(shares, text) if colon else DEFAULT_SHARES)
    if kind == "contiguous":
        return SplitRule("contiguous", _parse_shares(shares, text) if colon else DEFAULT_SHARES)
    raise UsageError(f"split {text!r}: expected auto, hash, contiguous, hash:.9,.05,.05 or contiguous:.9,.1,0.")


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


@dataclass(frozen=True, slots=True)
class Move:
    """A document that was put into a split which would otherwise have been empty."""

    document: int
    origin: str
    to: str


class Plan(Protocol):
    """Says where the documents go; `document` counts from 0 in reading order."""

    @property
    def moved(self) -> tuple[Move, ...]: ...

    def pieces(self, document: int, text: str) -> Iterator[tuple[str, str]]:
        """(split, text) for each part of the document: one, unless a contiguous region ends within it."""
        ...


def plan_splits(rule: SplitRule, digests: Sequence[bytes], lengths: Sequence[int]) -> Plan:
    """The plan for documents with these SHA-256 digests and lengths in characters."""
    return _plan_by_hash(rule, digests) if rule.kind == "hash" else ContiguousPlan(rule.shares, lengths)


class ContiguousPlan:
    """All text in order, cut by characters at int(total * a) and int(total * (a + b)): nanoGPT's rule."""

    moved: tuple[Move, ...] = ()

    def __init__(self, shares: tuple[float, float, float], lengths: Sequence[int]) -> None:
        self._starts = list(itertools.accumulate(lengths, initial=0))
        total = self._starts[-1]
        first = int(total * shares[0]) if any(shares[1:]) else total
        second = int(total * (shares[0] + shares[1])) if shares[2] else total
        self._regions = tuple(zip(SPLITS, (0, first, second), (first, second, total), strict=True))

    def pieces(self, document: int, text: str) -> Iterator[tuple[str, str]]:
        offset = self._starts[document]
        for split, start, stop in self._regions:
            if piece := text[max(start - offset, 0) : max(stop - offset, 0)]:
                yield split, piece


@dataclass(frozen=True, slots=True)
class HashPlan:
    """Whole documents, each in the split named at its place."""

    splits: Sequence[str]
    moved: tuple[Move, ...] = field(default=())

    def pieces(self, document: int, text: str) -> Iterator[tuple[str, str]]:
        yield self.splits[document], text


def _plan_by_hash(rule: SplitRule, digests: Sequence[bytes]) -> HashPlan:
    bounds = list(itertools.accumulate(rule.shares, initial=0.0))
    intervals = {
        split: (low, high)
        for split, low, high, share in zip(SPLITS, bounds[:-1], bounds[1:], rule.shares, strict=True)
        if share > 0
    }
    positions = [int.from_bytes(digest[:8], "big") / 2**64 for digest in digests]
    # The last wanted split takes all that is left: the shares' sum may fall short of 1 by rounding.
    last = list(intervals)[-1]
    splits = [
        next((split for split, (_, high) in intervals.items() if position < high), last) for position in positions
    ]
    moved = tuple(_fill_empty(splits, positions, intervals))
    return HashPlan(splits, moved)


def _fill_empty(
    splits: list[str], positions: Sequence[float], intervals: dict[str, tuple[float, float]]
) -> Iterator[Move]:
    """Move the nearest document into each empty split, never the only one of another; changes `splits`."""
    for split, (low, high) in intervals.items():
        if split in splits:
            continue
        sizes = Counter(splits)
        movable = [document for document, origin in enumerate(splits) if sizes[origin] > 1]
        if not movable:
            raise CorpusError(
                f"{len(splits)} documents are too few for the splits {', '.join(intervals)} by hash: {split} would be "
                "empty. Split by contiguous regions (--split contiguous), give more documents, or set its share to 0."
            )
        nearest = min(movable, key=lambda document: max(low - positions[document], positions[document] - high))
        yield Move(nearest, splits[nearest], split)
        splits[nearest] = split
