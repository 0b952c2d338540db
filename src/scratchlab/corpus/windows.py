"""Windows of a token stream, and batches of them in a seeded order.

A stream is cut into windows of `context_length` + 1 tokens that share one token with the next, so that every target
has its whole window's past and none is skipped between windows. Each epoch begins at an offset of its own and visits
its windows in a permutation of its own. Sample k of a run is window `permute(epoch, k mod n)` of epoch k div n: a
function of the data seed and k alone, whatever the batch size, the number of processes or the point of a resume.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from scratchlab.errors import CorpusError
from scratchlab.seeds import derive, permute

Ints = npt.NDArray[np.int64]


class TokenStream(Protocol):
    """What a split of a corpus offers: a length in tokens and any range of them."""

    def __len__(self) -> int: ...
    def read(self, start: int, stop: int, /) -> npt.NDArray[np.integer]: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences side by side. `weights` says how much each target counts: 1, or 0 for padding."""

    tokens: Ints  # (B, T)
    targets: Ints  # (B, T)
    weights: npt.NDArray[np.float32]  # (B, T)
    first_sequence: int = 0
    """The number of the first sequence, counted from the start of the run."""

    def split(self, size: int) -> "Iterator[Batch]":
        """Micro-batches of at most `size` sequences, in order."""
        for start in range(0, len(self.tokens), size):
            rows = slice(start, start + size)
            yield Batch(self.tokens[rows], self.targets[rows], self.weights[rows], self.first_sequence + start)


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of one stream. `CorpusError` if it does not hold a single one."""

    stream: TokenStream
    context_length: int

    def __post_init__(self) -> None:
        if len(self.stream) < self.context_length + 1:
            raise CorpusError(
                f"The training split has {len(self.stream)} tokens; a window needs context_length + 1 = "
                f"{self.context_length + 1}. Add text or lower model.context_length."
            )

    def __len__(self) -> int:
        """Windows an epoch: the number that fits from every offset."""
        return max(1, (len(self.stream) - self.context_length) // self.context_length)

    @property
    def remainder(self) -> int:
        """Tokens an epoch leaves out: those before its offset and after its last window."""
        return len(self.stream) - 1 - len(self) * self.context_length

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
            windows = permute(places[here], len(self), seed, "data", epoch)
            starts[here] = self.offset(epoch, seed) + windows * self.context_length
        return starts

    def batch(self, first_sequence: int, size: int, seed: int) -> Batch:
        """Samples `first_sequence` and the `size` - 1 that follow it."""
        starts = self.starts(np.arange(first_sequence, first_sequence + size), seed)
        rows = np.stack([self.stream.read(start, start + self.context_length + 1) for start in starts.tolist()])
        rows = rows.astype(np.int64)
        weights = np.ones((size, self.context_length), np.float32)
        return Batch(rows[:, :-1], rows[:, 1:], weights, first_sequence)


def consecutive_batches(
    stream: TokenStream, context_length: int, batch_size: int, max_targets: int | None = None
) -> Iterator[tuple[int, Batch]]:
    """Non-overlapping windows in order, for evaluation: every token but the first is a target exactly once.

    Yields the place in the stream of the batch's first target, and the batch; the last one's padding has weight 0.
    """
    targets = len(stream) - 1 if max_targets is None else min(max_targets, len(stream) - 1)
    for start in range(0, targets, batch_size * context_length):
        count = min(batch_size * context_length, targets - start)
        rows = min(batch_size, -(-count // context_length))
        padded = np.zeros(rows * context_length + 1, np.int64)
        padded[: count + 1] = stream.read(start, start + count + 1)
        weights = np.zeros(rows * context_length, np.float32)
        weights[:count] = 1
        shape = (rows, context_length)
        yield start + 1, Batch(padded[:-1].reshape(shape), padded[1:].reshape(shape), weights.reshape(shape))
