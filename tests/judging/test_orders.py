"""Who stands where: every entry in every place equally often, after everybody else equally often, whatever is asked."""

from collections import Counter

import numpy as np
import pytest

from scratchlab.judging.design import Sheet, alone, together


def places(sheets: list[Sheet], entries: int) -> np.ndarray:
    """How often each entry stands in each place: (entries, places)."""
    counts = np.zeros((entries, entries), int)
    for sheet in sheets:
        for place, entry in enumerate(sheet.order):
            counts[entry, place] += 1
    return counts


@pytest.mark.parametrize("entries", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize(("questions", "repeats"), [(1, 1), (5, 1), (12, 2), (20, 3), (37, 4), (60, 9)])
def test_every_entry_stands_in_every_place_equally_often(entries: int, questions: int, repeats: int) -> None:
    sheets = together(questions, entries, repeats, seed=3)
    assert len(sheets) == questions * repeats == len({(sheet.question, sheet.repeat) for sheet in sheets})
    assert all(sorted(sheet.order) == list(range(entries)) for sheet in sheets)
    counts = places(sheets, entries)
    assert counts.max() - counts.min() <= 1
    for repeat in range(repeats):
        own = places([sheet for sheet in sheets if sheet.repeat == repeat], entries)
        assert own.max() - own.min() <= 1


@pytest.mark.parametrize("entries", [2, 3, 4, 5, 6])
def test_every_entry_follows_every_other_equally_often(entries: int) -> None:
    squares = 2 if entries % 2 else 1
    sheets = together(entries * squares * 3, entries, 1, seed=5)
    after = Counter(pair for sheet in sheets for pair in zip(sheet.order, sheet.order[1:], strict=False))
    assert set(after.values()) == {squares * 3}
    assert len(after) == entries * (entries - 1)


def test_the_repeats_of_a_question_put_an_entry_elsewhere() -> None:
    sheets = together(20, 5, 5, seed=1)
    for question in range(20):
        own = places([sheet for sheet in sheets if sheet.question == question], 5)
        assert (own == 1).all()


def test_more_repeats_change_nothing_of_those_before() -> None:
    few, many = together(23, 5, 2, seed=1), together(23, 5, 7, seed=1)
    assert many[: len(few)] == few
    assert together(23, 5, 2, seed=2) != few


def test_time_is_no_questions() -> None:
    sheets = together(200, 4, 2, seed=1)
    halves = [[sheet.question for sheet in sheets if sheet.repeat == repeat] for repeat in range(2)]
    assert abs(np.corrcoef(halves[0], range(200))[0, 1]) < 0.25
    assert abs(np.corrcoef(halves[0], halves[1])[0, 1]) < 0.25


def test_alone_everybody_is_judged_once_a_repeat() -> None:
    sheets = alone(7, 3, 2, seed=1)
    assert len(sheets) == len(set(sheets)) == 42
    assert {(sheet.question, sheet.order[0]) for sheet in sheets} == {(q, e) for q in range(7) for e in range(3)}
