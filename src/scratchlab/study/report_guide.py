"""How to read a report, for somebody who knows no statistics: what its words promise, in the design that it is of."""

from scratchlab.study.report import Report

Line = tuple[str, str]
"""A word of the page, and what it means."""

FEW_BLOCKS = 3
"""With so few nothing can tell that one arm scatters unlike the others."""


def reading(report: Report) -> list[Line]:
    """The words of a report in the order in which they are met."""
    return [*_figures(report), *_verdicts(report), *_bounds(report)]


def _figures(report: Report) -> list[Line]:
    effects = {
        "screen": "what switching a change on does, averaged over the others on and off (of an arm: the arm less the "
        "baseline)",
        "sweep": "the point less the baseline, within the same seeds",
    }
    effect = effects.get(report.design, "the arm less the baseline, within the same seeds")
    good = "Above" if report.higher_is_better else "Below"
    return [
        ("effect", f"{effect}. {good} zero is better."),
        (
            "95% interval",
            "what the true effect may well be: such intervals miss it 5 times in 100. Each stands alone: it is not "
            "widened for there being several. Claims are stricter, and take account of that.",
        ),
    ]


def _verdicts(report: Report) -> list[Line]:
    lines = [
        ("helps, hurts", _claims(report)),
        (
            "negligible",
            f"its 90% interval lies within plus or minus {_least(report)}. Of effects just so large 5 in 100 are "
            "called negligible, of each arm by itself.",
        ),
        ("undecided", "the runs cannot tell yet. It does not mean that there is no effect."),
    ]
    if report.analysis is not None and report.analysis.look is None:
        lines.append(("not judged", "the first look is still ahead: whoever judges earlier looks too often."))
    return lines


def _claims(report: Report) -> str:
    size = "How large the effect is, the interval says."
    match report.design:
        case "sweep":
            return f"there is an effect, if such hints hold: see exploratory. {size}"
        case "screen":
            return (
                "there is an effect. Of 100 screens in which no change does anything, at most 5 say this of any "
                f"change. {size}"
            )
        case _:
            return (
                "there is an effect. Of 100 studies in which no declared change does anything, at most 5 say this of "
                f"any of them.{_few(report)} {size}"
            )


def _few(report: Report) -> str:
    """What the simulations show of three seeds (docs/statistics.md)."""
    if report.analysis is None or report.analysis.blocks > FEW_BLOCKS:
        return ""
    return (
        f" That is so where all arms scatter alike, which {report.analysis.blocks} blocks cannot tell: in simulations "
        "of 3 blocks, 11 of 100 said it where one arm scattered 5 times as widely, and 14 where the baseline did so 3 "
        "times."
    )


def _least(report: Report) -> str:
    if report.analysis is None or report.analysis.smallest_effect is None:
        return "the smallest effect that matters"
    analysis = report.analysis
    return f"{analysis.smallest_effect:.4g}, the smallest effect that matters ({analysis.smallest_effect_is})"


def _bounds(report: Report) -> list[Line]:
    """What the words do not say."""
    hints = "Of what is claimed of such arms, 5% at most is false on average (Benjamini-Hochberg): hints, to be tested."
    apart = {
        "stack": f"the stack and what is left of it are no claims of the study. {hints}",
        "screen": f"the combinations that were run; the claims are those about single changes. {hints}",
        "sweep": f"every point is; the answer of a sweep is its curve. {hints}",
    }
    lines = [("exploratory", apart[report.design])] if report.design in apart else []
    if report.design == "sweep" or report.retune is not None:
        return lines
    dropped = {
        "screen": "every change was switched on and off beside the others, with all else left as the baseline has it.",
        "stack": "changes were dropped into the baseline, alone or together, with all else left as it is.",
    }
    how = dropped.get(report.design, "each change was dropped into the baseline with all else left alone.")
    tuned = "One that wants, say, another learning rate may do better when that is tuned too."
    return [*lines, ("as it is", f"{how} {tuned}")]
