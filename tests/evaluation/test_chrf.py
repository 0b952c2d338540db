"""chrF: of what it is made, and that it is sacrebleu's."""

import pytest

from scratchlab.evaluation.chrf import chrf_scores


def test_equal_texts_have_all_and_others_nothing() -> None:
    scores = chrf_scores(["The sea.", "xyz", ""], ["The sea.", "abc", "abc"])
    assert scores.tolist() == [100.0, 0.0, 0.0]
    assert chrf_scores([], []).tolist() == []


def test_one_by_hand() -> None:
    """ "ab" for "abc": of 1-grams 2/2 are right and 2/3 found, of 2-grams 1/1 and 1/2; longer ones the answer has not.

    F with recall weighing twice as much, of the mean precision 1 and the mean recall 7/12.
    """
    precision, recall = 1.0, (2 / 3 + 1 / 2) / 2
    expected = 100 * 5 * precision * recall / (4 * precision + recall)
    assert chrf_scores(["ab"], ["abc"])[0] == pytest.approx(expected)
