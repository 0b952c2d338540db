"""The split of a baseline's noise, and whether the machine matters."""

import math

import numpy as np
import pytest

from scratchlab.errors import UsageError
from scratchlab.study import noise
from scratchlab.study.noise import factor_effects, split_noise, step_noise
from scratchlab.study.table import Cell


def grid(rng: np.random.Generator, rows: int, columns: int, sds: tuple[float, float, float]) -> list[Cell]:
    init, data = rng.normal(0, sds[0], rows), rng.normal(0, sds[1], columns)
    return [
        Cell("base", f"{i}-{j}", 3 + float(init[i] + data[j] + rng.normal(0, sds[2])), (i, j, 10 * i + j))
        for i in range(rows)
        for j in range(columns)
    ]


def test_the_split_of_a_grid_is_that_of_its_mean_squares() -> None:
    # [[1, 2], [3, 6]]: rows 1.5 and 4.5, columns 2 and 4, what is left +-.5: mean squares 9, 4 and 1.
    values = [[1.0, 2.0], [3.0, 6.0]]
    cells = [Cell("base", f"{i}{j}", values[i][j], (i, j, 0)) for i in (0, 1) for j in (0, 1)]
    split = split_noise(cells)
    assert [part.variance for part in split.components] == pytest.approx([(9 - 1) / 2, (4 - 1) / 2, 1])
    assert split.method == "method of moments"


def test_the_split_finds_what_went_in_on_average_and_its_intervals_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "RESAMPLES", 200)
    rng = np.random.default_rng(0)
    splits = [split_noise(grid(rng, 5, 5, (1.0, 0.0, 0.5))) for _ in range(60)]
    means = np.mean([[part.variance for part in split.components] for split in splits], axis=0)
    assert means == pytest.approx([1.0, 0.0, 0.25], abs=0.25)
    held = np.mean([split.components[2].low <= 0.25 <= split.components[2].high for split in splits])
    assert held > 0.8


def test_a_grid_with_holes_is_split_by_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "RESAMPLES_REML", 3)
    cells = grid(np.random.default_rng(1), 6, 6, (1.0, 0.6, 0.3))
    whole, holed = split_noise(cells), split_noise(cells[1:])
    assert holed.method == "restricted maximum likelihood"
    for one, other in zip(whole.components, holed.components, strict=True):
        assert other.sd == pytest.approx(one.sd, rel=0.25, abs=0.1)


def test_reruns_are_the_floor() -> None:
    cells = grid(np.random.default_rng(2), 2, 2, (1, 1, 1))
    first = cells[0]
    assert first.value is not None
    assert split_noise(cells).rerun_sd is None
    again = [Cell("base", first.block, first.value + d, first.seeds, rerun=r) for r, d in ((1, 0.0), (2, 0.3))]
    split = split_noise([*cells, *again])
    assert split.rerun_sd == pytest.approx(np.std([0, 0, 0.3], ddof=1))
    assert (split.reruns, split.n) == (2, 4)


def test_a_grid_that_is_none_is_refused() -> None:
    line = [Cell("base", str(i), float(i), (i, 0, i)) for i in range(4)]
    with pytest.raises(UsageError, match="4 runs with 4 init and 1 data seeds"):
        split_noise(line)
    with pytest.raises(UsageError, match="give seed_init"):
        split_noise([Cell("base", "0", 1.0)])


def test_does_the_machine_matter() -> None:
    rng = np.random.default_rng(3)
    seeds = rng.normal(0, 5, 6)
    cells = [
        Cell("base", str(b), float(seeds[b] + shift + rng.normal(0, 0.1)), (b, b, b), factors={"device": name})
        for b in range(6)
        for name, shift in (("cpu", 0.0), ("gpu", 1.0))
    ]
    (found,) = factor_effects(cells)
    assert (found.factor, found.level, found.against, found.n, found.identical) == ("device", "gpu", "cpu", 6, 0)
    assert found.low < 1 < found.high
    assert found.p is not None
    assert found.p < 1e-4
    same = [Cell("base", c.block, 1.5 * int(c.block), c.seeds, factors=c.factors) for c in cells]
    (found,) = factor_effects(same)
    assert (found.effect, found.identical) == (pytest.approx(0), 6)


def test_step_noise_is_about_the_line() -> None:
    assert step_noise([3.0, 2.9, 2.8, 2.7]) == pytest.approx(0, abs=1e-9)
    assert step_noise([1.0, 0.0, 1.0, 0.0]) == pytest.approx(math.sqrt(0.8 / 2))
    with pytest.raises(UsageError, match="three evaluations"):
        step_noise([1.0, 2.0])
