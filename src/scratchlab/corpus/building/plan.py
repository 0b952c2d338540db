"""Between the two readings: which documents are kept, and where they go.

All of it works on the records that the survey left on disk, piece by piece, so that memory does not grow with the
corpus. Records are numbered in reading order over all pieces.
"""

import bisect
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.building.external_sort import Records as Keyed
from scratchlab.corpus.building.external_sort import first_of_each, grouped, make_records
from scratchlab.corpus.building.survey import RECORDS, SIGNATURES
from scratchlab.corpus.building.survey import STAGE as SURVEY
from scratchlab.corpus.building.work import Array, Piece, Work
from scratchlab.corpus.sources.documents import key_of
from scratchlab.corpus.splits import ENOUGH_FOR_HASH, SPLITS, SplitRule, fill_empty, regions, split_by_hash
from scratchlab.errors import UsageError
from scratchlab.files import write_zeros

if TYPE_CHECKING:
    from scratchlab.corpus.building.near_duplicates import Report

STAGE = "plan"
CODES = "codes"

# The code of a record is where it goes: a place in SPLITS, or
CUT, DUPLICATE, NEAR_DUPLICATE = 3, 4, 5  # CUT: a region ends within it
WHERE = 0b0111
CONTINUES = 0b0100_0000
"""It goes on from the record before it, in the same split."""
GOES_ON = 0b1000_0000
"""The record after it goes on from it."""

Fates = npt.NDArray[np.uint8]
Regions = list[tuple[int, int, int]]
"""(split, start, stop) in characters, one beginning where another ends."""
Cuts = dict[int, Regions]


@dataclass(frozen=True, slots=True)
class Move:
    """A document that was put into a split which would otherwise have been empty: its record, from where to where."""

    record: int
    origin: int
    to: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a piece."""

    documents: int
    characters: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is kept of all that was read; the code of every record is on disk."""

    rule: SplitRule
    kept: tuple[Kept, ...]
    """Of each piece."""
    moved: tuple[Move, ...] = ()
    cuts: Cuts = field(default_factory=Cuts)
    """Of a record within which a region ends: (split, start, stop) in characters."""
    first_records: tuple[int, ...] = ()
    """Of each piece."""

    @property
    def documents(self) -> int:
        return sum(kept.documents for kept in self.kept)

    @property
    def characters(self) -> int:
        return sum(kept.characters for kept in self.kept)

    @property
    def bytes(self) -> int:
        return sum(kept.bytes for kept in self.kept)

    def cuts_within(self, piece: int) -> Cuts:
        """By their places in it, the records of a piece within which a region ends."""
        first, end = (*self.first_records, sys.maxsize)[piece : piece + 2]
        return {record - first: regions for record, regions in self.cuts.items() if first <= record < end}


def make_plan(
    work: Work,
    pieces: Sequence[Piece],
    rule: SplitRule | None,
    near_duplicates: float | None,
    mixed: bool,
    report: "Report | None" = None,
) -> Plan:
    """Find the duplicates and assign the rest to splits by `rule`, or by one that suits them.

    In a mixture the parts of a long text are documents of their own, for they need not stay beside each other; and
    each source has contiguous regions of its own, or one could lie in the training split and another in the test split.
    `report` is told how far the search for near duplicates is.
    """
    records = _Records(work, pieces)
    fates = _on_disk(work.folder / "fates.bin", records.count)
    _mark_duplicates(records, fates, work.folder)
    if near_duplicates is not None:
        _mark_near_duplicates(records, fates, work, near_duplicates, report)
    kept = _count_kept(records, fates)
    if rule is None:
        named = all(piece.split for piece in pieces)
        enough = sum(piece.documents for piece in kept) >= ENOUGH_FOR_HASH
        rule = SplitRule("names" if named else "hash" if enough else "contiguous")
    plan = Plan(rule, kept, first_records=records.firsts)
    splits = _on_disk(work.folder / "splits.bin", records.count)
    match rule.kind:
        case "hash":
            plan = replace(plan, moved=_by_hash(records, fates, splits, plan))
        case "contiguous":
            parts = _regions_of(plan, pieces, mixed)
            plan = replace(plan, cuts=_by_region(records, fates, splits, parts))
        case "names":
            _by_name(records, splits, pieces)
    _write_codes(work, records, fates, splits, plan.cuts, mixed)
    return plan


class _Records:
    """The records of all pieces, one piece at a time, with one key for all parts of a long text."""

    def __init__(self, work: Work, pieces: Sequence[Piece]) -> None:
        self._work, self._pieces = work, pieces
        self.piece_numbers = [piece.number for piece in pieces]
        counts = [len(self.of(piece.number)) for piece in pieces]
        *firsts, self.count = itertools.accumulate(counts, initial=0)
        self.firsts = tuple(firsts)
        """The number of each piece's first record."""
        self.long = self._long_texts()
        """The records of each text that comes in parts, by its first one."""
        self._long_keys = {head: self._joint_key(parts) for head, parts in self.long.items()}

    def of(self, piece: int) -> Array:
        """The records of one piece: its documents as SURVEYED, memory-mapped."""
        return self._work.load(SURVEY, piece, RECORDS)

    def __iter__(self) -> Iterator[tuple[int, Array]]:
        """The number of a piece's first record, and its records."""
        return ((first, self.of(piece.number)) for first, piece in zip(self.firsts, self._pieces, strict=True))

    def keyed(self) -> Iterator[Keyed]:
        """The key of each document of each piece, numbered by the record that it begins with."""
        for first, records in self:
            heads = np.flatnonzero(~records["continues"])
            keyed = make_records(records["high"][heads], records["low"][heads], heads + first)
            for head in self._long_keys.keys() & set(range(first, first + len(records))):
                place = np.searchsorted(keyed["number"], head)
                keyed["high"][place], keyed["low"][place] = self._long_keys[head]
            yield keyed

    def _long_texts(self) -> dict[int, list[int]]:
        long: dict[int, list[int]] = {}
        last = -1
        for first, records in self:
            numbers = np.arange(first, first + len(records))
            heads = np.maximum.accumulate(np.where(records["continues"], last, numbers))
            for part in numbers[records["continues"]].tolist():
                head = int(heads[part - first])
                long.setdefault(head, [head]).append(part)
            last = int(heads[-1]) if len(heads) else last
        return long

    def _joint_key(self, parts: list[int]) -> tuple[int, int]:
        keys = [self._at(part) for part in parts]
        joint = b"".join(int(key["high"]).to_bytes(8, "big") + int(key["low"]).to_bytes(8, "big") for key in keys)
        return key_of(joint)

    def _at(self, record: int) -> Any:
        piece = bisect.bisect_right(self.firsts, record) - 1
        return self.of(self._pieces[piece].number)[record - self.firsts[piece]]


def _on_disk(path: Path, count: int) -> Fates:
    """A byte for every record, in a file; all are 0."""
    write_zeros(path, max(count, 1))  # nothing cannot be mapped
    return np.memmap(path, np.uint8, "r+")[:count]


def _mark_duplicates(records: _Records, fates: Fates, folder: Path) -> None:
    """The first of all documents with the same key is kept."""
    for bucket in grouped(records.keyed(), records.count, folder / "sorting"):
        later = first_of_each(bucket) < np.arange(len(bucket))
        _mark(fates, records, bucket["number"][later], DUPLICATE)


def _mark_near_duplicates(
    records: _Records, fates: Fates, work: Work, threshold: float, report: "Report | None"
) -> None:
    from scratchlab.corpus.building.near_duplicates import near_duplicates

    signatures = [work.path(SURVEY, number, SIGNATURES) for number in records.piece_numbers]
    parts = {part for others in records.long.values() for part in others}
    found = near_duplicates(signatures, threshold, work.folder / "near", report)["number"]
    whole = [number for number in found.tolist() if number not in parts and not fates[number]]
    fates[whole] = NEAR_DUPLICATE


def _mark(fates: Fates, records: _Records, numbers: npt.NDArray[np.int64], fate: int) -> None:
    fates[numbers] = fate
    for head in records.long.keys() & set(numbers.tolist()):
        fates[records.long[head]] = fate


def _count_kept(records: _Records, fates: Fates) -> tuple[Kept, ...]:
    counts: list[Kept] = []
    for first, found in records:
        kept = fates[first : first + len(found)] == 0
        documents = int((kept & ~found["continues"]).sum())
        counts.append(Kept(documents, int(found["characters"][kept].sum()), int(found["bytes"][kept].sum())))
    return tuple(counts)


# Splits.


def _by_hash(records: _Records, fates: Fates, splits: Fates, plan: Plan) -> tuple[Move, ...]:
    for keyed in records.keyed():
        splits[keyed["number"]] = split_by_hash(plan.rule, keyed["high"])
    moved = _fill_empty(records, fates, splits, plan)
    for head, parts in records.long.items():
        splits[parts] = splits[head]
    return moved


def _fill_empty(records: _Records, fates: Fates, splits: Fates, plan: Plan) -> tuple[Move, ...]:
    """See splits.fill_empty; only a corpus of few documents has a wanted split without any."""
    sizes = np.zeros(len(SPLITS), np.int64)
    for keyed in records.keyed():
        numbers = keyed["number"][fates[keyed["number"]] == 0]
        sizes += np.bincount(splits[numbers], minlength=len(SPLITS))
    if sizes[list(plan.rule.wanted)].all():
        return ()
    kept = np.concatenate([keyed[fates[keyed["number"]] == 0] for keyed in records.keyed()])
    found = np.array(splits[kept["number"]])
    moved = fill_empty(plan.rule, found, kept["high"])
    splits[kept["number"]] = found
    return tuple(Move(int(kept["number"][place]), origin, int(found[place])) for place, origin in moved)


def _regions_of(plan: Plan, pieces: Sequence[Piece], mixed: bool) -> Regions:
    """The regions of all kept text in order; in a mixture, those of each source, one after another."""
    sizes = Counter[int]()
    for piece, kept in zip(pieces, plan.kept, strict=True):
        sizes[piece.source if mixed else 0] += kept.characters
    starts = itertools.accumulate(sizes.values(), initial=0)
    return [
        (split, start + low, start + high)
        for start, size in zip(starts, sizes.values(), strict=False)
        for split, low, high in regions(plan.rule, size)
    ]


def _by_region(records: _Records, fates: Fates, splits: Fates, parts: Regions) -> Cuts:
    """The kept text in order, cut by characters into `parts`."""
    edges = [start for _, start, _ in parts[1:]]
    cuts: Cuts = {}
    before = 0
    for first, found in records:
        lengths = np.where(fates[first : first + len(found)] == 0, found["characters"], 0)
        starts = before + np.cumsum(lengths) - lengths
        places = np.searchsorted([start for _, start, _ in parts], starts, side="right") - 1
        splits[first : first + len(found)] = np.array([split for split, _, _ in parts], np.uint8)[places]
        for edge in edges:
            for place in np.flatnonzero((starts < edge) & (edge < starts + lengths)).tolist():
                start, stop = int(starts[place]), int(starts[place] + lengths[place])
                cuts[first + place] = [
                    (split, max(low, start) - start, min(high, stop) - start)
                    for split, low, high in parts
                    if low < stop and start < high
                ]
        before += int(lengths.sum())
    return cuts


def _by_name(records: _Records, splits: Fates, pieces: Sequence[Piece]) -> None:
    for piece, (first, found) in zip(pieces, records, strict=True):
        if piece.split is None:
            raise UsageError(
                f"split names: the name of {piece.spans[0].name} says no split. Expected a token set (.bin, .npy, "
                ".safetensors) with train, val or test in its name, or another rule."
            )
        splits[first : first + len(found)] = SPLITS.index(piece.split)


def _write_codes(work: Work, records: _Records, fates: Fates, splits: Fates, cuts: Cuts, mixed: bool) -> None:
    """The codes of every piece: where a record goes, and whether it and its neighbors belong together there."""
    joined = _on_disk(work.folder / "joined.bin", records.count + 1)
    last = -1  # where the record before ends: a split, or nowhere
    for first, found in records:
        own = slice(first, first + len(found))
        begins = np.where(fates[own] == 0, splits[own], -1).astype(np.int8)
        ends = begins.copy()
        for record in cuts.keys() & set(range(own.start, own.stop)):
            ends[record - first] = cuts[record][-1][0]
        before = np.append(np.int8(last), ends)[:-1]
        joined[own] = found["continues"] & (begins >= 0) & (begins == before) & (not mixed)
        last = int(ends[-1]) if len(ends) else last
    for (first, found), number in zip(records, records.piece_numbers, strict=True):
        own = slice(first, first + len(found))
        codes = np.where(fates[own] == 0, splits[own], fates[own])
        codes[[record - first for record in cuts if own.start <= record < own.stop]] = CUT
        codes |= CONTINUES * joined[own] | GOES_ON * joined[own.start + 1 : own.stop + 1]
        work.save(STAGE, number, CODES, codes.astype(np.uint8))
