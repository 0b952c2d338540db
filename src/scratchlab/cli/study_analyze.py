"""`scratchlab study analyze`: the analysis of a study, on anybody's table."""

from pathlib import Path

import click

from scratchlab.cli.output import as_json, show
from scratchlab.cli.study_text import analysis_text


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
