"""Which runs a study wants, and in which order: pure functions of the study and of what is known of its runs.

Nothing else is kept between sessions: whoever asks, asks anew from what lies on disk. Blocks finish evenly: every arm
of block s comes before any of block s + 1. No run is stopped early, and no look is taken before all its runs are there.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scratchlab.recipe import Recipe
from scratchlab.seeds import block_seeds, derive, permute
from scratchlab.study.arms import factor_settings, value_of
from scratchlab.study.definition import Study
from scratchlab.study.sections import BASELINE, Arm, Changes
from scratchlab.study.settled import SettledStudy
from scratchlab.study.table import ROLES, Cell, Seeds, Table

TUNING = "tuning"


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run that a study wants."""

    arm: str
    block: str
    seeds: Seeds
    recipe: Recipe
    fingerprint: str
    rerun: int = 0
    factors: Mapping[str, str] = field(default_factory=dict[str, str])
    changes: Changes = field(default_factory=dict[str, Any])
    """What tuning changes in the arm."""

    @property
    def name(self) -> str:
        """Of its run folder."""
        return self.fingerprint[:16] + (f"-rerun-{self.rerun}" if self.rerun else "")

    @property
    def is_replicate(self) -> bool:
        """Whether its seeds are its own: not so an exact rerun, and not one of a factor."""
        return not self.rerun and not self.factors

    @property
    def label(self) -> str:
        """What a person is told."""
        tried = [f"{name}={value:g}" for name, value in self.changes.items()] if self.block == TUNING else []
        factors = [f"{name}={value}" for name, value in self.factors.items()]
        rerun = [f"rerun {self.rerun}"] if self.rerun else []
        return ", ".join(
            [self.arm, self.block if self.block == TUNING else f"block {self.block}", *tried, *factors, *rerun]
        )


@dataclass(frozen=True, slots=True)
class Figures:
    """What a finished run says."""

    value: float | None
    """The study's metric; None if the run diverged."""
    validation: float | None
    """Nats per token at the end, by which arms are tuned."""
    evaluation: str
    hardware: str
    seconds: float
    """Device-seconds of training: a run of eight GPUs has eight in a second."""
    other_seconds: float
    """Device-seconds of evaluation, checkpoints and compilation."""
    price: float | None = None
    price_without_evaluation: float | None = None


Known = Callable[[str], Figures | None]
"""The figures of the finished run in the folder of that name, or None."""

Judge = Callable[[Table, int], Mapping[str, str]]
"""The verdict of each arm on the table of a look that has so many blocks."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Where a study stands."""

    counted: tuple[tuple[PlannedRun, Figures], ...]
    """The runs that are there and count."""
    missing: tuple[PlannedRun, ...]
    """The runs that come next, in order."""
    look: int
    """How many looks are complete."""
    tuned: Mapping[str, Changes]
    """What each arm's own trials chose."""

    @property
    def complete(self) -> bool:
        return not self.missing

    @property
    def runs(self) -> tuple[tuple[PlannedRun, Figures], ...]:
        """`counted`, each folder once: a factor at the baseline's own value is a run of the grid."""
        found: dict[str, tuple[PlannedRun, Figures]] = {}
        for run, figures in self.counted:
            found.setdefault(run.name, (run, figures))
        return tuple(found.values())


def schedule(study: Study, settled: SettledStudy, known: Known, judge: Judge) -> Schedule:
    """What is there, and what comes next."""
    tuned: dict[str, Changes] = {}
    if study.file.study.retune:
        trials = [run for arm in study.arms for run in tuning_runs(study, settled, arm)]
        done, missing = _divide(trials, known)
        if missing:
            return Schedule((), tuple(missing), 0, {})
        tuned = _best_trials(done)
    if study.design == "noise":
        done, missing = _divide(noise_runs(study, settled), known)
        return Schedule(tuple(done), tuple(missing), int(not missing), tuned)
    return _looks(study, settled, known, judge, tuned)


def next_runs(study: Study, settled: SettledStudy, known: Known, judge: Judge) -> tuple[PlannedRun, ...]:
    """The runs that come next; none when the study is complete."""
    return schedule(study, settled, known, judge).missing


def table_of(study: Study, counted: Iterable[tuple[PlannedRun, Figures]]) -> Table:
    """The runs that count, as the analysis takes them."""
    cells = [
        Cell(
            arm=run.arm,
            block=run.block,
            value=figures.value,
            seeds=run.seeds,
            evaluation=figures.evaluation,
            hardware=figures.hardware,
            seconds=figures.seconds,
            other_seconds=figures.other_seconds,
            price=figures.price,
            rerun=run.rerun,
            factors=run.factors,
        )
        for run, figures in counted
    ]
    section = study.file.study
    return Table(tuple(cells), BASELINE, section.metric, section.higher_is_better, section.mixed_hardware)


def _divide(runs: Sequence[PlannedRun], known: Known) -> tuple[list[tuple[PlannedRun, Figures]], list[PlannedRun]]:
    """The runs that are there, and those that are not: of these, each folder once."""
    found = [(run, known(run.name)) for run in runs]
    missing: dict[str, PlannedRun] = {}
    for run, figures in found:
        if not figures:
            missing.setdefault(run.name, run)
    return [(run, figures) for run, figures in found if figures], list(missing.values())


# Blocks and looks.


def block_runs(
    settled: SettledStudy, arms: Iterable[str], blocks: Iterable[int], tuned: Mapping[str, Changes]
) -> list[PlannedRun]:
    """All arms of each block, block by block."""
    return [_run(settled, arm, str(block), seeds_of(block), tuned.get(arm, {})) for block in blocks for arm in arms]


def seeds_of(block: int) -> Seeds:
    """The same for every study, so that studies share their baselines."""
    init, data, noise = (block_seeds(block)[role] for role in ROLES)
    return init, data, noise


def _run(settled: SettledStudy, arm: str, block: str, seeds: Seeds, changes: Changes, **more: Any) -> PlannedRun:
    recipe, fingerprint = settled.arms[arm].run(seeds, changes)
    return PlannedRun(arm, block, seeds, recipe, fingerprint, changes=changes, **more)


def _looks(study: Study, settled: SettledStudy, known: Known, judge: Judge, tuned: Mapping[str, Changes]) -> Schedule:
    """Block by block to the next look; there, arms with a verdict stop, and the others go on beside the baseline."""
    arms = [arm.name for arm in study.arms]
    counted: list[tuple[PlannedRun, Figures]] = []
    before = 0
    for look, blocks in enumerate(study.looks):
        done, missing = _divide(block_runs(settled, arms, range(before, blocks), tuned), known)
        counted += done
        if missing:
            return Schedule(tuple(counted), tuple(missing), look, tuned)
        if blocks == study.looks[-1]:
            break
        arms, before = going_on(study, arms, judge(table_of(study, counted), blocks)), blocks
        if len(arms) == 1:
            return Schedule(tuple(counted), (), look + 1, tuned)
    return Schedule(tuple(counted), (), len(study.looks), tuned)


def going_on(study: Study, arms: Sequence[str], verdicts: Mapping[str, str]) -> list[str]:
    """The baseline and the interventions that are undecided; the arms of a stack, while one of its members is."""
    open_ = {name for name in study.declared if name in arms and verdicts.get(name) == "undecided"}
    stacked = {name for arm in study.arms if len(arm.members) > 1 for name in (arm.name, *arm.members)}
    if open_ & stacked:
        open_ |= stacked
    return [name for name in arms if name == BASELINE or name in open_]


# The grid of a noise study.


def noise_runs(study: Study, settled: SettledStudy) -> list[PlannedRun]:
    """The baseline with each seed of initial weights and each of data; exact reruns; factors outside the mathematics.

    The diagonal of the grid are the blocks of any other study, so that its runs count here and there.
    """
    noise = study.file.noise
    assert noise is not None
    cells = [(i, j) for i in range(noise.init) for j in range(noise.data)]
    grid = [_run(settled, BASELINE, _cell_name(*cell), grid_seeds(*cell), {}) for cell in cells]
    reruns = [
        _run(settled, BASELINE, _cell_name(0, 0), grid_seeds(0, 0), {}, rerun=number + 1)
        for number in range(noise.reruns)
    ]
    crossed = [
        _with_factors(settled, block, changes)
        for block in range(min(noise.init, noise.data))
        for changes in factor_settings(noise)
    ]
    return [*grid, *reruns, *crossed]


def grid_seeds(init: int, data: int) -> Seeds:
    """Initial weights of one block and data of another; the noise is fresh in every cell."""
    if init == data:
        return seeds_of(init)
    return block_seeds(init)["init"], block_seeds(data)["data"], _seed("noise grid", init, data)


def _cell_name(init: int, data: int) -> str:
    return str(init) if init == data else f"{init} x {data}"


def _with_factors(settled: SettledStudy, block: int, changes: Changes) -> PlannedRun:
    factors = {field.rpartition(".")[2]: str(value).lower() for field, value in changes.items()}
    return _run(settled, BASELINE, str(block), seeds_of(block), changes, factors=factors)


def _seed(*names: str | int) -> int:
    return derive(0, *names) >> 97


# Tuning.


def tuning_runs(study: Study, settled: SettledStudy, arm: Arm) -> list[PlannedRun]:
    """The trials of an arm: its own values, then others around them, the same multiples for every arm.

    One field is tried at even steps of its logarithm. Of several, each is: in an order of its own (a Latin hypercube),
    so that as many trials serve any number of them. The seeds are no block's: what they favor is not what is compared.
    """
    section = study.file.study
    seeds: Seeds = (_seed(TUNING, "init"), _seed(TUNING, "data"), _seed(TUNING, "noise"))
    recipe = settled.arms[arm.name].recipe
    return [
        _run(settled, arm.name, TUNING, seeds, {f: _rounded(value_of(recipe, f) * m) for f, m in multiples.items()})
        for multiples in tuning_multiples(section.retune, section.retune_trials, section.retune_span)
    ]


def tuning_multiples(fields: Sequence[str], trials: int, span: float) -> list[dict[str, float]]:
    """By what each trial multiplies each field."""
    exponents = [exponent for exponent in np.linspace(-1.0, 1.0, trials).tolist() if exponent]
    columns: list[list[float]] = []
    for number, name in enumerate(fields):
        order = permute(np.arange(len(exponents)), len(exponents), 0, TUNING, name) if number else range(len(exponents))
        columns.append([span ** exponents[place] for place in order])
    return [dict.fromkeys(fields, 1.0), *(dict(zip(fields, row, strict=True)) for row in zip(*columns, strict=True))]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _best_trials(done: Sequence[tuple[PlannedRun, Figures]]) -> dict[str, Changes]:
    """The values of each arm's best trial by its validation loss; the first of equals, which is the arm's own."""
    best: dict[str, tuple[float, Changes]] = {}
    for run, figures in done:
        loss = math.inf if figures.validation is None else figures.validation
        if run.arm not in best or loss < best[run.arm][0]:
            best[run.arm] = loss, run.changes
    return {arm: changes for arm, (_, changes) in best.items()}
