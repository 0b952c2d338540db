"""Settling: what is open, what is matched, what stays, and what must not change any more."""

from pathlib import Path
from typing import Any

import pytest

from scratchlab.corpus.build import build_corpus
from scratchlab.errors import RunError, UsageError
from scratchlab.model.count import training_flops_per_token
from scratchlab.study.analysis import analyze
from scratchlab.study.definition import Study
from scratchlab.study.judging import withdrawn
from scratchlab.study.settle import settle, settle_study
from scratchlab.study.settled import SettledStudy, read_settled
from scratchlab.study.table import Cell, Table
from tiny_study import TWO, load, real_place, write_baseline


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return real_place(tmp_path)


def settled(study: Study, before: SettledStudy | None = None, workers: int = 1) -> tuple[SettledStudy, list[str]]:
    said: list[str] = []
    return settle(study, before, workers, said.append), said


def test_nothing_stays_open_and_arms_differ_in_nothing_else(place: Path) -> None:
    found, _ = settled(load(place), workers=64)
    base, a = found.arms["baseline"].recipe, found.arms["a"].recipe
    assert base.settled.threads == 1
    assert base.settled == a.settled
    assert a == base.replaced({"model.dropout": 0.5})
    assert base.evaluation.snapshots == 0


def test_equal_tokens_and_equal_flops(place: Path) -> None:
    arms = {
        "batch": {"training.global_batch_size": 1},
        "deep": {"model.n_layer": 3},
        "long": {"model.context_length": 32},
    }
    found, _ = settled(load(place, {"interventions": arms}))
    steps = {name: arm.recipe.settled.steps for name, arm in found.arms.items()}
    assert steps == {"baseline": 4, "batch": 16, "deep": 4, "long": 2}
    write_baseline(place, place / "corpus", {"training.steps": 400})
    found, _ = settled(load(place, {"interventions": arms}, match="flops"))
    flops = [
        arm.recipe.settled.steps
        * arm.recipe.training.global_batch_size
        * arm.recipe.model.context_length
        * training_flops_per_token(arm.recipe.model, 20)
        for arm in found.arms.values()
    ]
    assert flops == pytest.approx([flops[0]] * 4, rel=0.05)  # the vocabulary here is of about 20
    assert found.arms["deep"].recipe.settled.steps < 200


def test_equal_seconds_are_measured(place: Path) -> None:
    write_baseline(place, place / "corpus", {"training.steps": 1000})
    arms = {"interventions": {"deep": {"model.n_layer": 12}}}
    found, _ = settled(load(place, arms, match="seconds"))
    assert found.arms["deep"].recipe.settled.steps < 600
    assert found.arms["deep"].seconds_per_step > found.arms["baseline"].seconds_per_step > 0  # pyright: ignore[reportOptionalOperand]


def test_a_warm_up_longer_than_what_is_left_is_refused(place: Path) -> None:
    write_baseline(place, place / "corpus", {"training.warmup_steps": 3})
    with pytest.raises(UsageError, match=r"batch, given the baseline's tokens, has 1 steps[^$]*warmup_steps"):
        settled(load(place, {"interventions": {"batch": {"training.global_batch_size": 16}}}))


def test_arms_that_come_to_the_same_once_settled_are_refused(place: Path) -> None:
    with pytest.raises(UsageError, match="uncompiled is the same as baseline: it changes nothing"):
        settled(load(place, {"interventions": {"uncompiled": {"execution.compile": False}}}))


def test_what_was_settled_stays_when_arms_are_added(place: Path) -> None:
    first = settle_study(load(place, {"interventions": {"a": TWO["a"]}}), 64, print)
    study = load(place, {"interventions": {**TWO, "a": {"model.dropout": 0.25}}})
    assert read_settled(study) == first
    found, said = settled(study, first, workers=1)
    assert found.arms["baseline"] is first.arms["baseline"]
    assert found.arms["a"].recipe.model.dropout == 0.25
    assert said == [
        "New since the study was settled: b.",
        "Changed since the study was settled: a. Its runs so far stay, and no longer count.",
    ]
    write_baseline(place, place / "corpus", {"model.n_layer": 2})
    found, said = settled(load(place), first)
    assert "The baseline has changed" in said[0]
    assert {arm.recipe.model.n_layer for arm in found.arms.values()} == {2}


def test_what_was_tried_stays_in_the_family(place: Path) -> None:
    study = load(place)
    first = settle_study(study, 1, print)
    assert first.family == {name: first.arms[name].given for name in ("a", "b")}
    without_a = load(place, {"interventions": {"b": TWO["b"]}})
    assert list(settled(without_a, first)[0].family) == ["b"], "it had not run"
    (study.folder / "table.csv").write_text("arm,block,value\na,0,1.0\n", encoding="utf-8")
    second, said = settled(without_a, first)
    assert list(second.family) == ["b", "a"]
    assert "a was tried: it still counts among the changes that a claim is picked from." in said
    assert withdrawn(without_a, second) == ["a"]
    third, said = settled(without_a, second)
    assert (third.family, said) == (second.family, []), "told once, kept for good"
    assert settled(study, third)[0].family == first.family, "put back, it is the very same"
    other = {"interventions": {**TWO, "a": {"model.dropout": 0.25}}}
    changed, _ = settled(load(place, other), first)
    assert list(changed.family) == ["a", "b", f"a ({first.family['a'][:8]})"]
    values = {"baseline": [1.0, 1.1, 1.2], "b": [0.9, 1.02, 1.1]}
    cells = [Cell(arm, str(i), value) for arm, row in values.items() for i, value in enumerate(row)]
    table = Table(tuple(cells), "baseline", "test.bits_per_byte")
    found = analyze(table, None, [3], [*without_a.declared, *withdrawn(without_a, second)], reached=3)
    assert found["b"].p_holm == pytest.approx(2 * found["b"].p)  # pyright: ignore[reportOptionalOperand]


def test_equal_money_needs_the_price_of_the_device(place: Path) -> None:
    with pytest.raises(UsageError, match=r"study\.price: match = \"money\", and there is no price for"):
        settled(load(place, match="money", price={"H100": 2.0}))


def test_what_was_declared_cannot_change_once_there_are_results(place: Path) -> None:
    study = load(place)
    first = settle_study(study, 1, print)
    changed: dict[str, Any] = {"metric": "test.nats_per_token", "looks": [2, 4]}
    settled(load(place, **changed), first)  # nothing has run yet
    (study.folder / "table.csv").write_text("arm,block,value\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"metric was 'test.bits_per_byte'[^;]*; looks was \[3, 5, 8\]"):
        settled(load(place, **changed), first)


def test_other_software_and_a_damaged_file_are_refused(place: Path) -> None:
    study = load(place)
    settle_study(study, 1, print)
    path = study.folder / "settled.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"torch": "', '"torch": "1.'), encoding="utf-8")
    with pytest.raises(RunError, match=r"was settled with torch 1\."):
        settle_study(study, 1, print)
    path.write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(RunError, match=r"settled\.json is damaged"):
        settle_study(study, 1, print)


def test_the_metric_needs_its_split(place: Path) -> None:
    build_corpus([str(place / "text.txt")], place / "short", tokenizer="char", split="contiguous:.9,.1,0")
    write_baseline(place, place / "short")
    with pytest.raises(UsageError, match=r"study\.metric: .*short has no test split \(it has train, validation\)"):
        settled(load(place))
