"""Tables of a report's parts that only some designs have, as rows of text for both pages."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scratchlab.study.answer import Answer
from scratchlab.study.least_squares import LEVEL
from scratchlab.study.report import Report
from scratchlab.study.report_curves import Curve
from scratchlab.study.report_words import (
    MARKS,
    amount_digits,
    between,
    count,
    digits_of,
    p_text,
    plain,
    signed,
    value_text,
)


@dataclass(frozen=True, slots=True)
class TextTable:
    """A heading row, rows, and from which column on they hold numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers_from: int = 1


Answered = Answer | Report
"""What has an answer to put into words."""


def in_short(report: Answered) -> list[str]:
    """The answer of a study that asks about more than its arms, a sentence each."""
    return [line for line in (_noise_sentence(report), stack_sentence(report), sweep_sentence(report)) if line]


def _noise_sentence(report: Answered) -> str:
    """Of a noise study: how far apart two runs are by chance alone."""
    deviation = report.noise.get("between_seeds") if report.design == "noise" else None
    if deviation is None:
        return ""
    digits = amount_digits([deviation])
    return (
        f"Two runs of this recipe that differ in their seeds alone lie up to {plain(PAIR * deviation, digits)} apart "
        f"in 95 cases of 100 (standard deviation {plain(deviation, digits)}, {count(report.noise['runs'], 'run')})."
    )


PAIR = 1.96 * math.sqrt(2)
"""In deviations of one run: what 95 of 100 differences of two are within."""


def stack_table(report: Answered) -> TextTable | None:
    """What the members did, alone and inside the stack, and all together."""
    stack = report.stack
    if stack is None or stack["problem"]:
        return None
    ones = [stack["predicted"], stack["observed"], stack["difference"]]
    digits = digits_of([(one["high"] - one["low"]) / 4 for one in ones])
    members = [
        (one["name"], *_estimate(one["alone"], digits), *_estimate(one["inside"], digits)) for one in stack["members"]
    ]
    names = ("sum of the parts (predicted)", "the stack (observed)", "beyond the sum")
    totals = [(name, *_estimate(one, digits), "", "") for name, one in zip(names, ones, strict=True)]
    head = ("", "alone", "95% interval", "inside the stack", "95% interval")
    return TextTable(head, (*members, *totals))


def stack_sentence(report: Answered) -> str:
    """Whether the gains add up; nothing before that was judged."""
    if report.stack is None or report.stack["problem"] or not report.stack["judged"]:
        return ""
    gap = report.stack["difference"]
    digits = digits_of([(gap["high"] - gap["low"]) / 4])
    interval = between(gap["low"], gap["high"], digits)
    if gap["low"] <= 0 <= gap["high"]:
        return (
            f"Beyond the sum of its parts the stack does {signed(gap['value'], digits)} (95%: {interval}): the parts "
            "may add up, or differ from that by as much as the interval allows."
        )
    worse = (gap["value"] > 0) != report.higher_is_better
    way = "less than they would if they added up" if worse else "more than the sum of its parts"
    return f"Together the members give {way}: {signed(gap['value'], digits)} (95%: {interval})."


def _estimate(one: Mapping[str, Any] | None, digits: int) -> tuple[str, str]:
    return ("", "") if one is None else (signed(one["value"], digits), between(one["low"], one["high"], digits))


def screen_tables(report: Answered) -> list[TextTable]:
    """Effects of the screened changes, and of pairs of them with their aliases."""
    screen = report.screen
    if screen is None or screen["problem"]:
        return []
    digits = digits_of([(one["high"] - one["low"]) / 4 for one in screen["effects"]])
    effects = [
        (one["name"], *_estimate(one, digits), p_text(one["p"]), p_text(one["p_holm"]),
         f"{MARKS[one['verdict']]} {one['verdict']}")
        for one in screen["effects"]
    ]  # fmt: skip
    pairs = [
        (one["name"], *_estimate(one, digits), p_text(one["p"]), p_text(one["p_exploratory"]))
        for one in screen["interactions"]
    ]
    return [
        TextTable(("change", "effect", "95% interval", "p", "adjusted p (Holm)", "verdict"), tuple(effects)),
        TextTable(("together (=: cannot be told apart)", "effect", "95% interval", "p", "adjusted p"), tuple(pairs)),
    ]


def sweep_sentence(report: Answered) -> str:
    """Where the curve is best, and how well that is known."""
    sweep = report.sweep
    if sweep is None:
        return ""
    if sweep["problem"]:
        return str(sweep["problem"])
    fit, fields = sweep["fit"], sweep["fields"]
    if fit["optimum"] is None:
        return (
            f"The curve has no best place inside the range that was swept (of curves that the figures allow, "
            f"{fit['found']:.0%} have one): it may lie beyond an end."
        )
    places = [
        f"{field} = {best:.3g} (95%: {low:.3g} to {high:.3g})"
        for field, best, low, high in zip(fields, fit["optimum"], fit["low"], fit["high"], strict=True)
    ]
    misfit = fit["misfit_p"]
    bad = misfit is not None and misfit < LEVEL
    doubt = f" A parabola fits them badly (p = {p_text(misfit)}): trust the points more than the curve." if bad else ""
    sure = f" Of curves that the figures allow, {fit['found']:.0%} are best inside the range."
    return f"The fitted curve is best at {' and '.join(places)}.{sure}{doubt}"


def factor_table(report: Answered) -> TextTable | None:
    """Does the machine matter?"""
    factors = report.noise.get("factors") or []
    if not factors:
        return None
    digits = digits_of([one["high"] - one["low"] for one in factors if one["low"] is not None and one["high"]])
    rows = tuple(
        (one["factor"], f"{one['level']} against {one['against']}", str(one["n"]), signed(one["effect"], digits),
         between(one["low"], one["high"], digits), p_text(one["p"]), f"{one['identical']} of {one['n']}")
        for one in factors
    )  # fmt: skip
    return TextTable(("factor", "levels", "pairs", "effect", "95% interval", "p", "identical"), rows, 2)


def retune_table(report: Report) -> TextTable | None:
    """What each arm tried, and what it chose."""
    if report.retune is None:
        return None
    rows = [
        (
            arm["arm"],
            *(value_text(trial["values"][field]) for field in report.retune["fields"]),
            _trial(trial),
            "chosen" if arm["chosen"] is not None and trial["values"] == arm["chosen"] else "",
        )
        for arm in report.retune["arms"]
        for trial in arm["trials"]
    ]
    return TextTable(("arm", *report.retune["fields"], "validation, nats per token", ""), tuple(rows))


def _trial(trial: Mapping[str, Any]) -> str:
    if not trial["done"]:
        return "not run yet"
    return "diverged" if trial["validation"] is None else plain(trial["validation"], 4)


def loss_table(report: Report) -> TextTable | None:
    """Validation losses on the way, per arm: the mean over seeds, and the lowest and highest seed."""
    shown = {name: arm.validation for name, arm in report.curves.items() if arm.validation}
    if not shown:
        return None
    rows = [(name, str(curve.runs), *(_loss_at(curve, at) for at in PARTS)) for name, curve in shown.items()]
    return TextTable(("arm", "n", *(f"{at:.0%} of training" for at in PARTS)), tuple(rows))


PARTS = (0.1, 0.25, 0.5, 1.0)
NEAR = 0.05
"""How far from a part of the training, in the whole of it, an evaluation may lie to stand for it."""


def _loss_at(curve: Curve, part: float) -> str:
    """Blank where nothing was evaluated there."""
    total = curve.tokens[-1]
    i = min(range(len(curve.tokens)), key=lambda i: abs(curve.tokens[i] - part * total))
    if abs(curve.tokens[i] - part * total) > NEAR * total:
        return ""
    return f"{plain(curve.mean[i], 4)} ({plain(curve.low[i], 4)} to {plain(curve.high[i], 4)})"


FARTHEST = 0.25
"""The part of the training up to which the slope of the baseline's last quarter can speak."""


def worth_table(report: Report) -> TextTable | None:
    """Effects as training: for how many more steps of the baseline one would get as much."""
    rows = [
        (arm.name, *_steps(arm.worth))
        for arm in report.arms
        if arm.worth is not None
    ]  # fmt: skip
    return TextTable(("arm", "steps of the baseline", "95% interval", "of its training"), tuple(rows)) if rows else None


def _steps(worth: Mapping[str, float]) -> tuple[str, str, str]:
    if abs(worth["share"]) > FARTHEST:
        return (
            "more than the slope can tell",
            "",
            f"beyond {signed(math.copysign(100 * FARTHEST, worth['share']), 0)}%",
        )
    return (
        signed(worth["more"], 0),
        between(worth["low"], worth["high"], 0),
        f"{signed(100 * worth['share'], 0)}%",
    )
