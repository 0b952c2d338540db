"""Who is preferred to whom: strengths by Bradley and Terry (1952), and the ranks that the noise leaves open.

Every prompt holds a comparison of each two models in it: the higher score wins, equal scores are half a win for each
(so that a strength is about expected wins, and needs no model of ties; Davidson's, 1970, would add one). What a
question says of two models is the mean over its repeats. Strengths are the fit of P(a above b) = 1 / (1 + exp(b - a));
their errors come from the scatter between questions (sandwich: Papke and Wooldridge 1996 for fractions), so that
comparisons within a question need not be independent. Each two models are given one question more that ends level,
without which a model that always wins would be infinitely strong.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy.sparse import csgraph

from scratchlab.evaluation.comparison import LEVEL
from scratchlab.judging.scores import Estimate, Floats, estimate, mean_of
from scratchlab.study.multiplicity import holm

STEPS, TOLERANCE = 100, 1e-10


@dataclass(frozen=True, slots=True)
class Rank:
    """Where a model stands."""

    model: str
    best: int
    worst: int
    """Of the ranks that it may have: models that cannot be told from it may be above or below. Together right in 95 of
    100 cases: no two models are put in the wrong order."""
    wins: Estimate
    """Of its comparisons with the other models, a tie counting half."""
    strength: float
    """In logits, those of all models together 0."""
    low: float | None
    high: float | None
    """95% interval; None where some models never lost to others, so that nothing limits how far they are apart."""


def rank(values_QRM: Floats, models: Sequence[str]) -> list[Rank]:
    """Rank models by the scores that they got in the same prompts; the strongest first. Two questions at least."""
    wins_QMM = _wins(values_QRM)
    strengths, errors = bradley_terry(wins_QMM)
    freedom = len(wins_QMM) - 1
    half = float(special.stdtrit(freedom, 1 - LEVEL / 2)) * errors if errors is not None else None
    best, worst = _ranks(wins_QMM)
    found = [
        Rank(
            model=name,
            best=best[m],
            worst=worst[m],
            wins=estimate(mean_of(wins_QMM[:, m], 1)),
            strength=float(strengths[m]),
            low=None if half is None else float(strengths[m] - half[m]),
            high=None if half is None else float(strengths[m] + half[m]),
        )
        for m, name in enumerate(models)
    ]
    return sorted(found, key=lambda one: -one.strength)


def _wins(values_QRM: Floats) -> Floats:
    """(Q, M, M): how much of question q model i has won against j, from 0 to 1; NaN where they were not compared."""
    differences = values_QRM[:, :, :, None] - values_QRM[:, :, None, :]
    wins = mean_of(np.where(np.isnan(differences), np.nan, (np.sign(differences) + 1) / 2), 1)
    wins[:, np.eye(wins.shape[1], dtype=bool)] = np.nan
    return wins[np.isfinite(wins).any((1, 2))]


def bradley_terry(wins_QMM: Floats) -> tuple[Floats, Floats | None]:
    """Strengths in logits, which sum to 0, and their standard errors, clustered by question.

    No errors where the models fall into two groups of which one never lost anything to the other (Ford 1957): the
    strengths are then held together by the added level question alone.
    """
    known = np.isfinite(wins_QMM)
    won, n = np.where(known, wins_QMM, 0.0), len(wins_QMM)
    level = 1 - np.eye(wins_QMM.shape[1])
    total, counts = won.sum(0) + level / 2, known.sum(0) + level
    strengths = np.zeros(len(level))
    for _ in range(STEPS):
        expected = special.expit(strengths[:, None] - strengths)
        step = _inverse(counts * expected * (1 - expected)) @ (total - counts * expected).sum(1)
        strengths = strengths + step
        if np.abs(step).max() < TOLERANCE:
            break
    if csgraph.connected_components(won.sum(0) > 0, directed=True, connection="strong")[0] > 1:
        return strengths, None
    expected = special.expit(strengths[:, None] - strengths)
    bread = _inverse(counts * expected * (1 - expected))
    scores_QM = np.where(known, won - expected, 0.0).sum(2)
    covariance = bread @ (scores_QM.T @ scores_QM) @ bread * n / (n - 1)
    return strengths, np.sqrt(np.diag(covariance))


def _inverse(information: Floats) -> Floats:
    """Of the matrix that weights of pairs make; strengths have one freedom less than there are models."""
    laplacian = np.diag(information.sum(1)) - information
    return np.asarray(np.linalg.pinv(laplacian, hermitian=True), np.float64)


def _ranks(wins_QMM: Floats) -> tuple[list[int], list[int]]:
    """The best and the worst rank of each model: by a test of each pair over questions, adjusted for all (Holm)."""
    models = wins_QMM.shape[1]
    pairs = list(itertools.combinations(range(models), 2))
    scores = [_score(wins_QMM[:, a, b]) for a, b in pairs]
    better = np.zeros((models, models), bool)
    for (a, b), score, p in zip(
        pairs, scores, holm([float(2 * special.ndtr(-abs(one))) for one in scores]), strict=True
    ):
        if p < LEVEL:
            better[(a, b) if score > 0 else (b, a)] = True
    return (1 + better.sum(0)).tolist(), (models - better.sum(1)).tolist()


def _score(wins_Q: Floats) -> float:
    """How far the mean of wins lies from a half, in the errors that it would have if neither were preferred.

    The score test: where every question says the same it still has an error, as a sign test has.
    """
    apart = wins_Q[np.isfinite(wins_Q)] - 0.5
    squares = float(np.square(apart).sum())
    return float(apart.sum()) / math.sqrt(squares) if squares else 0.0
