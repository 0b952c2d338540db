"""The learning rate: its values where they are known, and nanoGPT's formula."""

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchlab.recipe import TrainingSection
from scratchlab.training.schedule import learning_rate
from tiny import modest


def section(**fields: Any) -> TrainingSection:
    return TrainingSection(**{"steps": 100, "learning_rate": 0.01, "warmup_steps": 10, **fields})


def nanogpt(it: int, rate: float, warmup_iters: int, lr_decay_iters: int, min_lr: float) -> float:
    """`get_lr` of nanoGPT's train.py, in its own words."""
    if it < warmup_iters:
        return rate * (it + 1) / (warmup_iters + 1)
    if it > lr_decay_iters:
        return min_lr
    decay_ratio = (it - warmup_iters) / (lr_decay_iters - warmup_iters)
    coeff = 0.5 * (1.0 + math.cos(math.pi * decay_ratio))
    return min_lr + coeff * (rate - min_lr)


@modest
@given(steps=st.integers(2, 300), data=st.data(), final=st.floats(0, 1))
def test_cosine_is_nanogpts(steps: int, data: st.DataObject, final: float) -> None:
    warmup, step = data.draw(st.integers(0, steps - 1)), data.draw(st.integers(0, steps))
    training = section(steps=steps, warmup_steps=warmup, final_learning_rate=final)
    expected = nanogpt(step, 0.01, warmup, steps, 0.01 * final)
    assert learning_rate(training, step, steps) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "wsd"])
def test_warm_up_rises_in_a_line_from_above_0_and_meets_the_peak(schedule: str) -> None:
    training = section(schedule=schedule)
    rates = [learning_rate(training, step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.01 / 11)
    assert all(b - a == pytest.approx(0.01 / 11) for a, b in itertools.pairwise(rates[:11]))
    assert rates[10] == max(rates) == pytest.approx(0.01)
    assert rates[100] == pytest.approx(0.01 if schedule == "constant" else 0.001)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:])), "it never rises again"


def test_linear_is_half_way_in_the_middle() -> None:
    training = section(schedule="linear", warmup_steps=0, final_learning_rate=0.0)
    assert [learning_rate(training, step, 4) for step in range(5)] == pytest.approx([0.01, 0.0075, 0.005, 0.0025, 0])


def test_wsd_is_stable_then_falls_in_the_last_part() -> None:
    training = section(schedule="wsd", decay_share=0.2, final_learning_rate=0.0)
    rates = [learning_rate(training, step, 100) for step in range(101)]
    assert set(rates[10:81]) == {0.01}
    assert rates[80:] == pytest.approx([0.01 * (100 - step) / 20 for step in range(80, 101)])


def test_a_run_that_is_all_warm_up() -> None:
    rates = [learning_rate(section(steps=4, warmup_steps=4), step, 4) for step in range(5)]
    assert rates == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
