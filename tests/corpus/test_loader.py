"""Whole corpora in little memory, one order whatever the ranks, and batches read ahead of their step."""

import json
import runpy
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchlab.corpus import shards
from scratchlab.corpus.loader import Loader, prefetch
from scratchlab.corpus.manifest import FileRecord, SplitRecord
from scratchlab.corpus.shards import Split
from scratchlab.corpus.windows import Windows
from scratchlab.errors import CorpusError
from tiny import counting, modest

BENCHMARK = Path(__file__).parents[2] / "benchmarks/corpus_reading.py"
RANKS, SIZES = st.integers(1, 12), st.integers(1, 9)


# Ranks.


def loaders(windows: Windows, size: int, ranks: int, seed: int = 1) -> list[Loader]:
    return [Loader(windows, size, seed, rank=rank, ranks=ranks) for rank in range(ranks)]


@modest
@given(n=st.integers(20, 200), size=SIZES, ranks=RANKS, step=st.integers(0, 50), rows=st.booleans())
def test_the_shares_of_all_ranks_are_the_batch_of_one(n: int, size: int, ranks: int, step: int, rows: bool) -> None:
    windows = Windows(counting(n), 2, parallel=size if rows else None)
    whole = Loader(windows, size, seed=1).batch(step)
    shares = [loader.batch(step) for loader in loaders(windows, size, ranks)]
    for name in ("tokens", "targets", "weights"):
        assert (np.concatenate([getattr(share, name) for share in shares]) == getattr(whole, name)).all()
    sizes = [len(share.tokens) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert [share.first_sequence for share in shares] == [step * size + sum(sizes[:rank]) for rank in range(ranks)]
    assert {share.continues for share in shares} == {whole.continues}, "every rank forgets at the same steps"


@modest
@given(n=st.integers(12, 120), size=SIZES, ranks=RANKS, seed=st.integers(0, 99))
def test_every_window_once_an_epoch_over_all_ranks(n: int, size: int, ranks: int, seed: int) -> None:
    windows = Windows(counting(n), 4)
    steps = -(-2 * len(windows) // size)
    starts: list[int] = []
    for step in range(steps):
        for loader in loaders(windows, size, ranks, seed):
            starts += loader.batch(step).tokens[:, 0].tolist()
    for epoch in (0, 1):
        seen = starts[epoch * len(windows) :][: len(windows)]
        assert set(Counter(seen).values()) == {1}
        assert len(seen) == len(windows)


def test_a_run_that_goes_on_from_another_begins_where_that_one_ended() -> None:
    windows = Windows(counting(300), 4)
    after = Loader(windows, 6, seed=1, sequences_before=5 * 4)
    assert (after.batch(2).tokens == windows.batch(5 * 4 + 2 * 6, 6, seed=1).tokens).all()
    assert after.batch(2).first_sequence == 32


# Reading ahead.


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.001)


def reading_threads() -> int:
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


def test_steps_are_read_in_order_by_another_thread_and_few_ahead() -> None:
    read: list[tuple[int, int]] = []

    def remember(step: int) -> int:
        read.append((step, threading.get_ident()))
        return step * 10

    batches = prefetch(remember, range(5, 1000), ahead=3)
    for taken in range(20):
        assert next(batches) == (5 + taken) * 10
        wait_until(lambda taken=taken: len(read) == taken + 4)  # the one taken, and three that wait
    time.sleep(0.05)
    assert [step for step, _ in read] == list(range(5, 28)), "no further, however long the step"
    assert {thread for _, thread in read}.isdisjoint({threading.get_ident()})
    batches.close()
    assert reading_threads() == 0


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7])
def test_all_steps_are_given_and_the_thread_ends_with_them(steps: int) -> None:
    assert list(prefetch(lambda step: step, range(steps))) == list(range(steps))
    assert reading_threads() == 0


def test_an_error_comes_up_in_the_step_that_needed_the_batch() -> None:
    def fail(step: int) -> int:
        if step == 3:
            raise CorpusError("the disk is gone")
        return step

    batches, given_out = prefetch(fail, range(9)), list[int]()
    with pytest.raises(CorpusError, match="the disk is gone"):
        given_out.extend(batches)
    assert given_out == [0, 1, 2]
    assert reading_threads() == 0


def test_closing_waits_for_the_read_that_is_under_way_and_begins_no_other() -> None:
    begun, ended, go_on = list[int](), list[int](), threading.Event()

    def slow(step: int) -> int:
        begun.append(step)
        if step == 1:
            go_on.wait(20)
        ended.append(step)
        return step

    with closing(prefetch(slow, range(9))) as batches:
        assert next(batches) == 0
        wait_until(lambda: 1 in begun)
        threading.Timer(0.05, go_on.set).start()
    assert begun == ended == [0, 1]
    assert reading_threads() == 0


# A split in many files.


@pytest.fixture
def in_shards(tmp_path: Path) -> Callable[[Iterable[int]], Split]:
    """Writes tokens 0, 1, 2, ... in shards of the given sizes."""

    def write(sizes: Iterable[int]) -> Split:
        records, edge = list[FileRecord](), 0
        for number, size in enumerate(sizes):
            path = tmp_path / f"train-{number:05d}.bin"
            np.arange(edge, edge + size, dtype="<u2").tofile(path)
            records.append(FileRecord(name=path.name, size=2 * size, sha256=""))
            edge += size
        table = FileRecord(name="train.documents.bin", size=24, sha256="")
        record = SplitRecord(
            documents=1, characters=1, bytes=1, tokens=edge, shards=tuple(records), document_table=table
        )
        return Split(tmp_path, "train", record, "uint16", 2**16)

    return write


def test_any_range_is_expected_and_read_whatever_the_shards(in_shards: Callable[[Iterable[int]], Split]) -> None:
    split = in_shards([7, 1, 5000, 3, 2500])
    places = [0, 1, 6, 7, 8, 9, 2055, 2056, 5007, 5008, 5009, 5011, 5012, 7510, 7511]
    for start in places:
        for stop in (place for place in places if place >= start):
            split.expect(start, stop)
            assert split.read(start, stop).tolist() == list(range(start, stop))
    for outside in [(-1, 5), (5, 4), (0, 7512)]:
        for ask in (split.read, split.expect):
            with pytest.raises(IndexError, match="of split train, which has 7511"):
                ask(*outside)


def test_a_shard_is_opened_when_it_is_read(in_shards: Callable[[Iterable[int]], Split], tmp_path: Path) -> None:
    split = in_shards([10] * 50)
    for number in range(50):
        if number != 31:
            (tmp_path / f"train-{number:05d}.bin").unlink()
    assert split.read(312, 318).tolist() == list(range(312, 318))
    with pytest.raises(CorpusError, match=r"train-00032.bin could not be opened.*Restore it from a copy"):
        split.read(312, 322)


def test_a_shard_that_was_cut_off_since_opening_is_named(
    in_shards: Callable[[Iterable[int]], Split], tmp_path: Path
) -> None:
    split = in_shards([10, 10])
    path = tmp_path / "train-00001.bin"
    path.write_bytes(path.read_bytes()[:-4])
    assert len(split.read(0, 10)) == 10
    with pytest.raises(CorpusError, match=r"train-00001.bin could not be opened"):
        split.read(12, 14)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc lists what a process has open")
def test_few_shards_are_open_at_a_time(in_shards: Callable[[Iterable[int]], Split], tmp_path: Path) -> None:
    split = in_shards([10] * (shards.OPEN_SHARDS + 20))
    starts = range(0, len(split), 10)
    read = [split.read(start, start + 10).tolist() for start in [*starts, *reversed(starts)]]
    assert read[: len(starts)] == read[: len(starts) - 1 : -1] == [list(range(start, start + 10)) for start in starts]
    targets = [target.readlink() for target in Path("/proc/self/fd").iterdir() if target.is_symlink()]
    assert sum(target.is_relative_to(tmp_path) for target in targets) == shards.OPEN_SHARDS


# Ten billion tokens.


@pytest.fixture(scope="module")
def ten_billion_tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 20 GB that takes no disk, if this file system can leave holes."""
    folder = tmp_path_factory.mktemp("sparse") / "corpus"
    try:
        made = runpy.run_path(str(BENCHMARK))["make_sparse_corpus"](folder)
    except OSError as error:
        pytest.skip(f"no sparse file of this size: {error}")
    if made["bytes_on_disk"] > 2**30:
        pytest.skip("this file system fills the holes of a sparse file")
    return folder


def worker(what: str, corpus: Path, batches: int) -> dict[str, float]:
    """What a fresh process of the benchmark measures."""
    command = [sys.executable, str(BENCHMARK), "--worker", what, str(corpus), str(batches)]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what memory is a process's own")
def test_a_corpus_of_20_gb_opens_at_once_and_is_drawn_from_in_little_memory(ten_billion_tokens: Path) -> None:
    found = worker("draw", ten_billion_tokens, 1000)
    assert found["heavy_modules"] == 0, "neither PyTorch nor a tokenizer nor pandas is loaded to read a corpus"
    assert found["seconds_to_open"] < 1
    assert found["rss_anon_mb_drawn"] < 150
    assert found["rss_anon_mb_drawn"] - found["rss_anon_mb_opened"] < 20, "drawing keeps nothing"


def test_one_order_for_1_2_3_and_8_ranks_at_ten_billion_tokens(ten_billion_tokens: Path) -> None:
    found = worker("order", ten_billion_tokens, 40)
    assert list(found) == ["1", "2", "3", "8"]
    assert len(set(found.values())) == 1
