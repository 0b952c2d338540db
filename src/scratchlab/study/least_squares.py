"""The fit under a study: figure = block + arm + noise, by least squares, and whether one noise fits all arms.

Letters: A arms (the baseline first), B blocks.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LEVEL = 0.05
"""Of every test of a study, and what its 95% intervals miss."""
RATIO = 3.0
"""An arm whose residuals scatter so many times as widely as those of the others has a noise of its own."""


@dataclass(frozen=True, slots=True)
class Fit:
    effects: Floats
    """(A,), arm less baseline; NaN where no chain of shared blocks links the two."""
    covariance: Floats
    """(A, A), of the effects, in units of `variance`: they share the baseline's runs."""
    residuals: Floats
    """(A, B); NaN where there is no run."""
    variance: float
    """Of one run about its expectation, pooled over all arms; NaN where nothing is left to estimate it from."""
    freedom: int
    """Of `variance`: (A - 1)(B - 1) where no run is missing."""


def fit_blocks(values_AB: Floats, covariate_AB: npt.NDArray[np.int_] | None = None) -> Fit:
    """Ordinary least squares of value ~ arm + block, and + covariate where codes of one are given (0: the usual).

    Runs that are not there (NaN) are left out: the fit stays unbiased, and nothing is filled in. The same figures as
    statsmodels' OLS, which a test holds; directly in numpy because its formulas take a second to import.
    """
    arms, blocks = values_AB.shape
    here = np.isfinite(values_AB)
    arm_N, block_N = np.nonzero(here)
    level = float(values_AB[here].mean()) if here.any() else 0.0  # figures far from zero keep their last digits
    y_N = values_AB[here] - level
    X_NK = np.hstack([np.eye(blocks)[block_N], np.eye(arms)[arm_N, 1:], _indicators(covariate_AB, here)])
    gram_KK = X_NK.T @ X_NK
    inverse_KK = np.linalg.pinv(gram_KK, hermitian=True)
    beta_K = inverse_KK @ (X_NK.T @ y_N)
    known_KK = inverse_KK @ gram_KK  # the identity, where all can be told apart
    arm_columns = slice(blocks, blocks + arms - 1)
    told = np.abs(known_KK - np.eye(len(gram_KK))).max(1)[arm_columns] < 1e-8
    residuals_AB = np.full_like(values_AB, np.nan)
    residuals_AB[here] = y_N - X_NK @ beta_K
    freedom = len(y_N) - round(float(np.trace(known_KK)))
    variance = _variance(residuals_AB[here], y_N, freedom)
    effects = np.where(told, beta_K[arm_columns], np.nan)
    covariance = np.zeros((arms, arms))
    covariance[1:, 1:] = np.where(np.outer(told, told), inverse_KK[arm_columns, arm_columns], np.nan)
    return Fit(np.r_[0.0, effects], covariance, residuals_AB, variance, freedom)


def _indicators(covariate_AB: npt.NDArray[np.int_] | None, here: Bools) -> Floats:
    if covariate_AB is None:
        return np.empty((int(here.sum()), 0))
    return np.eye(int(covariate_AB.max()) + 1)[covariate_AB[here], 1:]


def _variance(residuals_N: Floats, y_N: Floats, freedom: int) -> float:
    """What is left below the rounding of the figures themselves is no noise."""
    if freedom < 1:
        return np.nan
    squares = float(residuals_N @ residuals_N)
    return squares / freedom if squares > 1e-24 * float(y_N @ y_N) else 0.0


# Does one noise fit all arms?


def noisier_arms(residuals_AB: Floats) -> Bools:
    """Which arms have a noise of their own: Brown-Forsythe, each arm against the rest, or 3 times their deviation.

    At .05 over all arms together, and at .05 for the baseline alone, which is half of every comparison.
    The residuals of two arms mirror each other: of those nothing can be told.
    """
    counts_A = np.isfinite(residuals_AB).sum(1)
    if (counts_A > 1).sum() < 3:
        return np.zeros(len(residuals_AB), np.bool_)
    squares_A = np.nansum(np.square(residuals_AB), axis=1)
    freedom_A = np.maximum(counts_A - 1, 0)
    rest = np.maximum(freedom_A.sum() - freedom_A, 1)
    ratio_A = (squares_A / np.maximum(freedom_A, 1)) / np.maximum((squares_A.sum() - squares_A) / rest, 1e-300)
    level_A = np.full(len(residuals_AB), LEVEL / (counts_A > 1).sum())
    level_A[0] = LEVEL
    unlike_A = brown_forsythe(residuals_AB) < level_A
    return (counts_A > 1) & (ratio_A > 1) & (unlike_A | (ratio_A > RATIO**2))


def brown_forsythe(residuals_AB: Floats) -> Floats:
    """p of each arm, that its residuals scatter as those of the rest do.

    Distances from each arm's median, an arm's against all others', by t (Brown and Forsythe 1974, "Robust tests for
    the equality of variances"). 1 where there is too little to tell.
    """
    here_AB = np.isfinite(residuals_AB)
    n_A = here_AB.sum(1)
    rows = [row[here] for row, here in zip(residuals_AB, here_AB, strict=True)]
    distances = [np.abs(row - np.median(row)) if len(row) else row for row in rows]
    sum_A = np.array([row.sum() for row in distances])
    inside_A = np.array([np.square(row - row.mean()).sum() if len(row) else 0.0 for row in distances])
    n_rest, sum_rest = n_A.sum() - n_A, sum_A.sum() - sum_A
    all_squares = sum(float(np.square(row).sum()) for row in distances)
    own_squares = np.array([float(np.square(row).sum()) for row in distances])
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = inside_A + (all_squares - own_squares) - sum_rest**2 / n_rest
        freedom = n_A + n_rest - 2
        t_A = (sum_A / n_A - sum_rest / n_rest) / np.sqrt(inside / freedom * (1 / n_A + 1 / n_rest))
    return np.where(np.isfinite(t_A), 2 * special.stdtr(np.maximum(freedom, 1), -np.abs(t_A)), 1.0)
