"""What was found of a judge, in words: what is wrong with it, and what one should know."""

from scratchlab.evaluation.comparison import LEVEL
from scratchlab.judging.checks import Bias, Checks, Share
from scratchlab.judging.scores import Estimate
from scratchlab.study.words import figure

CARELESS = 0.9
"""A judge that puts the reference above the bad answer less often than this is said to be careless."""
LAZY = 0.1
"""Of its prompts: one that gives all answers of a prompt the same score more often than this is said to be lazy."""


def flags(checks: Checks) -> list[str]:
    """What is wrong with the judge."""
    found = [
        _blind(checks.reference_above_bad),
        _lazy(checks.all_alike),
        _drifting(checks.drift),
        _tiring(checks.spread_drift),
        _partial(checks.places or ()),
    ]
    return [flag for flag in found if flag]


def notes(checks: Checks) -> list[str]:
    """What one should know of its scores."""
    longer = checks.longer_wins
    if longer is None or longer.low <= 0.5 <= longer.high:
        return []
    which = "longer" if longer.value > 0.5 else "shorter"
    seen = longer if longer.value > 0.5 else Share(1 - longer.value, 1 - longer.high, 1 - longer.low, longer.n)
    return [
        f"of two answers it prefers the {which} one in {percent(seen)} of questions. They may be better, or it may be "
        "biased: nothing here can tell, and no order of answers removes it"
    ]


def percent(found: Share) -> str:
    """`62% (51% to 72%)`."""
    return f"{found.value:.0%} ({found.low:.0%} to {found.high:.0%})"


def points(found: Bias | Estimate) -> str:
    """`+3.2 (2.1 to 4.3)`."""
    value, beside = found.points if isinstance(found, Bias) else found.value, (found.high - found.low) / 4
    low, high = figure(found.low, beside), figure(found.high, beside)
    return f"{'+' * (value > 0)}{figure(value, beside)} ({low} to {high})"


def _blind(told_apart: Share | None) -> str:
    if told_apart is None or told_apart.value >= CARELESS:
        return ""
    often = f"it puts the reference answer above a wrong one in {percent(told_apart)} of questions"
    if told_apart.low <= 0.5:
        return f"blind: {often}, which a coin might do. Its scores mean nothing"
    return f"careless: {often}. Its scores mean little"


def _lazy(alike: Share | None) -> str:
    if alike is None or alike.value <= LAZY:
        return ""
    return f"lazy: in {percent(alike)} of questions it gives all answers of a prompt the same score"


def _drifting(drift: Bias | None) -> str:
    if drift is None or drift.p >= LEVEL:
        return ""
    return f"drifting: from its first reply to its last the anchors gained {points(drift)} points"


def _tiring(spread: Bias | None) -> str:
    if spread is None or spread.p >= LEVEL:
        return ""
    way = "closer together" if spread.points < 0 else "farther apart"
    return f"drifting: from its first reply to its last it has put the anchors {way}, by {points(spread)} points"


def _partial(places: tuple[Bias, ...]) -> str:
    """The place that is favored or slighted most."""
    told = [(number, one) for number, one in enumerate(places, 1) if one.p < LEVEL]
    if not told:
        return ""
    number, most = max(told, key=lambda one: abs(one[1].points))
    return (
        f"partial: place {number} of {len(places)} is worth {points(most)} points. Every model stands there equally "
        "often, so that comparisons are not moved by it"
    )
