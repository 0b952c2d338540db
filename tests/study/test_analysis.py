"""The analysis of a study: held to statsmodels, to figures worked out by hand, to invariances, to simulation."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula import api as formulas
from statsmodels.stats.multitest import multipletests

from scratchlab.errors import ScratchlabError, UsageError
from scratchlab.study.analysis import Analysis, analyze
from scratchlab.study.least_squares import brown_forsythe, fit_blocks, noisier_arms
from scratchlab.study.multiplicity import benjamini_hochberg, holm, shared_noise
from scratchlab.study.table import Cell, Table, read_noise, read_table

Floats = npt.NDArray[np.float64]
PUBLIC = Path(__file__).parents[2] / "studies/public"
HARDLY = 1e-6  # a smallest effect that nothing is below


def table(values: Floats | Sequence[Sequence[float]], higher_is_better: bool = False) -> Table:
    """Rows are arms, the baseline first; inf is a run that diverged, NaN one that is not there."""
    cells = [
        Cell(f"arm {a}" if a else "base", str(block), None if math.isinf(value) else float(value))
        for a, row in enumerate(values)
        for block, value in enumerate(row)
        if not math.isnan(value)
    ]
    return Table(tuple(cells), "base", higher_is_better=higher_is_better)


def drawn(seed: int, arms: int = 5, blocks: int = 4) -> Floats:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(arms, blocks)) + rng.normal(0, 2, blocks) + rng.normal(0, 1.5, (arms, 1)) + 5


def by_formula(cells: Table, extra: str = "") -> tuple[pandas.Series, pandas.DataFrame, pandas.Series, float]:
    frame = pandas.DataFrame(
        [{"y": c.value, "arm": c.arm, "block": c.block, "machine": c.hardware or ""} for c in cells.cells]
    )
    fit = formulas.ols(f"y ~ C(arm, Treatment('base')) + C(block){extra}", frame).fit()
    ours = [name for name in fit.params.index if "arm" in name]
    return fit.params[ours], fit.conf_int().loc[ours], fit.pvalues[ours], fit.df_resid


@pytest.mark.parametrize("lost", [(), ((1, 0), (3, 2)), ((0, 1), (2, 1))])
def test_effects_intervals_and_p_are_those_of_statsmodels(lost: Sequence[tuple[int, int]]) -> None:
    values = drawn(1)
    for place in lost:
        values[place] = np.nan
    found = analyze(table(values))
    effects, intervals, p, freedom = by_formula(table(values))
    assert [arm.effect for arm in found.arms] == pytest.approx(list(effects))
    assert [(arm.low, arm.high) for arm in found.arms] == [pytest.approx(row) for row in intervals.to_numpy().tolist()]
    assert [arm.p for arm in found.arms] == pytest.approx(list(p))
    assert {arm.freedom for arm in found.arms} == {freedom}
    if not lost:
        assert freedom == (5 - 1) * (4 - 1)


def test_unlike_hardware_is_a_covariate_where_that_was_asked_for() -> None:
    values = drawn(2)
    machines = np.array([["slow", "fast"][(a * b) % 2] for a in range(5) for b in range(4)])
    cells = [replace(cell, hardware=str(m)) for cell, m in zip(table(values).cells, machines, strict=True)]
    with pytest.raises(UsageError, match="Run all arms of a block on like hardware, or say --mixed-hardware"):
        analyze(Table(tuple(cells), "base"))
    mixed = Table(tuple(cells), "base", mixed_hardware=True)
    effects, _, p, freedom = by_formula(mixed, " + C(machine)")
    found = analyze(mixed)
    assert [arm.effect for arm in found.arms] == pytest.approx(list(effects))
    assert [arm.p for arm in found.arms] == pytest.approx(list(p))
    assert found.freedom == freedom == 11
    assert "covariate" in " ".join(found.notes)


def test_an_example_worked_out_by_hand() -> None:
    # Three rows that differ by a constant alone: no noise at all.
    found = analyze(table([[1, 2, 3], [-1, 0, 1], [2, 3, 4]]), 0.5)
    assert [(arm.effect, arm.p, arm.verdict) for arm in found.arms] == [
        (pytest.approx(-2), 0, "helps"),
        (pytest.approx(1), 0, "hurts"),
    ]
    found = analyze(table([[1, 2, 4], [0, 3, 2]]), HARDLY)
    (arm,) = found.arms  # differences -1, 1, -2: mean -2/3, SD 1.5275
    assert arm.effect == pytest.approx(-2 / 3)
    assert arm.error == pytest.approx(math.sqrt(7 / 3 / 3))
    assert arm.p == pytest.approx(stats.ttest_rel([0, 3, 2], [1, 2, 4]).pvalue)
    assert found.residual_sd == pytest.approx(math.sqrt(7 / 3 / 2))


def test_adjustments_are_those_of_statsmodels() -> None:
    p = [0.01, 0.04, 0.03, 0.005, 0.9]
    assert holm(p) == pytest.approx(list(multipletests(p, method="holm")[1]))
    assert benjamini_hochberg(p) == pytest.approx(list(multipletests(p, method="fdr_bh")[1]))
    assert holm([0.01, 0.02], family=4) == pytest.approx([0.04, 0.06])


def test_the_joint_test_of_single_runs() -> None:
    assert shared_noise([4.302653], 3) == [pytest.approx(0.05, abs=1e-6)]  # of one arm it is the t test
    rng = np.random.default_rng(0)
    noise, arms = rng.normal(size=(200_000, 3)), rng.normal(size=(200_000, 4))
    t = np.abs(arms - noise.mean(1)[:, None]) / (noise.std(axis=1, ddof=1) * math.sqrt(4 / 3))[:, None]
    above = float((t.max(1) > 5).mean())
    assert shared_noise([1.0, 5.0, 0.5, -2.0], 3)[1] == pytest.approx(above, abs=4 * math.sqrt(above / 200_000))
    assert shared_noise([5.0, 2.0], 3)[1] == pytest.approx(2 * stats.t.sf(2, 2)), "stepped down: the last one by itself"


def test_brown_forsythe_of_two_groups_is_that_of_scipy() -> None:
    residuals = np.random.default_rng(3).normal(size=(2, 6))
    expected = stats.levene(*residuals, center="median").pvalue
    assert brown_forsythe(residuals) == pytest.approx([expected, expected])


def test_an_arm_that_scatters_more_is_judged_by_its_own_pairs() -> None:
    values = drawn(4, arms=6, blocks=6)
    values[2] += np.array([9, -8, 7, -9, 8, -7])
    found = analyze(table(values))
    own = stats.ttest_rel(values[2], values[0])
    arm = found["arm 2"]
    assert "its own paired t, 6 pairs" in arm.method
    assert arm.p == pytest.approx(own.pvalue)
    assert (arm.low, arm.high) == pytest.approx(own.confidence_interval())
    assert any("scatters more" in note for note in arm.notes)
    assert all("least squares" in other.method for other in found.arms if other is not arm)
    values[0] += np.array([30, -30, 30, -30, 30, -30])
    assert {arm.method for arm in analyze(table(values)).arms} == {"its own paired t, 6 pairs"}, (
        "the baseline is in all"
    )


def test_of_two_arms_no_noise_can_be_told_from_the_other() -> None:
    assert not noisier_arms(fit_blocks(drawn(5, arms=2, blocks=8) * np.array([[1.0], [50.0]])).residuals).any()


# Verdicts.


def test_verdicts_come_in_their_order() -> None:
    small = table([[0, 0.1, -0.1, 0], [0.02, 0.12, -0.08, 0.021], [1, 1.1, 0.9, 1.001]])
    assert [arm.verdict for arm in analyze(small, 0.1).arms] == ["negligible", "hurts"]
    assert [arm.verdict for arm in analyze(small, 0.001).arms] == ["hurts", "hurts"], "small, and sure"
    assert [arm.verdict for arm in analyze(replace(small, higher_is_better=True), 0.001).arms] == ["helps", "helps"]
    assert [arm.verdict for arm in analyze(table(drawn(6, 2, 3)), 0.001).arms] == ["undecided"]


def test_negligible_is_two_one_sided_tests_at_five_percent() -> None:
    values = drawn(7, 3, 5)
    arm = analyze(table(values), 1.0).arms[0]
    assert arm.effect is not None
    assert arm.low_90 is not None
    assert arm.high_90 is not None
    edge = max(abs(arm.low_90), abs(arm.high_90))
    assert analyze(table(values), edge * 1.001).arms[0].verdict == "negligible"
    assert analyze(table(values), edge * 0.999).arms[0].verdict != "negligible"
    half = stats.t.ppf(0.95, arm.freedom) * arm.error
    assert (arm.low_90, arm.high_90) == pytest.approx((arm.effect - half, arm.effect + half))


def test_the_smallest_effect_is_a_thousandth_or_a_deviation() -> None:
    wide, narrow = analyze(table([[3, 4, 5], [3, 4, 5]])), analyze(table([[4, 4.001, 4], [4, 4, 4]]))
    assert wide.smallest_effect == pytest.approx(1)
    assert narrow.smallest_effect == pytest.approx(0.004, rel=1e-3)


def test_where_all_is_zero_nothing_is_smallest() -> None:
    found = analyze(table(np.zeros((2, 3))))
    assert found.smallest_effect is None
    assert "it takes --smallest-effect" in found.smallest_effect_is
    assert (found["arm 1"].verdict, found["arm 1"].seeds_needed) == ("undecided", None)


def test_holm_counts_declared_interventions_that_have_not_run() -> None:
    values = drawn(8, 3, 5)
    p = analyze(table(values)).arms[0].p
    found = analyze(table(values), declared=["arm 1", "not yet", "nor this"])
    assert p is not None
    assert found["arm 1"].p_holm == pytest.approx(min(1, 3 * p))
    assert found["arm 2"].exploratory
    assert found["arm 2"].p_holm is None
    assert found["arm 2"].p_exploratory == pytest.approx(found["arm 2"].p)


# What must not change a verdict.


FIGURES = st.integers(0, 10**6)


@settings(max_examples=40, deadline=None)
@given(seed=FIGURES, shift=st.floats(-50, 50), scale=st.floats(0.01, 100), order=st.randoms(use_true_random=False))
def test_names_of_seeds_order_of_rows_shift_and_scale_change_no_verdict(
    seed: int, shift: float, scale: float, order: object
) -> None:
    values, smallest = drawn(seed, 4, 5), 1.0
    first = analyze(table(values), smallest)
    moved = table(values * scale + shift)
    cells = list(moved.cells)
    order.shuffle(cells)  # pyright: ignore[reportAttributeAccessIssue]
    named = {str(block): f"seed {(block * 7 + seed) % 5}" for block in range(5)}
    renamed = Table(tuple(replace(cell, block=named[cell.block]) for cell in cells), "base")
    second = analyze(renamed, smallest * scale)
    for arm in first.arms:
        other = second[arm.name]
        assert other.verdict == arm.verdict
        assert other.seeds_needed == arm.seeds_needed
        assert arm.effect is not None
        assert arm.p is not None
        assert other.effect == pytest.approx(arm.effect * scale, rel=1e-6, abs=1e-9 * max(1, abs(shift)))
        assert other.p == pytest.approx(arm.p, rel=1e-5)


def test_a_mirrored_metric_mirrors_the_verdicts() -> None:
    values = drawn(9, 6, 5) + np.array([[0.0], [5], [-5], [0], [0], [0]])
    lower, higher = analyze(table(values), 0.1), analyze(table(-values, higher_is_better=True), 0.1)
    assert [arm.verdict for arm in lower.arms] == [arm.verdict for arm in higher.arms]
    assert "helps" in {arm.verdict for arm in lower.arms}
    assert "hurts" in {arm.verdict for arm in lower.arms}


# Looks.


def test_looks_split_the_level_and_an_early_claim_stands() -> None:
    rng = np.random.default_rng(10)
    values = rng.normal(size=(3, 8)) * 0.1
    values[1, :3] -= 5  # a clear gain, of which the later blocks know nothing
    early = analyze(table(values[:, :3]), HARDLY, looks=(3, 5, 8))
    assert (early.look, early.level) == (3, pytest.approx(0.005))
    assert early["arm 1"].verdict == "helps"
    late = analyze(table(values), HARDLY, looks=(3, 5, 8))
    assert (late.look, late.level) == (8, pytest.approx(0.03))
    assert late["arm 1"].verdict == "helps"
    assert late["arm 1"].decided_at == 3
    assert any("look after 3 blocks" in note for note in late["arm 1"].notes)
    assert late["arm 1"].p_holm == early["arm 1"].p_holm
    assert late["arm 2"].p_holm == late["arm 2"].p, "what is decided leaves the family"


def test_what_is_decided_leaves_the_family_though_its_later_p_be_the_larger() -> None:
    values = np.random.default_rng(10).normal(size=(3, 8)) * 0.1
    values[1] += np.array([-5, -5, -5, 5, 5, 5, 5, -5])
    values[2] -= 0.08
    late = analyze(table(values), HARDLY, looks=(3, 8))
    assert late["arm 1"].decided_at == 3
    assert late["arm 1"].p is not None
    assert late["arm 2"].p is not None
    assert late["arm 2"].p_holm == late["arm 2"].p


def test_an_early_look_asks_for_more() -> None:
    apart = np.array([1.0, 1.2, 0.8])  # paired t: p = .013
    values = np.array([[0.0, 3, 6], [0, 3, 6]])
    values[1] += apart
    assert 0.005 < stats.ttest_1samp(apart, 0).pvalue < 0.05
    assert analyze(table(values), HARDLY).arms[0].verdict == "hurts"
    assert analyze(table(values), HARDLY, looks=(3, 5, 8)).arms[0].verdict == "undecided"


def test_before_the_first_look_there_is_no_verdict() -> None:
    values = np.array([[1.0, 1.1], [9.0, 9.1], [1.0, 1.11]])
    found = analyze(table(values), 0.5, looks=(3, 5))
    assert {arm.verdict for arm in found.arms} == {"not judged"}
    assert "first look, at 3" in " ".join(found.notes)
    assert found.arms[0].effect == pytest.approx(8)
    assert found.arms[0].low is not None
    peeks = {getattr(arm, name) for arm in found.arms for name in ("p", "p_holm", "p_exploratory", "seeds_needed")}
    assert peeks == {None}
    assert found.arms[0].sentence == "not judged yet: 8.0000 higher (worse) over 2 seeds so far"
    assert not found.settled
    assert analyze(table(values), 0.5)["arm 1"].verdict == "hurts"


def test_a_look_waits_for_its_blocks_but_not_for_arms_that_are_decided() -> None:
    values = drawn(11, 3, 5)
    values[1, :3] -= 500
    values[1, 3:] = np.nan
    assert analyze(table(values), HARDLY, looks=(3, 5)).look == 5
    values[2, 4] = np.nan
    assert analyze(table(values), HARDLY, looks=(3, 5)).look == 3
    assert analyze(table(values), HARDLY, looks=(3, 5), reached=5).look == 5


# Runs that diverged, or are not there.


def test_a_missing_run_is_told_and_nothing_is_filled_in() -> None:
    values = drawn(12)
    values[2, 1] = np.nan
    found = analyze(table(values))
    assert found["arm 2"].n == 3
    assert any("arm 2 has no run in block 1" in note for note in found.notes)


def test_arms_that_miss_the_same_blocks_are_told_together() -> None:
    values = drawn(12)
    values[2:, 3] = np.nan
    found = analyze(table(values), looks=[4])
    (note,) = [note for note in found.notes if note.startswith("missing")]
    assert "arm 2, arm 3" in note
    assert "have no run in block 3" in note
    assert any(note.endswith("4 complete blocks: there are 3") for note in found.notes)


def test_an_arm_without_a_link_to_the_baseline_has_no_effect() -> None:
    n = np.nan
    found = analyze(table([[1, 2, n, n], [1.5, 2.4, n, n], [n, n, 3, 4]]))
    assert found["arm 2"].effect is None
    assert found["arm 2"].verdict == "undecided"
    assert found["arm 1"].effect == pytest.approx(0.45)


def test_diverged_runs_are_a_result() -> None:
    inf = math.inf
    values = drawn(13, 4, 6)
    values[1] = inf
    values[2, 0] = inf
    found = analyze(table(values))
    gone, some = found["arm 1"], found["arm 2"]
    assert (gone.verdict, gone.effect, gone.diverged, gone.n) == ("hurts", None, 6, 0)
    assert gone.p == pytest.approx(stats.fisher_exact([[6, 0], [0, 6]]).pvalue)
    assert some.diverged == 1
    assert some.p_diverged == pytest.approx(1)
    assert "which survived" in " ".join(some.notes)
    assert (gone.sentence, gone.notes) == (
        "hurts: it does not train at these settings: all 6 of its runs diverged",
        (),
    )


def test_an_arm_that_never_trains_is_said_not_to_where_its_runs_are_too_few_for_a_claim() -> None:
    values = drawn(13, 4, 3)
    values[1] = math.inf
    gone = analyze(table(values))["arm 1"]
    assert (gone.verdict, gone.notes) == ("undecided", ())
    assert gone.sentence.startswith(
        "undecided: it does not train at these settings: all 3 of its runs diverged; so few"
    )


def test_a_claim_by_the_rate_of_divergence_says_the_share_once() -> None:
    values = drawn(13, 3, 12)
    values[1, :9] = math.inf
    some = analyze(table(values), HARDLY)["arm 1"]
    assert (some.verdict, some.sentence) == ("hurts", "hurts: it diverges more often than the baseline")
    assert " ".join(some.notes).count("9 of its 12 runs diverged") == 1


def test_what_diverges_more_is_never_negligible() -> None:
    values = np.tile(drawn(14, 1, 6), (3, 1)) + np.random.default_rng(0).normal(0, 0.01, (3, 6))
    assert [arm.verdict for arm in analyze(table(values), 1.0).arms] == ["negligible", "negligible"]
    values[1, 2] = math.inf
    assert [arm.verdict for arm in analyze(table(values), 1.0).arms] == ["undecided", "negligible"]


def test_a_baseline_that_always_diverges_is_told() -> None:
    with pytest.raises(ScratchlabError, match="Every run of the baseline 'base' diverged"):
        analyze(table([[math.inf] * 3, [1, 2, 3]]))


@pytest.mark.parametrize("looks", [(5, 3), (), (1, 3), (3, 3)])
def test_looks_that_cannot_be_are_refused(looks: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="growing numbers of blocks"):
        analyze(table(drawn(15)), looks=looks)


# One run an arm.


def test_the_public_numbers_every_gain_is_undecided_and_tying_hurts() -> None:
    noise = read_noise(PUBLIC / "gpjt-noise.csv", "baseline")
    assert stats.t.ppf(0.975, 2) * np.std(noise, ddof=1) * math.sqrt(4 / 3) == pytest.approx(0.094, abs=5e-4)
    for name in ("gpjt.csv", "gpjt-stack.csv"):
        found = analyze(read_table(PUBLIC / name, "baseline"), noise=noise)
        verdicts = {arm.name: arm.verdict for arm in found.arms}
        assert verdicts.pop("weight tying") == "hurts"
        assert set(verdicts.values()) == {"undecided"}
        assert all(arm.high is not None and arm.effect is not None for arm in found.arms)
        assert found.arms[0].high - found.arms[0].effect == pytest.approx(0.094, abs=5e-4)  # pyright: ignore
        assert all(arm.seeds_needed for arm in found.arms[1:])


def test_without_noise_single_runs_say_nothing() -> None:
    found = analyze(read_table(PUBLIC / "gpjt.csv", "baseline"))
    assert {(arm.verdict, arm.p, arm.seeds_needed) for arm in found.arms} == {("undecided", None, None)}
    assert "one run an arm says nothing" in " ".join(found.notes)


def test_a_baseline_of_several_runs_is_noise_enough() -> None:
    n = np.nan
    found = analyze(table([[1.0, 1.1, 0.9], [1.4, n, n]]))
    alone = analyze(table([[1.0], [1.4]]), noise=[1.0, 1.1, 0.9])
    assert found.arms[0].p == alone.arms[0].p == pytest.approx(2 * stats.t.sf(0.4 / (0.1 * math.sqrt(4 / 3)), 2))


# Simulation, the fast version of benchmarks/study_simulations.py.


def studies(
    seed: int, effect: float, blocks: int = 5, sds: Sequence[float] = (1.0,) * 9, n: int = 300
) -> list[Analysis]:
    rng = np.random.default_rng(seed)
    found: list[Analysis] = []
    for _ in range(n):
        values = rng.normal(size=(9, blocks)) * np.array(sds)[:, None] + 2 * rng.normal(size=blocks)
        values[1] += effect
        found.append(analyze(table(values), HARDLY))
    return found


def above(nominal: float, n: int) -> float:
    """What a share that is `nominal` stays below in all but one case of a thousand."""
    return float(stats.binom.ppf(0.999, n, nominal) / n)


@pytest.mark.parametrize("noisy", [1.0, 2.5])
def test_useless_changes_are_claimed_in_five_studies_of_a_hundred_at_most(noisy: float) -> None:
    found = studies(1, 0.0, sds=(1, noisy, noisy, noisy, noisy, 1, 1, 1, 1))
    claims = np.mean([any(arm.verdict != "undecided" for arm in one.arms) for one in found])
    assert claims <= above(0.05, len(found))
    if noisy == 1:
        held = np.mean([arm.low <= 0 <= arm.high for one in found for arm in one.arms])  # pyright: ignore
        assert 0.93 <= held <= 0.97  # 2,400 intervals, of 300 studies


@pytest.mark.parametrize(("blocks", "expected"), [(3, 0.69), (5, 0.96)])
def test_an_effect_of_three_deviations_is_found_as_often_as_promised(blocks: int, expected: float) -> None:
    found = studies(2, 3.0, blocks)
    share = np.mean([one.arms[0].verdict == "hurts" for one in found])
    assert share == pytest.approx(expected, abs=0.03 + 2 * math.sqrt(expected * (1 - expected) / len(found)))


def test_fifty_arms_of_twenty_seeds_take_less_than_a_second_with_the_import() -> None:
    code = """
import time
start = time.process_time()  # not the time that other programs take
import numpy as np
from scratchlab.study.analysis import analyze
from scratchlab.study.table import Cell, Table
values = np.random.default_rng(0).normal(size=(50, 20))
cells = tuple(Cell(f"arm {a}", str(b), float(v)) for (a, b), v in np.ndenumerate(values))
analyze(Table(cells, "arm 0"))
print(time.process_time() - start)
"""
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(times) < 1, times


def test_the_json_names_come_first_and_are_the_promised_ones() -> None:
    report = json.loads(json.dumps(analyze(table(drawn(16))).to_json()))
    promised = ["name", "n", "mean", "effect", "low", "high", "p", "p_holm", "verdict", "seeds_needed"]
    assert list(report["arms"][0])[: len(promised)] == promised
