"""Many tests at once: p values that stay honest when the best of several is picked out."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]


def holm(p: Sequence[float], family: int | None = None) -> list[float]:
    """Holm's step-down p values: claiming what is below .05 makes a false claim in at most 5% of studies.

    `family` counts the tests that were meant, where some have no p yet. Holm 1979, "A simple sequentially rejective
    multiple test procedure".
    """
    size = family or len(p)
    adjusted, largest = [1.0] * len(p), 0.0
    for rank, place in enumerate(np.argsort(p, kind="stable")):
        largest = max(largest, min(1.0, p[place] * (size - rank)))
        adjusted[place] = largest
    return adjusted


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Step-up p values: of what is claimed below .05, 5% at most is false on average. For exploring.

    Benjamini and Hochberg 1995, "Controlling the false discovery rate".
    """
    adjusted, smallest = [1.0] * len(p), 1.0
    for rank, place in reversed(list(enumerate(np.argsort(p, kind="stable"), 1))):
        smallest = min(smallest, p[place] * len(p) / rank)
        adjusted[place] = smallest
    return adjusted


def shared_noise(t: Sequence[float], runs: int) -> list[float]:
    """Step-down p values of arms with one run each, all held against the same `runs` baseline runs.

    They share the mean and the deviation of those few runs, so that they err together, and Holm, who does not know it,
    would need far too much: with 3 runs and 9 arms |t| > 13.4 for the first, where 8.1 is enough. This is Dunnett's
    test (1955), stepped down (Naik 1975), from its integral over the shared deviation and the shared mean.
    """
    adjusted, largest = [1.0] * len(t), 0.0
    for rank, place in enumerate(np.argsort([-abs(one) for one in t], kind="stable")):
        largest = max(largest, _largest_of(len(t) - rank, abs(t[place]), runs))
        adjusted[place] = largest
    return adjusted


DEVIATIONS, MEANS = 48, 16  # nodes of the integral: right to seven digits, for 3 to 12 runs and up to 20 arms


def _largest_of(arms: int, t: float, runs: int) -> float:
    """How often the largest of `arms` |t| is above `t` where no arm differs.

    Given the deviation and the mean of the shared runs, arms are independent: the average over both, by Gauss's rules.
    """
    nodes, weights_S = np.polynomial.legendre.leggauss(DEVIATIONS)
    v = (nodes + 1) / 2
    quantile = v * v * (3 - 2 * v)  # smooths the corners at 0 and 1, where the deviation runs to 0 and to infinity
    weights_S = weights_S * 3 * v * (1 - v)
    deviation_S = np.sqrt(special.chdtri(runs - 1, 1 - quantile) / (runs - 1))
    shared = 1 / (runs + 1)  # correlation of two arms: the part of their variance that is the baseline's mean
    bound_S1 = t * deviation_S[:, None] / math.sqrt(1 - shared)
    nodes, weights_M = np.polynomial.hermite_e.hermegauss(MEANS)
    mean_M = nodes * math.sqrt(shared / (1 - shared))
    within_SM = special.ndtr(bound_S1 - mean_M) - special.ndtr(-bound_S1 - mean_M)
    return float(1 - weights_S @ within_SM**arms @ (weights_M / weights_M.sum()))
