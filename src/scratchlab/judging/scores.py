"""Scores as a table, and what they say of each model: means with intervals, and where the noise in them comes from.

Letters: Q questions, R repeats, E entries (models, then anchors).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scratchlab.evaluation.comparison import Difference, compare_ratios
from scratchlab.judging.asking import Outcome
from scratchlab.judging.contest import Contest

Floats = npt.NDArray[np.float64]
UNIT = "questions"
DIGITS = 9
"""Of scores and shares: what lies beyond is rounding."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What a judge gave. NaN where a prompt failed, or was not judged."""

    entries: tuple[str, ...]
    n_models: int
    values: Floats
    """(Q, R, E)"""
    places: Floats
    """(Q, R, E): where each stood in its prompt, from 0."""
    turns: Floats
    """(Q, R, E): when each was judged, from -1/2, the first reply of all, to 1/2, the last."""

    @property
    def models(self) -> Floats:
        """The values of the models alone."""
        return self.values[:, :, : self.n_models]

    @property
    def anchored(self) -> bool:
        return len(self.entries) > self.n_models

    @property
    def repeats(self) -> int:
        return self.values.shape[1]


def scores_of(contest: Contest, outcomes: Sequence[Outcome], repeats: int) -> Scores:
    """The table of what came of the prompts."""
    shape = (len(contest.questions), repeats, len(contest.entries))
    values, places, times = (np.full(shape, np.nan) for _ in range(3))
    for outcome in outcomes:
        if outcome.scores is None:
            continue
        at = outcome.sheet.question, outcome.sheet.repeat, list(outcome.sheet.order)
        values[at], places[at], times[at] = outcome.scores, range(len(outcome.scores)), outcome.kept[-1].at
    return Scores(contest.entries, contest.n_models, values, places, _turns(times))


def _turns(times: Floats) -> Floats:
    """Times as ranks from -1/2 to 1/2: what matters is the order, not how long a judge paused."""
    known = np.isfinite(times)
    different, ranks = np.unique(times[known], return_inverse=True)
    turns = np.full(times.shape, np.nan)
    turns[known] = ranks / max(1, len(different) - 1) - 0.5
    return turns


def mean_of(values: Floats, axis: int) -> Floats:
    """The mean of what is there along an axis; NaN where nothing is. Means that rounding alone parts are made equal."""
    counts = np.isfinite(values).sum(axis)
    return np.where(counts > 0, np.round(np.nansum(values, axis) / np.maximum(counts, 1), DIGITS), np.nan)


# Figures with intervals.


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over questions with its 95% interval."""

    value: float
    error: float
    low: float
    high: float
    n: int
    """Questions."""


def estimate(values_Q: Floats) -> Estimate:
    """The mean over questions; a question has one value, however often it was judged. UsageError for fewer than two."""
    return estimate_ratio(values_Q, np.ones(len(values_Q)))


def estimate_ratio(sums_Q: Floats, sizes_Q: Floats) -> Estimate:
    """The ratio of two sums over questions."""
    known = np.isfinite(sums_Q) & np.isfinite(sizes_Q)
    found = compare_ratios(sums_Q[known], np.zeros(int(known.sum())), sizes_Q[known], UNIT)
    return estimate_of(found)


def estimate_of(found: Difference) -> Estimate:
    return Estimate(found.difference, found.error, found.low, found.high, found.n)


@dataclass(frozen=True, slots=True)
class Noise:
    """Where the error of a mean comes from: other questions, and the judge's own inconstancy."""

    of_questions: float
    """Standard deviation between questions, of what the judge would say on average."""
    of_repeats: float
    """Standard deviation between repeats of a question."""
    share_of_repeats: float
    """Of the squared error: what more repeats would take away. The rest takes more questions."""


def noise_of(values_QR: Floats) -> Noise | None:
    """The two noises in the mean of `values_QR`, by moments; None without repeats."""
    counts = np.isfinite(values_QR).sum(1)
    means = mean_of(values_QR, 1)
    freedom, here = int(np.maximum(counts - 1, 0).sum()), counts > 0
    if freedom < 1 or here.sum() < 2:
        return None
    within = float(np.nansum(np.square(values_QR - means[:, None]))) / freedom
    by_repeats = within * float((1 / counts[here]).mean())
    total = float(means[here].var(ddof=1))
    return Noise(
        of_questions=math.sqrt(max(0.0, total - by_repeats)),
        of_repeats=math.sqrt(within),
        share_of_repeats=min(1.0, by_repeats / total) if total else 0.0,
    )
