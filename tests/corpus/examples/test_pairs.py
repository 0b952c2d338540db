"""Pairs as rows: what is read, what is predicted, what is cut, and what is left out."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchlab.corpus.examples.encode import CHOSEN, REJECTED
from scratchlab.corpus.examples.pairs import SHARED, PairRows, fit_pairs, read_pair
from scratchlab.corpus.windows import Paired
from scratchlab.errors import CorpusError
from scratchlab.model.attention import COMMON

Sizes = list[tuple[int, int, int]]
"""Of each pair, the tokens of its prompt, its chosen answer and its rejected one."""


class Pairs:
    """Pairs of these sizes; the tokens are numbered through."""

    name = "train"

    def __init__(self, sizes: Sizes) -> None:
        self.document_starts = np.cumsum([0, *map(sum, sizes)])
        self.tokens = np.arange(1, 1 + self.document_starts[-1])
        self.marks = np.concatenate([np.repeat([0, CHOSEN, REJECTED], own) for own in sizes]).astype(np.uint8)
        self.ids = tuple(f"no. {number}" for number in range(len(sizes)))

    def read(self, start: int, stop: int) -> Any:
        return self.tokens[start:stop]


def rows_of(sizes: Sizes, context: int, **options: Any) -> PairRows:
    return PairRows(Pairs(sizes), context, **options)  # pyright: ignore[reportArgumentType]


def test_a_row_is_the_prompt_and_two_answers_led_by_its_last_token() -> None:
    batch = rows_of([(3, 2, 3)], 9, margins=np.array([0.5])).batch(0, 1, seed=1)
    assert batch.tokens.tolist() == [[1, 2, 3, 4, 3, 6, 7, 0, 0]]
    assert batch.targets.tolist() == [[0, 0, 4, 5, 6, 7, 8, 0, 0]]
    assert batch.weights.tolist() == [[0, 0, 1, 1, -1, -1, -1, 0, 0]]
    assert isinstance(batch.packing, Paired)
    assert batch.packing.documents.tolist() == [[COMMON, COMMON, 1, 1, 2, 2, 2, 0, 0]]
    assert batch.packing.positions.tolist() == [[0, 1, 2, 3, 2, 3, 4, 0, 0]]
    assert batch.packing.margins.tolist() == [0.5]
    assert batch.weight == 1
    assert SHARED == COMMON


def test_a_prompt_is_forgotten_up_to_the_last_token_that_parts() -> None:
    seen = rows_of([(5, 2, 2)], 12, parted_at=3).batch(0, 1, seed=1).packing
    assert seen is not None
    assert seen.documents.tolist() == [[3, 3, COMMON, COMMON, 1, 1, 2, 2, 0, 0, 0, 0]]
    led = rows_of([(3, 2, 2)], 9, parted_at=3).batch(0, 1, seed=1).packing
    assert led is not None
    assert led.documents.tolist() == [[3, 3, 1, 1, 2, 2, 0, 0, 0]], "the answers begin with it, and see nothing before"


SIZES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6)


@given(SIZES, st.integers(2, 20))
def test_what_fits_fits_and_nothing_is_cut_that_would_fit(sizes: Sizes, context: int) -> None:
    fit = fit_pairs(Pairs(sizes), context)  # pyright: ignore[reportArgumentType]
    assert fit.to_json(Pairs(sizes))["examples"] == len(fit.useful)  # pyright: ignore[reportArgumentType]
    for number, (prompt, chosen, rejected) in enumerate(sizes):
        kept = int(fit.chosen[number]), int(fit.rejected[number])
        room = context - (prompt - 1)
        assert (number in fit.useless) == (room < 2) == (kept == (0, 0))
        assert (number in fit.cut) == (room >= 2 and chosen + rejected > room)
        if number not in fit.useless:
            assert sum(kept) == min(room, chosen + rejected)
            assert kept[0] <= chosen
            assert kept[1] <= rejected
            assert min(kept[0] / min(chosen, room // 2), kept[1] / min(rejected, room // 2)) >= 1
            read = read_pair(Pairs(sizes), fit, number)  # pyright: ignore[reportArgumentType]
            start = sum(map(sum, sizes[:number])) + 1
            assert read.prompt.tolist() == list(range(start, start + prompt))
            assert read.chosen.tolist() == list(range(start + prompt, start + prompt + kept[0]))
            assert read.rejected.tolist() == list(range(start + prompt + chosen, start + prompt + chosen + kept[1]))


def test_every_pair_comes_once_an_epoch_whatever_the_batch_and_with_its_margin() -> None:
    sizes, margins = [(1 + n, 2, 3) for n in range(7)], np.arange(7.0)
    rows = rows_of(sizes, 12, margins=margins)
    whole = rows.batch(0, 14, seed=3)
    firsts = {int(token): number for number, token in enumerate(Pairs(sizes).tokens[Pairs(sizes).document_starts[:-1]])}
    order = [firsts[int(token)] for token in whole.tokens[:, 0]]
    assert sorted(order[:7]) == sorted(order[7:]) == list(range(7))
    assert order[:7] != order[7:]
    assert whole.packing is not None
    assert isinstance(whole.packing, Paired)
    assert whole.packing.margins.tolist() == [float(number) for number in order]
    parts = [rows.batch(0, 5, seed=3), rows.batch(5, 9, seed=3)]
    assert np.array_equal(np.concatenate([part.tokens for part in parts]), whole.tokens)
    micro = [part.packing for part in whole.split(4)]
    assert [len(part.margins) for part in micro if isinstance(part, Paired)] == [4, 4, 4, 2]
    assert len(rows.batch(3, 0, seed=3).tokens) == 0
    assert rows.batch(3, 0, seed=3).weight == 0


def test_counts_and_a_corpus_of_which_nothing_fits() -> None:
    counts = rows_of([(3, 2, 2), (9, 1, 1), (3, 8, 2)], 8).counts()
    assert {name: counts[name] for name in ("per_epoch", "examples", "cut", "left_out")} == {
        "per_epoch": 2,
        "examples": 2,
        "cut": 1,
        "left_out": 1,
    }
    assert counts["left_out_ids"] == ["no. 1"]
    assert counts["padding"] == pytest.approx(1 - (6 + 8) / 16)
    with pytest.raises(CorpusError, match="None of the 1 pairs of the train split has room"):
        rows_of([(9, 1, 1)], 8)
