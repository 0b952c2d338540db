"""Can the judge be trusted? What it makes of the anchors, of places, of time and of length.

Letters: Q questions, R repeats, E entries.
"""

import itertools
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import special

from scratchlab.evaluation.comparison import LEVEL, compare_ratios
from scratchlab.judging.scores import DIGITS, UNIT, Estimate, Floats, Scores, estimate_of, mean_of
from scratchlab.study.multiplicity import holm

FEWEST = 10
"""Questions below which nothing is said of places and of time."""


@dataclass(frozen=True, slots=True)
class Share:
    """How often something holds, with its 95% interval, over `n` questions."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Bias:
    """How many points something is worth, with its 95% interval and an adjusted p."""

    points: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, slots=True)
class Checks:
    """What was found. None where it cannot be known: no anchors, each judged alone, or too few questions."""

    reference_above_bad: Share | None
    """How often the reference got more than the bad answer."""
    all_alike: Share | None
    """How often all answers of a prompt got the same score."""
    drift: Bias | None
    """What the anchors' scores gained from the first reply to the last."""
    spread_drift: Bias | None
    """The same of the distance between the anchors: a judge that tires puts them closer."""
    places: tuple[Bias, ...] | None
    """What each place in a prompt is worth beside the mean of all."""
    longer_wins: Share | None
    """How often the longer one of two models' answers to a question is preferred, ties counting half."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check(scores: Scores, lengths_QE: Floats) -> Checks:
    """Check a judge by its scores; `lengths_QE` are those of the answers, in characters."""
    enough = int(np.isfinite(scores.values).any((1, 2)).sum()) >= FEWEST
    together = bool((scores.places > 0).any())
    told_apart = None
    if scores.anchored:
        reference, bad = _anchors(scores)
        told_apart = share(mean_of(np.where(np.isnan(reference - bad), np.nan, reference > bad), 1))
    drift, spread_drift = _drifts(scores) if scores.anchored and enough else (None, None)
    return Checks(
        reference_above_bad=told_apart,
        all_alike=share(mean_of(_all_alike(scores.values), 1)) if together else None,
        drift=drift,
        spread_drift=spread_drift,
        places=_places(scores) if together and enough else None,
        longer_wins=_longer_wins(scores, lengths_QE),
    )


def share(shares_Q: Floats) -> Share | None:
    """A share over questions, by Wilson's interval (1927), which needs no luck where all or none hold; None of none.

    A question counts once, however often it was judged: if repeats agree less than fully the interval is too wide.
    """
    known = shares_Q[np.isfinite(shares_Q)]
    if not len(known):
        return None
    n, value = len(known), float(known.mean())
    z = float(special.ndtri(1 - LEVEL / 2))
    middle = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Share(value, max(0.0, middle - half), min(1.0, middle + half), n)


def _anchors(scores: Scores) -> tuple[Floats, Floats]:
    """Scores of the reference and of the bad answer, (Q, R) each."""
    return scores.values[:, :, scores.n_models], scores.values[:, :, scores.n_models + 1]


def _all_alike(values_QRE: Floats) -> Floats:
    """(Q, R): 1 where all entries have the same score."""
    known = np.isfinite(values_QRE).all(2)
    return np.where(known, (values_QRE == values_QRE[:, :, :1]).all(2), np.nan)


# Time.


def _drifts(scores: Scores) -> tuple[Bias, Bias] | tuple[None, None]:
    """The trend over the run of the anchors' mean score, and of the distance between them; p adjusted for the two."""
    (reference, bad), turns = _anchors(scores), scores.turns[:, :, scores.n_models :].mean(2)
    trends = [_trend(y_QR, turns) for y_QR in ((reference + bad) / 2, reference - bad)]
    known = [one for one in trends if one is not None]
    if len(known) < 2:
        return None, None
    adjusted = holm([p for _, p in known])
    first, second = (Bias(one.value, one.low, one.high, p) for (one, _), p in zip(known, adjusted, strict=True))
    return first, second


def _trend(y_QR: Floats, turns_QR: Floats) -> tuple[Estimate, float] | None:
    """What y gains while `turns` goes from -1/2 to 1/2, with its p: least squares, clustered by question.

    Within questions where they were repeated: what makes a question hard or easy then drops out. None where fewer
    than two questions say anything.
    """
    known = np.isfinite(y_QR) & np.isfinite(turns_QR)
    if not known.any():
        return None
    y, t = np.where(known, y_QR, np.nan), np.where(known, turns_QR, np.nan)
    repeated = known.sum(1).max() > 1
    center = (lambda x: x - mean_of(x, 1)[:, None]) if repeated else (lambda x: x - np.nanmean(x))
    y, t = np.round(center(y), DIGITS), np.round(center(t), DIGITS)
    told = np.nansum(t * t, 1) > 0
    if told.sum() < 2:
        return None
    found = compare_ratios(np.nansum(t * y, 1)[told], np.zeros(int(told.sum())), np.nansum(t * t, 1)[told], UNIT)
    return estimate_of(found), found.p


# Places.


def _places(scores: Scores) -> tuple[Bias, ...]:
    """What each place is worth: the mean there of what scores have beyond their prompt's and their entry's mean.

    Every entry stands in every place equally often, so this is what the place does, whoever stands there.
    """
    values = scores.values
    prompts, overall = mean_of(values, 2)[:, :, None], float(np.nanmean(values))
    entries = mean_of(values.reshape(-1, values.shape[2]), 0)
    beyond = np.round(values - prompts - entries + overall, DIGITS)
    found = [
        compare_ratios(sums[known], np.zeros(int(known.sum())), np.ones(int(known.sum())), UNIT)
        for place in range(values.shape[2])
        for sums in [mean_of(np.where(scores.places == place, beyond, np.nan).reshape(len(values), -1), 1)]
        for known in [np.isfinite(sums)]
    ]
    adjusted = holm([one.p for one in found])
    return tuple(Bias(one.difference, one.low, one.high, p) for one, p in zip(found, adjusted, strict=True))


# Length.


def _longer_wins(scores: Scores, lengths_QE: Floats) -> Share | None:
    """Of answers of models alone: a bad answer that is short, or a reference that is long, says nothing of length."""
    sums, counts = np.zeros(len(lengths_QE)), np.zeros(len(lengths_QE))
    for a, b in itertools.combinations(range(scores.n_models), 2):
        longer = np.sign(lengths_QE[:, a] - lengths_QE[:, b])[:, None]
        wins = (np.sign(scores.values[:, :, a] - scores.values[:, :, b]) * longer + 1) / 2
        told = mean_of(np.where(longer == 0, np.nan, wins), 1)
        sums += np.nan_to_num(told)
        counts += np.isfinite(told)
    return share(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))
