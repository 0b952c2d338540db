"""The tables and lines of a judgment, for the terminal and the page alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scratchlab.judging.check_words import percent
from scratchlab.judging.checks import Share
from scratchlab.study.words import figure

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of cells that are text."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def score_table(report: Facts, panel: Facts) -> TextTable | None:
    """Every model and anchor with its score, and each model beside the baseline; None where too little was judged."""
    if not panel["scores"]:
        return None
    beside = {one["model"]: one for one in panel["verdicts"]}
    head = ("", "score", "95% interval", "n", f"less {report['baseline']}", "95% interval", "adjusted p", "verdict")
    return TextTable("Scores, 0 to 100", head, tuple(_score_row(one, beside) for one in panel["scores"]))


def _score_row(one: Facts, beside: dict[str, Facts]) -> tuple[str, ...]:
    own = (one["model"], figure(one["value"], one["error"]), _interval(one), f"{one['n']:,}")
    return (*own, *(versus_cells(beside[one["model"]]) if one["model"] in beside else ("",) * 4))


def versus_cells(versus: Facts) -> tuple[str, str, str, str]:
    """Effect, interval, p and verdict."""
    p = "<.001" if versus["p_holm"] < 0.001 else f"{versus['p_holm']:.3f}"
    return _signed(versus["effect"], versus["error"]), _interval(versus, signed=True), p, versus["verdict"]


def rank_table(panel: Facts, title: str = "Ranking by who is preferred to whom") -> TextTable | None:
    """Who is preferred to whom; None for a single model."""
    rows = tuple(_rank_row(one) for one in panel["ranking"])
    head = ("rank", "", "strength", "95% interval", "wins", "95% interval")
    return TextTable(title, head, rows) if rows else None


def offline_wins(report: Facts) -> TextTable | None:
    """Whose answers have the higher chrF; None for a single model."""
    return rank_table(report, "Ranking by whose answer has the higher chrF, which is no judge of what is right")


def _rank_row(one: Facts) -> tuple[str, ...]:
    ranks = str(one["best"]) if one["best"] == one["worst"] else f"{one['best']} to {one['worst']}"
    wins = one["wins"]
    beside = None if one["low"] is None else (one["high"] - one["low"]) / 4
    interval = "no end" if one["low"] is None else _interval({**one, "error": beside}, signed=True)
    chances = f"{wins['low']:.0%} to {wins['high']:.0%}"
    return ranks, one["model"], _signed(one["strength"], beside), interval, f"{wins['value']:.0%}", chances


def offline_table(report: Facts) -> TextTable:
    """Every model by its references."""
    beside = {one["model"]: one for one in report["chrf"]}
    losses = any(one["nats_per_byte"] for one in report["models"])
    head = (
        "",
        "chrF",
        "95% interval",
        "corpus chrF",
        f"less {report['baseline']}",
        "95% interval",
        "adjusted p",
        "verdict",
    )
    more = ("nats/token", "nats/byte of the reference") if losses else ()
    rows = tuple(
        (
            one["model"],
            figure(one["chrf"]["value"], one["chrf"]["error"]),
            _interval(one["chrf"]),
            figure(one["corpus_chrf"], one["chrf"]["error"]),
            *(versus_cells(beside[one["model"]]) if one["model"] in beside else ("",) * 4),
            *((_with_error(one["nats_per_token"]), _with_error(one["nats_per_byte"])) if losses else ()),
        )
        for one in report["models"]
    )
    return TextTable("Beside the reference answers", (*head, *more), rows)


# Lines.


def verdict_lines(versus: Sequence[Facts]) -> list[str]:
    """A sentence for each model."""
    return [f"{one['model']}: {one['sentence']}.{_where_from(one['noise'])}" for one in versus]


def _where_from(noise: Facts | None) -> str:
    if noise is None:
        return ""
    own = f"{noise['share_of_repeats']:.0%} is the judge's own noise"
    return f" Of its squared error {own}, the rest the choice of questions."


def asked_lines(panel: Facts) -> list[str]:
    """What was asked, what failed, what it cost."""
    prompts, cost = panel["prompts"], panel["cost"]
    left = f", {prompts['left']:,} not asked for want of money" if prompts["left"] else ""
    lines = [
        f"{prompts['all']:,} prompts ({panel['repeats']} a question): {prompts['judged']:,} judged, "
        f"{prompts['failed']:,} failed (no score, not counted as 0){left}; "
        f"{prompts['malformed_replies']:,} malformed replies. Form: {', '.join(panel['forms']) or 'none'}.",
        f"Cost: {cost_text(cost)}.",
    ]
    problems = [
        f"question {one['question']}, repeat {one['repeat']}: {one['problem']}" for one in panel["failures"][:3]
    ]
    return [*lines, *(f"Failed: {problem}." for problem in problems)]


def cost_text(cost: Facts) -> str:
    """Requests, tokens and money."""
    requests = f"{cost['requests']:,} requests"
    if cost["tokens_in"] is None:
        return f"{requests}; the judge does not say how many tokens"
    tokens = f"{requests}, {cost['tokens_in']:,} tokens read and {cost['tokens_out']:,} written"
    return f"{tokens}; no price was named" if cost["dollars"] is None else f"{tokens}: ${cost['dollars']:.4f}"


def check_lines(panel: Facts) -> list[str]:
    """What was found of the judge: the flags first."""
    checks = panel["checks"]
    if checks is None:
        return [f"Note: {too_little(panel)}"]
    lines = [f"This judge is {flag}." for flag in panel["flags"]]
    if (anchors := checks["reference_above_bad"]) is not None:
        lines.append(f"It puts the reference above the bad answer in {percent(Share(**anchors))} of questions.")
    lines += [f"Note: {note}." for note in panel["notes"]]
    if (own := panel["repeats_agree"]) is not None:
        lines.append(f"Its repeats agree: {agreement_text(own)}.")
    return lines


def too_little(panel: Facts) -> str:
    """What a judge is said of that judged nothing, or a single question."""
    prompts = panel["prompts"]
    whole = f"{panel['questions_judged'] or 'no'} question was judged in full"
    judged = whole if prompts["judged"] else "nothing was judged"
    return (
        f"{judged}, and figures take two questions: {prompts['failed']:,} of {prompts['all']:,} prompts failed, "
        f"{prompts['malformed_replies']:,} replies were malformed, and nothing counts as 0. All replies are kept in "
        f"{panel['replies']}: see what it writes there. Then ask another judge, or this one with more --tries."
    )


def agreement_text(found: Facts) -> str:
    """`alpha 0.62 (0.51 to 0.71); where both prefer an answer, the same one in 88% (80% to 93%) of questions`."""
    n = f"{found['pairs']:,} pairs of answers to {found['questions']:,} questions"
    if found["alpha"] is None:
        return f"nobody prefers an answer ({n})"
    alpha = f"alpha {found['alpha']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
    same = (
        ""
        if found["same"] is None
        else f"; two that prefer an answer prefer the same {percent(Share(**found['same']))}"
    )
    return f"{alpha}{same}, n = {n}"


def agreement_lines(report: Facts) -> list[str]:
    """Between judges, with a person, and which way of asking is steadier."""
    return [
        *(f"{one['a']} and {one['b']} agree: {agreement_text(one)}." for one in report["between_judges"]),
        *(f"{one['judge']} and the labels agree: {agreement_text(one)}." for one in report["with_labels"]),
        *(_steadier_line(one) for one in report["steadier"]),
    ]


def _steadier_line(one: Facts) -> str:
    together, alone, apart = one["together"], one["one_by_one"], one["difference"]
    verdict = "which is steadier is undecided" if one["steadier"] == "undecided" else f"{one['steadier']} is steadier"
    return (
        f"{one['judge']} repeated orders two answers alike in {together['value']:.0%} of cases where it sees all at "
        f"once, {alone['value']:.0%} one by one (50%: by a coin): {apart['value']:+.1%} ({apart['low']:+.1%} to "
        f"{apart['high']:+.1%}), {verdict}."
    )


def warning_lines(report: Facts) -> list[str]:
    """What else one should know."""
    talking = [
        f"{one['model']}: {len(one['questions']):,} answers talk to the judge (questions "
        f"{', '.join(one['questions'][:5])}{', ...' if len(one['questions']) > 5 else ''}): look at them."
        for one in report["talking"]
    ]
    return [*talking, *(f"Note: {note}." for note in report["notes"])]


def offline_notes(report: Facts) -> list[str]:
    """What the offline scores are."""
    return [f"No judge was asked: {what}." for what in report["what"].values()]


def offline_lines(report: Facts) -> list[str]:
    """Sentences on chrF and on the loss, and what one should know."""
    losses = [f"{one['model']}, nats/byte of the reference: {one['sentence']}." for one in report["nats_per_byte"]]
    notes = [
        f"{one['model']}: {one['empty']:,} answers are empty (their chrF is 0), {one['cut']:,} were cut off."
        for one in report["models"]
        if one["empty"] or one["cut"]
    ]
    return [*verdict_lines(report["chrf"]), *losses, *notes]


def _interval(one: Facts, signed: bool = False) -> str:
    write = _signed if signed else figure
    return f"{write(one['low'], one['error'])} to {write(one['high'], one['error'])}"


def _signed(value: float, beside: float | None) -> str:
    return f"{'+' * (value > 0)}{figure(value, beside)}"


def _with_error(one: Facts | None) -> str:
    return "" if one is None else f"{figure(one['value'], one['error'])} ± {figure(one['error'], one['error'])}"
