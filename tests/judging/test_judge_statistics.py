"""What scores say: against formulas, against brute force, and where the truth is known."""

import itertools
import math
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import optimize, special, stats

from scratchlab.errors import UsageError
from scratchlab.judging.agreement import Agreement, agreement, of_repeats, preferences, steadiness
from scratchlab.judging.check_words import flags, notes, percent, points
from scratchlab.judging.checks import check, share
from scratchlab.judging.ranking import bradley_terry, rank
from scratchlab.judging.scores import Scores, estimate, mean_of, noise_of
from scratchlab.judging.verdicts import Figures, against_baseline, judged_against

Floats = npt.NDArray[np.float64]
ROOT = Path(__file__).parents[2]
NAMES = ("a", "b", "c", "d")


def table(values_QRE: Floats, n_models: int, places: Floats | None = None) -> Scores:
    shape = values_QRE.shape
    turns = np.linspace(-0.5, 0.5, shape[0] * shape[1]).reshape(shape[1], shape[0]).T
    places = np.broadcast_to(np.arange(shape[2]), shape).astype(float) if places is None else places
    names = (*NAMES[:n_models], *("the reference", "a bad answer")[: shape[2] - n_models])
    return Scores(names, n_models, values_QRE, places, np.repeat(turns[:, :, None], shape[2], 2))


# Differences and verdicts.


def test_a_difference_is_a_paired_t_over_questions() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(50, 10, (40, 3, 3)) + rng.normal(0, 20, (40, 1, 1))
    values[:, :, 2] += 9
    _, versus = judged_against(values, NAMES[:3], 0, 1.0)
    apart = values.mean(1)[:, 2] - values.mean(1)[:, 0]
    right: Any = stats.ttest_1samp(apart, 0)
    low, high = right.confidence_interval(0.95)
    assert (versus.effect, versus.p) == (pytest.approx(apart.mean()), pytest.approx(right.pvalue))
    assert (versus.low, versus.high) == (pytest.approx(low), pytest.approx(high))
    assert versus.verdict == "helps"
    assert versus.sentence.startswith("helps: ")
    assert versus.sentence.endswith("higher (better) over 40 questions")


def test_verdicts_are_the_words_of_a_study() -> None:
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 5, (400, 1, 3))
    values = 50 + noise + np.array([0.0, 0.1, -9.0])
    same, worse = judged_against(values, NAMES[:3], 0, 3.0)
    assert (same.verdict, worse.verdict) == ("negligible", "hurts")
    (open_one,) = judged_against(values[:12, :, :2] + np.array([0, 2.0]), NAMES[:2], 0, 1.0)
    assert open_one.verdict == "undecided"
    assert open_one.needed is not None
    assert f"about {open_one.needed:,} more questions would settle it" in open_one.sentence
    assert open_one.p_holm == open_one.p


def test_many_models_are_adjusted_for() -> None:
    rng = np.random.default_rng(3)
    versus = judged_against(rng.normal(50, 9, (30, 1, 4)), NAMES, 1, 1.0)
    assert [one.model for one in versus] == ["a", "c", "d"]
    smallest = min(versus, key=lambda one: one.p)
    assert smallest.p_holm == pytest.approx(min(1, 3 * smallest.p))


def test_a_shift_or_a_scale_changes_no_verdict() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(50, 9, (30, 2, 3)) + np.array([0, 3, -5])
    one = judged_against(values, NAMES[:3], 0, 1.0)
    other = judged_against(values * 0.1 + 7, NAMES[:3], 0, 0.1)
    assert [(a.verdict, a.needed, round(a.p, 9)) for a in one] == [(b.verdict, b.needed, round(b.p, 9)) for b in other]


def test_what_failed_is_left_out_and_counts_for_nothing() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(50, 9, (30, 2, 3))
    holes = values.copy()
    holes[3], holes[7, 1] = np.nan, np.nan
    (one, _) = judged_against(holes, NAMES[:3], 0, 1.0)
    rest = np.delete(values, 3, 0)
    means = rest.mean(1)
    means[6] = rest[6, 0]
    assert one.n == 29
    assert one.effect == pytest.approx((means[:, 1] - means[:, 0]).mean())
    with pytest.raises(UsageError, match="two questions at least, and there is 1"):
        judged_against(holes[3:5], NAMES[:3], 0, 1.0)


def test_a_ratio_of_sums_is_compared_where_both_have_one() -> None:
    sums = np.array([[1.0, 3.0], [2.0, 5.0], [np.nan, 9.0], [4.0, 8.0]])
    sizes = np.array([1.0, 2.0, 3.0, 4.0])
    (one,) = against_baseline(Figures(("a", "b"), sums, sizes, False, None), 0)
    assert one.n == 3
    assert one.effect == pytest.approx(9 / 7)


def test_the_two_noises_are_told_apart() -> None:
    rng = np.random.default_rng(6)
    found = [noise_of(rng.normal(0, 3, (60, 1)) + rng.normal(0, 5, (60, 4))) for _ in range(200)]
    seen = [one for one in found if one is not None]
    assert np.mean([one.of_repeats for one in seen]) == pytest.approx(5, rel=0.02)
    assert np.mean([one.of_questions**2 for one in seen]) == pytest.approx(9, rel=0.1)
    assert np.mean([one.share_of_repeats for one in seen]) == pytest.approx((25 / 4) / (9 + 25 / 4), rel=0.05)
    assert noise_of(rng.normal(0, 1, (60, 1))) is None


# Ranking.


def test_two_models_have_the_strengths_of_their_wins() -> None:
    """But for the one level question that is added."""
    wins = np.full((10, 2, 2), np.nan)
    wins[:, 0, 1] = [1, 1, 1, 1, 1, 1, 0.5, 0, 0, 0]
    wins[:, 1, 0] = 1 - wins[:, 0, 1]
    strengths, errors = bradley_terry(wins)
    assert errors is not None
    assert strengths[0] - strengths[1] == pytest.approx(special.logit(7 / 11))
    assert strengths.sum() == pytest.approx(0)
    p = 7 / 11
    residuals = wins[:, 0, 1] - p
    error = math.sqrt((residuals**2).sum() * 10 / 9) / (11 * p * (1 - p))
    assert errors[0] == pytest.approx(error / 2)  # of half the difference


def test_strengths_are_the_likeliest() -> None:
    rng = np.random.default_rng(7)
    values = rng.normal(0, 1, (40, 2, 4)) + np.array([0, 0.3, 0.6, 1.2])
    wins = (np.sign(values[:, :, :, None] - values[:, :, None, :]) + 1).mean(1) / 2
    wins[:, range(4), range(4)] = np.nan

    def loss(free: Floats) -> float:
        s = np.r_[free, -free.sum()]
        total = np.nansum(wins, 0) + (1 - np.eye(4)) / 2
        return -float((total * special.log_expit(s[:, None] - s)).sum())

    best = optimize.minimize(loss, np.zeros(3), tol=1e-12).x
    assert bradley_terry(wins)[0][:3] == pytest.approx(best, abs=1e-4)


def test_models_that_cannot_be_told_apart_share_their_ranks() -> None:
    rng = np.random.default_rng(8)
    ranking = rank(rng.normal(0, 10, (60, 1, 4)) + np.array([0.0, 1.0, 30.0, -40.0]), NAMES)
    found = {one.model: (one.best, one.worst) for one in ranking}
    assert found == {"c": (1, 1), "a": (2, 3), "b": (2, 3), "d": (4, 4)}
    assert [one.model for one in ranking][0::3] == ["c", "d"]
    assert ranking[0].low is not None
    assert ranking[0].low < ranking[0].strength < (ranking[0].high or 0)


def test_what_never_lost_has_no_end_and_still_a_rank() -> None:
    values = np.tile(np.array([10.0, 20.0, 30.0]), (12, 1, 1))
    ranking = rank(values, NAMES[:3])
    assert [(one.model, one.low, one.high) for one in ranking] == [
        ("c", None, None),
        ("b", None, None),
        ("a", None, None),
    ]
    assert [(one.best, one.worst) for one in ranking] == [(1, 1), (2, 2), (3, 3)]
    assert all(math.isfinite(one.strength) for one in ranking)
    few = rank(values[:4], NAMES[:3])  # by the sign of four questions nothing is shown
    assert {(one.best, one.worst) for one in few} == {(1, 3)}


def test_ties_are_half_a_win() -> None:
    ranking = rank(np.full((9, 2, 3), 50.0), NAMES[:3])
    assert [(one.wins.value, one.strength, one.best, one.worst) for one in ranking] == [(0.5, 0.0, 1, 3)] * 3


# Agreement.


def krippendorff(units: list[list[float]]) -> float:
    """By its definition: observed and expected disagreement over all pairs of values, each pair both ways round."""
    both = [unit for one in units if len(one) > 1 for unit in (one, [-value for value in one])]
    values = [value for unit in both for value in unit]
    n = len(values)
    counts = {value: values.count(value) for value in (-1.0, 0.0, 1.0)}

    def apart(a: float, b: float) -> float:
        low, high = sorted((a, b))
        between = sum(count for value, count in counts.items() if low <= value <= high)
        return (between - (counts[a] + counts[b]) / 2) ** 2  # the ordinal metric

    seen = sum(sum(apart(a, b) for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1) for unit in both) / n
    expected = sum(apart(a, b) for a, b in itertools.permutations(values, 2)) / (n * (n - 1))
    return 1 - seen / expected


def test_alpha_is_krippendorffs() -> None:
    rng = np.random.default_rng(9)
    raters = [np.sign(np.round(rng.normal(0, 1, (15, 3)))) for _ in range(3)]
    raters[1] = np.where(rng.random((15, 3)) < 0.7, raters[0], raters[1])
    raters[2][4:9] = np.nan
    raters[1][4:6] = np.nan  # of these one rater alone has an opinion
    units = [[float(r[q, p]) for r in raters if np.isfinite(r[q, p])] for q in range(15) for p in range(3)]
    found = agreement(raters)
    assert found is not None
    assert found.alpha == pytest.approx(krippendorff(units))
    assert (found.pairs, found.questions) == (13 * 3, 13)
    assert found.low is not None
    assert found.low < found.alpha < (found.high or 0)


def test_full_agreement_chance_and_nobody() -> None:
    rng = np.random.default_rng(10)
    one = np.sign(rng.normal(0, 1, (300, 3)))
    same, opposite, chance = (agreement([one, other]) for other in (one, -one, np.sign(rng.normal(0, 1, (300, 3)))))
    assert same is not None
    assert opposite is not None
    assert chance is not None
    assert same.alpha == 1
    assert opposite.alpha == pytest.approx(-1, abs=0.01)
    assert chance.alpha == pytest.approx(0, abs=0.1)
    assert same.same is not None
    assert same.same.value == 1
    always = agreement([np.ones((50, 1)), np.ones((50, 1))])  # a model that is always better is no chance agreement
    assert always is not None
    assert always.alpha == 1
    nobody = agreement([np.zeros((5, 1)), np.zeros((5, 1))])
    assert isinstance(nobody, Agreement)
    assert (nobody.alpha, nobody.same) == (None, None)
    assert agreement([one, np.full_like(one, np.nan)]) is None


def test_repeats_of_a_steady_judge_agree_and_of_an_unsteady_one_less() -> None:
    rng = np.random.default_rng(11)
    worth = rng.normal(50, 10, (80, 1, 3))
    found = [of_repeats(worth + rng.normal(0, noise, (80, 3, 3)), 3) for noise in (1, 10, 100)]
    alphas = [one.alpha for one in found if one is not None and one.alpha is not None]
    assert alphas[0] > 0.85 > alphas[1] > 0.2 > abs(alphas[2])
    steady = [mean_of(steadiness(worth + rng.normal(0, noise, (80, 2, 3)), 3), 0) for noise in (1, 10, 100)]
    assert steady[0] > 0.9 > steady[1] > steady[2] > 0.4
    assert mean_of(steadiness(np.full((9, 2, 3), 5.0), 3), 0) == 0.5  # a judge that always ties says nothing
    assert of_repeats(worth, 3) is None


def test_preferences_go_by_means_that_rounding_does_not_part() -> None:
    repeats = np.array([[[0.1, 0.3, np.nan], [0.2, 0.2, np.nan], [0.3, 0.1, np.nan]]])
    assert repeats[0, :, 0].sum() != repeats[0, :, 1].sum()
    values = mean_of(repeats, 1)
    assert preferences(values, 2).tolist() == [[0.0]]
    assert np.isnan(preferences(values, 3)).tolist() == [[False, True, True]]


# Checks.


def test_shares_have_wilsons_interval() -> None:
    found = share(np.array([1.0] * 19 + [0.0] + [np.nan]))
    right = stats.binomtest(19, 20).proportion_ci(method="wilson")
    assert found is not None
    assert (found.value, found.n) == (0.95, 20)
    assert (found.low, found.high) == (pytest.approx(right.low), pytest.approx(right.high))
    always = share(np.ones(10))
    assert always is not None
    assert percent(always) == "100% (72% to 100%)"


def simulations() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks/judging_simulations.py"))


def raised(**fault: Any) -> list[str]:
    made = simulations()
    scores, lengths = made["draw"](made["World"](**fault), np.random.default_rng(12))
    return flags(check(scores, lengths))


def test_a_fair_judge_raises_no_flag() -> None:
    assert raised() == []


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "drifting": ({"drift": 15.0}, r"drifting: from its first reply to its last the anchors gained \+\d+.* points"),
    "tiring": ({"tires": 25.0}, r"drifting: .* put the anchors closer together, by -\d+"),
    "partial": (
        {"place": 20.0},
        r"partial: place [16] of 6 is worth [+-]\d+.* points. Every model stands there",
    ),
    "lazy": ({"lazy": 0.4}, r"lazy: in 4\d%|lazy: in 3\d%"),
    "blind": ({"blind": True}, "blind: it puts the reference answer above a wrong one in .* Its scores mean nothing"),
    "careless": ({"anchors": (60.0, 50.0), "noise": 8.0}, "careless: .* Its scores mean little"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_flagged_in_words(fault: str) -> None:
    import re

    settings, words = FAULTS[fault]
    found = raised(**settings)
    assert any(re.search(words, flag) for flag in found), found


def test_a_drift_is_seen_within_questions_where_they_are_repeated() -> None:
    """Hard and easy references would hide it, were questions not held against themselves."""
    rng = np.random.default_rng(16)
    values = np.full((40, 2, 3), 50.0)
    scores = table(values, 1)
    values[:, :, 1:] += rng.normal(0, 25, (40, 1, 2)) + rng.normal(0, 1, (40, 2, 2)) + 4 * scores.turns[:, :, 1:]
    drift = check(scores, np.ones((40, 3))).drift
    assert drift is not None
    assert drift.low < 4 < drift.high
    assert drift.high - drift.low < 2


def test_a_preference_for_length_is_noted_and_no_flag() -> None:
    made = simulations()
    scores, lengths = made["draw"](made["World"](per_length=15.0), np.random.default_rng(13))
    found = check(scores, lengths)
    assert flags(found) == []
    (note,) = notes(found)
    assert "prefers the longer one in" in note
    assert "nothing here can tell" in note


def test_what_cannot_be_known_is_not_checked() -> None:
    rng = np.random.default_rng(14)
    alone = table(rng.normal(50, 9, (20, 1, 4)), 2, places=np.zeros((20, 1, 4)))
    found = check(alone, np.ones((20, 4)))
    assert (found.all_alike, found.places, found.longer_wins) == (None, None, None)
    few = check(table(rng.normal(50, 9, (5, 1, 4)), 2), np.ones((5, 4)))
    assert (few.drift, few.places) == (None, None)
    unanchored = check(table(rng.normal(50, 9, (20, 1, 2)), 2), np.ones((20, 2)))
    assert (unanchored.reference_above_bad, unanchored.drift) == (None, None)
    holes = table(np.where(rng.random((20, 2, 1)) < 0.3, np.nan, rng.normal(50, 9, (20, 2, 4))), 2)
    assert math.isfinite(check(holes, rng.random((20, 4))).drift.points)  # pyright: ignore[reportOptionalMemberAccess]


def test_points_are_written_to_the_digits_they_bear() -> None:
    found = estimate(np.random.default_rng(15).normal(3, 1, 50))
    assert points(found) == f"+{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


# By simulation: a little of what benchmarks/judging_simulations.py does in full.


def test_the_balanced_order_takes_the_places_out_of_the_models_scores() -> None:
    found = simulations()["order_part"](60)
    low, high = found["balanced"]["interval"]
    assert low < 0 < high
    assert high - low < 1.2
    assert found["as listed"]["interval"][1] < -10
    assert found["as listed"]["false_claims"] > 0.9


def test_intervals_hold_the_truth_and_claims_are_rarely_false() -> None:
    made = simulations()
    found = made["rates"](made["World"](questions=40, repeats=1, place=8.0), 100, "test")
    assert found.claims <= 0.1
    assert found.wrong_ranks <= 0.1
    assert min(found.covered_scores, found.covered_differences, found.covered_strengths) > 0.92
