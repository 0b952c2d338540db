"""A study whose metric is what runs make of held-out pairs."""

from pathlib import Path
from typing import Any

import pytest

from lessons import HERE, MODEL, base_recipe, build_text, write_alpaca, write_lines
from scratchlab.corpus.examples.build import build_examples
from scratchlab.corpus.examples.encode import open_wording
from scratchlab.errors import UsageError
from scratchlab.study.definition import Study
from scratchlab.study.folder import read_figures
from scratchlab.study.settle import given_recipe, settle
from scratchlab.training.loop import train
from tiny_study import load, write_baseline

BETA = {"interventions": {"dearer": {"finetuning.beta": 0.3}}}


def study_of(folder: Path, corpus: str) -> Study:
    changes: dict[str, Any] = {
        "model": {**MODEL, "context_length": 128},
        "start.weights": str(folder / "base"),
        "evaluation.snapshots": 0,
        **{f"execution.{name}": value for name, value in HERE.items()},
    }
    write_baseline(folder, folder / corpus, changes)
    return load(folder, BETA, metric="test.accuracy")


def test_accuracy_is_of_runs_of_pairs(tmp_path: Path) -> None:
    build_text(tmp_path)
    train(base_recipe(tmp_path, {"model.context_length": 128}), tmp_path / "base")
    rows = [{"prompt": f"Say {n}.", "chosen": f"{n}, please", "rejected": f"no {n}"} for n in range(40)]
    given = open_wording("chatml"), "byte", "hash:.6,.2,.2"
    build_examples([write_lines(tmp_path / "p.jsonl", rows)], tmp_path / "pairs", "pairs", *given)
    build_examples([write_alpaca(tmp_path / "d.json")], tmp_path / "talk", "instructions", *given)
    study = study_of(tmp_path, "pairs")
    assert study.file.study.higher_is_better
    settled = settle(study, None, 1, print)
    result = train(given_recipe(study, study.arm("dearer")), tmp_path / "run")
    figures = read_figures(study, settled, tmp_path / "run")
    assert figures is not None
    assert (figures.value, figures.validation) == (result["test"]["accuracy"], result["validation"]["loss"])
    with pytest.raises(UsageError, match=r"test.accuracy is of pairs, and .*talk has none"):
        settle(
            load(write_baseline(tmp_path, tmp_path / "talk", TALK).parent, TALKING, metric="test.accuracy"),
            None,
            1,
            print,
        )


TALK: dict[str, Any] = {"model.context_length": 128, "execution.threads": 1}
TALKING = {"interventions": {"all": {"finetuning.learn_from": "all"}}}
