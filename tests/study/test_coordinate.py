"""The coordinator with real runs of a fraction of a second, and engines that fail on purpose."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from scratchlab.errors import RunError
from scratchlab.recipe import Recipe
from scratchlab.runfolder import RunFolder
from scratchlab.study import coordinate as coordinator
from scratchlab.study import plan as planner
from scratchlab.study.coordinate import Progress, coordinate
from scratchlab.study.definition import Study
from scratchlab.study.design import Figures, PlannedRun, Schedule, schedule
from scratchlab.study.folder import has_diverged, known_runs, read_figures
from scratchlab.study.jobs import Engine, Job, Outcome, Tell
from scratchlab.study.judging import analysis_of, judge_of
from scratchlab.study.plan import plan_study
from scratchlab.study.settle import settle_study
from scratchlab.study.table import read_table
from tiny_study import TWO, Here, load, real_place, write_baseline

ONE = {"interventions": {"a": TWO["a"]}}


class Quiet:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.ended_runs: list[str] = []
        self.waited = 0
        self.told: list[str] = []

    def phase(self, before: Schedule) -> None: ...

    def ended(self, run: PlannedRun, figures: Figures | None, message: str) -> None:
        self.ended_runs.append(run.label)

    def waiting(self, runs: int) -> None:
        self.waited += 1

    def damaged(self, message: str) -> None:
        self.told.append(message)


def go(study: Study, engine: Engine, watch: Quiet | None = None) -> tuple[Schedule, Progress]:
    settled = settle_study(study, 64, lambda text: None)
    return coordinate(study, settled, engine, judge_of(study, settled), watch or Quiet())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return real_place(tmp_path)


def test_a_study_runs_once_and_a_second_one_takes_what_is_there(place: Path) -> None:
    study, engine = load(place, ONE, looks=[2]), Here()
    now, progress = go(study, engine)
    assert engine.done == ["baseline, block 0", "a, block 0", "baseline, block 1", "a, block 1"]
    assert (now.complete, progress.ran, progress.failed) == (True, 4, {})
    table = read_table(study.folder / "table.csv", "baseline", metric="test.bits_per_byte")
    first = RunFolder(study.runs / now.counted[0][0].name).result()
    assert first is not None
    assert table.cells[0].value == first["test"]["bits_per_byte"]
    assert {cell.seeds for cell in table.cells if cell.block == "1"} == {now.counted[2][0].seeds}
    settled = settle_study(study, 64, lambda text: None)
    analysis = analysis_of(study, settled, now)
    assert analysis is not None
    assert analysis["a"].n == 2

    again = Here()
    assert go(study, again)[0] == now
    other = load(place, {"interventions": {"b": TWO["b"]}}, looks=[2])
    study_of_b = go(other, again)[0]
    assert again.done == ["b, block 0", "b, block 1"]  # the baseline's runs are shared
    assert study_of_b.complete

    settled = settle_study(other, 64, lambda text: None)
    plan = plan_study(other, settled, known_runs(other, settled, print), 2)
    assert (plan.sd_runs, plan.looks[0].runs, plan.looks[0].missing) == (2, 4, 0)
    assert plan.arms[0].source == "2 finished runs"
    assert plan.looks[0].smallest_visible == pytest.approx(plan.sd * plan.looks[0].smallest_visible_in_sd)  # pyright: ignore[reportOptionalOperand]


def test_a_baseline_that_diverges_is_told(place: Path) -> None:
    write_baseline(place, place / "corpus", {"training.learning_rate": 1e38, "training.clip_norm": 0.0})
    engine = Here()
    with pytest.raises(RunError, match=r"The baseline diverged .* Lower training\.learning_rate in base\.toml"):
        go(load(place, ONE, looks=[2]), engine)
    assert engine.done == ["baseline, block 0"]  # nothing is wasted on the rest


def test_an_arm_that_diverges_is_a_result(place: Path) -> None:
    wild = {"wild": {"training.learning_rate": 1e38, "training.clip_norm": 0.0}}
    now, progress = go(load(place, {"interventions": wild}, looks=[2]), Here())
    assert now.complete
    assert not progress.failed
    assert [figures.value for run, figures in now.counted if run.arm == "wild"] == [None, None]


def test_a_run_that_gave_up_for_want_of_finite_gradients_has_diverged(place: Path) -> None:
    study = load(place, ONE, looks=[2])
    now, _ = go(study, Here())
    folder = RunFolder(study.runs / now.counted[0][0].name)
    (folder.path / "result.json").unlink()
    settled = settle_study(study, 64, lambda text: None)
    assert read_figures(study, settled, folder.path) is None
    folder.append_metrics([{"step": 4 + step, "loss": None, "skipped": True} for step in range(100)])
    assert has_diverged(folder)
    figures = read_figures(study, settled, folder.path)
    assert figures is not None
    assert figures.value is None


def test_arms_that_train_at_one_pace_are_timed_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[Recipe] = []

    def seconds_per_step(recipe: Recipe, corpus: object) -> float:
        timed.append(recipe)
        return 0.001

    monkeypatch.setattr(planner, "seconds_per_step", seconds_per_step)
    arms = {f"rate-{i}": {"training.learning_rate": 0.001 * i} for i in (1, 2, 3)} | {"deep": {"model.n_layer": 3}}
    study = load(place, {"interventions": arms})
    settled = settle_study(study, 1, print)
    plan = plan_study(study, settled, known_runs(study, settled, print), 1)
    assert [recipe.model.n_layer for recipe in timed] == [1, 3]
    assert {arm.source for arm in plan.arms} == {"steps timed here, one run alone"}


def test_a_plan_counts_every_device_of_a_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two arms of four steps on eight cards each: an eighth of the time, and the price of all."""
    monkeypatch.setattr(planner, "seconds_per_step", lambda recipe, corpus: 360.0)
    study = load(place, ONE, looks=[2], price=2.0)
    settled = settle_study(study, 1, print)
    on_cards = {"execution.device": "cuda", "execution.processes": 8}
    arms = {name: replace(arm, recipe=arm.recipe.replaced(on_cards)) for name, arm in settled.arms.items()}
    one, eight = (plan_study(study, each, lambda name: None, 1) for each in (settled, replace(settled, arms=arms)))
    assert [arm.devices for arm in (*one.arms, *eight.arms)] == [1, 1, 8, 8]
    assert eight.arms[0].seconds == pytest.approx(one.arms[0].seconds / 8)
    assert one.looks[0].hours == one.looks[0].device_hours > 1.6
    assert eight.looks[0].hours == pytest.approx(one.looks[0].hours / 8)
    assert eight.looks[0].device_hours == pytest.approx(one.looks[0].device_hours)
    assert eight.looks[0].money == pytest.approx(2.0 * eight.looks[0].device_hours)


def spoil(path: Path, **changes: object) -> None:
    """Change what a JSON file says; None takes a part out."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {name: value for name, value in content.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("result.json", {"test": None}),
        ("result.json", {"test": {"bits_per_byte": "x"}}),
        ("manifest.json", {"environment": None}),
    ],
)
def test_a_damaged_run_is_named_and_left_out(place: Path, file: str, changes: dict[str, object]) -> None:
    study, watch = load(place, ONE, looks=[2]), Quiet()
    now, _ = go(study, Here())
    spoiled = study.runs / now.counted[0][0].name
    spoil(spoiled / file, **changes)
    settled = settle_study(study, 64, lambda text: None)
    found = known_runs(study, settled, watch.damaged)
    assert found(spoiled.name) is None
    assert found(spoiled.name) is None
    (told,) = watch.told
    assert str(spoiled) in told
    assert "to have it done anew" in told
    assert len(schedule(study, settled, found, judge_of(study, settled)).missing) == 1


def test_a_figure_that_is_null_is_a_run_that_diverged(place: Path) -> None:
    study = load(place, ONE, looks=[2])
    now, _ = go(study, Here())
    path = study.runs / now.counted[0][0].name
    spoil(path / "result.json", test={"bits_per_byte": None, "nats_per_token": None})
    figures = read_figures(study, settle_study(study, 64, lambda text: None), path)
    assert figures is not None
    assert figures.value is None


class Clumsy:
    """An engine at which one arm always fails."""

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.here = Here()

    def run(self, jobs: Sequence[Job], tell: Tell) -> None:
        for job in jobs:
            self.tried.append(job.label)
            if job.label.startswith("a,"):
                tell(Outcome(job, "failed", "the disk is full"))
            else:
                self.here.run([job], tell)


def test_a_run_that_fails_is_told_and_the_others_go_on(place: Path) -> None:
    engine = Clumsy()
    now, progress = go(load(place, ONE, looks=[2]), engine)
    assert sorted(progress.failed.values()) == ["a, block 0: the disk is full", "a, block 1: the disk is full"]
    assert len(engine.tried) == 4
    assert len(now.counted) == 2


class Busy:
    """An engine whose jobs another coordinator is at, which are done when it is asked again."""

    def __init__(self) -> None:
        self.here, self.calls = Here(), 0

    def run(self, jobs: Sequence[Job], tell: Tell) -> None:
        self.calls += 1
        if self.calls > 1:
            self.here.run(jobs, tell)
            return
        for job in jobs:
            tell(Outcome(job, "elsewhere"))


def test_runs_of_others_are_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "WAIT_SECONDS", 0.0)
    watch = Quiet()
    now, _ = go(load(place, ONE, looks=[2]), Busy(), watch)
    assert now.complete
    assert watch.waited == 1
