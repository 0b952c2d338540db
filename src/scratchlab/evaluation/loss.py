"""Loss on held-out text: nats per token, bits per byte and perplexity, and the standard error of each.

Every token but the stream's first is a target exactly once. `<|endoftext|>` counts in the nats and as zero bytes, so
that models with different tokenizers are scored on the same bytes. All figures are those of all processes together.
"""

import math
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.windows import Batch, Consecutive, TokenStream, parallel_batches
from scratchlab.corpus.words import Symbols
from scratchlab.errors import CorpusError
from scratchlab.evaluation.batches import tokens_at_once
from scratchlab.evaluation.processes import Share, own_share, summed
from scratchlab.evaluation.scorer import ScoreWindows

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# Fewer documents than this say too little about the spread between documents; stretches of text stand in for them.
FEWEST_DOCUMENTS = 8
STRETCHES = 32
TOKENS_READ = 2**20  # of a text that is looked through, at once
STREAMS = 16  # stretches that a model which remembers reads side by side; each begins with nothing remembered


class ScoredText(TokenStream, Protocol):
    """A token stream with its documents: where each begins (n + 1 places) and how many UTF-8 bytes each has (n)."""

    @property
    def document_starts(self) -> Ints: ...
    @property
    def document_bytes(self) -> Ints: ...


@dataclass(frozen=True, slots=True)
class Units:
    """The parts of a text by which errors are clustered: documents, or stretches where there are fewer than 8."""

    kind: str
    starts: Ints
    """Where each begins in the token stream, and at the end where the last one ends: (n + 1,)."""
    n_bytes: npt.NDArray[Any]
    """UTF-8 bytes of each: (n,)."""

    def __len__(self) -> int:
        return len(self.n_bytes)

    @property
    def n_tokens(self) -> Ints:
        """How many targets each has: all of its tokens, but the stream's first."""
        return np.diff(np.maximum(self.starts - 1, 0))


@dataclass(frozen=True, slots=True)
class LossResult:
    """Loss of one model on one text. Errors are standard errors of the figure above them, over `n_units` units."""

    nats_per_token: float
    nats_per_token_error: float | None
    bits_per_byte: float
    bits_per_byte_error: float | None
    perplexity: float
    """Per token: of another tokenizer's tokens it cannot be compared."""
    perplexity_error: float | None
    n_tokens: int
    n_bytes: int
    n_units: int
    unit: str
    """What the errors are clustered by: documents, or stretches of text where there are fewer than 8 documents."""
    reencoded: bool = False
    """Whether the tokens are the model's own, of a text that came as those of another tokenizer."""
    accuracy: float | None = None
    """Of texts with labels: the share of labels that are told right. The label is then the one token of a text."""
    accuracy_error: float | None = None

    def to_json(self) -> dict[str, Any]:
        """What is not finite becomes null, for JSON knows no NaN."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
            if self.accuracy is not None or not name.startswith("accuracy")
        }


@dataclass(frozen=True, slots=True)
class UnitLosses:
    """The loss of one model on a text, unit by unit: what its figures, and errors of differences, are made from."""

    unit: str
    nats: Floats
    n_tokens: npt.NDArray[Any]
    n_bytes: npt.NDArray[Any]
    right: Floats | None = None
    """Of texts with labels: how many were told right."""

    def summary(self) -> LossResult:
        found = summarize(self.unit, self.nats, self.n_tokens, self.n_bytes)
        if self.right is None:
            return found
        accuracy = float(self.right.sum() / self.n_tokens.sum())
        return replace(found, accuracy=accuracy, accuracy_error=ratio_error(self.right, self.n_tokens))

    def merged(self, most: int) -> "UnitLosses":
        """At most so many: neighbors are put together, which leaves the errors as right as they were."""
        if len(self.nats) <= most:
            return self
        edges = np.linspace(0, len(self.nats), most + 1).astype(np.int64)[:-1]
        parts = (self.nats, self.n_tokens, self.n_bytes, *(() if self.right is None else (self.right,)))
        return UnitLosses(self.unit, *(np.add.reduceat(part, edges) for part in parts))

    def to_json(self) -> dict[str, Any]:
        sums = {"tokens": self.n_tokens, "bytes": self.n_bytes, "nats": self.nats}
        sums |= {} if self.right is None else {"right": self.right}
        return {"unit": self.unit, **{name: values.tolist() for name, values in sums.items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "UnitLosses":
        nats, tokens, n_bytes = (np.array(content[name], np.float64) for name in ("nats", "tokens", "bytes"))
        right = np.array(content["right"], np.float64) if "right" in content else None
        return cls(content["unit"], nats, tokens, n_bytes, right)


def paired_error(a: UnitLosses, b: UnitLosses, loss: str) -> float | None:
    """Standard error of A's `loss` (bits_per_byte or nats_per_token) less B's, over the units of one text.

    Which texts are hard drops out of it. None where the units are not the same, or there is only one.
    """
    sizes, other, unit = (a.n_bytes, b.n_bytes, math.log(2)) if loss == "bits_per_byte" else (a.n_tokens, b.n_tokens, 1)
    if a.unit != b.unit or not np.array_equal(sizes, other):
        return None
    return ratio_error((a.nats - b.nats) / unit, sizes)


def evaluate_loss(
    score: ScoreWindows,
    text: ScoredText,
    context_length: int,
    max_tokens: int | None = None,
    remembers: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    symbol_bytes: Ints | None = None,
    device: str = "cpu",
) -> LossResult:
    """The figures of `evaluate_units`."""
    return evaluate_units(score, text, context_length, max_tokens, remembers, progress, symbol_bytes, device).summary()


def evaluate_units(
    score: ScoreWindows,
    text: ScoredText,
    context_length: int,
    max_tokens: int | None = None,
    remembers: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    symbol_bytes: Ints | None = None,
    device: str = "cpu",
) -> UnitLosses:
    """Score `text` (its first `max_tokens` targets if given) with `score(tokens_BT, targets_BT) -> nats_BT`.

    Windows do not overlap. A scorer that remembers gets the text in 16 stretches side by side, and is given each in
    order. Where torch.distributed has several processes, all must call this; each scores its share, and all get the
    same figures. `progress` is told of the targets of the own share. By `symbol_bytes` (of each symbol, see
    `byte_lengths`) the bytes of stretches are exact; without them they are shared out evenly over a document. On
    another `device` than a CPU more is scored at once.
    """
    check_length(text)
    n_targets = len(text) - 1 if max_tokens is None else min(max_tokens, len(text) - 1)
    units = _units(text, n_targets + 1, symbol_bytes)
    if remembers:
        work = work_in_streams(text, context_length, n_targets, own_share())
    else:
        work = work_in_windows(Consecutive(text, context_length, context_length, n_targets), own_share(), device)
    nats, done = np.zeros(len(units)), 0
    for part in work.parts:
        scored = score_part(score, part, units.starts)
        scored.add_to(nats)
        progress(done := done + scored.n_targets, work.n_targets)
    return UnitLosses(units.kind, summed(nats), units.n_tokens, units.n_bytes)


def check_length(text: TokenStream) -> None:
    """CorpusError for a text with nothing to predict."""
    if len(text) < 2:
        raise CorpusError("A text of a single token cannot be scored: nothing is left to predict. Add text.")


# What is scored, in parts that are read at once.


@dataclass(frozen=True, slots=True)
class Part:
    """Windows that are scored at once."""

    number: int
    places: Ints
    """Of their targets in the stream: (B, T)."""
    batch: Batch


@dataclass(frozen=True, slots=True)
class Work:
    """One process's share of a text."""

    n_targets: int
    parts: Iterator[Part]


def rows_at_once(context_length: int, device: str) -> int:
    """How many windows are scored at once."""
    return max(1, tokens_at_once(device) // context_length)


def work_in_windows(windows: Consecutive, share: Share, device: str, known: Container[int] = ()) -> Work:
    """Windows a few at a time, but for the parts that are `known`; the total counts those too."""
    rows = rows_at_once(windows.context_length, device)
    own = range(share.rank, -(-len(windows) // rows), share.count)
    total = sum(windows.counted(number * rows, rows) for number in own)
    ahead = (number for number in own if number not in known)
    return Work(total, (Part(number, *windows.batch(number * rows, rows)) for number in ahead))


def work_in_streams(text: TokenStream, context_length: int, n_targets: int, share: Share) -> Work:
    """For a model that remembers: stretches of the text side by side, each read on from part to part."""
    streams = min(STREAMS, n_targets)
    own, stretch = range(share.rank, streams, share.count), -(-n_targets // streams)
    total = sum(max(0, min(stretch, n_targets - row * stretch)) for row in own)
    batches = parallel_batches(text, context_length, streams, n_targets)
    return Work(total, (_rows(number, *batch, own) for number, batch in enumerate(batches) if own))


def _rows(number: int, places: Ints, batch: Batch, rows: range) -> Part:
    own = slice(rows.start, rows.stop, rows.step)
    return Part(number, places[own], Batch(batch.tokens[own], batch.targets[own], batch.weights[own]))


@dataclass(frozen=True, slots=True)
class Scored:
    """The nats of a part: of unit `first` and of those that follow it."""

    n_targets: int
    first: int
    nats: Floats

    def add_to(self, totals: Floats) -> None:
        totals[self.first : self.first + len(self.nats)] += self.nats


def score_part(score: ScoreWindows, part: Part, starts: Ints) -> Scored:
    """Score a part and add up what counts by units, which begin at `starts`."""
    batch, counted = part.batch, part.batch.weights > 0
    nats = score(batch.tokens, batch.targets)[counted]
    units = np.searchsorted(starts, part.places[counted], side="right") - 1
    if not len(units):
        return Scored(0, 0, np.zeros(0))
    first = int(units.min())
    return Scored(len(nats), first, np.bincount(units - first, nats).astype(np.float64))


def _units(text: ScoredText, n_tokens: int, symbol_bytes: Ints | None) -> Units:
    """The units of a text's first `n_tokens` tokens."""
    starts = text.document_starts
    n_documents = int(np.searchsorted(starts, n_tokens, side="left"))
    edges = np.append(starts[:n_documents], n_tokens)
    # Of a document that is cut off by `max_tokens`, the share of its tokens that was scored.
    shares = np.diff(edges) / np.diff(starts[: n_documents + 1])
    n_bytes = text.document_bytes[:n_documents] * shares
    if n_documents >= FEWEST_DOCUMENTS:
        return Units("documents", edges, n_bytes)
    stretches = stretch_edges(n_tokens)
    if symbol_bytes is not None:
        return Units("stretches", stretches, count_bytes(text, stretches, symbol_bytes))
    bytes_before = np.interp(stretches, edges, np.append(0, np.cumsum(n_bytes)))
    return Units("stretches", stretches, np.diff(bytes_before))


def stretch_edges(n_tokens: int) -> Ints:
    """Where stretches of about equal length begin in so many tokens, and where the last one ends."""
    return np.unique(np.linspace(0, n_tokens, min(STRETCHES, n_tokens) + 1).astype(np.int64))


def byte_lengths(encoder: Symbols) -> Ints:
    """How many bytes each token stands for: (vocab_size,)."""
    return np.array([len(encoder.token_bytes(token)) for token in range(encoder.vocab_size)], np.int64)


def count_bytes(tokens: TokenStream, edges: Ints, lengths: Ints) -> Ints:
    """The bytes of the tokens from each edge to the next: (len(edges) - 1,)."""
    counts = np.zeros(len(edges) - 1, np.int64)
    for low, high in steps(0, int(edges[-1])):
        first, last = int(np.searchsorted(edges, low, side="right")) - 1, int(np.searchsorted(edges, high))
        begins = np.maximum(edges[first:last], low) - low
        counts[first:last] += np.add.reduceat(lengths[tokens.read(low, high)], begins)
    return counts


def steps(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """From `start` to `stop`, in steps that are read at once."""
    return ((low, min(low + TOKENS_READ, stop)) for low in range(start, stop, TOKENS_READ))


# From the nats of each unit to the figures.


def summarize(
    unit: str, nats: Floats, n_tokens: npt.NDArray[Any], n_bytes: npt.NDArray[Any], reencoded: bool = False
) -> LossResult:
    """The figures of a text of these units, from the nats, the targets and the bytes of each."""
    total_nats, total_tokens, total_bytes = float(nats.sum()), int(n_tokens.sum()), float(n_bytes.sum())
    mean, error = total_nats / total_tokens, ratio_error(nats, n_tokens)
    perplexity = math.inf if mean > 700 else math.exp(mean)
    return LossResult(
        nats_per_token=mean,
        nats_per_token_error=error,
        bits_per_byte=total_nats / math.log(2) / total_bytes,
        bits_per_byte_error=ratio_error(nats / math.log(2), n_bytes),
        perplexity=perplexity,
        perplexity_error=None if error is None else perplexity * error,  # linearized, as the others are
        n_tokens=total_tokens,
        n_bytes=round(total_bytes),
        n_units=len(nats),
        unit=unit,
        reencoded=reencoded,
    )


def ratio_error(numerators: Floats, denominators: npt.NDArray[Any]) -> float | None:
    """Standard error of sum(numerators) / sum(denominators) over independent units; None for a single unit.

    Linearized (Cochran 1977, "Sampling Techniques", section 6.4).
    """
    n = len(numerators)
    if n < 2:
        return None
    residuals = numerators - numerators.sum() / denominators.sum() * denominators
    return float(np.sqrt(n / (n - 1) * np.square(residuals).sum()) / denominators.sum())
