"""Which runs a study wants, from what is known of its runs: nothing is trained here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from scratchlab.study.definition import Study
from scratchlab.study.design import (
    Figures,
    PlannedRun,
    Schedule,
    schedule,
    seeds_of,
    table_of,
    tuning_multiples,
    tuning_runs,
)
from scratchlab.study.table import Table, check_table
from tiny_study import TWO, as_settled, load, write_baseline


@pytest.fixture(autouse=True)
def place(tmp_path: Path) -> Path:
    write_baseline(tmp_path)
    return tmp_path


class Bench:
    """Runs a study on paper: every run that is wanted is there the next time."""

    def __init__(self, study: Study, verdicts: Mapping[int, Mapping[str, str]] | None = None) -> None:
        self.study, self.settled, self.verdicts = study, as_settled(study), verdicts or {}
        self.there: dict[str, Figures] = {}
        self.seen: list[int] = []

    def judge(self, table: Table, blocks: int) -> Mapping[str, str]:
        check_table(table)
        self.seen.append(blocks)
        return self.verdicts.get(blocks, {})

    def now(self) -> Schedule:
        return schedule(self.study, self.settled, self.there.get, self.judge)

    def finish(self, runs: list[PlannedRun] | tuple[PlannedRun, ...], loss: float = 1.0) -> None:
        for run in runs:
            tried = run.changes.get("training.learning_rate", 0.01)
            self.there[run.name] = Figures(loss, abs(tried - 0.02), "data", "a processor", 1.0, 0.1)

    def labels(self) -> list[str]:
        return [run.label for run in self.now().missing]


def test_blocks_finish_evenly_and_a_look_comes_before_what_follows(place: Path) -> None:
    bench = Bench(load(place, looks=[2, 3]), {2: {"a": "undecided", "b": "helps"}})
    assert bench.labels() == [f"{arm}, block {block}" for block in (0, 1) for arm in ("baseline", "a", "b")]
    bench.finish(bench.now().missing[1:])  # all but the first
    assert bench.labels() == ["baseline, block 0"]
    assert bench.seen == []
    bench.finish(bench.now().missing)
    assert bench.labels() == ["baseline, block 2", "a, block 2"]  # b has its verdict
    bench.finish(bench.now().missing)
    assert bench.now().complete
    assert bench.now().look == 2
    assert len(bench.now().counted) == 8


def test_a_study_ends_early_when_all_is_decided(place: Path) -> None:
    bench = Bench(load(place, looks=[2, 3]), {2: {"a": "hurts", "b": "negligible"}})
    bench.finish(bench.now().missing)
    assert bench.now().complete
    assert bench.now().look == 1


def test_runs_beyond_the_look_do_not_count(place: Path) -> None:
    """Another study may have run them: whoever counted them would look more often than was declared."""
    bench = Bench(load(place, looks=[2, 3]), {2: {"a": "undecided"}})
    later = Bench(load(place, looks=[3]))
    bench.finish([run for run in later.now().missing if run.block == "2"])
    assert bench.now().counted == ()
    assert len(bench.labels()) == 6


def test_a_stack_goes_on_whole_while_a_member_is_undecided(place: Path) -> None:
    tables = {"interventions": {**TWO, "c": {"model.bias": False}}, "stack": {"members": ["a", "b"]}}
    bench = Bench(load(place, tables, looks=[2, 3]), {2: {"a": "helps", "b": "undecided", "c": "hurts"}})
    bench.finish(bench.now().missing)
    assert bench.labels() == [f"{arm}, block 2" for arm in ("baseline", "a", "b", "stack")]


def test_studies_share_their_baselines_and_arms_their_seeds(place: Path) -> None:
    first = Bench(load(place, {"interventions": {"a": TWO["a"]}})).now().missing
    second = Bench(load(place, {"interventions": {"b": TWO["b"]}})).now().missing
    names = [{run.name for run in runs if run.arm == "baseline"} for runs in (first, second)]
    assert names[0] == names[1]
    assert {run.seeds for run in first if run.block == "1"} == {seeds_of(1)}
    assert len({run.name for run in [*first, *second]}) == 3 * 3
    assert first[0].recipe.seeds.init == seeds_of(0)[0]


def test_noise_is_a_grid_with_the_blocks_on_its_diagonal(place: Path) -> None:
    tables = {"noise": {"init": 3, "data": 3, "reruns": 2, "factors": {"execution.threads": [1, 2]}}}
    bench = Bench(load(place, tables))
    runs = bench.now().missing
    grid = [run for run in runs if not run.rerun and not run.factors]
    assert len({run.seeds[0] for run in grid}) == len({run.seeds[1] for run in grid}) == 3
    assert len({run.seeds for run in grid}) == len({run.seeds[2] for run in grid}) == 9
    cells = {run.block: run.seeds for run in grid}
    assert cells["0 x 1"][:2] == (seeds_of(0)[0], seeds_of(1)[1])
    paired = Bench(load(place)).now().missing
    assert {run.name for run in paired if run.arm == "baseline"} <= {run.name for run in grid}
    reruns = [run for run in runs if run.rerun]
    assert [run.name for run in reruns] == [f"{grid[0].name}-rerun-1", f"{grid[0].name}-rerun-2"]
    crossed = [run for run in runs if run.factors]
    assert [run.factors["threads"] for run in crossed] == ["2"] * 3  # one thread is what the grid has: no second run
    bench.finish(runs)
    table = table_of(bench.study, bench.now().counted)
    assert len(table.cells) == 9 + 2 + 6, "the analysis pairs them all the same"
    assert len(bench.now().runs) == len(runs) == 9 + 2 + 3
    assert {cell.rerun for cell in table.cells} == {0, 1, 2}


def test_the_number_of_processes_is_a_factor_outside_the_mathematics(place: Path) -> None:
    tables = {"noise": {"init": 2, "data": 2, "reruns": 0, "factors": {"execution.processes": [1, 2]}}}
    runs = Bench(load(place, tables)).now().missing
    grid, crossed = [run for run in runs if not run.factors], [run for run in runs if run.factors]
    assert [(run.factors["processes"], run.recipe.execution.processes) for run in crossed] == [("2", 2)] * 2
    assert crossed[0].name not in {run.name for run in grid}, "one process is what the grid has, and runs once"


def test_tuning_comes_first_and_chooses_for_each_arm(place: Path) -> None:
    bench = Bench(load(place, {"interventions": {"a": TWO["a"]}}, retune=["training.learning_rate"], looks=[2]))
    trials = bench.now().missing
    assert len(trials) == 2 * 5
    assert {run.block for run in trials} == {"tuning"}
    assert not {run.seeds for run in trials} & {seeds_of(block) for block in range(8)}
    bench.finish(trials)
    assert bench.now().tuned == {arm: {"training.learning_rate": 0.02} for arm in ("baseline", "a")}
    assert {run.recipe.training.learning_rate for run in bench.now().missing} == {0.02}
    bench.finish(bench.now().missing)
    assert bench.now().complete
    assert {run.block for run, _ in bench.now().counted} == {"0", "1"}


def test_every_arm_tries_the_same_multiples_of_its_own(place: Path) -> None:
    study = load(place, retune=["training.learning_rate"])
    rates: dict[str, Any] = {}
    for arm in study.arms:
        rates[arm.name] = [r.recipe.training.learning_rate for r in tuning_runs(study, as_settled(study), arm)]
    assert rates["baseline"] == [0.01, 0.0025, 0.005, 0.02, 0.04]
    assert rates["b"] == pytest.approx([5 * rate for rate in rates["baseline"]])


def test_of_two_fields_each_has_every_value() -> None:
    rows = tuning_multiples(["x", "y"], 5, 4.0)
    assert rows[0] == {"x": 1.0, "y": 1.0}
    assert sorted(row["y"] for row in rows) == sorted(row["x"] for row in rows) == [0.25, 0.5, 1.0, 2.0, 4.0]
