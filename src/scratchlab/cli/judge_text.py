"""What `scratchlab judge` tells people."""

from collections.abc import Sequence
from typing import Any

from scratchlab.cli.output import aligned

Report = dict[str, Any]


def judged_text(report: Report) -> str:
    """What judges found."""
    from scratchlab.judging import report_tables as tables

    head = (
        f"{report['questions']:,} questions of {report['data']}; baseline {report['baseline']}; differences below "
        f"{report['smallest_effect']:g} points do not matter."
    )
    parts = [[head]]
    for panel in report["panels"]:
        parts.append([f"{panel['judge']}, {panel['way']}", *tables.check_lines(panel)])
        if (scores := tables.score_table(report, panel)) is not None:
            parts.append(_table(scores))
        parts.append(tables.verdict_lines(panel["verdicts"]))
        if (ranking := tables.rank_table(panel)) is not None:
            parts.append(_table(ranking))
        parts.append(tables.asked_lines(panel))
    parts += [tables.agreement_lines(report), tables.warning_lines(report)]
    if "pairs" in report:
        parts.append([_pairs_line(report, "the first judge")])
    return _joined(parts)


def offline_text(report: Report) -> str:
    """How answers compare with their references."""
    from scratchlab.judging import report_tables as tables

    head = (
        f"{report['questions']:,} questions of {report['data']} that have a reference; baseline {report['baseline']}."
    )
    ranking = tables.offline_wins(report)
    return _joined(
        [
            [head, *tables.offline_notes(report)],
            _table(tables.offline_table(report)),
            tables.offline_lines(report),
            _table(ranking) if ranking else [],
            [_pairs_line(report, "chrF")] if "pairs" in report else [],
        ]
    )


def _pairs_line(report: Report, by: str) -> str:
    """What was written, and why questions gave no pair."""
    left_out = ", ".join(f"{number:,} with {reason}" for reason, number in report["pairs_left_out"].items())
    return f"{report['pairs']:,} preference pairs were written, by {by}." + f" Left out: {left_out}." * bool(left_out)


def ahead_text(report: Report) -> str:
    """What would be asked."""
    from scratchlab.judging.report_tables import cost_text

    lines: list[str] = []
    for one in report["dry_run"]:
        lines.append(
            f"{one['judge']}: {one['prompts']:,} prompts, {one['kept']:,} of them replied to before. About "
            f"{cost_text(one['guess'])}, if no reply is malformed and the judge writes the scores alone."
        )
    return "\n".join([*lines, "Nothing was asked."])


def _table(table: Any) -> list[str]:
    return [f"{table.title}:", *aligned([table.head, *table.rows])]


def _joined(parts: Sequence[Sequence[str]]) -> str:
    return "\n\n".join("\n".join(part) for part in parts if part)
