"""What a study will take, and what it can see, before it is run."""

import statistics
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scratchlab.study.analysis import look_levels
from scratchlab.study.definition import Study
from scratchlab.study.design import Figures, Known, PlannedRun, block_runs, noise_runs, seeds_of, tuning_runs
from scratchlab.study.folder import price_of
from scratchlab.study.power import pooled, smallest_visible
from scratchlab.study.sections import BASELINE
from scratchlab.study.settle import tokens_per_step
from scratchlab.study.settled import SettledArm, SettledStudy
from scratchlab.training.checkpoint import check_disk
from scratchlab.training.start import open_corpora
from scratchlab.training.timing import seconds_per_step
from scratchlab.training.work import Work, split_tokens


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """One arm, and what a run of it takes."""

    name: str
    changes: Mapping[str, Any]
    members: tuple[str, ...]
    steps: int
    tokens: int
    seconds: float
    """Of one run."""
    devices: int
    """That it takes at a time."""
    source: str
    """What `seconds` rest on."""
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class LookPlan:
    """What the study will have taken at a look, if every arm is still undecided by then."""

    blocks: int
    runs: int
    missing: int
    """Of these, how many are not there yet."""
    hours: float
    """Of those that are missing, one after another."""
    device_hours: float
    """The same, of all devices that they take."""
    money: float | None
    disk_bytes: int
    smallest_visible_in_sd: float | None
    """The effect that is found four times in five, in standard deviations of a block's residual."""
    smallest_visible: float | None
    """The same in the metric's unit, where the deviation is known."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A study before it is run."""

    design: str
    arms: tuple[ArmPlan, ...]
    looks: tuple[LookPlan, ...]
    sd: float | None
    """Deviation of the baseline over the seeds of runs that are there."""
    sd_runs: int
    workers: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan_study(study: Study, settled: SettledStudy, known: Known, workers: int) -> Plan:
    """What the study takes. Runs that are there tell how long others take; where there are none, steps are timed."""
    timed: dict[str, float] = {}
    arms = {name: _plan_arm(study, name, arm, known, timed) for name, arm in settled.arms.items()}
    values = [figures.value for figures in _own_runs(study, settled.arms[BASELINE], known) if figures.value is not None]
    sd = statistics.stdev(values) if len(values) > 1 else None
    number = 1 if study.design == "noise" else len(study.looks)
    looks = tuple(_plan_look(study, settled, known, arms, look, sd) for look in range(number))
    return Plan(study.design, tuple(arms.values()), looks, sd, len(values), workers)


def planned_runs(study: Study, settled: SettledStudy, look: int) -> list[PlannedRun]:
    """All runs up to a look, if no arm drops out before."""
    if study.design == "noise":
        return noise_runs(study, settled)
    trials = [run for arm in study.arms for run in tuning_runs(study, settled, arm)] if study.file.study.retune else []
    return [*trials, *block_runs(settled, [arm.name for arm in study.arms], range(study.looks[look]), {})]


def _plan_look(
    study: Study,
    settled: SettledStudy,
    known: Known,
    arms: Mapping[str, ArmPlan],
    look: int,
    sd: float | None,
) -> LookPlan:
    runs = {run.name: run for run in planned_runs(study, settled, look)}
    missing = [run for run in runs.values() if known(run.name) is None]
    seconds = sum(arms[run.arm].seconds for run in missing)
    device_seconds = sum(arms[run.arm].seconds * arms[run.arm].devices for run in missing)
    seen = _smallest_visible(study, settled.family, look)
    return LookPlan(
        blocks=0 if study.design == "noise" else study.looks[look],
        runs=len(runs),
        missing=len(missing),
        hours=seconds / 3600,
        device_hours=device_seconds / 3600,
        money=price_of(study, settled.environment["device"], device_seconds),
        disk_bytes=sum(arms[run.arm].disk_bytes for run in missing),
        smallest_visible_in_sd=seen,
        smallest_visible=None if seen is None or sd is None else seen * sd,
    )


def _smallest_visible(study: Study, family: Collection[str], look: int) -> float | None:
    """In deviations of a block's residual; the first interventions to be claimed must stand Holm's hardest step."""
    if not study.declared:
        return None
    level = look_levels(len(study.looks))[look]
    return smallest_visible(pooled(1.0, len(family) + 1, level), study.looks[look])


NO_MATTER_TO_PACE: Any = {
    "seeds": True,
    "evaluation": True,
    "training": {"steps", "learning_rate", "schedule", "warmup_steps", "final_learning_rate", "decay_share",
                 "epoch_decay", "decay_after_epochs", "epoch_steps", "weight_decay", "beta1", "beta2", "eps"},
}  # fmt: skip
"""Fields of a recipe that change no step's time: of arms that differ in them alone, one is timed."""


def _plan_arm(study: Study, name: str, arm: SettledArm, known: Known, timed: dict[str, float]) -> ArmPlan:
    """`timed` holds the seconds of a step of arms before it, and gets this one's."""
    devices = arm.recipe.settled.devices
    finished = [(figures.seconds + figures.other_seconds) / devices for figures in _own_runs(study, arm, known)]
    corpus, yardstick = open_corpora(arm.recipe)
    if finished:
        seconds, source = statistics.median(finished), f"{len(finished)} finished runs"
    else:
        pace = arm.recipe.model_dump_json(exclude=NO_MATTER_TO_PACE)
        if pace not in timed:
            timed[pace] = seconds_per_step(arm.recipe, corpus)
        # Evaluating goes forward only, which is a third of a step.
        scored = Work.of(arm.recipe, corpus.vocab_size, split_tokens(yardstick)).scored_tokens
        seconds = timed[pace] * (arm.recipe.settled.steps + scored / tokens_per_step(arm.recipe) / 3) / devices
        source = "steps timed here, one run alone" + (", on one of its devices" if devices > 1 else "")
    given, steps = study.arm(name), arm.recipe.settled.steps
    return ArmPlan(
        name=name,
        changes=dict(given.changes),
        members=given.members,
        steps=steps,
        tokens=steps * tokens_per_step(arm.recipe),
        seconds=seconds,
        devices=devices,
        source=source,
        disk_bytes=check_disk(2**63, arm.recipe, corpus.vocab_size),
    )


def _own_runs(study: Study, arm: SettledArm, known: Known) -> list[Figures]:
    """Finished runs of an arm as the blocks of this study, or of another, have it."""
    names = [arm.run(seeds_of(block))[1][:16] for block in range(max(study.looks))]
    return [figures for name in names if (figures := known(name)) is not None]
