"""A report as one Markdown file (CommonMark with tables), readable as it stands on any forge, also as plain text."""

import re
from collections.abc import Callable, Iterable, Sequence

from scratchlab.evaluation.gallery_page import code_span, fenced
from scratchlab.study import report_tables as tables
from scratchlab.study import report_words as words
from scratchlab.study.report import Report
from scratchlab.study.report_guide import reading
from scratchlab.study.report_tables import TextTable
from scratchlab.study.report_words import Row
from scratchlab.study.words import figure

WIDTH = 61
"""Columns of the interval plot."""
PLOT_GUIDE = (
    "Brackets: 95% intervals; `=`: their 90% part. Dots: effects too small to matter. An arm whose `=` stay among the "
    "dots is negligible."
)


def to_markdown(report: Report) -> str:
    """The report with its tables; the intervals drawn in characters, losses as a table."""
    parts = [
        _head(report),
        *(_noise_first(report) if report.design == "noise" else _verdicts_first(report)),
        _statistics(report),
        _section("Loss on the way", _table(tables.loss_table(report)),
                 f"Validation loss in {report.curve_loss.replace('_', ' ')}: mean over n seeds (lowest to highest)."),
        _section("Do the gains add up?", _table(tables.stack_table(report)), escaped(_stack_problem(report))),
        _section("Tuning", _table(tables.retune_table(report))),
        _section("Where the noise comes from", _noise(report)) if report.design != "noise" else "",
        _samples(report),
        _runs(report),
        _reproduce(report),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def escaped(text: str) -> str:
    """Text that is taken for nothing but text, also in a table."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&])", r"\\\1", text).replace("\n", " ")


def _section(title: str, *parts: str) -> str:
    """A heading with what is under it; nothing where there is nothing."""
    there = [part for part in parts if part]
    return "\n\n".join([f"## {title}", *there]) if there else ""


def _head(report: Report) -> str:
    standing = [f"> **{escaped(line)}**" for line in words.standing(report)]
    answers = [f"- {words.MARKS[word]} **{word}**: {escaped(names)}" for word, names in words.answers(report)]
    title = f"# {escaped(words.question(report))}"
    short = [escaped(line) for line in tables.in_short(report)]
    return "\n\n".join([title, *standing, *(["\n".join(answers)] if answers else []), *short])


# The verdict table.


def _verdicts_first(report: Report) -> list[str]:
    first = [_table(table) for table in tables.screen_tables(report)]
    first.append(escaped((report.screen or {}).get("problem") or ""))
    notes = [f"- {escaped(note)}" for note in words.notes(report)]
    guide = [f"- **{name}**: {escaped(text)}" for name, text in reading(report)]
    plot = interval_plot(report)
    return [
        *first,
        _verdict_table(report),
        escaped(words.totals(report)),
        "\n".join(notes),
        "## How to read this",
        "\n".join(guide),
        _section("Effects with their intervals", fenced(plot) if plot else "", PLOT_GUIDE if plot else ""),
        "\n".join(_sentences(report)),
    ]


def _verdict_table(report: Report) -> str:
    head = ("arm", "change", "n", "effect", "95% interval", "verdict", "device-hours a run", "beside the baseline's")
    rows = words.rows(report)
    priced = any(row.money for row in rows)
    table = [
        (
            f"{escaped(row.name)}{' (exploratory)' * (row.role == 'exploratory')}",
            _changes(row),
            row.n,
            row.effect,
            row.interval,
            " ".join([row.mark, row.verdict]).strip() + (f": {row.then}" if row.then else ""),
            row.hours,
            row.relative,
            *([row.money] if priced else []),
        )
        for row in rows
    ]
    base = f"Baseline: {escaped(words.metric_words(report.metric))} {rows[0].mean}, mean of {rows[0].n}."
    return f"{table_lines((*head, *(['money a run'] if priced else [])), table, {2, 3, 4, 6, 7, 8})}\n\n{base}"


def _changes(row: Row) -> str:
    if row.members:
        return escaped(row.members)
    return "<br>".join(
        f"{code_span(field)}: {escaped(before)} → {escaped(after)}" for field, before, after in row.changes
    )


def _sentences(report: Report) -> Iterable[str]:
    for row in words.rows(report):
        if row.sentence:
            more = "".join(f" {note[0].upper()}{note[1:]}." for note in row.notes)
            yield f"- {escaped(row.name)}: {escaped(row.sentence + more)}"


def interval_plot(report: Report) -> str:
    """Intervals in characters, as `PLOT_GUIDE` reads them; the upright line is zero."""
    arms = [arm for arm in report.analysis.arms if arm.effect is not None] if report.analysis else []
    if not arms or report.analysis is None:
        return ""
    smallest = report.analysis.smallest_effect or 0.0
    ends = [0.0, -smallest, smallest]
    ends += [end for arm in arms for end in (arm.effect, arm.low, arm.high) if end is not None]
    low, high = min(ends), max(ends)

    def place(value: float) -> int:
        return round((value - low) / (high - low or 1.0) * (WIDTH - 1))

    name, word = max(len(arm.name) for arm in arms), max(len(arm.verdict) for arm in arms)
    lines = [
        f"{arm.name:<{name}}  {arm.verdict:<{word}}  "
        + _line(
            [place(end) for end in (-smallest, 0.0, smallest)],
            _places(place, arm.low, arm.low_90, arm.effect, arm.high_90, arm.high),
        )
        for arm in arms
    ]
    left, right = ("worse", "better") if report.higher_is_better else ("better", "worse")
    scale = f"{figure(low)} ({left})".ljust(WIDTH // 2) + f"({right}) {figure(high)}".rjust(WIDTH - WIDTH // 2)
    return "\n".join([*lines, " " * (name + word + 4) + scale])


def _places(place: Callable[[float], int], *ends: float | None) -> list[int]:
    return [place(end) for end in ends if end is not None]


def _line(shade: Sequence[int], ends: Sequence[int]) -> str:
    """`[-==o==-]` over the region of effects that do not matter."""
    cells = [" "] * WIDTH
    for i in range(shade[0], shade[2] + 1):
        cells[i] = "\u00b7"
    cells[shade[1]] = "|"
    if len(ends) == 5:
        for i in range(ends[0], ends[4] + 1):
            cells[i] = "+" if i == shade[1] else "=" if ends[1] <= i <= ends[3] else "-"
        cells[ends[0]], cells[ends[4]] = "[", "]"
    cells[ends[len(ends) // 2]] = "o"
    return "".join(cells).rstrip()


# What is underneath.


def _stack_problem(report: Report) -> str:
    return "" if report.stack is None else report.stack["problem"] or ""


def _noise_first(report: Report) -> list[str]:
    problem = report.noise.get("split_problem") if report.noise else None
    return [_noise(report), escaped(problem or ""), _table(tables.factor_table(report)), escaped(words.totals(report))]


def _noise(report: Report) -> str:
    rows = words.noise_rows(report)
    return _text_lines(words.NOISE_HEAD, rows, {1})


def _statistics(report: Report) -> str:
    rows = words.statistics_rows(report)
    numbers = set(range(1, 10))
    worth = _table(tables.worth_table(report))
    return _section("Errors, p values, methods", _text_lines(words.STATISTICS_HEAD, rows, numbers),
                    "Effects as further steps of the baseline, by the slope at the end of its curve:" if worth else "",
                    worth)  # fmt: skip


def _samples(report: Report) -> str:
    found = [(arm.name, arm.sample_block, arm.sample) for arm in report.arms if arm.sample]
    texts = [f"{escaped(name)}, block {block}:\n\n{fenced(text)}" for name, block, text in found]
    return _section("What they write", *texts)


def _runs(report: Report) -> str:
    machines = [f"- {escaped(name)}: {words.count(n, 'run')}" for name, n in words.machines(report)]
    software = escaped(words.environment_text(report))
    missing = [
        f"- {escaped(run.label)}{'' if run.begun is None else f' (begun, at step {run.begun:,})'}"
        for run in report.missing
    ]
    rows = words.run_rows(report)
    table = _text_lines(words.RUN_HEAD, rows, set(range(2, 8)))
    folded = f"<details><summary>All runs with their seeds</summary>\n\n{table}\n\n</details>" if table else ""
    return _section("What ran on what", "\n".join(machines), software, "Missing:" if missing else "",
                    "\n".join(missing), folded)  # fmt: skip


def _reproduce(report: Report) -> str:
    rows = words.arm_rows(report)
    return _section(
        "How to reproduce it",
        fenced("\n".join(words.commands(report))),
        f"{code_span(report.path)}:",
        fenced(report.study_file.rstrip()),
        f"{code_span(report.baseline)}:",
        fenced(report.baseline_recipe.rstrip()),
        _text_lines(words.ARM_HEAD, rows, {1, 2}),
    )


def _table(table: TextTable | None) -> str:
    if table is None or not table.rows:
        return ""
    return _text_lines(table.head, table.rows, set(range(table.numbers_from, len(table.head))))


def _text_lines(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: set[int]) -> str:
    """A table of plain text; nothing where there are no rows."""
    marked = [[escaped(cell) for cell in row] for row in rows]
    return table_lines([escaped(name) for name in head], marked, numbers) if marked else ""


def table_lines(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: set[int]) -> str:
    """A table of Markdown."""
    rule = ["---:" if i in numbers else "---" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))
