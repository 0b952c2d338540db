"""Curves through a study's figures: where the optimum of a swept field lies, and what a gain is worth in steps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from scratchlab.errors import UsageError
from scratchlab.seeds import generator
from scratchlab.study.least_squares import LEVEL, Floats

DRAWS = 4_000


@dataclass(frozen=True, slots=True)
class Sweep:
    """A parabola through the figures of a swept field or two; over the logarithm of a field that is positive."""

    fields: tuple[str, ...]
    logs: tuple[bool, ...]
    coefficients: tuple[float, ...]
    """Of 1, x, x^2; of two fields 1, x, y, x^2, y^2, xy; x and y being (log) field less its center over its scale."""
    covariance: tuple[tuple[float, ...], ...]
    """Of the coefficients: how well the figures know them."""
    blocks: Mapping[str, float]
    """How far the runs of a block lie above the curve; 0 on average over blocks."""
    centers: tuple[float, ...]
    scales: tuple[float, ...]
    error: float
    """Deviation of one run about the curve and its block."""
    freedom: int
    optimum: tuple[float, ...] | None
    """Where the curve is best; None if it has no such place inside the range that was swept."""
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    """95% interval of each coordinate of the optimum, cut at the range that was swept; None where there is none."""
    found: float
    """How often curves that the figures allow have their optimum within the range: how sure it is that one is there."""
    misfit_p: float | None
    """That the parabola is the right shape, against one mean a point; None if every point was run once."""

    def at(self, *values: float) -> float:
        """The curve at a point, for a block as they are on average."""
        return float(self._terms_at(values) @ np.array(self.coefficients))

    def interval(self, *values: float) -> tuple[float, float]:
        """The 95% t interval of the curve at a point."""
        terms = self._terms_at(values)
        error = math.sqrt(max(0.0, float(terms @ np.array(self.covariance) @ terms)))
        half = float(special.stdtrit(self.freedom, 1 - LEVEL / 2)) * error
        return self.at(*values) - half, self.at(*values) + half

    def _terms_at(self, values: Sequence[float]) -> Floats:
        scaled = [
            ((math.log(value) if log else value) - center) / scale
            for value, log, center, scale in zip(values, self.logs, self.centers, self.scales, strict=True)
        ]
        return _terms(np.array([scaled]))[0]


def fit_sweep(
    fields: Sequence[str],
    points: Sequence[Sequence[float]],
    blocks: Sequence[str],
    values: Sequence[float],
    higher_is_better: bool = False,
) -> Sweep:
    """Fit figure ~ block + parabola(points): `points` holds the swept field or two of each run.

    The interval of the optimum comes from drawing the coefficients again from what the fit says of them (multivariate
    t), which keeps it honest where the curve is flat and Fieller's interval would be infinite. UsageError for fewer
    than three different values of a field (six points for two), or nothing left to estimate the error from.
    """
    raw = np.array(points, np.float64)
    _check_points(fields, raw)
    logs = tuple(bool((column > 0).all()) for column in raw.T)
    x_ND = np.column_stack([np.log(column) if log else column for column, log in zip(raw.T, logs, strict=True)])
    centers, scales = x_ND.mean(0), x_ND.std(0)
    x_ND = (x_ND - centers) / scales
    kinds = sorted(set(blocks))
    # Each block has a constant of its own; the curve's is their mean.
    block_NB = np.array([[1.0 * (block == kind) for kind in kinds] for block in blocks])
    X = np.hstack([block_NB, _terms(x_ND)[:, 1:]])
    y = np.array(values, np.float64)
    freedom = len(y) - int(np.linalg.matrix_rank(X))
    if freedom < 1:
        raise UsageError(f"{len(y)} runs are too few to fit a curve over {' and '.join(fields)} with its error.")
    inverse = np.linalg.pinv(X.T @ X, hermitian=True)
    beta = inverse @ (X.T @ y)
    squares = float(np.square(y - X @ beta).sum())
    to_curve = np.zeros((1 + X.shape[1] - len(kinds), X.shape[1]))
    to_curve[0, : len(kinds)] = 1 / len(kinds)
    to_curve[1:, len(kinds) :] = np.eye(X.shape[1] - len(kinds))
    coefficients, covariance = to_curve @ beta, to_curve @ inverse @ to_curve.T * squares / freedom
    curve = coefficients[1:]
    sign = -1.0 if higher_is_better else 1.0
    lowest, highest = x_ND.min(0), x_ND.max(0)
    best = _optima(sign * curve[None], lowest, highest)[0]
    drawn = _draw(sign * curve, covariance[1:, 1:], freedom)
    optima = _optima(drawn, lowest, highest)
    inside = np.isfinite(optima).all(1)
    there = bool(np.isfinite(best).all())
    low, high = np.quantile(_cut(drawn, lowest, highest), [LEVEL / 2, 1 - LEVEL / 2], axis=0)

    def back(place: Floats) -> tuple[float, ...]:
        values = place * scales + centers
        return tuple(math.exp(value) if log else float(value) for value, log in zip(values, logs, strict=True))

    return Sweep(
        fields=tuple(fields),
        logs=logs,
        coefficients=tuple(map(float, coefficients)),
        covariance=tuple(tuple(map(float, row)) for row in covariance),
        blocks={kind: float(beta[b] - coefficients[0]) for b, kind in enumerate(kinds)},
        centers=tuple(map(float, centers)),
        scales=tuple(map(float, scales)),
        error=math.sqrt(squares / freedom),
        freedom=freedom,
        optimum=back(best) if there else None,
        low=back(low) if there else None,
        high=back(high) if there else None,
        found=float(inside.mean()),
        misfit_p=_misfit(raw, block_NB, y, squares, freedom),
    )


def _check_points(fields: Sequence[str], raw: Floats) -> None:
    if raw.ndim != 2 or raw.shape[1] != len(fields) or len(fields) not in (1, 2):
        raise UsageError("A sweep is over one field or two, with a value of each for every run.")
    few = [name for name, column in zip(fields, raw.T, strict=True) if len(set(column.tolist())) < 3]
    if few:
        raise UsageError(f"A curve over {few[0]} takes three different values at least.")
    if len(fields) == 2 and len({tuple(row) for row in raw.tolist()}) < 6:
        raise UsageError(f"A surface over {fields[0]} and {fields[1]} takes six different points at least.")


def _terms(x_ND: Floats) -> Floats:
    one = np.ones((len(x_ND), 1))
    product = [x_ND[:, :1] * x_ND[:, 1:]] if x_ND.shape[1] == 2 else []
    return np.hstack([one, x_ND, np.square(x_ND), *product])


def _draw(curve: Floats, covariance: Floats, freedom: int) -> Floats:
    """Curves that the figures allow: multivariate t about the fitted one, (draws, terms)."""
    rng = generator(0, "sweep", "draws")
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    wide = np.sqrt(freedom / rng.chisquare(freedom, (DRAWS, 1)))
    return curve + rng.standard_normal((DRAWS, len(curve))) @ root.T * wide


def _optima(curves: Floats, lowest: Floats, highest: Floats) -> Floats:
    """Where each curve is lowest, (draws, fields); NaN where it has no lowest place within the range."""
    fields = len(lowest)
    linear, square = curves[:, :fields], curves[:, fields : 2 * fields]
    cross = curves[:, 2 * fields] if fields == 2 else np.zeros(len(curves))
    if fields == 1:
        with np.errstate(divide="ignore", invalid="ignore"):
            place = -linear / (2 * square)
        bowl = square[:, 0] > 0
    else:
        determinant = 4 * square[:, 0] * square[:, 1] - cross**2
        with np.errstate(divide="ignore", invalid="ignore"):
            x = (cross * linear[:, 1] - 2 * square[:, 1] * linear[:, 0]) / determinant
            y = (cross * linear[:, 0] - 2 * square[:, 0] * linear[:, 1]) / determinant
        place, bowl = np.column_stack([x, y]), (determinant > 0) & (square[:, 0] > 0)
    inside = bowl & (place >= lowest).all(1) & (place <= highest).all(1)
    return np.where(inside[:, None], place, np.nan)


GRID = 41


def _cut(curves: Floats, lowest: Floats, highest: Floats) -> Floats:
    """The best place of each curve within the range, at its edge if need be."""
    axes = [np.linspace(low, high, GRID) for low, high in zip(lowest, highest, strict=True)]
    grid_GD = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
    exact = _optima(curves, lowest, highest)
    nearest = grid_GD[(curves @ _terms(grid_GD)[:, 1:].T).argmin(1)]
    return np.where(np.isfinite(exact), exact, nearest)


def _misfit(raw: Floats, block_NB: Floats, y: Floats, squares: float, freedom: int) -> float | None:
    """The lack-of-fit F test: does a mean a point fit better than the parabola, beyond chance?"""
    places = {point: i for i, point in enumerate(dict.fromkeys(map(tuple, raw.tolist())))}
    X = np.hstack([block_NB, np.eye(len(places))[[places[point] for point in map(tuple, raw.tolist())]]])
    pure_freedom = len(y) - int(np.linalg.matrix_rank(X))
    if pure_freedom < 1 or pure_freedom >= freedom:
        return None
    pure = float(np.square(y - X @ np.linalg.lstsq(X, y, rcond=None)[0]).sum())
    extra = freedom - pure_freedom
    return (
        float(special.fdtrc(extra, pure_freedom, ((squares - pure) / extra) / (pure / pure_freedom))) if pure else None
    )


# What a gain is worth.


@dataclass(frozen=True, slots=True)
class Worth:
    """An effect in tokens (or steps) of the baseline: training it for so many more would have done the same."""

    more: float
    """Negative: it is as if so much of the training were lost."""
    low: float
    high: float
    """From the effect's interval; the slope is taken as known."""
    slope: float
    """The baseline's loss per token at the end."""


LAST = 0.25
"""The part of the curve that its final slope is fitted to."""


def steps_equivalent(
    effect: float,
    low: float,
    high: float,
    tokens: Sequence[float],
    losses: Sequence[float],
    higher_is_better: bool = False,
) -> Worth | None:
    """Express an effect by the slope of the baseline's loss against tokens at the end of its training.

    The slope is that of a straight line over the logarithm of tokens, through the last quarter of the curve (three
    evaluations at least). None where the curve no longer improves there: then no number of tokens makes the difference.
    Good for effects that are small beside what is still being learned; a linear continuation flatters large ones.
    """
    at = np.asarray(tokens, np.float64)
    curve = np.asarray(losses, np.float64)
    if len(at) != len(curve) or len(at) < 3 or (at <= 0).any():
        raise UsageError("The baseline's curve takes three evaluations at least, each at a number of tokens above 0.")
    last = max(3, math.ceil(LAST * len(at)))
    slope = float(np.polyfit(np.log(at[-last:]), curve[-last:], 1)[0]) / float(at[-1])
    if (slope >= 0) != higher_is_better or slope == 0:
        return None
    ends = sorted([low / slope, high / slope])
    return Worth(effect / slope, ends[0], ends[1], slope)
