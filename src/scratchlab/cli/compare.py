"""`scratchlab compare`."""

import math
from pathlib import Path
from typing import Any

import click

from scratchlab.cli.output import aligned, as_json, show


@click.command(epilog="Example: scratchlab compare 'runs/base-*' 'runs/wide-*' --task hellaswag --smallest-effect 0.01")
@click.argument("a")
@click.argument("b")
@click.option("--task", metavar="NAME", help="The task or text of this name alone.")
@click.option("--loss", is_flag=True, help="The loss on held-out text alone.")
@click.option(
    "--smallest-effect",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="Smaller differences do not matter: of the accuracy (0.01 is one point in a hundred), or of the loss.",
)
@click.option(
    "--out", "folder", default="evaluations", show_default=True, help="Where scratchlab evaluate kept results."
)
@as_json
def compare(
    a: str, b: str, task: str | None, loss: bool, smallest_effect: float | None, folder: str, as_json: bool
) -> None:
    """Is A better than B? Their difference item by item, with its 95% interval and a verdict.

    A and B are models that scratchlab evaluate has scored, by the names it got; several runs that differ in their
    seeds alone (a pattern in quotes, or names with commas between them); or two logs of results.

    With one run a side, the interval says what other items would show, not what other seeds would.
    """
    from scratchlab.errors import UsageError
    from scratchlab.evaluation.sides import compare_sides

    if smallest_effect is not None and not math.isfinite(smallest_effect):
        raise UsageError(f"--smallest-effect {smallest_effect}: expected a number above 0, such as 0.01.")
    kind = "loss" if loss else None
    found = compare_sides(a, b, Path(folder), task=task, kind=kind, smallest_effect=smallest_effect)
    rows = [comparison.to_json() for comparison in found.comparisons]
    report = {"a": found.a, "b": found.b, "comparisons": rows, "noise": _noise(rows), "notes": found.notes}
    show(report, as_json, _text)


def _noise(rows: list[dict[str, Any]]) -> str:
    """What the intervals are about, in a line."""
    if rows[0]["seed_error"] is None:
        return (
            "One run a side: an interval says what other items would show, not what other seeds would. "
            "For that, give several runs a side."
        )
    return (
        "The verdicts rest on the noise between seeds: an interval says what other runs would show on these items. "
        "What other items would show, the error over items says."
    )


FIGURES = {
    "accuracy": "accuracy",
    "accuracy_norm": "accuracy by length",
    "accuracy_token": "accuracy by token",
    "bits_per_byte": "bits/byte",
    "nats_per_token": "nats/token",
}


def _text(report: dict[str, Any]) -> str:
    rows: list[dict[str, Any]] = report["comparisons"]
    seeds = rows[0]["seed_error"] is not None
    head = ["task", "figure", "A", "B", "A - B", "95% interval", "p", "n", *_error_head(seeds), "verdict"]
    table = aligned([head, *(_cells(row, seeds) for row in rows)])
    names = [f"{side.upper()} = {', '.join(report[side])}" for side in ("a", "b")]
    many = f"{len(rows)} comparisons, each with its own chance of 5% to find a difference where there is none."
    return "\n".join([*names, "", *table, "", report["noise"], *([many] if len(rows) > 2 else []), *report["notes"]])


def _error_head(seeds: bool) -> list[str]:
    return ["error over items", "over seeds"] if seeds else ["error"]


def _cells(row: dict[str, Any], seeds: bool) -> list[str]:
    p = "<.001" if row["p"] < 0.001 else f"{row['p']:.3f}"
    n = f"{row['n_items']:,} {row['over_items']['unit']}" + (f", {row['method']}" if seeds else "")
    errors = [row["item_error"], row["seed_error"]] if seeds else [row["item_error"]]
    return [
        row["task"],
        FIGURES[row["figure"]],
        f"{row['a']:.4f}",
        f"{row['b']:.4f}",
        f"{row['difference']:+.4f}",
        f"{row['low']:+.4f} to {row['high']:+.4f}",
        p,
        n,
        *(f"{error:.4f}" for error in errors),
        row["sentence"],
    ]
