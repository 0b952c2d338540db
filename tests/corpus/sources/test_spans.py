"""Spans in little memory: nothing is lost, and millions of files are few bytes each."""

import itertools
import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchlab.corpus.building import work
from scratchlab.corpus.building.order import Settings, prepare
from scratchlab.corpus.building.work import in_pieces
from scratchlab.corpus.sources import documents
from scratchlab.corpus.sources.documents import Reading, Span, pack

NAMES = st.text(st.characters(codec="utf-8") | st.sampled_from("\udc80\udcff\n"), max_size=9)
NUMBERS = st.integers(0, 2**63)
READINGS = st.builds(Reading, st.none() | NAMES, st.booleans(), st.none() | NUMBERS, st.booleans())
SPANS = st.builds(
    Span, NAMES, NAMES, READINGS, NUMBERS, st.none() | NUMBERS, st.booleans(), st.none() | NAMES, NUMBERS, NUMBERS
)


def small_blocks(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(documents, "BLOCK_SPANS", size)
    monkeypatch.setattr(work, "PIECE_SPANS", size)


@given(st.lists(SPANS))
def test_what_is_packed_comes_back(spans):
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_blocks(monkeypatch, 2)
        packed = pickle.loads(pickle.dumps(pack(iter(spans))))
        assert list(packed) == spans == packed[:]
        assert [packed[place] for place in range(-len(spans), len(spans))] == spans * 2
        assert (len(packed), packed.size) == (len(spans), sum(span.size for span in spans))
        with pytest.raises(IndexError):
            packed[len(spans)]


def test_the_hash_is_of_all_that_spans_say():
    span = Span("a.txt", "text", size=3, modified=7)
    others = [span, Span("b.txt", "text", size=3, modified=7), Span("a.txt", "text", size=3, modified=8)]
    hashes = [pack(spans).sha256 for spans in ([span], *itertools.combinations(others, 2), others)]
    assert len(set(hashes)) == len(hashes)
    assert pack([span]) == pack([Span("a.txt", "text", size=3, modified=7)])


def many(count: int) -> Iterator[Span]:
    for number in range(count):
        yield Span(f"/home/someone/texts/part-{number // 100:05d}/{number:07d}.txt", "text", size=9, modified=number)


def test_spans_and_pieces_of_very_many_files_are_small():
    count = 20_000
    tracemalloc.start()
    try:
        pieces = in_pieces([pack(many(count))])
        assert tracemalloc.get_traced_memory()[0] < 60 * count
    finally:
        tracemalloc.stop()
    assert sum(len(piece.spans) for piece in pieces) == count


def test_listing_files_takes_less_than_300_bytes_of_memory_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small_blocks(monkeypatch, 50)
    peaks: list[int] = []
    for count in (500, 2_500):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            (folder / f"a-name-of-usual-length-{number:07d}.txt").touch()
        tracemalloc.start()
        try:
            prepare([str(folder)], Settings())
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] - peaks[0] < 2_000 * 300
