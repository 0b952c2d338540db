"""Which sequences each step of a run takes, on one process or on several, and reading them before their step comes.

Nothing is kept of any sequence: a batch is worked out from its number. Opening a corpus of 10 billion tokens costs
nothing, and a run that is resumed at any step, on any number of ranks, takes what it would have taken.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from scratchlab.corpus.windows import Batch, Sequences

T = TypeVar("T")

AHEAD = 2  # batches that wait for their step: one could be late after a slow read, and more only take memory


def share(rows: int, rank: int, ranks: int) -> tuple[int, int]:
    """The first of `rows` rows that are one rank's, and the first that no longer is."""
    return rows * rank // ranks, rows * (rank + 1) // ranks


@dataclass(frozen=True, slots=True)
class Loader:
    """The batches of a run, one a step; of a run on several processes (ranks), one rank's share of each.

    Step s takes the `global_batch_size` samples that follow those of step s - 1. Each rank takes a stretch of them,
    and the shares of ranks 0, 1, 2, ... laid end to end are the batch that a single rank takes: every window is read
    exactly once an epoch by all ranks together, whatever their number, and none is repeated or left out to make
    shares equal. Sizes of shares differ by one row where `ranks` does not divide the batch; where there are more
    ranks than rows, some get batches of no rows.
    """

    sequences: Sequences
    global_batch_size: int
    seed: int
    sequences_before: int = 0
    """Samples that runs before this one used up."""
    rank: int = 0
    ranks: int = 1

    def batch(self, step: int) -> Batch:
        """This rank's rows of the batch of `step`, a function of the data seed and the samples' numbers alone."""
        first, end = share(self.global_batch_size, self.rank, self.ranks)
        before = self.sequences_before + step * self.global_batch_size
        return self.sequences.batch(before + first, end - first, self.seed)


def prefetch(read: Callable[[int], T], steps: Iterable[int], ahead: int = AHEAD) -> Generator[T]:
    """`read(step)` for each step, in order, done by a thread that is at most `ahead` steps ahead of who takes them.

    What `read` raises is raised when its step's turn comes. Close the generator (`contextlib.closing`) to end the
    thread before the steps do: it finishes the step that it is at, and begins no other.
    """
    under_way = deque[Future[T]]()
    with ThreadPoolExecutor(1, "prefetch") as thread:
        try:
            for step in steps:
                under_way.append(thread.submit(read, step))
                if len(under_way) > ahead:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            thread.shutdown(wait=False, cancel_futures=True)
