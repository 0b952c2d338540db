"""Mixtures: how much of each source a corpus holds, and in which order its documents come."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.building.encode import ROWS
from scratchlab.corpus.building.encode import STAGE as ENCODE
from scratchlab.corpus.building.join import Run, Stretch
from scratchlab.corpus.building.work import ROW, Array, Piece, Work
from scratchlab.corpus.manifest import DrawnRecord
from scratchlab.corpus.sources.find import Source
from scratchlab.errors import CorpusError
from scratchlab.seeds import permute

Ints = npt.NDArray[np.int64]
Drawn = list[tuple["Supply", Ints]]
"""Of each source that gives something to a split, the documents that were drawn, by their places in its supply."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """What to draw of the sources that have weights."""

    seed: int = 0
    tokens: int | None = None
    """To train on; as many as the sources give without repeating a document more often than allowed if None."""


@dataclass(frozen=True, slots=True)
class Supply:
    """What one source gives to a split: of each document the piece, where its tokens start there, and its ROW."""

    source: Source
    pieces: Ints
    starts: Ints
    rows: Array

    @property
    def tokens(self) -> int:
        return int(self.rows["tokens"].sum())


def supplies(work: Work, split: str, pieces: Sequence[Piece], sources: Sequence[Source]) -> list[Supply]:
    """What each source gives to a split. A document takes 40 bytes of memory here."""
    return [
        _supply(work, split, [piece.number for piece in pieces if piece.source == place], source)
        for place, source in enumerate(sources)
    ]


def _supply(work: Work, split: str, numbers: Sequence[int], source: Source) -> Supply:
    what = f"{split}.{ROWS}"
    given = [number for number in numbers if work.path(ENCODE, number, what).exists()]
    counts = [len(work.load(ENCODE, number, what)) for number in given]
    rows, starts = np.empty(sum(counts), ROW), np.empty(sum(counts), np.int64)
    edges = itertools.accumulate(counts, initial=0)
    for number, (start, stop) in zip(
        given, itertools.pairwise(edges), strict=True
    ):  # one at a time: open files are few
        rows[start:stop] = work.load(ENCODE, number, what)
        tokens = rows["tokens"][start:stop]
        starts[start:stop] = np.cumsum(tokens) - tokens
    return Supply(source, np.repeat(np.array(given, np.int64), counts), starts, rows)


def draw(found: Sequence[Supply], split: str, mixture: Mixture) -> Drawn:
    """The documents of each source in the mixture, repeated ones several times. CorpusError if there are too few.

    A source's share of the tokens is met to within half a document. In training, whole rounds of a source come before
    a part of one, so that no document is used twice more often than another; validation and test repeat nothing, and
    do without the sources that have nothing there.
    """
    if split != "train":
        found = [
            supply for supply in found if supply.tokens
        ]  # a source of few documents may give nothing to be judged on
        if not found:
            return []
    total = sum(Fraction(str(supply.source.weight)) for supply in found)
    shares = [Fraction(str(supply.source.weight)) / total for supply in found]
    most = [supply.tokens * (supply.source.repeat if split == "train" else 1) for supply in found]
    possible = min(int(tokens / share) for tokens, share in zip(most, shares, strict=True))
    wanted = mixture.tokens if split == "train" and mixture.tokens is not None else possible
    drawn: Drawn = []
    for supply, share, available in zip(found, shares, most, strict=True):
        if not supply.tokens:
            raise CorpusError(
                f"{supply.source.name} gives nothing to the training split. Split by contiguous regions (--split "
                "contiguous), of which each source has its own, or give it more text."
            )
        if (needed := int(share * wanted)) > available:
            raise CorpusError(
                f"{supply.source.name} has {supply.tokens:,} tokens to train on and may be used {supply.source.repeat} "
                f"times; {float(share):.1%} of {wanted:,} tokens are {needed:,}. Allow more repeats, lower its weight, "
                f"or ask for at most {possible:,} tokens."
            )
        drawn.append((supply, _documents(supply, needed, split, mixture.seed)))
    return drawn


def _documents(supply: Supply, needed: int, split: str, seed: int) -> Ints:
    """Whole rounds, then as much of one more, in an order of its own, as comes nearest to `needed` tokens."""
    count = len(supply.rows)
    if not count or not supply.tokens:
        return np.empty(0, np.int64)
    rounds, rest = divmod(needed, supply.tokens)
    order = permute(np.arange(count), count, seed, "mixture", split, supply.source.name)
    reached = np.cumsum(supply.rows["tokens"][order])
    extra = int(np.abs(np.append(0, reached) - rest).argmin())
    return np.concatenate([np.tile(np.arange(count), rounds), order[:extra]])


def count_drawn(drawn: Drawn) -> dict[str, DrawnRecord]:
    """How much was drawn of each source, by its name."""
    return {
        supply.source.name: DrawnRecord(
            documents=len(documents),
            distinct_documents=len(np.unique(documents)),
            tokens=int(supply.rows["tokens"][documents].sum()),
        )
        for supply, documents in drawn
    }


def in_mixed_order(drawn: Drawn, split: str, seed: int) -> Iterator[Stretch]:
    """The documents that were drawn, all sources mixed by a permutation of the seed."""
    sources = np.repeat(np.arange(len(drawn)), [len(documents) for _, documents in drawn])
    documents = np.concatenate([np.empty(0, np.int64), *(documents for _, documents in drawn)])
    if not len(documents):  # a split that is not wanted
        return
    order = permute(np.arange(len(documents)), len(documents), seed, "mixture", split, "order")
    for source, document in zip(sources[order].tolist(), documents[order].tolist(), strict=True):
        supply = drawn[source][0]
        start, row = int(supply.starts[document]), supply.rows[document : document + 1]
        yield Stretch(Run(int(supply.pieces[document]), start, start + int(row["tokens"][0])), row)
