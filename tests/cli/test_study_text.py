"""What the terminal says of a study: the question of its design answered, as the report answers it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from scratchlab.cli.study_text import standing, status_text
from scratchlab.study.design import schedule
from scratchlab.study.folder import known_runs
from scratchlab.study.judging import judge_of
from scratchlab.study.report import report_study
from scratchlab.study.settled import read_settled
from tiny_reports import Value, hexes, noisy, run_on_paper
from tiny_study import TWO, load, write_baseline

FIVE: Mapping[str, Any] = {
    **TWO,
    "c": {"training.clip_norm": 0.5},
    "d": {"training.weight_decay": 0.3},
    "e": {"model.n_head": 1},
}


def told(place: Path, tables: Mapping[str, Any], value: Value, most: int = 10_000, **study: Any) -> tuple[str, Any]:
    """The text of `study status`, and the report."""
    write_baseline(place)
    made = load(place, tables, **study)
    run_on_paper(made, value, most)
    settled = read_settled(made)
    assert settled is not None
    now = schedule(made, settled, known_runs(made, settled, print), judge_of(made, settled))
    return status_text(standing(made, settled, now)), report_study(made)


def test_a_screen_is_answered_by_its_changes(tmp_path: Path) -> None:
    tables = {"interventions": FIVE, "screen": {}}
    text, report = told(
        tmp_path, tables, lambda run: 2 + 1e-4 * hexes(run)[0] + 0.3 * ("b" in run.arm.split("+")), looks=[2]
    )
    assert next(line for line in text.splitlines() if line.startswith("b  ")).endswith("\u2718 hurts")
    assert "(exploratory)" not in text
    assert report.screen["smallest_effect"] == report.analysis.smallest_effect > 0
    assert "negligible" in text, "by the default smallest effect, a thousandth"


def test_a_screen_is_not_judged_before_its_look(tmp_path: Path) -> None:
    text, report = told(tmp_path, {"interventions": FIVE, "screen": {}}, noisy(), most=31, looks=[2])
    assert {one["verdict"] for one in report.screen["effects"]} == {"not judged"}
    assert {one["p"] for one in [*report.screen["effects"], *report.screen["interactions"]]} == {None}
    assert "not judged" in text


def test_a_noise_study_says_how_far_chance_goes(tmp_path: Path) -> None:
    tables = {"noise": {"init": 3, "data": 3, "reruns": 2, "factors": {"execution.threads": [1, 2]}}}
    text, _ = told(tmp_path, tables, noisy())
    assert "14 runs done" in text
    assert "differ in their seeds alone lie up to 0.0" in text
    for row in ("between seeds", "of it: initial weights", "of it: order of the data", "between exact reruns"):
        assert f"\n{row}" in text
    assert "2 against 1" in text


def test_a_sweep_says_where_it_is_best(tmp_path: Path) -> None:
    tables = {"sweep": {"grid": {"training.learning_rate": [0.001, 0.003, 0.03]}}}
    text, _ = told(
        tmp_path,
        tables,
        lambda run: 2 + abs(run.recipe.training.learning_rate - 0.01) + 1e-4 * int(run.block),
        looks=[2],
    )
    assert "The fitted curve is best at training.learning_rate = " in text


@pytest.mark.parametrize(("most", "there"), [(10_000, True), (9, False)])
def test_a_stack_says_whether_gains_add_up_once_it_is_judged(tmp_path: Path, most: int, there: bool) -> None:
    tables = {"interventions": TWO, "stack": {"members": ["a", "b"]}}
    text, report = told(tmp_path, tables, noisy(a=-0.1, b=-0.2, stack=-0.3), most, looks=[3])
    assert ("Beyond the sum of its parts" in text) is there
    assert report.stack["observed"]["value"] == pytest.approx(-0.3, abs=0.05)
