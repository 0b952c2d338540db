"""Packed rows: every example once an epoch, in an order that depends on nothing but the seed, and what does not fit."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchlab.corpus.examples.packing import PackedRows, best_fit
from scratchlab.errors import CorpusError
from tiny import modest

Lengths = list[tuple[int, int]]
"""Of each example, the tokens that are read and those that are learned after them."""


class Examples:
    """A split of examples in memory: token i of example n is 100 n + i, so that it is known wherever it turns up."""

    name = "train"

    def __init__(self, lengths: Lengths, marks: Any = None) -> None:
        sizes = [sum(length) for length in lengths]
        self.document_starts = np.cumsum([0, *sizes])
        self.tokens = np.concatenate([100 * n + np.arange(size) for n, size in enumerate(sizes)])
        own = [np.repeat([0, 1], length) for length in lengths]
        self.marks = np.concatenate(own).astype(np.uint8) if marks is None else marks
        self.ids = tuple(f"no. {number}" for number in range(len(lengths)))

    def read(self, start: int, stop: int) -> Any:
        return self.tokens[start:stop]


def rows_of(lengths: Lengths, context: int, learned: Any = "responses", **options: Any) -> PackedRows:
    return PackedRows(Examples(lengths), context, learned, **options)  # pyright: ignore[reportArgumentType]


examples = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), min_size=1, max_size=25)


@modest
@given(examples, st.integers(9, 20), st.sampled_from(["responses", "all"]), st.integers(1, 7))
def test_each_example_is_learned_from_once_an_epoch(lengths: Lengths, context: int, learned: str, size: int) -> None:
    rows = rows_of(lengths, context, learned)
    for epoch in range(2):
        seen = Counter[int]()
        for first in range(0, len(rows), size):
            few = min(size, len(rows) - first)
            batch = rows.batch(epoch * len(rows) + first, few, seed=3)
            assert batch.tokens.shape == batch.targets.shape == batch.weights.shape == (few, context)
            seen.update(batch.targets[batch.weights > 0].tolist())
        expected = Counter[int]()
        for number, (read, answer) in enumerate(lengths):
            begin = 1 if learned == "all" else read
            expected.update(range(100 * number + begin, 100 * number + min(read + answer, context + 1)))
        assert seen == expected


@modest
@given(examples, st.integers(15, 20))
def test_rows_say_where_examples_part(lengths: Lengths, context: int) -> None:
    rows = rows_of(lengths, context)
    batch = rows.batch(0, len(rows), seed=1)
    assert batch.packing is not None
    for tokens, targets, weights, documents, positions in zip(
        batch.tokens, batch.targets, batch.weights, *batch.packing, strict=True
    ):
        for document in np.unique(documents):
            own = documents == document
            assert positions[own].tolist() == list(range(int(own.sum())))
            if weights[own].any():
                number = int(tokens[own][0]) // 100
                assert tokens[own].tolist() == (100 * number + np.arange(own.sum())).tolist()
                assert targets[own].tolist() == (tokens[own] + 1).tolist()
                assert weights[own].tolist() == [float(n + 1 >= lengths[number][0]) for n in range(int(own.sum()))]
        assert (np.diff(documents) >= 0).all()


def test_the_order_is_a_function_of_seed_epoch_and_place() -> None:
    rows = rows_of([(3, 2)] * 40, 9)
    whole = rows.batch(0, 3 * len(rows), seed=5).tokens
    parts = [rows.batch(first, 1, seed=5).tokens for first in range(3 * len(rows))]
    assert np.array_equal(whole, np.concatenate(parts))
    epochs = whole.reshape(3, len(rows), -1)
    assert not np.array_equal(epochs[0], epochs[1]), "another order"
    assert sorted(map(tuple, epochs[0].tolist())) == sorted(map(tuple, epochs[1].tolist())), "of the same rows"
    assert not np.array_equal(whole, rows.batch(0, 3 * len(rows), seed=6).tokens)
    assert rows.batch(4, 0, seed=5).tokens.shape == (0, 9)


@modest
@given(st.lists(st.integers(1, 50), min_size=1, max_size=120))
def test_best_fit_wastes_little(sizes: list[int]) -> None:
    rows = best_fit(sizes, 50)
    assert sorted(place for row in rows for place in row) == list(range(len(sizes)))
    assert all(sum(sizes[place] for place in row) <= 50 for row in rows)
    full = sorted(sum(sizes[place] for place in row) for row in rows)
    assert len(full) < 2 or full[0] + full[1] > 50, "no two rows would fit into one"
    if max(sizes) <= 5:
        assert sum(sizes) > 45 * (len(rows) - 1), "small ones fill all rows but the last"


def test_the_smallest_room_that_suffices_is_taken() -> None:
    assert best_fit([6, 7, 3, 4], 10) == [[1, 2], [0, 3]]


# What does not fit.


def test_what_is_too_long_is_cut_or_left_out_and_counted() -> None:
    rows = rows_of([(3, 2), (5, 9), (9, 2), (8, 2), (20, 3)], 8)
    counts = rows.counts()
    assert (counts["examples"], counts["cut"], counts["left_out"]) == (3, 2, 2)
    assert counts["left_out_ids"] == ["no. 2", "no. 4"]
    batch = rows.batch(0, len(rows), seed=1)
    learned = sorted(batch.targets[batch.weights > 0].tolist())
    assert learned == [3, 4, *range(105, 109), 308], "of the second 4 of 9 tokens, of the fourth 1 of 2"
    assert counts["per_epoch"] == len(rows)
    assert counts["padding"] == pytest.approx(1 - (4 + 8 + 8) / (8 * len(rows)))
    json.dumps(counts)


def test_the_same_examples_whatever_is_learned_from() -> None:
    lengths = [(3, 2), (5, 9), (9, 2)]
    one, other = (rows_of(lengths, 8, learned).counts() for learned in ("responses", "all"))
    assert one == other


def test_an_example_that_is_all_response_learns_all_but_its_first_token() -> None:
    rows = PackedRows(Examples([(2, 2)], np.ones(4, np.uint8)), 8, "responses")  # pyright: ignore
    batch = rows.batch(0, 1, 1)
    assert batch.targets[batch.weights > 0].tolist() == [1, 2, 3]
    alone = PackedRows(Examples([(2, 2), (0, 1)], np.ones(5, np.uint8)), 8, "responses")  # pyright: ignore
    assert alone.counts()["left_out"] == 1, "nothing comes before the only token"


def test_where_nothing_fits_it_is_an_error() -> None:
    with pytest.raises(CorpusError, match="None of the 2 examples of the train split has any of what is to be learned"):
        rows_of([(9, 2), (12, 4)], 8)


def test_a_model_that_forgets_at_a_token_forgets_within_an_example() -> None:
    rows = rows_of([(4, 4)], 10, parted_at=3)
    batch = rows.batch(0, 1, 1)
    assert batch.packing is not None
    assert np.unique(batch.packing.documents[0, :7]).tolist() == [1, 2]
    assert batch.packing.documents[0, 2:4].tolist() == [1, 2], "it opens what follows it"
    assert batch.packing.positions[0, :7].tolist() == list(range(7)), "places are counted on, as where it is alone"


def test_labels_are_told_where_the_text_ends() -> None:
    marks = np.array([0, 0, 2, 0, 0, 0, 0, 0, 0, 1], np.uint8)
    rows = PackedRows(Examples([(3, 0), (7, 0)], marks), 5, "labels")  # pyright: ignore
    batch = rows.batch(0, len(rows), seed=1)
    there = batch.weights > 0
    told = dict(zip(batch.tokens[there].tolist(), batch.targets[there].tolist(), strict=True))
    assert told == {2: 1, 104: 0}, "the longer text is judged by its beginning"
    assert rows.counts()["cut"] == 1


def test_old_corpora_have_no_marks() -> None:
    from scratchlab.corpus.store import open_corpus

    for version in (1, 2):
        corpus = open_corpus(Path(__file__).parents[2] / f"old/format-{version}/corpora/old")
        assert corpus.manifest.examples is None
        assert corpus.split("train").marks is None
        assert corpus.chat_template is None
