"""`scratchlab scoreboard`."""

from pathlib import Path
from typing import Any, Literal

import click

from scratchlab.cli.output import aligned, as_json, duration, show


@click.command(epilog="Example: scratchlab scoreboard runs/* --markdown scoreboard.md")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--out", "folder", type=click.Path(path_type=Path), default=Path("evaluations"), show_default=True,
              help="Where scratchlab evaluate kept results.")  # fmt: skip
@click.option("--at", type=click.Choice(["final", "best"]), default="final", show_default=True, help="Weights of runs.")
@click.option("--markdown", type=click.Path(path_type=Path), metavar="FILE", help="Write it as Markdown too.")
@as_json
def scoreboard(
    models: tuple[str, ...], folder: Path, at: Literal["final", "best"], markdown: Path | None, as_json: bool
) -> None:
    """All that is known of each MODEL side by side, and whether the columns rank the models alike.

    Figures are those that scratchlab evaluate kept, each with its 95% interval; of runs also the tokens and the time
    that training took.
    """
    from scratchlab.evaluation import scoreboard as boards
    from scratchlab.files import write_atomically

    board = boards.scoreboard(models, folder, at).to_json()
    if markdown:
        write_atomically(markdown, _markdown(board))
    show(board, as_json, _text)


def _rows(board: dict[str, Any]) -> list[list[str]]:
    head = ["model", *board["columns"]]
    return [
        head,
        *([name, *(_cell(row, column) for column in board["columns"])] for name, row in board["models"].items()),
    ]


def _cell(row: dict[str, Any], column: str) -> str:
    if (figure := row.get(column)) is None:
        return "-"
    match column:
        case "tokens":
            return f"{figure['value']:,.0f}"
        case "seconds":
            return duration(figure["value"])
        case _:
            return _with_interval(figure)


def _with_interval(figure: dict[str, Any]) -> str:
    if figure["low"] is None:
        return f"{figure['value']:.4f}"
    return f"{figure['value']:.4f} ({figure['low']:.4f} to {figure['high']:.4f})"


def _agreement(found: dict[str, Any]) -> str:
    left, right = found["columns"]
    return f"{left} and {right}: rank correlation {found['correlation']:+.2f} (n = {found['n']}, p = {found['p']:.3f})"


def _text(board: dict[str, Any]) -> str:
    lines = aligned(_rows(board))
    if board["agreements"]:
        lines += ["", "Do they rank the models alike? (+1: the same order, -1: the opposite one, better first)"]
        lines += [f"  {_agreement(found)}" for found in board["agreements"]]
    if board["notes"]:
        lines += ["", *board["notes"]]
    return "\n".join(lines)


def _markdown(board: dict[str, Any]) -> str:
    head, *rows = _rows(board)
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
    return (
        "\n".join(
            [
                table,
                "",
                *(f"- {_agreement(found)}" for found in board["agreements"]),
                *(f"- {note}" for note in board["notes"]),
            ]
        ).rstrip()
        + "\n"
    )
