"""`scratchlab ladder`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from scratchlab.cli.output import as_json, duration, show
from scratchlab.errors import RunError, UsageError


@click.command(epilog="Example: scratchlab ladder recipes/gpt2-small.toml --device cuda --vocab-size 50257")
@click.argument("arguments", nargs=-1, metavar="RECIPE [FIELD=VALUE]... | FILE...")
@click.option("--device", metavar="NAME", help="Where to measure: auto, cpu, cuda, cuda:N, mps.")
@click.option("--vocab-size", type=click.IntRange(min=2), help="Of a recipe whose corpus is not on this machine.")
@click.option("--turns", type=click.IntRange(min=1), help="Of each rung.  [default: 5]")
@click.option("--out", metavar="FILE", help="The JSON file to write; ladders/RECIPE-DEVICE.json unless given.")
@click.option("--chart", metavar="PNG", help="The chart to write; beside the JSON file unless given.")
@click.option("--devices", is_flag=True, help="Put ladders of several machines (JSON files) side by side.")
@as_json
def ladder(
    arguments: tuple[str, ...],
    device: str | None,
    vocab_size: int | None,
    turns: int | None,
    out: str | None,
    chart: str | None,
    devices: bool,
    as_json: bool,
) -> None:
    """What makes a step fast here: from a plain loop in float32, one thing after another.

    Each rung adds one thing, and takes turns with the first rung on the same weights and tokens. Its loss must be that
    of float32 within a stated tolerance. A step is one micro-batch of random tokens, without dropout.
    """
    if not arguments:
        raise UsageError("Give a recipe to measure, or --devices and the JSON files of ladders.")
    if devices:
        given = {"--device": device, "--vocab-size": vocab_size, "--turns": turns, "--out": out, "--chart": chart}
        if ignored := [option for option, value in given.items() if value is not None]:
            raise UsageError(f"{', '.join(ignored)}: with --devices nothing is measured or written. Leave it out.")
        _show_devices(arguments, as_json)
        return

    from scratchlab.cli.live import live_line
    from scratchlab.recipe_files import load_recipe
    from scratchlab.training.ladder import climb, wrong
    from scratchlab.training.ladder_files import default_path, keep

    recipe = load_recipe(arguments[0], [*arguments[1:], *([f"execution.device={device}"] if device else [])])
    if vocab_size is None:
        from scratchlab.training.start import open_corpora

        vocab_size = open_corpora(recipe)[0].vocab_size
    with live_line() as line:
        report = climb(recipe, vocab_size, turns or 5, lambda rung: line(f"measuring {rung}"))
    path = Path(out) if out else default_path(arguments[0], report)
    picture = Path(chart) if chart else path.with_suffix(".png")
    keep(report, path, picture)
    report |= {"file": str(path), "chart": str(picture)}
    show(report, as_json, _text)
    if names := wrong(report):
        raise RunError(f"The loss of {', '.join(names)} is not that of float32: that speed is of another computation.")


def _show_devices(files: Sequence[str], as_json: bool) -> None:
    from scratchlab.training.ladder_files import devices, read

    show(devices(read(files)), as_json, _devices_text)


def _text(report: dict[str, Any]) -> str:
    from scratchlab.training.ladder_files import label

    rungs, environment = report["rungs"], report["environment"]
    rows = [
        [
            label(rung, first=rung is rungs[0]),
            f"{1e3 * rung['seconds']:,.1f}",
            f"{rung['tokens_per_second']:,.0f}",
            _times(rung.get("times_previous")),
            _times(rung["times_first"] if rung is not rungs[0] else None),
            f"{rung['peak_memory_bytes'] / 1e9:.2f}",
            f"{rung['loss_difference']:.1e} of {rung['tolerance']:g}{'' if rung['equal'] else ' !'}",
            duration(rung["first_step_seconds"]),
        ]
        for rung in rungs
    ]
    head = ["", "ms a step", "tokens/s", "x previous", "x first", "peak GB", "loss differs", "first step"]
    shape, sequences = report["shape"], report["sequences_a_step"]
    lines = [
        f"{shape['parameters']:,} parameters, {sequences} x {shape['context_length']} tokens a step "
        f"(of {report['sequences_of_the_recipe']} sequences in the recipe), {shape['vocab_size']:,} symbols",
        f"{environment['device']}, {report['threads']} threads, PyTorch {environment['torch']}, {report['date']}",
        "",
        _table(head, rows),
        f"Speeds with 95% intervals over n = {rungs[0]['turns']} turns, taken with the first rung; losses of the first "
        "three steps, in nats.",
        *(f"Left out: {name}, for {reason}." for name, reason in report["left_out"].items()),
        f"{report['file']} and {report['chart']}",
    ]
    return "\n".join(lines)


def _devices_text(table: dict[str, Any]) -> str:
    head = ["device", *table["rungs"], "best", "x first", "peak GB", "sequences", "PyTorch", "date"]
    rows = [
        [
            row["device"],
            *(f"{speed:,.0f}" if speed else "-" for speed in row["tokens_per_second"].values()),
            row["best_rung"],
            _times(row["times_first"]),
            f"{row['peak_memory_bytes'] / 1e9:.2f}",
            str(row["sequences_a_step"]),
            row["torch"],
            row["date"],
        ]
        for row in table["devices"]
    ]
    shape = table["shape"]
    return "\n".join(
        [
            f"Tokens/s while training {shape['parameters']:,} parameters, context {shape['context_length']}, "
            f"{shape['vocab_size']:,} symbols; each column adds to the one before",
            "",
            _table(head, rows),
        ]
    )


def _times(ratio: dict[str, float] | None) -> str:
    """`1.52 (1.48 to 1.57)`."""
    if ratio is None:
        return ""
    return f"{ratio['ratio']:.2f}" + (f" ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio["low"] else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(width=400, file=None)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
