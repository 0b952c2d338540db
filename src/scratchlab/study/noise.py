"""Where the noise comes from: initial weights, the order of the data, the machine.

The `noise` design runs the baseline alone, over a grid of init seeds and data seeds, with a few exact reruns: what
differs between those is the floor that no seed explains. Factors outside the mathematics (device, processes,
accumulation, compile) may be crossed with the seeds: does the machine matter?
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from scratchlab.errors import UsageError
from scratchlab.seeds import generator
from scratchlab.study.least_squares import Floats, fit_blocks
from scratchlab.study.table import Cell, natural

RESAMPLES = 1_000
RESAMPLES_REML = 100  # each is a fit of a tenth of a second


@dataclass(frozen=True, slots=True)
class Component:
    """A source of noise: its variance, and where the parametric bootstrap puts it in 95 of 100 cases."""

    name: str
    variance: float
    """May come out negative by the method of moments: then it is too small to be seen in so small a grid."""
    low: float
    high: float

    @property
    def sd(self) -> float:
        return math.sqrt(max(0.0, self.variance))


@dataclass(frozen=True, slots=True)
class NoiseSplit:
    """The noise of a baseline, by source."""

    n: int
    method: str
    components: tuple[Component, ...]
    """init, data, and what is left: their interplay, the noise seed, and the machine."""
    rerun_sd: float | None
    """Deviation of exact reruns of the same seeds; 0 if they agree to the bit, None if there are none."""
    reruns: int


def split_noise(cells: Sequence[Cell]) -> NoiseSplit:
    """Variances of init seed, data seed and the rest, from baseline runs over a grid of both.

    Method of moments for a complete grid, restricted maximum likelihood otherwise; intervals by parametric bootstrap,
    which are wide: true variances 1, 1, 1 give estimates with a deviation of 0.8 on a grid of 5 x 5. UsageError without
    two seeds of each role, or where nothing crosses them.
    """
    runs = [cell for cell in cells if cell.rerun == 0 and not cell.factors and cell.value is not None]
    if any(cell.seeds is None for cell in runs):
        raise UsageError("The noise of a run without seeds cannot be split: give seed_init, seed_data and seed_noise.")
    init, data = (_codes([str(cell.seeds[role]) for cell in runs if cell.seeds]) for role in (0, 1))
    values = np.array([cell.value for cell in runs], np.float64)
    levels = tuple(len(set(codes.tolist())) for codes in (init, data))
    if min(levels, default=0) < 2 or len(runs) < sum(levels):
        raise UsageError(
            f"The noise cannot be split: {len(runs)} runs with {levels[0]} init and {levels[1]} data seeds. Run a grid "
            "of both, 5 x 5 if you can."
        )
    balanced = len(runs) == levels[0] * levels[1] == len(set(zip(init.tolist(), data.tolist(), strict=True)))
    fit = _moments if balanced else _reml
    found = fit(values, init, data)
    resamples = RESAMPLES if balanced else RESAMPLES_REML
    rng = generator(0, "noise", "bootstrap")
    drawn = np.array([fit(_resample(rng, found, init, data), init, data) for _ in range(resamples)])
    floor, reruns = rerun_floor(cells)
    return NoiseSplit(
        n=len(runs),
        method="method of moments" if balanced else "restricted maximum likelihood",
        components=tuple(
            Component(name, float(variance), *_percentiles(float(variance), drawn[:, i]))
            for i, (name, variance) in enumerate(zip(("init", "data", "rest"), found, strict=True))
        ),
        rerun_sd=floor,
        reruns=reruns,
    )


def _codes(names: Sequence[str]) -> npt.NDArray[np.int_]:
    place = {name: i for i, name in enumerate(sorted(set(names), key=natural))}
    return np.array([place[name] for name in names], np.int_)


def _moments(values: Floats, init: npt.NDArray[np.int_], data: npt.NDArray[np.int_]) -> Floats:
    """From the mean squares of a complete grid with one run a cell (Searle, Casella and McCulloch 1992, chapter 4)."""
    rows, columns = init.max() + 1, data.max() + 1
    grid = np.empty((rows, columns))
    grid[init, data] = values
    row_means, column_means, mean = grid.mean(1), grid.mean(0), grid.mean()
    left = grid - row_means[:, None] - column_means[None] + mean
    rest = float(np.square(left).sum()) / ((rows - 1) * (columns - 1))
    squares = columns * float(row_means.var(ddof=1)), rows * float(column_means.var(ddof=1))
    return np.array([(squares[0] - rest) / columns, (squares[1] - rest) / rows, rest])


def _reml(values: Floats, init: npt.NDArray[np.int_], data: npt.NDArray[np.int_]) -> Floats:
    """Crossed random effects: one group, a variance component a role (statsmodels' way to say it)."""
    import pandas
    from statsmodels.regression.mixed_linear_model import MixedLM

    scale = float(values.std()) or 1.0  # its optimizer wants figures of order one
    frame = pandas.DataFrame({"y": (values - values.mean()) / scale, "init": init, "data": data, "all": 1})
    parts = {"init": "0 + C(init)", "data": "0 + C(data)"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a variance at zero is an answer here, not a failure
        model: Any = MixedLM.from_formula("y ~ 1", groups="all", vc_formula=parts, re_formula="0", data=frame)
        fit: Any = model.fit(reml=True)
    named = dict(zip(model.exog_vc.names, fit.vcomp, strict=True))
    return np.array([named["init"], named["data"], float(fit.scale)]) * scale**2


def _resample(
    rng: np.random.Generator, variances: Floats, init: npt.NDArray[np.int_], data: npt.NDArray[np.int_]
) -> Floats:
    sds = np.sqrt(np.maximum(variances, 0.0))
    by_role = [rng.normal(0, sd, int(codes.max()) + 1)[codes] for sd, codes in zip(sds[:2], (init, data), strict=True)]
    return by_role[0] + by_role[1] + rng.normal(0, sds[2], len(init))


def _percentiles(variance: float, drawn: Floats) -> tuple[float, float]:
    """Percentiles of the bootstrap, never below zero."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return max(0.0, float(low)), max(0.0, float(high), variance)


def rerun_floor(cells: Sequence[Cell]) -> tuple[float | None, int]:
    """The deviation of exact reruns about their own means, and how many runs beyond the first it rests on."""
    groups: dict[tuple[object, ...], list[float]] = {}
    for cell in cells:
        if cell.value is not None:
            groups.setdefault((cell.arm, cell.block, cell.seeds, *sorted(cell.factors.items())), []).append(cell.value)
    repeated = [np.array(values) for values in groups.values() if len(values) > 1]
    freedom = sum(len(values) - 1 for values in repeated)
    if not freedom:
        return None, 0
    return math.sqrt(sum(float(np.square(values - values.mean()).sum()) for values in repeated) / freedom), freedom


# Does the machine matter?


@dataclass(frozen=True, slots=True)
class FactorEffect:
    """What a factor outside the mathematics does, within seeds."""

    factor: str
    level: str
    against: str
    n: int
    effect: float
    low: float
    high: float
    p: float | None
    identical: int
    """How many runs have the very figure of their pair."""


def factor_effects(cells: Sequence[Cell]) -> list[FactorEffect]:
    """The effect of each level of each factor against the first level, the seeds being blocks.

    As for arms: ordinary least squares, figure ~ level + seeds. Other factors must be as in the pair's other run.
    """
    factors = sorted({name for cell in cells for name in cell.factors})
    return [effect for factor in factors for effect in _levels_of(factor, cells)]


def _levels_of(factor: str, cells: Sequence[Cell]) -> list[FactorEffect]:
    with_it = [cell for cell in cells if factor in cell.factors and cell.value is not None and cell.rerun == 0]
    levels = list(dict.fromkeys(cell.factors[factor] for cell in with_it))
    others = [(cell.block, cell.seeds, *sorted({**cell.factors, factor: ""}.items())) for cell in with_it]
    blocks = list(dict.fromkeys(others))
    values = np.full((len(levels), len(blocks)), np.nan)
    for cell, key in zip(with_it, others, strict=True):
        assert cell.value is not None
        values[levels.index(cell.factors[factor]), blocks.index(key)] = cell.value
    if len(levels) < 2:
        return []
    fit = fit_blocks(values)
    found: list[FactorEffect] = []
    for place, level in enumerate(levels[1:], 1):
        pairs = np.isfinite(values[[0, place]]).all(0)
        effect, known = float(fit.effects[place]), fit.freedom > 0
        error = math.sqrt(fit.variance * float(fit.covariance[place, place])) if known else math.inf
        half = float(special.stdtrit(max(1, fit.freedom), 0.975)) * error
        p = float(2 * special.stdtr(fit.freedom, -abs(effect) / error)) if known and error else None
        same = int((values[0, pairs] == values[place, pairs]).sum())
        found.append(
            FactorEffect(factor, level, levels[0], int(pairs.sum()), effect, effect - half, effect + half, p, same)
        )
    return found


# The instrument's own noise.


def step_noise(last_evaluations: Sequence[float]) -> float:
    """How far the loss moves from one evaluation to the next at the end of a run: deviation about its straight line."""
    values = np.asarray(last_evaluations, np.float64)
    if len(values) < 3:
        raise UsageError(f"Step noise takes three evaluations at least, not {len(values)}.")
    steps = np.arange(len(values))
    residuals = values - np.polyval(np.polyfit(steps, values, 1), steps)
    return float(np.sqrt(np.square(residuals).sum() / (len(values) - 2)))
