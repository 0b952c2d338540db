"""What the commands share: JSON on request, tables and figures for people."""

import json
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

from scratchlab.files import pretty_json
from scratchlab.training.progress import Bar, Lines, Reporter, Silent
from scratchlab.words import duration as duration
from scratchlab.words import with_error as with_error

as_json: Callable[[Any], Any] = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def show(report: dict[str, Any], as_json: bool, text: Callable[[dict[str, Any]], str]) -> None:
    """Print a report, as JSON or as the text it makes."""
    click.echo(_json(report) if as_json else text(report))


def _json(report: dict[str, Any]) -> str:
    """With escapes where standard output cannot take a character as it is, so that nothing is lost."""
    text = pretty_json(report).rstrip()
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return json.dumps(report, indent=2, allow_nan=False)
    return text


@contextmanager
def reporter(quiet: bool = False) -> Generator[Reporter]:
    """A progress bar on a terminal, plain lines elsewhere; both on standard error. Nothing at all if `quiet`."""
    if quiet:
        yield Silent()
        return
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    with Bar(console) as bar:
        yield bar


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, its columns as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def counts_text(counts: Mapping[str, int]) -> str:
    """`3 duplicate, 1 empty response`: what there are any of."""
    return ", ".join(f"{number:,} {kind}" for kind, number in counts.items() if number)


def tells_labels(figures: dict[str, Any]) -> bool:
    """Whether the figures of a split are of labels that texts have."""
    return figures.get("unit") == "texts"


def loss_text(loss: dict[str, Any]) -> str:
    """A loss in both units with its standard errors and what they rest on; of labels with what share is right."""
    if tells_labels(loss):
        accuracy, nats = (with_error(loss[name], loss[f"{name}_error"]) for name in ("accuracy", "nats_per_token"))
        return f"accuracy {accuracy}, {nats} nats/text (n = {count(loss['n_units'], 'text')})"
    nats = with_error(loss["nats_per_token"], loss["nats_per_token_error"])
    bits = with_error(loss["bits_per_byte"], loss["bits_per_byte_error"])
    unit = loss["unit"] if loss["n_units"] != 1 else loss["unit"].removesuffix("s")
    return f"{nats} nats/token, {bits} bits/byte (n = {loss['n_units']} {unit}, {loss['n_tokens']:,} tokens)"


def pairs_text(figures: dict[str, Any]) -> str:
    """What a run makes of pairs, with standard errors."""
    accuracy = with_error(figures["accuracy"], figures["accuracy_error"], 3)
    loss, gain = (with_error(figures[name], figures[f"{name}_error"]) for name in ("loss", "margin"))
    return (
        f"accuracy {accuracy}, {loss} nats/pair, chosen over rejected gained {gain} nats (n = {figures['pairs']:,} "
        "pairs)"
    )


def count(n: int, what: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{n:,} {what}{'s' * (n != 1)}"
