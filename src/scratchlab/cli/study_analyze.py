"""`scratchlab study analyze`: the analysis of a study, on anybody's table."""

import shutil
from pathlib import Path
from typing import Any

import click

from scratchlab.cli.output import as_json, show


@click.command(epilog="Example: scratchlab study analyze --table results.csv --baseline base --smallest-effect 0.005")
@click.option(
    "--table",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="A row a run, with the columns arm, block and value. A block is a set of seeds that all arms ran with.",
)
@click.option("--baseline", required=True, metavar="NAME", help="The arm that all others are compared with.")
@click.option("--higher-is-better", is_flag=True, help="Of accuracies; losses are better when they are lower.")
@click.option(
    "--smallest-effect",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="Smaller differences do not matter. Default: 0.1% of the baseline, or its deviation over seeds if larger.",
)
@click.option(
    "--noise",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Figures of baseline runs with other seeds (column value): judges arms that have one run.",
)
@click.option(
    "--exploratory", metavar="NAMES", help="Arms, with commas between them, that were not planned: judged apart."
)
@click.option("--metric", metavar="COLUMN", help="The column that holds the figure.  [default: value]")
@click.option("--mixed-hardware", is_flag=True, help="Model the column hardware where it differs within a block.")
@as_json
def analyze(
    path: Path,
    baseline: str,
    higher_is_better: bool,
    smallest_effect: float | None,
    noise: Path | None,
    exploratory: str | None,
    metric: str | None,
    mixed_hardware: bool,
    as_json: bool,
) -> None:
    """Which changes are real? Judge a table of results, from wherever it comes.

    Every arm gets its effect with a 95% interval and a verdict: helps, hurts, negligible, or undecided with the number
    of further seeds that would settle it. docs/statistics.md says how.
    """
    from scratchlab.study.analysis import analyze as analyze_table
    from scratchlab.study.table import read_noise, read_table

    table = read_table(path, baseline, higher_is_better, mixed_hardware, metric)
    found = analyze_table(
        table,
        smallest_effect=smallest_effect,
        declared=_declared(table.arms[1:], exploratory),
        noise=None if noise is None else read_noise(noise, baseline),
    )
    show(found.to_json(), as_json, analysis_text)


def _declared(arms: tuple[str, ...], exploratory: str | None) -> list[str]:
    from scratchlab.errors import UsageError

    apart = [name.strip() for name in (exploratory or "").split(",") if name.strip()]
    unknown = [name for name in apart if name not in arms]
    if unknown:
        raise UsageError(f"--exploratory: there is no arm {unknown[0]!r}; there is {', '.join(arms)}.")
    return [name for name in arms if name not in apart]


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


COLORS = {"helps": "green", "hurts": "red", "negligible": "dim", "undecided": "yellow"}


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
