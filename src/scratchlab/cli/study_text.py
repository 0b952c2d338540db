"""What the study commands tell people: where a study stands, and an analysis."""

import shutil
from dataclasses import asdict
from typing import Any

import click

from scratchlab.cli.output import aligned, count


def say(text: str) -> None:
    click.echo(text, err=True)


def standing(study: Any, settled: Any, now: Any) -> dict[str, Any]:
    """Where a study stands, for --json."""
    from scratchlab.study.answer import answer_of
    from scratchlab.study.judging import analysis_of

    analysis = analysis_of(study, settled, now)
    missing = [
        {"label": run.label, "run": str(study.runs / run.name), "begun": _begun(study, run)} for run in now.missing
    ]
    return {
        "study": str(study.path),
        "state": "complete" if now.complete else "under way",
        "design": study.design,
        "metric": study.file.study.metric,
        "looks": list(study.looks),
        "looks_done": now.look,
        "runs_done": len(now.runs),
        "runs_missing": missing,
        "tuned": {arm: dict(changes) for arm, changes in now.tuned.items()},
        "diverged": [run.label for run, figures in now.runs if figures.value is None],
        "analysis": analysis and analysis.to_json(),
        "answer": asdict(answer_of(study, now, analysis)),
    }


def _begun(study: Any, run: Any) -> int | None:
    """The step of the last checkpoint of a run that was begun."""
    from scratchlab.runfolder import RunFolder

    folder = RunFolder(study.runs / run.name)
    return max(folder.checkpoint_steps(), default=0) if folder.exists() else None


def status_text(report: dict[str, Any]) -> str:
    """A study's standing for people. A screen's arms are combinations: it answers by its changes instead."""
    from scratchlab.study.answer import Answer

    begun = [run for run in report["runs_missing"] if run["begun"] is not None]
    missing = f", {len(report['runs_missing'])} missing ({len(begun)} begun)" if report["runs_missing"] else ""
    lines = [
        f"{report['study']}: {report['state']}, {count(report['runs_done'], 'run')} done{missing}, "
        f"{report['looks_done']} of {count(len(report['looks']), 'look')} taken",
        *(f"  diverged: {label}" for label in report["diverged"]),
        *(f"  failed: {message}" for message in report.get("failed", [])),
        *(f"  {arm} tuned: {_values(changes)}" for arm, changes in report["tuned"].items()),
    ]
    answer, analysis = Answer(**report["answer"]), report["analysis"]
    judged = "" if analysis is None else analysis_text(analysis if answer.screen is None else {**analysis, "arms": ()})
    return "\n\n".join(part for part in ("\n".join(lines), *answer_texts(answer), judged) if part)


def answer_texts(answer: Any) -> list[str]:
    """The answer of an `Answer` or a `Report` in its sentences and tables, where it asks about more than its arms."""
    from scratchlab.study import report_tables as tables
    from scratchlab.study import report_words as words

    noise = [words.NOISE_HEAD, *words.noise_rows(answer)] if answer.design == "noise" and answer.noise else []
    found = [tables.factor_table(answer), *tables.screen_tables(answer)]
    rows = [noise, *([table.head, *table.rows] for table in found if table is not None and table.rows)]
    return ["\n".join(tables.in_short(answer)), *("\n".join(aligned(table)) for table in rows if table)]


def _values(changes: dict[str, Any]) -> str:
    return ", ".join(f"{field} = {value:g}" for field, value in changes.items())


def analysis_text(report: dict[str, Any]) -> str:
    """An analysis for people."""
    from rich.console import Console
    from rich.measure import Measurement

    table, terminal = _verdicts(report), max(100, shutil.get_terminal_size((120, 24)).columns)
    console = Console(highlight=False, width=terminal)
    with console.capture() as capture:
        console.print(*_head(report), sep="\n", markup=False)
        wide = Console(width=10_000)
        console.width = max(terminal, Measurement.get(wide, wide.options, table).maximum)  # no figure is cut off
        if report["arms"]:
            console.print(table)
        console.width = terminal
        console.print(*_foot(report), sep="\n", markup=False)
    return capture.get().rstrip()


def _head(report: dict[str, Any]) -> list[str]:
    from scratchlab.study.words import figure

    better = "higher" if report["higher_is_better"] else "lower"
    sd = "" if report["sd"] is None else f", deviation over seeds {figure(report['sd'])}"
    smallest = report["smallest_effect"]
    least = "" if smallest is None else f"{figure(smallest)}, "
    return [
        f"Baseline {report['baseline']}: {report['metric']} {figure(report['mean'], report['sd'])} "
        f"(n = {report['n']}{sd}); {better} is better.",
        f"Smallest effect that matters: {least}{report['smallest_effect_is']}.",
    ]


COLORS = {"helps": "green", "hurts": "red", "negligible": "dim", "undecided": "yellow", "not judged": "dim"}


def _verdicts(report: dict[str, Any]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (("arm", "left"), ("verdict", "left"), ("n", "right"), ("effect", "right")):
        table.add_column(name, justify=justify, no_wrap=True)  # pyright: ignore[reportArgumentType]
    table.add_column("95% interval", no_wrap=True)
    table.add_column("p", justify="right", no_wrap=True)
    table.add_column("adjusted", justify="right", no_wrap=True)
    table.add_column("more seeds", justify="right", no_wrap=True)
    for arm in report["arms"]:
        name = arm["name"] + (" (exploratory)" if arm["exploratory"] else "")
        adjusted = arm["p_exploratory"] if arm["exploratory"] else arm["p_holm"]
        seeds = "" if arm["seeds_needed"] is None else f"{arm['seeds_needed']:,}"
        verdict = Text(arm["verdict"], style=COLORS[arm["verdict"]])
        table.add_row(Text(name), verdict, str(arm["n"]), *_figures(arm), _p(arm["p"]), _p(adjusted), seeds)
    return table


def _figures(arm: dict[str, Any]) -> tuple[str, str]:
    from scratchlab.study.words import figure

    if arm["effect"] is None:
        return "", ""
    effect = ("+" if arm["effect"] > 0 else "") + figure(arm["effect"], arm["error"])
    if arm["low"] is None:
        return effect, ""
    low, high = (("+" if end > 0 else "") + figure(end, arm["error"]) for end in (arm["low"], arm["high"]))
    return effect, f"{low} to {high}"


def _p(p: float | None) -> str:
    return "" if p is None else "<.001" if p < 0.001 else f"{p:.3f}"


def _foot(report: dict[str, Any]) -> list[str]:
    lines = [f"{arm['name']}: {'; '.join([arm['sentence'], *arm['notes']])}." for arm in report["arms"]]
    return [*lines, *(f"Note: {note}." for note in report["notes"])]
