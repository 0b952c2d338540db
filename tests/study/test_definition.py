"""The study file: what is refused, in which words, and which arms come of it."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scratchlab.errors import UsageError
from scratchlab.study.definition import load_study
from tiny_study import TWO, load, write_baseline, write_study


@pytest.fixture(autouse=True)
def place(tmp_path: Path) -> Path:
    write_baseline(tmp_path)
    return tmp_path


def complaint(folder: Path, tables: dict[str, Any] | None = None, **study: Any) -> str:
    with pytest.raises(UsageError) as caught:
        load(folder, tables, **study)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model.dropuot": 0.1},
            r"interventions.x: model.dropuot: there is no such field (did you mean model.dropout?)",
        ),
        ({"model.n_head": 3}, "interventions.x: model: d_model (16) must be a multiple of n_head (3)"),
        ({"model.n_head": "two"}, "interventions.x: model.n_head: should be"),
        ({"training.learning_rate": 1e-2}, "interventions.x: changes nothing"),
        ({"training.checkpoint_every": 3}, "interventions.x: changes nothing"),
        ({"model.dropout": 0.5}, "interventions.x: is the same as a"),
        ({"training.tokens": 5000}, "follows from study.match"),
        ({"seeds.init": 3}, "the seeds of every arm are its block's"),
        ({"evaluation.max_tokens": 3}, "all arms are measured alike"),
        ({"corpus": "corpora/other"}, "set evaluation.corpus in the baseline, for example to 'corpora/none'"),
        ({}, "should be a table of fields and values"),
    ],
)
def test_an_intervention_that_makes_no_sense_is_refused(place: Path, changes: dict[str, Any], words: str) -> None:
    assert words in complaint(place, {"interventions": {**TWO, "x": changes}})


def test_all_problems_come_at_once(place: Path) -> None:
    text = complaint(
        place,
        {"interventions": {"a": {"model.bais": True}}, "stack": {"members": ["a", "z"]}},
        metric="test.bits_per_bite",
        looks=[5, 3],
    )
    assert "4 problems" in text
    for words in (
        "did you mean test.bits_per_byte?",
        "not [5, 3]",
        "did you mean model.bias?",
        "'z' is no intervention",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("tables", "study", "words"),
    [
        ({}, {}, "there is nothing to try"),
        (None, {"loooks": [3]}, "study.loooks: there is no such field (did you mean study.looks?)"),
        (None, {"looks": [1, 3]}, "one block has no error"),
        (None, {"baseline": "bass.toml"}, "there is no such recipe file"),
        ({"interventions": TWO, "sweep": {"grid": {"model.dropout": [0.1, 0.2, 0.3]}}}, {}, "of one design"),
        ({"interventions": TWO, "screen": {}}, {}, "too few to screen"),
        ({"sweep": {"grid": {"model.dropout": [0.1, 0.2]}}}, {}, "show no curve"),
        ({"sweep": {"grid": {"model.dropuot": [0.1, 0.2, 0.3]}}}, {}, "did you mean model.dropout?"),
        ({"noise": {}}, {"looks": [3]}, "as large as its grid"),
        ({"noise": {"factors": {"model.dropout": [0.0, 0.1]}}}, {}, "is not outside the mathematics"),
        ({"noise": {"factors": {"execution.threads": [1, 0]}}}, {}, "execution.threads = 0: "),
        (
            {"sweep": {"grid": {"training.learning_rate": [0.1, 0.2, 0.3], "training.global_batch_size": [4, 8]}}},
            {},
            "a curve over training.global_batch_size takes three different values at least",
        ),
        (
            {"sweep": {"points": [{"training.learning_rate": 0.1 * i, "model.dropout": 0.1 * i} for i in (1, 2, 3)]}},
            {},
            "takes 6 points at least",
        ),
        (None, {"retune": ["training.global_batch_size"]}, "only a positive decimal number"),
        ({"interventions": TWO, "stack": {"members": ["a"]}}, {}, "two interventions or more"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(place: Path, tables: Any, study: dict[str, Any], words: str) -> None:
    assert words in complaint(place, tables, **study)


def test_answers_are_better_the_higher_they_score(place: Path) -> None:
    assert "set evaluation.answers in the baseline" in complaint(place, metric="answers.chrf")
    write_baseline(place, changes={"evaluation.answers": 9})
    assert load(place, metric="answers.chrf").file.study.higher_is_better


def test_members_that_set_the_same_field_cannot_be_combined(place: Path) -> None:
    both = {"a": {"model.dropout": 0.5}, "b": {"model.dropout": 0.1}}
    assert "a and b both set model.dropout" in complaint(
        place, {"interventions": both, "stack": {"members": ["a", "b"]}}
    )


def test_tables_may_be_nested_or_dotted(place: Path) -> None:
    path = write_study(place)
    nested = path.read_text(encoding="utf-8").replace('"model.dropout"', "model.dropout")
    path.write_text(nested, encoding="utf-8")
    assert load_study(path).interventions["a"] == {"model.dropout": 0.5}


FIVE = {
    "a": {"model.dropout": 0.5},
    "b": {"training.learning_rate": 0.05},
    "c": {"training.weight_decay": 0.0},
    "d": {"model.bias": False},
    "e": {"model.norm": "rms"},
}


@pytest.mark.parametrize(("given", "expected"), [({}, True), ({"higher_is_better": False}, False)])
def test_more_tokens_per_second_are_better_unless_the_file_says_otherwise(
    place: Path, given: dict[str, bool], expected: bool
) -> None:
    assert load(place, metric="cost.training_tokens_per_second", **given).file.study.higher_is_better is expected


def test_a_stack_has_all_and_all_but_each(place: Path) -> None:
    names = ["a", "b", "c"]
    study = load(place, {"interventions": FIVE, "stack": {"members": names}})
    members = {arm.name: arm.members for arm in study.arms}
    assert members["stack"] == ("a", "b", "c")
    assert members["stack without b"] == ("a", "c")
    assert [name for name in members if " " not in name] == ["baseline", *FIVE, "stack"]
    assert study.arm("stack without c").changes == {**FIVE["a"], **FIVE["b"]}
    assert study.declared == tuple(FIVE)
    assert study.without == {name: f"stack without {name}" for name in names}


def test_a_stack_of_two_needs_no_arm_without_each(place: Path) -> None:
    study = load(place, {"interventions": TWO, "stack": {"members": ["a", "b"]}})
    assert [arm.name for arm in study.arms] == ["baseline", "a", "b", "stack"]
    assert study.without == {"a": "b", "b": "a"}


def test_a_screen_is_of_resolution_four(place: Path) -> None:
    """Every main effect is free of every other and of every interaction of two: products of two and three columns."""
    study = load(place, {"interventions": FIVE, "screen": {}})
    assert len(study.arms) == 16
    signs = np.array([[1 if study.switches[arm.name][name] else -1 for name in FIVE] for arm in study.arms])
    assert not signs.sum(axis=0).any()
    for count in (2, 3):
        for columns in itertools.combinations(range(5), count):
            assert signs[:, list(columns)].prod(axis=1).sum() == 0
    assert study.declared == ()


def test_a_sweep_is_every_point_but_the_baseline(place: Path) -> None:
    grid = {"training.learning_rate": [0.005, 0.01, 0.02], "training.global_batch_size": [4, 8, 16]}
    study = load(place, {"sweep": {"grid": grid}})
    assert len(study.arms) == 9  # the baseline is one of the nine points
    assert study.arm("learning_rate=0.02, global_batch_size=8").changes["training.global_batch_size"] == 8
    points = [{"training.learning_rate": rate} for rate in (0.001, 0.002, 0.004)]
    assert len(load(place, {"sweep": {"points": points}}).arms) == 4
