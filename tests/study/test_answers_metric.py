"""A study whose metric is the answers of runs that learned from instructions."""

from pathlib import Path
from typing import Any

import pytest

from lessons import write_alpaca
from scratchlab.corpus.examples.build import build_examples
from scratchlab.corpus.examples.encode import open_wording
from scratchlab.errors import RecipeError, RunError
from scratchlab.study.definition import Study
from scratchlab.study.folder import read_figures
from scratchlab.study.settle import settle
from scratchlab.training.loop import train
from tiny_study import load, write_baseline

ALL = {"interventions": {"all": {"finetuning.learn_from": "all"}}}


def study_of(folder: Path, answers: int, **changes: Any) -> Study:
    baseline = {"evaluation.answers": answers, "model.context_length": 64, "execution.threads": 1, **changes}
    write_baseline(folder, folder / "talk", baseline)
    return load(folder, ALL, metric="answers.chrf")


def test_answers_of_another_study_count_if_it_asked_as_much(tmp_path: Path) -> None:
    path = write_alpaca(tmp_path / "data.json")
    build_examples([path], tmp_path / "talk", "instructions", open_wording("chatml"), "byte", "hash:.6,.2,.2")
    study = study_of(tmp_path, 3)
    settled = settle(study, None, 1, print)
    assert settled.arms["all"].recipe.finetuning.learn_from == "all"
    result = train(settled.arms["baseline"].recipe, tmp_path / "run")
    figures = read_figures(study, settled, tmp_path / "run")
    assert figures is not None
    assert figures.value == result["answers"]["chrf"]
    other = study_of(tmp_path, 2)
    with pytest.raises(RunError, match=r"it was asked 3 questions, and this study asks 2"):
        read_figures(other, settle(other, None, 1, print), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"training.order = 'streams'"):
        settle(study_of(tmp_path, 3, **{"training.order": "streams"}), None, 1, print)
