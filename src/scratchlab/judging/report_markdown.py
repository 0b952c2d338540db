"""A judgment as one Markdown file."""

from collections.abc import Sequence

from scratchlab.judging import report_tables as tables
from scratchlab.judging.report_tables import Facts, TextTable
from scratchlab.study.report_markdown import escaped, table_lines


def judged_markdown(report: Facts) -> str:
    """What judges found."""
    head = (
        f"{report['questions']:,} questions of {report['data']}, {len(report['models'])} models. The baseline is "
        f"{report['baseline']}; differences below {report['smallest_effect']:g} points do not matter."
    )
    parts = ["# Answers, judged", escaped(head)]
    for panel in report["panels"]:
        parts.append(f"## {escaped(panel['judge'])}, {panel['way']}")
        if (scores := tables.score_table(report, panel)) is not None:
            parts.append(_table(scores))
        parts.append(_list(tables.verdict_lines(panel["verdicts"])))
        if (ranking := tables.rank_table(panel)) is not None:
            parts.append(_table(ranking))
        parts.append(_list([*tables.check_lines(panel), *tables.asked_lines(panel)]))
    parts += [_list(tables.agreement_lines(report)), _list(tables.warning_lines(report))]
    return "\n\n".join(part for part in parts if part) + "\n"


def offline_markdown(report: Facts) -> str:
    """How answers compare with their references."""
    head = f"{report['questions']:,} questions of {report['data']} with a reference; chrF: {report['signature']}."
    parts = [
        "# Answers beside their references",
        escaped(head),
        _list(tables.offline_notes(report)),
        _table(tables.offline_table(report)),
        _list(tables.offline_lines(report)),
    ]
    if (ranking := tables.offline_wins(report)) is not None:
        parts.append(_table(ranking))
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(table: TextTable) -> str:
    rows = [[escaped(cell) for cell in row] for row in table.rows]
    return f"### {table.title}\n\n{table_lines([escaped(name) for name in table.head], rows, set())}"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)
