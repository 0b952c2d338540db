"""Sorting on disk: equal to sorting in memory, in pieces that fit."""

import itertools
import tracemalloc
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchlab.corpus.building import external_sort
from scratchlab.corpus.building.external_sort import (
    RECORD,
    Records,
    first_of_each,
    grouped,
    key_records,
    make_records,
)

KEYS = {
    "spread": lambda n, rng: rng.integers(0, 2**64, (2, n), np.uint64),
    "in pairs": lambda n, rng: np.repeat(rng.integers(0, 2**64, (2, (n + 1) // 2), np.uint64), 2, axis=1)[:, :n],
    "equal": lambda n, rng: np.full((2, n), 7, np.uint64),
    "nearly all equal": lambda n, rng: np.where(rng.random((2, n)) < 0.01, rng.integers(0, 9, (2, n), np.uint64), 5),
    "small": lambda n, rng: rng.integers(0, 50, (2, n)).astype(np.uint64),
    "high alike": lambda n, rng: np.stack([np.full(n, 2**63 + 1, np.uint64), rng.integers(0, 2**64, n, np.uint64)]),
    "apart in one bit": lambda n, rng: np.stack([np.arange(n, dtype=np.uint64) % 2 << np.uint64(3), np.zeros(n)]),
}


def sample(kind: str, count: int) -> Records:
    high, low = KEYS[kind](count, np.random.default_rng(count))
    return make_records(high, low, np.random.default_rng(1).permutation(count))


def in_blocks(records: Records, size: int) -> Iterator[Records]:
    for start in range(0, len(records), size):
        yield records[start : start + size]


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("bucket_bytes", [24 * 4, 24 * 100, 24 * 10_000])
def test_sorted_as_numpy_sorts(kind: str, bucket_bytes: int, tmp_path: Path) -> None:
    records = sample(kind, 3_000 if bucket_bytes > 96 else 60)
    found = list(grouped(in_blocks(records, 70), len(records), tmp_path / "sort", bucket_bytes))
    assert (np.concatenate(found) == np.sort(records, order=["high", "low", "number"])).all()
    for before, after in itertools.pairwise(found):
        assert before[["high", "low"]][-1] != after[["high", "low"]][0]  # no key is parted
    for array in found:
        assert array.nbytes <= bucket_bytes or (first_of_each(array) == 0).all()
    assert not list(tmp_path.iterdir())


def test_nothing_is_sorted_to_nothing(tmp_path: Path) -> None:
    assert not list(grouped([], 0, tmp_path / "sort"))
    assert not list(grouped([np.empty(0, RECORD)], 10**9, tmp_path / "sort"))


def test_what_an_interrupted_sort_left_is_no_matter(tmp_path: Path) -> None:
    records = sample("spread", 100)
    for _ in grouped([records], 100, tmp_path / "sort", 24 * 10):
        break  # the rest is never read, and the files go
    assert not list(tmp_path.iterdir())
    (tmp_path / "sort").mkdir()
    (tmp_path / "sort" / "000").write_bytes(b"left by a process that was killed")
    found = list(grouped([records], 100, tmp_path / "sort", 24 * 10))
    assert (np.concatenate(found) == np.sort(records, order=["high", "low", "number"])).all()


def test_memory_is_that_of_a_bucket(tmp_path: Path) -> None:
    count, size = 400_000, 2**18

    def blocks() -> Iterator[Records]:
        rng = np.random.default_rng(0)
        for start in range(0, count, 4_000):
            high, low = rng.integers(0, 2**64, (2, 4_000), np.uint64)
            yield make_records(high, low, np.arange(start, start + 4_000))

    tracemalloc.start()
    try:
        seen = sum(len(array) for array in grouped(blocks(), count, tmp_path / "sort", size))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == count
    assert peak < 8 * size < count * RECORD.itemsize / 4  # a bucket, its order, the block that is written


@given(st.lists(st.binary(min_size=16, max_size=16)), st.integers(0, 9))
def test_keys_sort_as_their_bytes(keys: list[bytes], first: int) -> None:
    records = key_records(keys, first)
    (found,) = grouped([records], len(keys), Path("unused")) if keys else (records,)
    assert found["number"].tolist() == [first + place for place in sorted(range(len(keys)), key=lambda n: (keys[n], n))]


def test_the_first_document_of_each_key_is_found(tmp_path: Path) -> None:
    texts = [str(number % 7 if number % 3 else number) for number in range(500)]
    keys = [sha256(text.encode()).digest()[:16] for text in texts]
    blocks = (key_records(keys[start : start + 50], start) for start in range(0, 500, 50))
    first_of: dict[int, int] = {}
    for array in grouped(blocks, 500, tmp_path / "sort", 24 * 20):
        numbers = array["number"]
        first_of |= dict(zip(numbers.tolist(), numbers[first_of_each(array)].tolist(), strict=True))
    assert first_of == {number: texts.index(text) for number, text in enumerate(texts)}


@pytest.mark.parametrize("kind", ["small", "high alike", "in pairs"])
def test_groups_begin_where_both_halves_of_the_key_say_so(kind: str) -> None:
    records = np.sort(sample(kind, 500), order=["high", "low"])
    keys = records[["high", "low"]].tolist()
    assert first_of_each(records).tolist() == [keys.index(key) for key in keys]


@pytest.mark.parametrize("kind", ["spread", "equal"])
def test_records_are_distributed_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets are chosen with room, so that none has to be split again, and what has one key cannot be."""
    calls: list[int] = []
    distribute = external_sort._distribute

    def counting(*arguments: Any) -> Iterator[Records]:
        calls.append(1)
        return distribute(*arguments)

    monkeypatch.setattr(external_sort, "_distribute", counting)
    records = sample(kind, 63_000)
    assert sum(map(len, grouped([records], 63_000, tmp_path / "sort", 24 * 1_000))) == 63_000
    assert len(calls) == 1
