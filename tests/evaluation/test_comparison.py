"""Comparisons of models on the same items: against published figures, other ways of computing them, and simulation."""

import dataclasses
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from scratchlab.errors import UsageError
from scratchlab.evaluation import comparison
from scratchlab.evaluation.comparison import (
    Difference,
    compare_ratios,
    compare_shares,
    judge,
    mcnemar,
    tango_interval,
    units_needed,
)
from scratchlab.evaluation.replicates import compare_runs
from tiny import modest


@pytest.fixture(scope="module")
def simulations() -> ModuleType:
    """The benchmark that simulates comparisons."""
    path = Path(__file__).parents[2] / "benchmarks/comparison_simulations.py"
    spec = importlib.util.spec_from_file_location("comparison_simulations", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shares(both: int, only_a: int, only_b: int, none: int) -> Difference:
    counts = (both, only_a, only_b, none)
    return compare_shares(np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts))


# Choices.


def test_equals_a_published_example() -> None:
    """Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33: airways before and after a treatment."""
    found = shares(1, 1, 7, 12)
    assert found.difference == pytest.approx(-6 / 21)
    assert (found.low, found.high) == pytest.approx((-0.517, -0.026), abs=0.0005)
    assert found.p == pytest.approx(0.0391, abs=0.0001)


@modest
@given(only_a=st.integers(0, 40), only_b=st.integers(0, 40))
def test_mcnemar_is_the_exact_test_less_half_of_what_was_seen(only_a: int, only_b: int) -> None:
    differ = only_a + only_b
    if only_a == only_b:
        assert mcnemar(only_a, only_b) == pytest.approx(1)
        return
    exact = stats.binomtest(only_a, differ).pvalue
    assert mcnemar(only_a, only_b) == pytest.approx(exact - stats.binom.pmf(only_a, differ, 0.5))


@modest
@given(only_a=st.integers(0, 30), only_b=st.integers(0, 30), rest=st.integers(0, 50), swap=st.booleans())
def test_the_interval_holds_what_was_seen_and_turns_with_the_sides(
    only_a: int, only_b: int, rest: int, swap: bool
) -> None:
    n = max(2, only_a + only_b + rest)
    low, high = tango_interval(only_a, only_b, n, 0.95)
    assert -1 <= low <= (only_a - only_b) / n <= high <= 1
    assert tango_interval(only_b, only_a, n, 0.95) == pytest.approx((-high, -low), abs=1e-9)
    narrow = tango_interval(only_a, only_b, n, 0.90)
    assert low <= narrow[0] <= narrow[1] <= high
    z = stats.norm.isf(0.025)
    if only_a + only_b and abs(only_a - only_b) / np.sqrt(only_a + only_b) > z * 1.001:  # McNemar's score
        assert low > 0 or high < 0


def test_items_that_both_get_right_or_wrong_change_only_how_many_there_are() -> None:
    found, other = shares(90, 20, 5, 85), shares(0, 20, 5, 175)
    assert (found.p, found.low, found.high) == (other.p, other.low, other.high)
    assert found.error == pytest.approx(np.std([1] * 20 + [-1] * 5 + [0] * 175, ddof=1) / np.sqrt(200))


# Losses.


def losses(n: int, seed: int = 0, effect: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = np.ceil(np.exp(rng.normal(5, 0.4, n)))
    a = sizes * rng.normal(3, 0.5, n)
    return a, a + sizes * rng.normal(-effect, 0.1, n), sizes


def test_documents_of_one_length_give_a_paired_t_test() -> None:
    a, b, _ = losses(40)
    found = compare_ratios(a, b, np.full(40, 10.0))
    expected = stats.ttest_rel(a / 10, b / 10)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert (found.low_90, found.high_90) == pytest.approx(tuple(expected.confidence_interval(0.90)))


def test_many_documents_are_bootstrapped_and_agree_with_t(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, sizes = losses(3000, effect=0.004)
    found = compare_ratios(a, b, sizes, "documents")
    assert found.method == "bootstrap"
    assert found == compare_ratios(a, b, sizes, "documents"), "the same draws each time"
    monkeypatch.setattr(comparison, "MANY", 10**6)
    by_t = compare_ratios(a, b, sizes, "documents")
    assert by_t.method.startswith("t, 2")
    assert (found.low, found.high) == pytest.approx((by_t.low, by_t.high), abs=0.15 * found.error)
    assert found.p == pytest.approx(by_t.p, abs=0.02)


def test_one_long_document_leaves_little_to_rest_on() -> None:
    a, b, sizes = losses(30)
    long = sizes.copy()
    long[0] = 100 * sizes.max()
    found = compare_ratios(a / sizes * long, b / sizes * long, long, "documents")
    assert found.method == "t, 1 documents in effect"
    assert found.high - found.low > 10 * found.error


def test_a_single_item_cannot_be_compared() -> None:
    one = np.ones(1)
    with pytest.raises(UsageError, match=r"two documents at least, and there is 1"):
        compare_ratios(one, one, one, "documents")
    with pytest.raises(UsageError, match="two items at least"):
        compare_shares(one > 0, one > 0)


# Runs.


def test_runs_are_compared_by_the_t_tests_of_scipy() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=5), rng.normal(0.5, 2.0, 4)
    found, expected = compare_runs(a, b, paired=False), stats.ttest_ind(a, b, equal_var=False)
    assert (found.p, found.low, found.high) == pytest.approx((expected.pvalue, *expected.confidence_interval(0.95)))
    found, expected = compare_runs(a[:4], b, paired=True), stats.ttest_rel(a[:4], b)
    assert (found.p, found.low, found.high) == pytest.approx((expected.pvalue, *expected.confidence_interval(0.95)))
    alone, expected = compare_runs(a[:1], b, paired=False), stats.ttest_ind(a[:1], b)
    assert alone.p == pytest.approx(expected.pvalue)
    assert (alone.groups, found.groups) == (2, 1)
    half = stats.t.isf(0.025, 3) * b.std(ddof=1) * np.sqrt(1 + 1 / 4)  # the prediction interval
    assert (alone.low, alone.high) == pytest.approx((a[0] - b.mean() - half, a[0] - b.mean() + half))


# Verdicts.


def difference(value: float, error: float, n: int = 100) -> Difference:
    z, z_90 = 1.96 * error, 1.645 * error
    p = float(2 * stats.norm.sf(abs(value) / error))
    limits = {"low": value - z, "high": value + z, "low_90": value - z_90, "high_90": value + z_90}
    return Difference(a=value, b=0.0, error=error, p=p, n=n, unit="items", method="", variance=n * error**2, **limits)


def test_verdicts() -> None:
    clear, small, unclear = difference(0.10, 0.02), difference(0.006, 0.001), difference(0.02, 0.02)
    assert judge(clear, higher_is_better=True).word == "A is better"
    assert judge(clear, higher_is_better=False).word == "B is better"
    assert judge(small, higher_is_better=True).word == "A is better"
    assert judge(small, higher_is_better=True, smallest_effect=0.01).sentence == "no difference larger than 0.01"
    open_ = judge(unclear, higher_is_better=True)
    assert (open_.word, open_.needed, open_.effect) == ("undecided", 785, 0.02)
    assert open_.sentence == "undecided: about 785 items would be needed for 0.02"
    assert judge(unclear, higher_is_better=True, smallest_effect=0.05).needed == 126
    unlikely = judge(difference(0.03, 0.02), higher_is_better=True, smallest_effect=0.06).sentence
    assert unlikely == "undecided: 100 items would show 0.06 four times in five, so it is likely smaller"
    assert judge(difference(0.036, 0.02), higher_is_better=True).word == "undecided", "p is .07"
    for value in (0.05, -0.05):  # neither refuted nor found, on either side
        assert judge(difference(value, 0.03), True, smallest_effect=0.08).word == "undecided"
        assert judge(difference(value, 0.03), True, smallest_effect=0.11).word == "no difference"
    none = dataclasses.replace(unclear, a=0.0, p=1.0)
    assert judge(none, True).sentence == "undecided: no difference was seen; name the smallest that matters"


def test_a_verdict_does_not_depend_on_the_unit() -> None:
    a, b, sizes = losses(50, effect=0.03)
    found = compare_ratios(a, b, sizes)
    scaled = compare_ratios(1000 * a, 1000 * b, sizes)
    assert scaled.p == pytest.approx(found.p)
    for effect in (0.01, 0.05, 0.5):
        verdicts = judge(found, False, effect), judge(scaled, False, 1000 * effect)
        assert verdicts[0].word == verdicts[1].word
        assert verdicts[0].needed == verdicts[1].needed


def test_units_needed_are_those_of_textbooks() -> None:
    """Cohen's tables of t tests at 5% and 80%: 34 pairs for half a standard deviation, 64 a group, and so on."""
    assert [units_needed(1.0, effect) for effect in (0.1, 0.5, 1.0)] == [785, 34, 10]
    assert [units_needed(2.0, effect, groups=2) for effect in (0.5, 1.0)] == [64, 17], "of two groups"


# By simulation: few of what benchmarks/comparison_simulations.py does in full.

FEW = 300
SLACK = 0.05  # four standard errors of a rate of .05 among 300


def test_errors_are_nominal_where_there_is_no_difference(simulations: ModuleType) -> None:
    for draw in (
        simulations.Choices(200, 0.4, 0.4, 0.7).draw,
        simulations.Documents(30, 1.0).draw,
        simulations.Documents(300, 1.5).draw,
        simulations.Runs(4, 4, paired=True).draw,
        simulations.Runs(3, 6, paired=False).draw,
    ):
        found = simulations.rates(draw, 0.0, FEW, "null")
        assert found.claimed == pytest.approx(0.05, abs=SLACK), draw
        assert found.covered == pytest.approx(0.95, abs=SLACK), draw


def test_intervals_hold_a_true_difference_and_negligible_is_seldom_wrong(simulations: ModuleType) -> None:
    for draw in (simulations.Choices(300, 0.45, 0.4, 0.8).draw, simulations.Documents(60, 1.0, 0.05).draw):
        found = simulations.rates(draw, 0.05, FEW, "difference", smallest_effect=0.05)
        assert found.covered == pytest.approx(0.95, abs=SLACK), draw
        assert found.wrongly_negligible < 0.05 + SLACK, draw


def test_what_was_planned_for_is_found_four_times_in_five(simulations: ModuleType) -> None:
    choices = simulations.Choices(0, 0.45, 0.4, 0.9)
    documents = simulations.Documents(0, 0.5, 0.05)
    for planned, variance in ((choices, choices.discordant()), (documents, documents.variance())):
        n = units_needed(variance, 0.05)
        found = simulations.rates(dataclasses.replace(planned, n=n).draw, 0.05, FEW, "planned")
        assert found.claimed == pytest.approx(0.80, abs=0.09), planned


def test_random_halves_spread_as_the_printed_error_says(simulations: ModuleType) -> None:
    sizes, a, _ = simulations.Documents(500, 1.0).losses(np.random.default_rng(0))
    spread, printed = simulations.spread_over_halves(a, sizes, halves=2000)
    assert spread == pytest.approx(printed, rel=0.1)
