"""Windows: each exactly once an epoch, a function of seed and sample number alone."""

import tracemalloc
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from scratchlab.corpus.windows import Consecutive, Windows, parallel_batches
from scratchlab.errors import CorpusError
from tiny import Ints, Stream, counting, modest

CONTEXTS, SIZES, SEEDS = st.integers(1, 9), st.integers(1, 11), st.integers(0, 2**63 - 1)


def epoch_starts(windows: Windows, epoch: int, batch_size: int, seed: int) -> list[int]:
    """First tokens of the samples of one epoch, taken from batches of any size laid over the whole run."""
    first, end = epoch * len(windows), (epoch + 1) * len(windows)
    starts: list[int] = []
    for begin in range(first // batch_size * batch_size, end, batch_size):
        batch = windows.batch(begin, batch_size, seed)
        numbers = range(begin, begin + batch_size)
        starts += [int(row[0]) for number, row in zip(numbers, batch.tokens, strict=True) if first <= number < end]
    return starts


@modest
@given(n=st.integers(2, 120), context=CONTEXTS, batch_size=SIZES, seed=SEEDS, epoch=st.integers(0, 3))
def test_every_window_once_an_epoch(n: int, context: int, batch_size: int, seed: int, epoch: int) -> None:
    assume(n > context)
    windows = Windows(counting(n), context)
    starts = sorted(epoch_starts(windows, epoch, batch_size, seed))
    # Laid side by side the windows share one token with the next, and leave no gap.
    assert np.diff(starts).tolist() == [context] * (len(windows) - 1)
    assert starts[0] < context, "an epoch starts within one window's length"
    covered = set(range(starts[0], starts[-1] + context + 1))
    assert windows.remainder == n - len(covered)
    assert windows.remainder < 2 * context, "no further window fits whatever the offset"


@modest
@given(n=st.integers(10, 120), context=CONTEXTS, a=SIZES, b=SIZES, seed=SEEDS)
def test_a_sample_does_not_depend_on_the_batch_it_is_in(n: int, context: int, a: int, b: int, seed: int) -> None:
    windows = Windows(counting(n), context)
    total = 3 * a * b

    def rows(size: int) -> Ints:
        return np.concatenate([windows.batch(first, size, seed).tokens for first in range(0, total, size)])

    assert (rows(a) == rows(b)).all()


def test_targets_are_the_next_tokens_and_all_count() -> None:
    batch = Windows(counting(50), 7).batch(3, 5, seed=1)
    assert (batch.targets == batch.tokens + 1).all()
    assert batch.tokens.shape == batch.targets.shape == batch.weights.shape == (5, 7)
    assert batch.weights.dtype == np.float32
    assert (batch.weights == 1).all()


def test_epochs_differ_in_order_and_offset() -> None:
    windows = Windows(counting(1000), 10)
    epochs = [epoch_starts(windows, epoch, 99, seed=1) for epoch in range(6)]
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert len({min(epoch) for epoch in epochs}) > 2


@pytest.mark.parametrize("n", [20, 25, 29, 104])
def test_every_offset_below_the_window_comes_up(n: int) -> None:
    windows = Windows(counting(n), 10)
    assert {windows.offset(epoch, seed=1) for epoch in range(200)} == set(range(10))


def test_a_batch_may_cross_epochs() -> None:
    windows = Windows(counting(41), 10)  # three windows an epoch
    starts = windows.batch(0, 12, seed=1).tokens[:, 0]
    assert all(len(set(starts[epoch : epoch + 3].tolist())) == 3 for epoch in range(0, 12, 3))


@dataclass(frozen=True)
class Endless:
    """Ten trillion tokens that are nowhere; token i is i. Remembers what it was asked."""

    asked: list[tuple[str, int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return 10**13

    def read(self, start: int, stop: int) -> Ints:
        self.asked.append(("read", start, stop))
        return np.arange(start, stop)

    def expect(self, start: int, stop: int) -> None:
        self.asked.append(("expect", start, stop))


def test_nothing_is_kept_of_sequences_that_are_not_in_the_batch() -> None:
    windows = Windows(Endless(), 8)
    windows.batch(0, 4, seed=1)  # what is made once
    tracemalloc.start()
    try:
        for first in (0, 10**6, len(windows) - 2, 7 * len(windows)):
            windows.batch(first, 4, seed=1)
        assert tracemalloc.get_traced_memory()[1] < 50_000
    finally:
        tracemalloc.stop()


def test_all_windows_of_a_batch_are_expected_before_the_first_is_read() -> None:
    stream = Endless()
    batch = Windows(stream, 8).batch(100, 5, seed=1)
    ranges = [(row[0], row[0] + 9) for row in batch.tokens.tolist()]
    assert stream.asked == [("expect", *part) for part in ranges] + [("read", *part) for part in ranges]


def test_another_data_seed_gives_another_order() -> None:
    windows = Windows(counting(1000), 10)
    assert epoch_starts(windows, 0, 99, seed=1) != epoch_starts(windows, 0, 99, seed=2)


def test_micro_batches_are_the_batch_in_order() -> None:
    batch = Windows(counting(100), 4).batch(8, 7, seed=1)
    parts = list(batch.split(3))
    assert [len(part.tokens) for part in parts] == [3, 3, 1]
    assert [part.first_sequence for part in parts] == [8, 11, 14]
    for name in ("tokens", "targets", "weights"):
        assert (np.concatenate([getattr(part, name) for part in parts]) == getattr(batch, name)).all()


def test_a_stream_of_one_window_is_enough_and_one_token_less_is_not() -> None:
    assert len(Windows(counting(9), 8)) == 1
    with pytest.raises(CorpusError, match=r"8 tokens.*context_length \+ 1 = 9.*lower model.context_length"):
        Windows(counting(8), 8)


@modest
@given(
    n=st.integers(2, 120),
    context=CONTEXTS,
    overlap=st.integers(0, 7),
    batch_size=SIZES,
    max_targets=st.none() | st.integers(1, 150),
)
def test_evaluation_covers_each_target_once(
    n: int, context: int, overlap: int, batch_size: int, max_targets: int | None
) -> None:
    seen: list[int] = []
    stream = Stream(np.arange(n) + 1000)
    wanted = n - 1 if max_targets is None else min(n - 1, max_targets)
    stride = max(1, context - overlap)
    windows = Consecutive(stream, context, stride, wanted)
    for first in range(0, len(windows), batch_size):
        places, batch = windows.batch(first, batch_size)
        counted = batch.weights > 0
        assert batch.tokens.shape == (min(batch_size, len(windows) - first), context)
        assert counted.any(axis=1).all(), "no window of padding alone"
        targets = batch.targets[counted] - 1000
        assert targets.tolist() == places[counted].tolist()
        assert counted.sum() == windows.counted(first, batch_size)
        assert (batch.tokens[counted] == batch.targets[counted] - 1).all()
        # A target's past within its row is the stream's, as far back as the window reaches.
        assert (np.diff(batch.tokens, axis=1)[counted[:, 1:]] == 1).all()
        least = context - stride + 1
        past = np.nonzero(counted)[1] + 1
        assert (past >= np.minimum(targets, least)).all()
        seen += targets.tolist()
    assert seen == list(range(1, wanted + 1))


# For models that remember.


@modest
@given(n=st.integers(2, 120), context=CONTEXTS, rows=st.integers(1, 6), max_targets=st.integers(1, 150))
def test_parallel_evaluation_covers_each_target_once_and_reads_on(
    n: int, context: int, rows: int, max_targets: int
) -> None:
    wanted = min(n - 1, max_targets)
    rows = min(rows, wanted)
    seen: Counter[int] = Counter()
    ends: list[int] | None = None
    for places, batch in parallel_batches(Stream(np.arange(n)), context, rows, wanted):
        counted = batch.weights > 0
        assert batch.targets[counted].tolist() == places[counted].tolist()
        assert (batch.tokens[counted] == places[counted] - 1).all()
        assert batch.continues == (ends is not None)
        if ends is not None:
            assert places[:, 0].tolist() == [end + 1 for end in ends], "each row goes on where it ended"
        ends = places[:, -1].tolist()
        seen.update(places[counted].tolist())
    assert seen == Counter(range(1, wanted + 1))


@modest
@given(n=st.integers(10, 200), context=st.integers(1, 4), rows=st.integers(1, 3), seed=st.integers(0, 9))
def test_streams_go_on_from_batch_to_batch_and_begin_anew_each_epoch(
    n: int, context: int, rows: int, seed: int
) -> None:
    windows = Windows(counting(n), context, parallel=rows)
    steps = len(windows) // rows
    assert steps * rows == len(windows)
    for epoch in range(2):
        seen: Counter[int] = Counter()
        for step in range(steps):
            batch = windows.batch((epoch * steps + step) * rows, rows, seed)
            assert batch.continues == (step > 0)
            if step:
                assert (batch.tokens[:, 0] == last).all()  # noqa: F821 (bound a turn ago)
            last = batch.targets[:, -1]  # noqa: F841
            seen.update(batch.targets.flatten().tolist())
        assert max(seen.values()) == 1
        assert len(seen) == len(windows) * context == n - 1 - windows.remainder


def test_streams_too_short_are_refused() -> None:
    with pytest.raises(CorpusError, match=r"need 17"):
        Windows(counting(16), 4, parallel=4)
