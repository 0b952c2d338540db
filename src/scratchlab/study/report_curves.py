"""The loss curves of a study's arms, thinned: what hundreds of runs of many thousands of steps look like on a page.

The rule: the training losses of a run are averaged in bins of as many steps each, at most 200 of them; validation
losses are kept as they are (at most 200 of them, evenly spaced). An arm's line is the mean over its finished runs, its
band reaches from the lowest run to the highest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scratchlab.runfolder import RunFolder

Floats = npt.NDArray[np.float64]

POINTS = 200
DIGITS = 6  # significant; a screen shows three


@dataclass(frozen=True, slots=True)
class Curve:
    """Loss against tokens, over the runs of an arm."""

    tokens: tuple[int, ...]
    mean: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    runs: int


@dataclass(frozen=True, slots=True)
class ArmCurves:
    """How an arm learned. None where nothing was recorded."""

    training: Curve | None
    """Nats per token of the batches."""
    validation: Curve | None
    diverged: tuple[Curve, ...]
    """The training of each run that diverged, by itself."""


@dataclass(frozen=True, slots=True)
class RunCurves:
    """What a run wrote down: losses of its batches, binned, and of its evaluations."""

    steps: tuple[int, ...]
    """After the last step of each bin."""
    training: Floats
    validation: dict[int, float]
    """By step."""


def read_curves(folder: RunFolder, loss: str) -> RunCurves:
    """The curves of a run; `loss` is the figure of an evaluation that is wanted, such as bits_per_byte."""
    records = folder.metrics()
    losses = np.array([record["loss"] for record in records if "loss" in record], np.float64)
    steps, means = binned(losses)
    found = {r["step"]: r["validation"][loss] for r in records if "validation" in r}
    return RunCurves(steps, means, {step: value for step, value in found.items() if value is not None})


def binned(losses: Floats) -> tuple[tuple[int, ...], Floats]:
    """Means of at most `POINTS` bins of as many steps each, and the step after each; NaN where no loss was finite."""
    edges = np.linspace(0, len(losses), min(POINTS, len(losses)) + 1).round().astype(int)
    known = np.isfinite(losses)
    if not len(losses):
        return (), losses
    sums = np.add.reduceat(np.where(known, losses, 0.0), edges[:-1])
    counts = np.add.reduceat(known.astype(np.float64), edges[:-1])
    means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return tuple(edges[1:].tolist()), means


def arm_curves(finished: Sequence[RunCurves], diverged: Sequence[RunCurves], tokens_per_step: int) -> ArmCurves:
    """The curves of an arm from those of its runs."""
    return ArmCurves(
        training=_training(finished, tokens_per_step),
        validation=_validation(finished, tokens_per_step),
        diverged=tuple(curve for run in diverged if (curve := _training([run], tokens_per_step))),
    )


def _training(runs: Sequence[RunCurves], tokens_per_step: int) -> Curve | None:
    if not runs or not runs[0].steps:
        return None
    alike = [run.training for run in runs if run.steps == runs[0].steps]  # an arm's runs are of one length
    return _curve(runs[0].steps, np.stack(alike), tokens_per_step)


def _validation(runs: Sequence[RunCurves], tokens_per_step: int) -> Curve | None:
    """At the steps at which every run was evaluated: another study may have run some of them at another cadence."""
    if not runs:
        return None
    shared = sorted(set.intersection(*(set(run.validation) for run in runs)))
    if len(shared) > POINTS:
        shared = [shared[i] for i in np.linspace(0, len(shared) - 1, POINTS).round().astype(int)]
    values = np.array([[run.validation[step] for step in shared] for run in runs])
    return _curve(shared, values, tokens_per_step) if shared else None


def _curve(steps: Sequence[int], values_RP: Floats, tokens_per_step: int) -> Curve:
    known = np.isfinite(values_RP)
    counts = known.sum(0)
    sums = np.where(known, values_RP, 0.0).sum(0)
    means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    low, high = np.where(known, values_RP, np.inf).min(0), np.where(known, values_RP, -np.inf).max(0)
    return Curve(
        tuple(step * tokens_per_step for step in steps), _short(means), _short(low), _short(high), len(values_RP)
    )


def _short(values: Floats) -> tuple[float | None, ...]:
    return tuple(float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in values.tolist())
