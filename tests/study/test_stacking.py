"""What a stack is worth beside its parts, and screens."""

import itertools

import numpy as np
import pytest

from scratchlab.errors import UsageError
from scratchlab.study.stacking import aliases, screen, screen_design, stacking
from scratchlab.study.table import Cell, Table

ARMS = {"base": 0.0, "a": -1.0, "b": -2.0, "both": -2.4, "both less a": -2.0, "both less b": -1.0}


def table(effects: dict[str, float], blocks: int = 5, noise: float = 0.1) -> Table:
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 3, blocks)
    return Table(
        tuple(
            Cell(arm, str(b), float(effect + shared[b] + rng.normal(0, noise)))
            for arm, effect in effects.items()
            for b in range(blocks)
        ),
        "base",
    )


def test_a_stack_beside_the_sum_of_its_parts() -> None:
    runs = table(ARMS)
    found = stacking(runs, "both", ["a", "b"], {"a": "both less a", "b": "both less b"})
    means = {arm: float(np.mean(runs.finished(arm))) for arm in runs.arms}
    assert found.predicted.value == pytest.approx(means["a"] + means["b"] - 2 * means["base"])
    assert found.observed.value == pytest.approx(means["both"] - means["base"])
    assert found.difference.value == pytest.approx(found.observed.value - found.predicted.value)
    assert found.difference.p < 0.01, "-2.4 is not -3"
    (_, a), (_, b) = found.members
    assert a is not None
    assert b is not None
    assert a.value == pytest.approx(means["both"] - means["both less a"])
    # both + base - a - b: four means of 5 runs
    widths = [one.high - one.low for one in (found.difference, found.observed)]
    assert widths[0] / widths[1] == pytest.approx((4 / 2) ** 0.5)
    assert stacking(runs, "both", ["a", "b"]).members[0][1] is None


def test_a_stack_without_its_runs_is_refused() -> None:
    with pytest.raises(UsageError, match="There is no run of 'c'"):
        stacking(table(ARMS), "both", ["a", "c"])
    with pytest.raises(UsageError, match="one block"):
        stacking(table(ARMS, blocks=1), "both", ["a", "b"])


@pytest.mark.parametrize(("changes", "arms"), [(4, 8), (5, 16), (7, 16), (8, 16), (9, 32)])
def test_a_screen_is_of_resolution_four(changes: int, arms: int) -> None:
    names = [chr(ord("a") + i) for i in range(changes)]
    design = screen_design(names)
    assert len(design) == arms
    assert not any(design[0].values()), "the first is the baseline"
    signs = np.array([[1 if row[name] else -1 for name in names] for row in design])
    assert (signs.T @ signs == arms * np.eye(changes)).all()
    for one, (x, y) in itertools.product(range(changes), itertools.combinations(range(changes), 2)):
        if one not in (x, y):
            assert signs[:, one] @ (signs[:, x] * signs[:, y]) == 0, "no change is confused with a pair"


def test_aliases_are_told() -> None:
    names = list("abcd")
    groups = aliases(names, screen_design(names))
    assert sorted(len(group) for group in groups) == [2, 2, 2]
    assert (("a", "b"), ("c", "d")) in groups


def test_a_screen_finds_what_matters() -> None:
    names = list("abcdefg")
    design = screen_design(names)
    arms = {"base" if not i else f"arm {i}": row for i, row in enumerate(design)}
    effects = {arm: -1.0 * row["b"] + 0.5 * row["e"] + 0.8 * (row["a"] and row["c"]) for arm, row in arms.items()}
    found = screen(table(effects, blocks=2), arms, names)
    worth = {one.change.name: one for one in found.effects}
    assert worth["b"].change.value == pytest.approx(-1, abs=0.15)
    assert worth["b"].p_holm < 0.001
    assert worth["e"].change.value == pytest.approx(0.5, abs=0.15)
    assert worth["a"].change.value == pytest.approx(0.4, abs=0.15), "averaged over c on and off"
    assert worth["d"].p_holm > 0.05
    assert [worth[name].verdict for name in "bed"] == ["helps", "hurts", "undecided"]
    (strong,) = [one for one in found.interactions if one.p_exploratory < 0.01]
    assert ("a", "c") in strong.pairs
    assert len(found.aliases) == 7
    assert all(" = " in text for text in found.aliases)


def test_a_screened_change_is_negligible_by_its_90_percent_interval() -> None:
    design = screen_design(list("abcd"))
    arms = {"base" if not i else f"arm {i}": row for i, row in enumerate(design)}
    runs = table(dict.fromkeys(arms, 0.0), blocks=3)
    (a, *_) = screen(runs, arms, list("abcd")).effects
    assert a.verdict == "undecided", "nobody said what matters"
    reach_90, reach_95 = (
        max(abs(end) for end in ends) for ends in ((a.change.low_90, a.change.high_90), (a.change.low, a.change.high))
    )
    for smallest, verdict in ((0.99 * reach_90, "undecided"), ((reach_90 + reach_95) / 2, "negligible")):
        assert screen(runs, arms, list("abcd"), smallest).effects[0].verdict == verdict


def test_a_screen_that_leaves_nothing_for_its_error_is_refused() -> None:
    design = screen_design(list("abcd"))
    arms = {"base" if not i else f"arm {i}": row for i, row in enumerate(design)}
    with pytest.raises(UsageError, match="two blocks"):
        screen(table(dict.fromkeys(arms, 0.0), blocks=1), arms, list("abcd"))
