"""What there is to say of a study, gathered from its folder into one plain object.

Pages only write it down: every figure that a report shows, in HTML, in Markdown and as JSON, is in a `Report`. It takes
no corpus and trains nothing, and a study in any state has one: not begun, under way, its baseline diverged.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from scratchlab.errors import ScratchlabError
from scratchlab.recipe import fingerprint
from scratchlab.runfolder import Record, RunFolder
from scratchlab.study import report_parts as parts
from scratchlab.study.analysis import Analysis
from scratchlab.study.arms import value_of
from scratchlab.study.definition import Study
from scratchlab.study.design import Figures, Judge, Known, PlannedRun, Schedule, schedule, table_of
from scratchlab.study.folder import known_runs
from scratchlab.study.judging import analysis_of, judge_of, withdrawn
from scratchlab.study.report_curves import ArmCurves, RunCurves, arm_curves, read_curves
from scratchlab.study.report_parts import Counted
from scratchlab.study.sections import BASELINE, Arm
from scratchlab.study.settle import given_recipe, refuse_changed_declaration, tokens_per_step
from scratchlab.study.settled import SettledStudy, read_settled

FORMAT_VERSION = 1
State = Literal["not begun", "under way", "complete"]
Role = Literal["baseline", "declared", "exploratory"]


@dataclass(frozen=True, slots=True)
class Change:
    """A field of the baseline with another value."""

    field: str
    before: Any
    after: Any
    tuned: bool = False
    """Chosen by the arm's own trials, not by the study file."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What runs took. Device-hours are those of one device, whatever else it did meanwhile."""

    runs: int
    device_hours: float
    training_hours: float
    """The rest went to evaluation, checkpoints and compilation."""
    price: float | None
    price_without_evaluation: float | None


@dataclass(frozen=True, slots=True)
class ArmFacts:
    """An arm, but for its verdict."""

    name: str
    role: Role
    members: tuple[str, ...]
    changes: tuple[Change, ...]
    settled: bool
    """Whether its recipe is what the study file says now: an arm that is new has no runs yet."""
    steps: int | None
    tokens_per_step: int | None
    finished: int
    diverged: int
    missing: int
    mean: float | None
    sd: float | None
    cost: Cost | None
    """Of the runs that count."""
    hours_a_run: float | None
    price_a_run: float | None
    relative_cost: float | None
    """Of a run, beside the baseline's."""
    worth: dict[str, float] | None
    """Its effect as steps of the baseline: more, low, high, share (of the baseline's own steps)."""
    sample: str | None
    sample_block: str | None
    identity: str | None
    """Fingerprint of its recipe before seeds."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run that counts."""

    arm: str
    block: str
    seeds: tuple[int, int, int]
    value: float | None
    """None: it diverged."""
    difference: float | None
    """From the baseline's run of the same block."""
    hardware: str
    seconds: float
    other_seconds: float
    folder: str
    rerun: int
    factors: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class MissingRun:
    """A run that comes next."""

    label: str
    folder: str
    begun: int | None
    """The step of its last checkpoint; None if it has not begun."""


@dataclass(frozen=True, slots=True)
class Report:
    """A study, reported."""

    format_version: int
    study: str
    path: str
    design: str
    state: State
    baseline: str
    """The recipe file."""
    metric: str
    higher_is_better: bool
    match: str
    looks: tuple[int, ...]
    looks_done: int
    currency: str
    analysis: Analysis | None
    problems: tuple[str, ...]
    """Why there is no verdict, or what else must be known first."""
    arms: tuple[ArmFacts, ...]
    runs: tuple[RunFacts, ...]
    missing: tuple[MissingRun, ...]
    cost: Cost | None
    """Of all runs, tuning included."""
    noise: dict[str, Any]
    stack: dict[str, Any] | None
    screen: dict[str, Any] | None
    sweep: dict[str, Any] | None
    retune: dict[str, Any] | None
    curves: Mapping[str, ArmCurves]
    curve_loss: str
    environment: Mapping[str, str]
    execution: Mapping[str, Any]
    study_file: str
    baseline_recipe: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def arm(self, name: str) -> ArmFacts:
        return next(arm for arm in self.arms if arm.name == name)


def report_study(study: Study) -> Report:
    """Everything there is to say of a study. `UsageError` if what counts was changed after there were results."""
    before = read_settled(study)
    problems: list[str] = []
    settled = None if before is None else still_settled(study, before, problems)
    if settled is None:
        return _empty(study, problems)
    assert before is not None
    refuse_changed_declaration(study, before)
    if gone := withdrawn(study, settled):
        problems.append(
            f"Tried, and no longer in the study file as it was: {', '.join(gone)}. It counts among the changes that "
            "the claims below are picked from."
        )
    known = known_runs(study, settled, problems.append)
    begun = replace(study, arms=tuple(arm for arm in study.arms if arm.name in settled.arms))
    now = schedule(begun, settled, known, _patient_judge(begun, settled))
    if len(begun.arms) < len(study.arms):
        now = replace(now, look=0)  # an arm that is new has no run in any block, so that no look is complete
    analysis = _analysis(study, settled, now, problems)
    return _gather(study, settled, known, now, analysis, problems)


def still_settled(study: Study, before: SettledStudy, problems: list[str]) -> SettledStudy | None:
    """What was settled, for the arms that are as they were then; None if the baseline is not. Tells what is left."""
    same: list[str] = []
    for arm in study.arms:
        old, given = before.arms.get(arm.name), given_recipe(study, arm)
        if old is not None and old.given == fingerprint(given, old.corpus, old.evaluation, old.weights):
            same.append(arm.name)
    if BASELINE not in same:
        problems.append("The baseline has changed since the study was run: no finished run counts for it any more.")
        return None
    other = [arm.name for arm in study.arms if arm.name not in same]
    if other:
        problems.append(f"New or changed since the study was last run, and without runs: {', '.join(other)}.")
    return replace(before, arms={name: before.arms[name] for name in same})


def _patient_judge(study: Study, settled: SettledStudy) -> Judge:
    """Where runs cannot be judged, all arms are undecided."""
    judge = judge_of(study, settled)

    def undecided_if_not(table: Any, blocks: int) -> Mapping[str, str]:
        try:
            return judge(table, blocks)
        except ScratchlabError:
            return dict.fromkeys(study.declared, "undecided")  # `_analysis` says why

    return undecided_if_not


def _analysis(study: Study, settled: SettledStudy, now: Schedule, problems: list[str]) -> Analysis | None:
    own = [figures for run, figures in now.counted if run.arm == BASELINE]
    if own and all(figures.value is None for figures in own):
        problems.append(
            f"The baseline diverged in all of its {len(own)} runs: there is nothing to compare the other arms with. "
            "Lower its learning rate or give it a longer warm-up, and run the study again."
        )
        return None
    try:
        return analysis_of(study, settled, now)
    except ScratchlabError as error:
        problems.append(f"No verdict is possible: {error}")
        return None


def _gather(
    study: Study,
    settled: SettledStudy,
    known: Known,
    now: Schedule,
    analysis: Analysis | None,
    problems: list[str],
) -> Report:
    loss = parts.curve_loss(study.file.study.metric)
    runs = {run.name: read_curves(RunFolder(study.runs / run.name), loss) for run, _ in now.runs}
    curves = {name: _curves_of(name, settled, now.runs, runs) for name in settled.arms}
    table = table_of(study, now.counted)
    tuning = parts.tuning_trials(study, settled, known)
    return replace(
        _empty(study, problems),
        state="complete" if now.complete and len(settled.arms) == len(study.arms) else "under way",
        looks_done=now.look,
        analysis=analysis,
        arms=tuple(_arm(study, settled, arm, now, analysis, curves) for arm in study.arms),
        runs=_runs(now.runs),
        missing=tuple(_missing(study, run) for run in now.missing),
        cost=_cost([*(figures for _, figures in now.runs), *(figures for _, figures in tuning if figures)]),
        noise=parts.noise_facts(study, table, now.runs, analysis, runs),
        stack=parts.stack_facts(study, table, analysis) if len(settled.arms) == len(study.arms) else None,
        screen=parts.screen_facts(study, table, analysis),
        sweep=parts.sweep_facts(study, now.counted),
        retune=parts.retune_facts(study, tuning, now.tuned),
        curves=curves,
        environment={name: text for name, text in settled.environment.items() if name != "platform"},
        execution=_execution(settled),
    )


def _empty(study: Study, problems: Sequence[str]) -> Report:
    """A study of which nothing was run."""
    section = study.file.study
    return Report(
        format_version=FORMAT_VERSION,
        study=study.path.stem,
        path=str(study.path),
        design=study.design,
        state="not begun",
        baseline=section.baseline,
        metric=section.metric,
        higher_is_better=section.higher_is_better,
        match=section.match,
        looks=() if study.design == "noise" else study.looks,
        looks_done=0,
        currency=section.currency,
        analysis=None,
        problems=tuple(problems),
        arms=tuple(_new_arm(study, arm) for arm in study.arms),
        runs=(),
        missing=(),
        cost=None,
        noise={},
        stack=None,
        screen=None,
        sweep=None,
        retune=parts.retune_facts(study, (), {}),
        curves={},
        curve_loss=parts.curve_loss(section.metric),
        environment={},
        execution={},
        study_file=study.path.read_text(encoding="utf-8"),
        baseline_recipe=study.baseline.to_toml(),
    )


def _execution(settled: SettledStudy) -> dict[str, Any]:
    recipe = settled.arms[BASELINE].recipe
    names = ("execution.backend", "execution.device", "execution.threads", "execution.micro_batch_size",
             "execution.compile", "execution.deterministic", "training.precision")  # fmt: skip
    return {name: value_of(recipe, name) for name in names}


# Arms.


def _new_arm(study: Study, arm: Arm) -> ArmFacts:
    return ArmFacts(
        name=arm.name,
        role="baseline" if arm.name == BASELINE else "declared" if arm.name in study.declared else "exploratory",
        members=arm.members,
        changes=tuple(Change(name, value_of(study.baseline, name), value) for name, value in arm.changes.items()),
        settled=False,
        steps=None,
        tokens_per_step=None,
        finished=0,
        diverged=0,
        missing=0,
        mean=None,
        sd=None,
        cost=None,
        hours_a_run=None,
        price_a_run=None,
        relative_cost=None,
        worth=None,
        sample=None,
        sample_block=None,
        identity=None,
    )


def _arm(
    study: Study,
    settled: SettledStudy,
    arm: Arm,
    now: Schedule,
    analysis: Analysis | None,
    curves: Mapping[str, ArmCurves],
) -> ArmFacts:
    fresh = _new_arm(study, arm)
    if arm.name not in settled.arms:
        return fresh
    own = [(run, figures) for run, figures in now.runs if run.arm == arm.name]
    replicates = [figures.value for run, figures in own if run.is_replicate]
    values = [value for value in replicates if value is not None]
    recipe = settled.arms[arm.name].recipe
    tuned = now.tuned.get(arm.name, {})
    given = value_of_changes(study, arm)
    cost, base = _cost([f for _, f in own]), _cost([f for run, f in now.runs if run.arm == BASELINE])
    hours = None if cost is None else cost.device_hours / cost.runs
    block, sample = _sample(study, own)
    return replace(
        fresh,
        changes=(*fresh.changes, *(Change(name, given(name), value, True) for name, value in tuned.items())),
        settled=True,
        steps=recipe.settled.steps,
        tokens_per_step=tokens_per_step(recipe),
        finished=len(values),
        diverged=len(replicates) - len(values),
        missing=sum(run.arm == arm.name for run in now.missing),
        mean=statistics.fmean(values) if values else None,
        sd=statistics.stdev(values) if len(values) > 1 else None,
        cost=cost,
        hours_a_run=hours,
        price_a_run=None if cost is None or cost.price is None else cost.price / cost.runs,
        relative_cost=None if hours is None or not base else hours / (base.device_hours / base.runs),
        worth=parts.worth(study, settled, arm.name, analysis, curves[BASELINE].validation),
        sample=sample,
        sample_block=block,
        identity=settled.arms[arm.name].identity,
    )


def value_of_changes(study: Study, arm: Arm) -> Any:
    """Looks a field up in the arm as the study file gives it."""
    recipe = study.baseline.replaced(arm.changes)
    return lambda field: value_of(recipe, field)


def _cost(all_figures: Sequence[Figures]) -> Cost | None:
    if not all_figures:
        return None
    training = sum(figures.seconds for figures in all_figures)
    return Cost(
        runs=len(all_figures),
        device_hours=(training + sum(figures.other_seconds for figures in all_figures)) / 3600,
        training_hours=training / 3600,
        price=_sum_if_known([figures.price for figures in all_figures]),
        price_without_evaluation=_sum_if_known([figures.price_without_evaluation for figures in all_figures]),
    )


def _sum_if_known(amounts: Sequence[float | None]) -> float | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if len(known) == len(amounts) else None


def _sample(study: Study, own: Counted) -> tuple[str | None, str | None]:
    """What the first finished run of an arm wrote at its end, and its block."""
    for run, figures in own:
        if figures.value is not None and (records := RunFolder(study.runs / run.name).samples()):
            last: Record = records[-1]
            return run.block, str(last["text"])
    return None, None


# Runs.


def _runs(counted: Counted) -> tuple[RunFacts, ...]:
    base = {run.block: f.value for run, f in counted if run.arm == BASELINE and run.is_replicate}
    return tuple(_run(run, figures, base.get(run.block)) for run, figures in counted)


def _run(run: PlannedRun, figures: Figures, base: float | None) -> RunFacts:
    known = run.arm != BASELINE and figures.value is not None and base is not None
    return RunFacts(
        arm=run.arm,
        block=run.block,
        seeds=run.seeds,
        value=figures.value,
        difference=figures.value - base if known and figures.value is not None and base is not None else None,
        hardware=figures.hardware,
        seconds=figures.seconds,
        other_seconds=figures.other_seconds,
        folder=run.name,
        rerun=run.rerun,
        factors=dict(run.factors),
    )


def _missing(study: Study, run: PlannedRun) -> MissingRun:
    folder = RunFolder(study.runs / run.name)
    begun = max(folder.checkpoint_steps(), default=0) if folder.exists() else None
    return MissingRun(run.label, run.name, begun)


def _curves_of(name: str, settled: SettledStudy, counted: Counted, runs: Mapping[str, RunCurves]) -> ArmCurves:
    own = [(run, figures) for run, figures in counted if run.arm == name and run.is_replicate]
    finished = [runs[run.name] for run, figures in own if figures.value is not None]
    diverged = [runs[run.name] for run, figures in own if figures.value is None]
    return arm_curves(finished, diverged, tokens_per_step(settled.arms[name].recipe))
