"""Do gains add up? What a stack of changes is worth beside its parts, and screening many changes with few arms."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from scratchlab.errors import UsageError
from scratchlab.study.analysis import ClaimWord, Verdict, verdict_of
from scratchlab.study.least_squares import LEVEL, Fit, Floats, fit_blocks
from scratchlab.study.multiplicity import benjamini_hochberg, holm
from scratchlab.study.table import Table


@dataclass(frozen=True, slots=True)
class Estimate:
    """A combination of arms' means, with its 95% interval, and the 90% one by which it may be found negligible."""

    name: str
    value: float
    low: float
    high: float
    low_90: float
    high_90: float
    p: float


@dataclass(frozen=True, slots=True)
class Stacking:
    """A stack beside its members."""

    predicted: Estimate
    """The sum of what each member did alone."""
    observed: Estimate
    difference: Estimate
    """Observed less predicted: what the members do to each other."""
    members: tuple[tuple[Estimate, Estimate | None], ...]
    """Each alone, and its worth inside the stack (the stack less the stack without it); None if that was not run."""


def stacking(table: Table, stack: str, members: Sequence[str], without: Mapping[str, str] | None = None) -> Stacking:
    """Judge the arm `stack` of `members`; `without` names, by member, the arm that is the stack without it.

    All estimates are contrasts of one fit (figure ~ arm + block), so that their intervals know what they share: the
    prediction rests on every member and, as many times, on the baseline. UsageError for an arm that is not there.
    """
    without = without or {}
    _check_arms(table, [stack, *members, *without.values()])
    fit = fit_blocks(table.grid())
    if fit.freedom < 1:
        raise UsageError("A stack cannot be judged from one block: run every arm with other seeds too.")
    alone = dict.fromkeys(members, 1.0)
    return Stacking(
        predicted=_estimate(table, fit, "sum of the parts", alone),
        observed=_estimate(table, fit, stack, {stack: 1.0}),
        difference=_estimate(table, fit, "beyond the sum", {stack: 1.0, **dict.fromkeys(members, -1.0)}),
        members=tuple(
            (
                _estimate(table, fit, member, {member: 1.0}),
                _estimate(table, fit, member, {stack: 1.0, without[member]: -1.0}) if member in without else None,
            )
            for member in members
        ),
    )


def _check_arms(table: Table, names: Sequence[str]) -> None:
    absent = [name for name in names if name not in table.arms]
    if absent:
        raise UsageError(f"There is no run of {', '.join(map(repr, absent))}; there is {', '.join(table.arms)}.")


def _estimate(table: Table, fit: Fit, name: str, weights: Mapping[str, float]) -> Estimate:
    """A weighted sum of effects."""
    places = [table.arms.index(arm) for arm in weights]
    factors = np.array(list(weights.values()))
    value = float(factors @ fit.effects[places])
    if math.isnan(value):
        raise UsageError(f"{name}: no chain of shared blocks links {', '.join(weights)} with the baseline.")
    squared = fit.variance * float(factors @ fit.covariance[np.ix_(places, places)] @ factors)
    return _with_error(name, value, math.sqrt(squared), fit.freedom)


def _with_error(name: str, value: float, error: float, freedom: int) -> Estimate:
    half, half_90 = (float(special.stdtrit(freedom, 1 - outside / 2)) * error for outside in (LEVEL, 2 * LEVEL))
    p = float(2 * special.stdtr(freedom, -abs(value) / error)) if error else float(value == 0)
    return Estimate(name, value, value - half, value + half, value - half_90, value + half_90, p)


# Screening.


@dataclass(frozen=True, slots=True)
class ScreenEffect:
    """What switching one change on does, averaged over the others on and off."""

    change: Estimate
    p_holm: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class PairEffect:
    """Interactions of two changes each, which the fraction cannot tell apart: what they do together."""

    pairs: tuple[tuple[str, str], ...]
    together: Estimate
    p_exploratory: float


@dataclass(frozen=True, slots=True)
class Screen:
    """A screened set of changes."""

    effects: tuple[ScreenEffect, ...]
    interactions: tuple[PairEffect, ...]
    aliases: tuple[str, ...]
    """In words: which interactions are one and the same figure here."""


def screen_design(changes: Sequence[str]) -> list[dict[str, bool]]:
    """Which changes are on in which arm: the smallest two-level fraction of resolution IV (7 changes: 16 arms).

    Resolution IV: no change is confused with another, or with an interaction of two; interactions of two are confused
    with each other. The first arm has none, and so is the baseline. UsageError for fewer than two changes.
    """
    import pydoe

    if len(changes) < 2:
        raise UsageError(f"A screen takes two changes at least, not {len(changes)}.")
    signs = np.asarray(pydoe.fracfact_by_res(len(changes), min(4, len(changes) + 1)))
    rows = sorted(map(tuple, signs.tolist()), key=lambda row: (sum(row), [-sign for sign in row]))
    return [dict(zip(changes, (sign > 0 for sign in row), strict=True)) for row in rows]


def aliases(changes: Sequence[str], design: Sequence[Mapping[str, bool]]) -> list[tuple[tuple[str, str], ...]]:
    """Pairs of changes, those together whose interactions have one and the same column in the design."""
    groups: dict[tuple[int, ...], list[tuple[str, str]]] = {}
    for first, second in itertools.combinations(changes, 2):
        column = tuple(1 if row[first] == row[second] else -1 for row in design)
        groups.setdefault(max(column, tuple(-one for one in column)), []).append((first, second))
    return [tuple(pairs) for pairs in groups.values()]


def screen(
    table: Table,
    arms: Mapping[str, Mapping[str, bool]],
    changes: Sequence[str],
    smallest_effect: float | None = None,
) -> Screen:
    """Effects of screened changes from a table whose arms are named in `arms`, each with the changes that are on.

    Figure ~ block + a column a change + a column a group of aliased interactions; the error is what these columns leave
    over all blocks. UsageError for fewer than two blocks or an arm that is not there.
    """

    def judged(one: Estimate, p_holm: float) -> ScreenEffect:
        word: ClaimWord = "helps" if (one.value > 0) == table.higher_is_better else "hurts"
        claim = word if p_holm < LEVEL else None
        return ScreenEffect(one, p_holm, verdict_of(one.low_90, one.high_90, smallest_effect, claim))

    _check_arms(table, list(arms))
    values_AB = table.grid()[[table.arms.index(name) for name in arms]]
    design = list(arms.values())
    groups = aliases(changes, design)
    sign_AC = np.array([[1.0 if row[change] else -1.0 for change in changes] for row in design])
    pair_AG = np.array([[1.0 if row[pairs[0][0]] == row[pairs[0][1]] else -1.0 for pairs in groups] for row in design])
    estimates = _by_columns(values_AB, np.hstack([sign_AC, pair_AG]), [*changes, *(_pair_names(p) for p in groups)])
    main, pairs = estimates[: len(changes)], estimates[len(changes) :]
    adjusted, explored = holm([one.p for one in main]), benjamini_hochberg([one.p for one in pairs])
    return Screen(
        effects=tuple(judged(one, p) for one, p in zip(main, adjusted, strict=True)),
        interactions=tuple(PairEffect(g, one, p) for g, one, p in zip(groups, pairs, explored, strict=True)),
        aliases=tuple(_pair_names(group) for group in groups if len(group) > 1),
    )


def _pair_names(pairs: Sequence[tuple[str, str]]) -> str:
    return " = ".join(f"{first} x {second}" for first, second in pairs)


def _by_columns(values_AB: Floats, columns_AK: Floats, names: Sequence[str]) -> list[Estimate]:
    """Twice the coefficient of each column of signs: from off to on."""
    here = np.isfinite(values_AB)
    arm_N, block_N = np.nonzero(here)
    X = np.hstack([np.eye(values_AB.shape[1])[block_N], columns_AK[arm_N]])
    y = values_AB[here] - values_AB[here].mean()
    freedom = len(y) - int(np.linalg.matrix_rank(X))
    if freedom < 1:
        raise UsageError("A screen takes two blocks at least: one leaves nothing to estimate its error from.")
    inverse = np.linalg.pinv(X.T @ X, hermitian=True)
    beta = inverse @ (X.T @ y)
    variance = float(np.square(y - X @ beta).sum()) / freedom
    errors = np.sqrt(np.maximum(0.0, variance * np.diag(inverse)))
    first = values_AB.shape[1]
    return [
        _with_error(name, 2 * float(beta[first + k]), 2 * float(errors[first + k]), freedom)
        for k, name in enumerate(names)
    ]
