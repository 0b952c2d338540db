"""Power, the smallest visible effect, and how many seeds a question takes."""

import math

import pytest
from scipy import stats

from scratchlab.study.power import (
    Design,
    blocks_to_claim,
    blocks_to_settle,
    pooled,
    power,
    power_negligible,
    smallest_visible,
)


def test_power_is_the_noncentral_t() -> None:
    for blocks, effect in ((3, 1.0), (8, 0.4), (20, 0.1)):
        shift, freedom = effect / 0.5 * math.sqrt(blocks), 4 * (blocks - 1)
        bound = stats.t.isf(0.005, freedom)
        expected = stats.nct.sf(bound, freedom, shift) + stats.nct.cdf(-bound, freedom, shift)
        assert power(Design(0.5, 4, 0.01), effect, blocks) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("blocks", "expected"), [(3, 0.69), (5, 0.96), (8, 1.0)])
def test_eight_interventions_and_an_effect_of_three_deviations(blocks: int, expected: float) -> None:
    assert power(pooled(1.0, 9), 3.0, blocks) == pytest.approx(expected, abs=0.03)


def test_the_smallest_visible_effect_has_the_power_that_was_asked_for() -> None:
    design = pooled(0.02, 7)
    assert power(design, smallest_visible(design, 5), 5) == pytest.approx(0.8, abs=1e-6)
    assert smallest_visible(design, 1) == math.inf
    assert smallest_visible(pooled(0.04, 7), 5) == pytest.approx(2 * smallest_visible(design, 5))


@pytest.mark.parametrize("effect", [0.3, 1.0, 3.0])
def test_blocks_to_claim_are_the_fewest_that_do(effect: float) -> None:
    design = pooled(1.0, 5)
    blocks = blocks_to_claim(design, effect)
    assert power(design, effect, blocks) >= 0.8
    assert power(design, effect, blocks - 1) < 0.8
    with pytest.raises(ValueError, match="zero"):
        blocks_to_claim(design, 0.0)


def test_a_small_effect_is_settled_when_it_is_found_negligible() -> None:
    design = pooled(1.0, 5)
    blocks = blocks_to_settle(design, 0.0, 1.0)
    assert power_negligible(design, 0.0, 1.0, blocks) >= 0.8 > power_negligible(design, 0.0, 1.0, blocks - 1)
    assert blocks_to_settle(design, 0.1, 1.0) < blocks_to_claim(design, 0.1)
    assert blocks_to_settle(design, 2.0, 1.0) == blocks_to_claim(design, 2.0)


def test_very_many_blocks_come_from_the_normal_limit() -> None:
    design = Design(1.0, 1, 0.05)
    assert blocks_to_claim(design, 0.01) == pytest.approx((1.959964 + 0.841621) ** 2 / 1e-4, rel=1e-3)
