"""`scratchlab plan`."""

from typing import Any

import click

from scratchlab.cli.output import as_json, duration, show
from scratchlab.errors import UsageError

OWN = "Give one with a file of your own: docs/planning.md."


@click.command(epilog="Example: scratchlab plan recipes/nano-char.toml --measure model.n_layer=6")
@click.argument("path", metavar="RECIPE")
@click.argument("overrides", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--device", "devices", multiple=True, metavar="NAME", help="A device of the table (again for more).")
@click.option("--measure", is_flag=True, help="Time some steps, an evaluation and a checkpoint here.")
@click.option("--probe", is_flag=True, help="Find the largest micro-batch by trying, on a CPU in other processes.")
@click.option("--budget", metavar="35usd", help="Choose the model's size and its tokens for so much money.")
@click.option("--hours", type=click.FloatRange(0, min_open=True), help="The same for so much time.")
@as_json
def plan(
    path: str,
    overrides: tuple[str, ...],
    devices: tuple[str, ...],
    measure: bool,
    probe: bool,
    budget: str | None,
    hours: float | None,
    as_json: bool,
) -> None:
    """What a run of RECIPE will take, before it is paid for: memory, time, money and disk, here and elsewhere.

    Without --measure, time here is what was measured before. Other devices are estimated by a table with sources
    (docs/planning.md). With --budget or --hours, the size that is best to train on one device.
    """
    from scratchlab.recipe import load_recipe
    from scratchlab.training.plan import choose, parse_budget, plan_run

    if budget is not None and hours is not None:
        raise UsageError("--budget and --hours are two ways to say the same: give one of them.")
    money = None if budget is None else parse_budget(budget)
    chooses = money is not None or hours is not None
    named = devices if devices or chooses else None  # a budget is for this machine where no device is named
    planned = plan_run(load_recipe(path, overrides), named, lambda text: click.echo(text, err=True), measure, probe)
    report = {"recipe": path, **planned.to_json()}
    if chooses:
        report["choice"] = choose(planned, hours, money)
    show(report, as_json, plan_text)


def plan_text(report: dict[str, Any]) -> str:
    """A plan for people."""
    from rich.console import Console
    from rich.measure import Measurement

    lines = [*_counts(report), "", *_here(report["here"], report["probed_micro_batch"])]
    if report["devices"]:
        table, wide = _table(report["devices"]), Console(width=10_000)
        console = Console(width=Measurement.get(wide, wide.options, table).maximum)  # no figure is cut off
        with console.capture() as captured:
            console.print(table)
        lines += ["", captured.get().rstrip(), *_notes(report["devices"])]
    return "\n".join([*lines, *_choice(report)])


def _counts(report: dict[str, Any]) -> list[str]:
    lines = [
        f"{report['recipe']}: {report['parameters']:,} parameters, vocabulary {report['vocab_size']:,}",
        f"  training   {report['steps']:,} steps, {report['tokens']:,} tokens ({report['epochs']:.1f} epochs)",
        f"  FLOPs      {report['flops']:.3g}, {report['flops_per_token']:,} a token ({report['flops_convention']})",
    ]
    return [*lines, f"  suites     {report['suites']}: their time is not forecast"] if report["suites"] else lines


def _here(here: dict[str, Any], probed: int | None) -> list[str]:
    memory = here["memory"]
    parts = ", ".join(f"{part} {_size(amount)}" for part, amount in memory.items() if part != "total" and amount)
    measured = "" if here["peak_memory"] is None else f"; measured: {_size(here['peak_memory'])}"
    lines = [
        f"This machine: {here['device']}, {here['precision']}",
        f"  memory     {_size(memory['total'])} of {_size(here['room'])} ({parts}){measured}",
        f"  micro-batch {here['micro_batch_size']}, the largest that fits {here['largest_micro_batch'] or 'none'}"
        + (f", by trying {probed}" if probed else ""),
        f"  disk       {_size(here['disk_bytes'])}",
    ]
    if here["seconds"] is None:
        lines.append(f"  time       rests on {here['basis']}")
    else:
        spent = ", ".join(f"{part} {duration(amount)}" for part, amount in here["seconds"].items())
        lines.append(f"  time       {duration(here['total_seconds'])} ({spent}), by {here['basis']}")
        lines.append(f"  speed      {here['tokens_per_second']:,.0f} tokens/s" if here["tokens_per_second"] else "")
    lines.append(f"  money      {_money(here)}")
    return [line for line in lines if line] + ([f"  to do      {here['remedy']}"] if here["remedy"] else [])


def _table(devices: list[dict[str, Any]]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("device", no_wrap=True)
    table.add_column("in", no_wrap=True)
    for name in ("memory", "of", "micro-batch", "tokens/s", "time", "usd"):
        table.add_column(name, justify="right", no_wrap=True)
    for device in devices:
        fits, known = device["largest_micro_batch"], device["seconds"] is not None
        table.add_row(
            device["device"] + ("" if "published" in device["basis"] else " *" if known else ""),
            device["precision"],
            _size(device["memory"]["total"]),
            "?" if device["room"] is None else _size(device["room"]),
            str(fits or "-"),
            f"{device['tokens_per_second']:,.0f}" if device["tokens_per_second"] else "-",
            duration(device["total_seconds"]) if known else "-",
            "-" if device["price"] is None else f"{device['price']:.2f}",
        )
    return table


def _notes(devices: list[dict[str, Any]]) -> list[str]:
    """What to do where it does not fit, and what speeds and prices rest on."""
    lines = [f"{device['device']}: {device['remedy']}." for device in devices if device["remedy"]]
    lines += [f"{device['device']}: {device['basis']}" for device in devices if "published" in device["basis"]]
    lines += sorted({f"* {device['basis']}: nobody measured it." for device in devices if "thumb" in device["basis"]})
    prices: dict[str, list[str]] = {}
    for device in devices:
        if device["price_per_hour"] is not None:
            price = f"{device['device']} {device['price_per_hour']:.2f}"
            prices.setdefault(device["price_source"], []).append(price)
    lines += [f"Dollars an hour, {source}: {', '.join(asked)}" for source, asked in prices.items()]
    without = [device["device"] for device in devices if device["price_per_hour"] is None]
    return [*lines, f"No price known: {', '.join(without)}. {OWN}"] if without else lines


def _choice(report: dict[str, Any]) -> list[str]:
    if "choice" not in report:
        return []
    choice = report["choice"]
    return [
        "",
        f"{choice['hours']:.3g} hours on {choice['device']} train {choice['parameters']:,} parameters on "
        f"{choice['tokens']:,} tokens ({choice['tokens_per_parameter']:.3g} a parameter), in "
        f"{duration(choice['seconds'])} with the evaluations:",
        f"  scratchlab train {report['recipe']} --out DIR {' '.join(choice['overrides'])}",
    ]


def _size(amount: float) -> str:
    return f"{amount / 1e9:.2f} GB" if amount >= 1e8 else f"{amount / 1e6:.1f} MB"


def _money(here: dict[str, Any]) -> str:
    if here["price_per_hour"] is None:
        return f"no price known. {OWN}"
    price = "?" if here["price"] is None else f"{here['price']:.2f} usd"
    return f"{price} at {here['price_per_hour']:.2f} an hour by {here['price_source']}"
