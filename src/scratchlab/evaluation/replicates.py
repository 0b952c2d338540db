"""Would it happen again with other seeds? The difference of two sides of several runs each, by t tests over runs.

Three designs, by what there is: runs in pairs with the same seeds; several runs a side; one run against several.
"""

import math

import numpy as np
from scipy import stats

from scratchlab.evaluation.comparison import LEVEL, Difference, Floats


def compare_runs(a: Floats, b: Floats, paired: bool) -> Difference:
    """The difference of the means of runs `a` and `b`, given one figure a run; two runs at least on one side.

    If `paired`, run i of both has the same seeds: the same first weights, the same order of the data. Otherwise
    Welch's t; and a single run is taken to scatter as those of the other side do (a prediction interval).
    """
    assert max(len(a), len(b)) > 1
    if paired:
        apart = a - b
        error, freedom, n = _mean_error(apart), len(apart) - 1.0, len(apart)
        method, variance = f"paired t, {n} blocks of seeds", float(apart.var(ddof=1))
    elif min(len(a), len(b)) == 1:
        many = a if len(a) > 1 else b
        variance = 2 * float(many.var(ddof=1))  # should both sides come to have several runs
        error, freedom, n = math.sqrt(variance / 2 * (1 + 1 / len(many))), len(many) - 1.0, 1
        method = f"prediction interval from {len(many)} runs"
    else:
        squares = _mean_error(a) ** 2, _mean_error(b) ** 2
        error, n = math.sqrt(sum(squares)), min(len(a), len(b))
        freedom = _welch_freedom(squares, (len(a), len(b)))
        method, variance = f"Welch's t, {len(a)} and {len(b)} runs", float(a.var(ddof=1) + b.var(ddof=1))
    return _by_t(a, b, error, freedom, n, method, variance, 1 if paired else 2)


def _by_t(
    a: Floats, b: Floats, error: float, freedom: float, n: int, method: str, variance: float, groups: int
) -> Difference:
    difference = float(a.mean() - b.mean())
    wide, narrow = (float(stats.t.isf(tail, freedom)) * error for tail in (LEVEL / 2, LEVEL))
    return Difference(
        a=float(a.mean()),
        b=float(b.mean()),
        error=error,
        low=difference - wide,
        high=difference + wide,
        low_90=difference - narrow,
        high_90=difference + narrow,
        p=float(2 * stats.t.sf(abs(difference) / error, freedom)) if error else float(difference == 0),
        n=n,
        unit="runs a side",
        method=method,
        variance=variance,
        groups=groups,
    )


def _mean_error(values: Floats) -> float:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _welch_freedom(squares: tuple[float, float], counts: tuple[int, int]) -> float:
    """Welch 1947; where nothing scatters there is nothing to weigh."""
    below = sum(square**2 / (count - 1) for square, count in zip(squares, counts, strict=True))
    return sum(squares) ** 2 / below if below else sum(counts) - 2.0
