"""Curves through swept fields, and what a gain is worth in tokens."""

import itertools
import math

import numpy as np
import pytest

from scratchlab.errors import UsageError
from scratchlab.study import trends
from scratchlab.study.trends import fit_sweep, steps_equivalent

RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]


def sweep(seed: int, noise: float = 0.05, best: float = 1e-3, blocks: int = 3) -> tuple[list, list, list]:
    rng = np.random.default_rng(seed)
    runs = list(itertools.product(RATES, range(blocks)))
    shared = rng.normal(0, 1, blocks)
    values = [(math.log(rate / best)) ** 2 / 5 + shared[b] + rng.normal(0, noise) for rate, b in runs]
    return [[rate] for rate, _ in runs], [str(b) for _, b in runs], values


def test_the_optimum_of_a_swept_field_is_found() -> None:
    found = fit_sweep(["lr"], *sweep(0, noise=1e-6))
    assert found.logs == (True,)
    assert found.optimum == (pytest.approx(1e-3, rel=1e-4),)
    assert found.at(1e-2) - found.at(1e-3) == pytest.approx(math.log(10) ** 2 / 5, rel=1e-3)


def test_its_interval_holds_it_in_95_of_100_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trends, "DRAWS", 500)
    found = [fit_sweep(["lr"], *sweep(seed)) for seed in range(100)]
    held = np.mean([one.low is not None and one.low[0] <= 1e-3 <= one.high[0] for one in found])  # pyright: ignore
    assert 0.86 <= held <= 0.99
    misfits = np.mean([one.misfit_p is not None and one.misfit_p < 0.05 for one in found])
    assert misfits <= 0.13


def test_the_band_holds_the_curve_in_95_of_100_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trends, "DRAWS", 10)
    truth = {rate: math.log(rate / 1e-3) ** 2 / 5 for rate in (2e-4, 5e-3)}
    held: list[bool] = []
    for seed in range(200):
        points, blocks, values = sweep(seed)
        fit = fit_sweep(["lr"], points, blocks, values)
        shared = np.random.default_rng(seed).normal(0, 1, 3).mean()
        for rate, height in truth.items():
            low, high = fit.interval(rate)
            held.append(low <= height + shared <= high)
    assert 0.92 <= np.mean(held) <= 0.98


def test_blocks_lie_about_the_curve() -> None:
    points, blocks, values = sweep(0, noise=1e-6)
    fit = fit_sweep(["lr"], points, blocks, values)
    assert sum(fit.blocks.values()) == pytest.approx(0, abs=1e-9)
    for (rate,), block, value in zip(points, blocks, values, strict=True):
        assert fit.at(rate) + fit.blocks[block] == pytest.approx(value, abs=1e-4)


def test_an_optimum_beyond_the_range_is_none() -> None:
    found = fit_sweep(["lr"], *sweep(1, best=1.0))
    assert (found.optimum, found.low) == (None, None)
    assert found.found < 0.05


def test_higher_is_better_turns_the_curve() -> None:
    points, blocks, values = sweep(2)
    one = fit_sweep(["lr"], points, blocks, values)
    other = fit_sweep(["lr"], points, blocks, [-value for value in values], higher_is_better=True)
    assert other.optimum == pytest.approx(one.optimum)
    assert other.found == one.found


def test_a_surface_over_two_fields() -> None:
    rng = np.random.default_rng(3)
    points = [list(point) for point in itertools.product([1e-4, 3e-4, 1e-3], [16, 64, 256])] * 2
    blocks = ["0"] * 9 + ["1"] * 9

    def height(rate: float, batch: float) -> float:
        x, y = math.log(rate / 4e-4), math.log(batch / 50)
        return x * x + 0.5 * y * y - 0.6 * x * y

    values = [height(*point) + rng.normal(0, 0.01) for point in points]
    found = fit_sweep(["lr", "batch"], points, blocks, values)
    assert found.optimum == (pytest.approx(4e-4, rel=0.1), pytest.approx(50, rel=0.1))
    assert found.low is not None
    assert found.high is not None
    assert found.low[1] < 50 < found.high[1]
    assert found.misfit_p is not None


def test_a_shape_that_is_no_parabola_is_told() -> None:
    points = [[x] for x in (-2.0, -1.0, 0.0, 1.0, 2.0)] * 2
    values = [abs(x[0]) ** 0.2 + 1e-4 * i for i, x in enumerate(points)]
    found = fit_sweep(["x"], points, ["0"] * 5 + ["1"] * 5, values)
    assert found.logs == (False,)
    assert found.misfit_p is not None
    assert found.misfit_p < 0.001


def test_sweeps_that_are_too_few_are_refused() -> None:
    with pytest.raises(UsageError, match="three different values"):
        fit_sweep(["lr"], [[1.0], [2.0], [1.0]], ["0"] * 3, [1.0, 2, 3])
    with pytest.raises(UsageError, match="too few"):
        fit_sweep(["lr"], [[1.0], [2.0], [3.0]], ["0"] * 3, [1.0, 2, 3])
    with pytest.raises(UsageError, match="six different points"):
        fit_sweep(["a", "b"], [[1.0, 1], [2, 2], [3, 3], [4, 4]], ["0"] * 4, [1.0, 2, 3, 4])


def test_steps_equivalent() -> None:
    tokens = [1e6 * (i + 1) for i in range(20)]
    losses = [5 - 0.3 * math.log(t) for t in tokens]
    worth = steps_equivalent(-0.015, -0.03, 0.003, tokens, losses)
    assert worth is not None
    assert worth.slope == pytest.approx(-0.3 / 20e6)
    assert worth.more == pytest.approx(1e6)
    assert (worth.low, worth.high) == (pytest.approx(-0.2e6), pytest.approx(2e6))
    assert steps_equivalent(-0.1, -0.2, 0, tokens, losses[::-1]) is None, "a curve that rises"
    with pytest.raises(UsageError, match="three evaluations"):
        steps_equivalent(-0.1, -0.2, 0, tokens[:2], losses[:2])
