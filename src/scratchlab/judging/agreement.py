"""Do they say the same? Repeats of one judge, several judges, a judge and a person: of two answers, which is better.

All of them are put to that one question, on which people and judges of any scale can agree: a preference is 1, 0 or -1
for each two models and each question. What they share beyond chance is Krippendorff's alpha (2004, "Content Analysis",
chapter 11; any number of raters, gaps allowed): 1 is full agreement, 0 what rating by coin would give. Each pair is
counted both ways round, so that a model that is always better does not make agreement look like chance; then the
alphas for ordered and for metric data are one and the same.
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scratchlab.evaluation.comparison import compare_ratios
from scratchlab.judging.checks import Share, share
from scratchlab.judging.scores import UNIT, Estimate, Floats, estimate_of, mean_of


@dataclass(frozen=True, slots=True)
class Agreement:
    """Between raters."""

    alpha: float | None
    """None where no rater ever preferred an answer."""
    low: float | None
    high: float | None
    same: Share | None
    """How often two raters who both prefer an answer prefer the same one."""
    pairs: int
    """Of answers that two raters at least have compared."""
    questions: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def preferences(values_QE: Floats, n_models: int) -> Floats:
    """Which of each two models is preferred, (Q, pairs): 1 the first, -1 the second, 0 neither; NaN: not compared."""
    pairs = list(itertools.combinations(range(n_models), 2))
    differences = np.stack([values_QE[:, a] - values_QE[:, b] for a, b in pairs], axis=1)
    return np.where(np.isnan(differences), np.nan, np.sign(differences))


def agreement(raters: Sequence[Floats]) -> Agreement | None:
    """How far raters agree, by their preferences (Q, pairs). None where no two of them compared the same answers."""
    rated_QPN = np.stack(raters, axis=2)
    counts_QP = np.isfinite(rated_QPN).sum(2)
    rated_QPN = rated_QPN[(counts_QP > 1).any(1)]
    known = np.isfinite(rated_QPN) & (np.isfinite(rated_QPN).sum(2) > 1)[:, :, None]
    if not known.any():
        return None
    rated = np.where(known, rated_QPN, np.nan)
    alpha = _alpha(rated)
    return Agreement(
        alpha=alpha and alpha.value,
        low=alpha and alpha.low,
        high=alpha and alpha.high,
        same=_same(rated),
        pairs=int(known.any(2).sum()),
        questions=len(rated),
    )


def _alpha(rated_QPN: Floats) -> Estimate | None:
    """Krippendorff's alpha with a 95% interval over questions: one less a ratio of disagreements, seen and expected."""
    counts_QP = np.isfinite(rated_QPN).sum(2)
    within = np.nansum(np.square(rated_QPN - mean_of(rated_QPN, 2)[:, :, None]), 2)
    seen_Q = np.where(counts_QP > 1, within * counts_QP / np.maximum(counts_QP - 1, 1), 0.0).sum(1)
    expected_Q = np.nansum(np.square(rated_QPN), (1, 2))  # both ways round the mean is 0
    n = 2 * int(counts_QP.sum())
    if not expected_Q.any() or len(expected_Q) < 2:
        return None
    ratio = compare_ratios(seen_Q * (n - 1) / n, np.zeros(len(seen_Q)), expected_Q, UNIT)
    found = estimate_of(ratio)
    return Estimate(1 - found.value, found.error, 1 - found.high, min(1.0, 1 - found.low), found.n)


def _same(rated_QPN: Floats) -> Share | None:
    products = [
        rated_QPN[:, :, a] * rated_QPN[:, :, b] for a, b in itertools.combinations(range(rated_QPN.shape[2]), 2)
    ]
    told = np.concatenate(products, axis=1)
    told = np.where(told == 0, np.nan, (told + 1) / 2)
    return share(mean_of(told, 1))


# Steadiness.


def of_repeats(values_QRE: Floats, n_models: int) -> Agreement | None:
    """How far the repeats of one judge agree; None without repeats, or with one model."""
    repeats = values_QRE.shape[1]
    if repeats < 2 or n_models < 2:
        return None
    return agreement([preferences(values_QRE[:, repeat], n_models) for repeat in range(repeats)])


def steadiness(values_QRE: Floats, n_models: int) -> Floats:
    """Of each question, how far repeats order two models alike: 1 always, 0 always the other way, 1/2 as by a coin.

    A tie is worth 1/2 beside anything: who always ties is not steady, but says nothing. NaN without two repeats.
    """
    rated = [preferences(values_QRE[:, repeat], n_models) for repeat in range(values_QRE.shape[1])]
    alike = [(one * other + 1) / 2 for one, other in itertools.combinations(rated, 2)]
    return mean_of(np.concatenate(alike, axis=1), 1)
