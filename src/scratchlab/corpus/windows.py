"""Windows of a token stream, and batches of them in a seeded order.

A stream is cut into windows of `context_length` + 1 tokens that share one token with the next, so that every target
has its whole window's past and none is skipped between windows. Each epoch begins at an offset of its own and visits
its windows in a permutation of its own. Sample k of a run is window `permute(epoch, k mod n)` of epoch k div n: a
function of the data seed and k alone, whatever the batch size, the number of processes or the point of a resume.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from scratchlab.errors import CorpusError
from scratchlab.seeds import derive, permute

Ints = npt.NDArray[np.int64]


class TokenStream(Protocol):
    """What a split of a corpus offers: a length in tokens, any range of them, and to be told what is read next."""

    def __len__(self) -> int: ...
    def read(self, start: int, stop: int, /) -> npt.NDArray[np.integer]: ...
    def expect(self, start: int, stop: int, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences side by side. `weights` says how much each target counts: 1, or 0 for padding; of pairs: `Paired`."""

    tokens: Ints  # (B, T)
    targets: Ints  # (B, T)
    weights: npt.NDArray[np.float32]  # (B, T)
    first_sequence: int = 0
    """The number of the first sequence, counted from the start of the run."""
    continues: bool = False
    """Whether each sequence goes on where the same row of the batch before ended."""
    packing: "Packing | Paired | None" = None
    """Where several texts share a row."""

    @property
    def weight(self) -> float:
        """What a mean over the batch is taken of: targets, each as much as it counts; or pairs."""
        return float(len(self.tokens) if isinstance(self.packing, Paired) else self.weights.sum())

    def split(self, size: int) -> "Iterator[Batch]":
        """Micro-batches of at most `size` sequences, in order."""
        for start in range(0, len(self.tokens), size):
            rows = slice(start, start + size)
            first = self.first_sequence + start
            packing = self.packing and self.packing.rows(rows)
            yield Batch(self.tokens[rows], self.targets[rows], self.weights[rows], first, self.continues, packing)


class Packing(NamedTuple):
    """Texts that share rows and do not see each other."""

    documents: Ints  # (B, T)
    """The number of each token's text; the same numbers in another row mean nothing."""
    positions: Ints  # (B, T)
    """Its place in that text."""

    def rows(self, rows: slice) -> "Packing":
        return Packing(self.documents[rows], self.positions[rows])


class Paired(NamedTuple):
    """Rows with two answers to a prompt: weights are 1 where a token of the chosen one is predicted, -1 where one of
    the rejected, 0 elsewhere."""

    documents: Ints  # (B, T)
    positions: Ints  # (B, T)
    """Those of both answers go on from the prompt."""
    margins: npt.NDArray[np.float32]  # (B,)
    """By how many nats the chosen answer was likelier than the rejected one to the model that the run began from."""

    def rows(self, rows: slice) -> "Paired":
        return Paired(self.documents[rows], self.positions[rows], self.margins[rows])


class Sequences(Protocol):
    """What a run takes its batches from: the windows of a text, or rows of examples."""

    def __len__(self) -> int:
        """Sequences an epoch."""
        ...

    def batch(self, first_sequence: int, size: int, seed: int) -> Batch:
        """Samples `first_sequence` and the `size` - 1 that follow it, numbered from the start of the run."""
        ...

    def counts(self) -> dict[str, Any]:
        """For the manifest: how many there are, and what an epoch leaves out."""
        ...


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of one stream. `CorpusError` if it does not hold a single one.

    With `parallel`, for models that remember, they come in order instead: an epoch's windows are cut into that many
    stretches of equal length, and each batch takes the next window of every stretch.
    """

    stream: TokenStream
    context_length: int
    parallel: int | None = None

    def __post_init__(self) -> None:
        needed = (self.parallel or 1) * self.context_length + 1
        if len(self.stream) < needed:
            raise CorpusError(
                f"The training split has {len(self.stream)} tokens; {self.parallel or 'a'} window"
                f"{'s' * bool(self.parallel)} of context_length + 1 = {self.context_length + 1} need {needed}. Add "
                "text or lower model.context_length."
            )

    def __len__(self) -> int:
        """Windows an epoch: the number that fits from every offset."""
        rows = self.parallel or 1
        return max(1, (len(self.stream) - self.context_length) // (self.context_length * rows)) * rows

    @property
    def remainder(self) -> int:
        """Tokens an epoch leaves out: those before its offset and after its last window."""
        return len(self.stream) - 1 - len(self) * self.context_length

    def counts(self) -> dict[str, Any]:
        """For the manifest."""
        return {"per_epoch": len(self), "remainder_tokens": self.remainder}

    def offset(self, epoch: int, seed: int) -> int:
        """Where the first window of an epoch starts."""
        choices = min(self.context_length, self.remainder + 1)
        return derive(seed, "data", epoch, "offset") % choices

    def starts(self, samples: Ints, seed: int) -> Ints:
        """The first token of each sample's window. Shape of `samples`, which are numbered from the start of the run."""
        epochs, places = np.divmod(samples, len(self))
        starts = np.empty_like(samples)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            windows = self._order(places[here], seed, epoch)
            starts[here] = self.offset(epoch, seed) + windows * self.context_length
        return starts

    def _order(self, places: Ints, seed: int, epoch: int) -> Ints:
        """The window at each place of an epoch."""
        if self.parallel is None:
            return permute(places, len(self), seed, "data", epoch)
        steps, rows = np.divmod(places, self.parallel)
        return rows * (len(self) // self.parallel) + steps

    def batch(self, first_sequence: int, size: int, seed: int) -> Batch:
        """Samples `first_sequence` and the `size` - 1 that follow it."""
        length = self.context_length + 1
        starts = self.starts(np.arange(first_sequence, first_sequence + size), seed).tolist()
        for start in starts:  # all of them before the first is read: the disk fetches them side by side
            self.stream.expect(start, start + length)
        rows = np.empty((size, length), np.int64)
        for row, start in enumerate(starts):
            rows[row] = self.stream.read(start, start + length)
        weights = np.ones((size, self.context_length), np.float32)
        continues = self.parallel is not None and first_sequence % len(self) >= self.parallel
        return Batch(rows[:, :-1], rows[:, 1:], weights, first_sequence, continues)


@dataclass(frozen=True, slots=True)
class Consecutive:
    """Windows in order, for evaluation: each of the stream's first `targets` targets counts exactly once.

    They begin `stride` tokens apart. With a `stride` below `context_length` they overlap, and count what no window
    before has: after the first window, each target has at least context_length - stride + 1 tokens before it.
    """

    stream: TokenStream
    context_length: int
    stride: int
    targets: int

    def __len__(self) -> int:
        return 1 + max(0, -(-(self.targets - self.context_length) // self.stride))

    def counted(self, first: int, count: int) -> int:
        """How many targets `count` windows from `first` on count."""
        return self._counted_before(first + count) - self._counted_before(first)

    def _counted_before(self, window: int) -> int:
        return min(self.targets, self.context_length + (window - 1) * self.stride) if window else 0

    def batch(self, first: int, count: int) -> tuple[Ints, Batch]:
        """The places in the stream of the targets (B, T) of `count` windows from `first` on, or of those there are,
        and the windows. What is not counted has weight 0; so has the last one's padding.
        """
        rows = min(count, len(self) - first)
        begin = first * self.stride
        room = (rows - 1) * self.stride + self.context_length + 1
        padded = np.zeros(room, np.int64)
        read = self.stream.read(begin, min(begin + room, self.targets + 1))
        padded[: len(read)] = read
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.context_length + 1)[:: self.stride].copy()
        places = begin + 1 + np.arange(rows)[:, None] * self.stride + np.arange(self.context_length)
        ends = np.array([self._counted_before(first + row) for row in range(rows + 1)])[:, None]
        weights = ((places > ends[:-1]) & (places <= ends[1:])).astype(np.float32)
        return places, Batch(windows[:, :-1], windows[:, 1:], weights)


def parallel_batches(stream: TokenStream, context_length: int, rows: int, targets: int) -> Iterator[tuple[Ints, Batch]]:
    """The same for models that remember: `rows` stretches of the text, each read on from batch to batch."""
    stretch = -(-targets // rows)
    for start in range(0, stretch, context_length):
        length = min(context_length, stretch - start)
        places = np.arange(rows)[:, None] * stretch + start + 1 + np.arange(length)
        tokens, targets_BT = np.zeros((2, rows, length), np.int64)
        for row, (first, last) in enumerate(zip(places[:, 0], np.minimum(places[:, -1], targets), strict=True)):
            if first <= last:
                read = stream.read(int(first) - 1, int(last) + 1)
                tokens[row, : len(read) - 1], targets_BT[row, : len(read) - 1] = read[:-1], read[1:]
        weights = (places <= targets).astype(np.float32)
        yield places, Batch(tokens, targets_BT, weights, continues=start > 0)
