"""The anchors: a good answer, and a bad one that neither its length nor its language gives away."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from contests import question, worth, write_answers

from scratchlab.judging.answers import Answers
from scratchlab.judging.contest import BAD, REFERENCE, contest_of


def answers(folder: Path, references: list[str | None]) -> Answers:
    made = write_answers(folder, "model", worth([50.0] * len(references)))
    asked = [replace(question(n), reference=reference) for n, reference in enumerate(references, 1)]
    kept = [replace(answer, question=one) for answer, one in zip(made.answers, asked, strict=True)]
    return replace(made, answers=tuple(kept))


def test_the_bad_answer_is_another_questions_of_about_the_same_length(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    references = [f"{number:03d} " + "word " * int(rng.integers(1, 60)) for number in range(200)]
    contest = contest_of([answers(tmp_path, list(references))], seed=1)
    assert contest.entries == ("model", REFERENCE, BAD)
    good, bad = contest.texts[1:]
    assert good == tuple(text.strip() for text in references)
    assert set(bad) <= set(good)
    assert all(one != other for one, other in zip(good, bad, strict=True))
    apart = [abs(len(one) - len(other)) for one, other in zip(good, bad, strict=True)]
    assert np.mean(apart) < 15  # any two are apart by a hundred
    assert len(set(bad)) > 80
    assert contest_of([answers(tmp_path / "again", list(references))], seed=1) == contest
    assert contest_of([answers(tmp_path / "other", list(references))], seed=2).texts[2] != bad


def test_an_answer_in_other_letters_is_not_taken_for_a_bad_one(tmp_path: Path) -> None:
    contest = contest_of([answers(tmp_path, ["Yes.", "yes.", "YES.", "Never."])], seed=1)
    assert contest.texts[2][:3] == ("Never.",) * 3


def test_anchors_are_there_for_all_questions_or_for_none(tmp_path: Path) -> None:
    for name, references in (("a", ["One.", None, "Two."]), ("b", ["Same.", "Same."]), ("c", ["One.", " "])):
        contest = contest_of([answers(tmp_path / name, references)], seed=1)
        assert (contest.entries, contest.anchored) == (("model",), False)
