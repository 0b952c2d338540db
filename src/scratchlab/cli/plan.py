"""`scratchlab plan`."""

import functools
import shlex
from collections.abc import Sequence
from typing import Any

import click

from scratchlab.cli.output import as_json, count, duration, show
from scratchlab.errors import UsageError

OWN = "Give one with a file of your own: docs/planning.md."
SEEN = 50_000  # bytes, which are shown as 0.1 MB
REPEATED = 4  # epochs; up to so many are nearly as good as new text (Muennighoff et al. 2023)


@click.command(epilog="Example: scratchlab plan recipes/nano-char.toml --measure model.n_layer=6")
@click.argument("path", metavar="RECIPE")
@click.argument("overrides", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--device", "devices", multiple=True, metavar="NAME", help="A device of the table (again for more).")
@click.option("--vocab-size", type=click.IntRange(2), help="Symbols of a corpus that is not built yet.")
@click.option("--measure", is_flag=True, help="Time some steps, an evaluation and a checkpoint here.")
@click.option("--probe", is_flag=True, help="Find the largest micro-batch by trying.")
@click.option("--budget", metavar="35usd", help="Choose the model's size and its tokens for so much money.")
@click.option("--hours", type=click.FloatRange(0, min_open=True), help="The same for so much time.")
@as_json
def plan(
    path: str,
    overrides: tuple[str, ...],
    devices: tuple[str, ...],
    vocab_size: int | None,
    measure: bool,
    probe: bool,
    budget: str | None,
    hours: float | None,
    as_json: bool,
) -> None:
    """What a run of RECIPE will take, before it is paid for: memory, time, money and disk, here and elsewhere.

    Without --measure, time here is what was measured before. Other devices are estimated by a table with sources
    (docs/planning.md); execution.processes=8 plans for eight of each. With --budget or --hours, the size that is best
    to train on one kind of device.
    """
    from scratchlab.recipe_files import load_recipe
    from scratchlab.training.plan import choose, parse_budget, plan_run

    if budget is not None and hours is not None:
        raise UsageError("--budget and --hours are two ways to say the same: give one of them.")
    money = None if budget is None else parse_budget(budget)
    chooses = money is not None or hours is not None
    named = devices if devices or chooses else None  # a budget is for this machine where no device is named
    say = functools.partial(click.echo, err=True)
    planned = plan_run(load_recipe(path, overrides), named, say, measure, probe, vocab_size)
    report = {"recipe": path, **planned.to_json()}
    if chooses:
        choice = choose(planned, hours, money)
        report["choice"] = choice | {"command": _command(path, overrides, choice["overrides"])}
    show(report, as_json, plan_text)


def _command(path: str, given: Sequence[str], chosen: Sequence[str]) -> str:
    """What trains the chosen size: with what was given besides, but for another size or length."""
    from scratchlab.recipe import LENGTHS

    settled = {override.partition("=")[0] for override in chosen} | {f"training.{length}" for length in LENGTHS}
    kept = [override for override in given if override.partition("=")[0].strip() not in settled]
    return shlex.join(["scratchlab", "train", path, "--out", "DIR", *kept, *chosen])


def plan_text(report: dict[str, Any]) -> str:
    """A plan for people."""
    lines = [*_counts(report), "", *_here(report)]
    if report["devices"]:
        lines += ["", *_table(report["devices"]), "", *_notes(report["devices"])]
    return "\n".join([*lines, *_choice(report)])


def _counts(report: dict[str, Any]) -> list[str]:
    epochs = "" if report["epochs"] is None else f" ({_epochs(report['epochs'])})"
    lines = [
        f"{report['recipe']}: {report['parameters']:,} parameters, vocabulary {report['vocab_size']:,}",
        f"  training    {count(report['steps'], 'step')}, {report['tokens']:,} tokens{epochs}",
        f"  FLOPs       {report['flops']:.3g}, {report['flops_per_token']:,} a token ({report['flops_convention']})",
    ]
    if report["suites"]:
        lines.append(f"  suites      {report['suites']}: their time is not forecast")
    if not report["scored"]:
        lines.append(
            "  evaluation  of what is not known: its time is not forecast (evaluation.max_tokens says how much)"
        )
    return lines


def _here(report: dict[str, Any]) -> list[str]:
    here = report["here"]
    if here is None:
        return [f"This machine cannot train it: {report['refused']}"]
    memory, several = here["memory"], here["mode"] is not None
    parts = ", ".join(
        f"{part} {_size(amount)}" for part, amount in memory.items() if part != "total" and amount >= SEEN
    )
    each = " in each process" if several else ""
    measured = "" if here["peak_memory"] is None else f"; measured: {_size(here['peak_memory'])}"
    lines = [
        f"This machine: {_those(here)}, {here['precision']}",
        f"  memory      {_size(memory['total'])} of {_size(here['room'])}{each} ({parts}){measured}",
        f"  micro-batch {here['micro_batch_size']}{_largest(here, report['probed_micro_batch'])}",
        f"  disk        {_size(here['disk_bytes'])}",
    ]
    if here["main_memory"]:
        lines.insert(2, f"  main memory {_size(here['main_memory'])} for what is off-loaded")
    if here["seconds"] is None:
        lines.append(f"  time        not known: {here['basis'].partition(': ')[2]}")
    else:
        spent = ", ".join(f"{part} {duration(amount)}" for part, amount in here["seconds"].items())
        lines.append(f"  time        {duration(here['total_seconds'])} ({spent}), by {here['basis']}")
        lines.append(f"  speed       {here['tokens_per_second']:,.0f} tokens/s" if here["tokens_per_second"] else "")
    lines.append(f"  rent        {_money(here)}")
    return [line for line in lines if line] + ([f"  to do       {here['remedy']}"] if here["remedy"] else [])


def _largest(here: dict[str, Any], tried: int | None) -> str:
    fits, how = here["largest_micro_batch"], "by formula" if tried is None else "by trying"
    if fits is None:
        return f"; not even one sequence fits, {how}"
    if fits == here["micro_batch_size"]:
        return f", the largest that fits, {how}"
    return f"; the largest that fits is {fits}, {how}"


def _those(forecast: dict[str, Any]) -> str:
    """`H100`, `8 x H100, FSDP2`, `AMD EPYC (2 cores), 2 processes, DDP`."""
    if forecast["mode"] is None:
        return forecast["device"]
    number, name = forecast["devices"], forecast["device"]
    those = f"{number} x {name}" if number > 1 else f"{name}, {forecast['processes']} processes"
    return f"{those}, {forecast['mode']}"


def _table(devices: list[dict[str, Any]]) -> list[str]:
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    several = any(device["mode"] for device in devices)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("device", no_wrap=True)
    table.add_column("in", no_wrap=True)
    for name in ("each takes" if several else "takes", "of", "micro-batch", "tokens/s", "time", "usd"):
        table.add_column(name, justify="right", no_wrap=True)
    for device in devices:
        known = device["seconds"] is not None
        table.add_row(
            _those(device) + ("" if "published" in device["basis"] else " *" if known else ""),
            device["precision"],
            _size(device["memory"]["total"]),
            "?" if device["room"] is None else _size(device["room"]),
            "-" if device["largest_micro_batch"] is None else str(device["micro_batch_size"]),
            f"{device['tokens_per_second']:,.0f}" if device["tokens_per_second"] else "-",
            duration(device["total_seconds"]) if known else "-",
            "-" if device["price"] is None else _dollars(device["price"]),
        )
    wide = Console(width=10_000)
    console = Console(width=Measurement.get(wide, wide.options, table).maximum)  # no figure is cut off
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines() if line.strip()]


def _notes(devices: list[dict[str, Any]]) -> list[str]:
    """What to do where it does not fit, and what sizes, speeds and prices rest on."""
    lines = [f"{device['device']}: {device['remedy']}." for device in devices if device["remedy"]]
    lines.append("GB are 10^9 bytes: a card of 24 GB has 25.77. A tenth of it is left alone.")
    if away := max(device["main_memory"] for device in devices):
        lines.append(f"Off-loading takes {_size(away)} of main memory besides.")
    speeds = [device["tokens_per_second"] for device in devices if device["tokens_per_second"]]
    if len(speeds) > 1 and len(set(speeds)) == 1:
        lines.append("All are as fast: so small a model waits for kernels to be launched, not for the card.")
    if any(device["devices"] > 1 for device in devices):
        lines.append("Several of them share each batch; that they wait for each other's gradients is not in the time.")
    lines += [f"{device['device']}: {device['basis']}" for device in devices if "published" in device["basis"]]
    lines += sorted({f"* {device['basis']}: nobody measured it." for device in devices if "thumb" in device["basis"]})
    prices: dict[str, list[str]] = {}
    for device in devices:
        if device["price_per_hour"] is not None:
            price = f"{device['device']} {device['price_per_hour']:.2f}"
            prices.setdefault(device["price_source"], []).append(price)
    lines += [f"Rent in dollars an hour, {source}: {', '.join(asked)}" for source, asked in prices.items()]
    without = [device["device"] for device in devices if device["price_per_hour"] is None]
    return [*lines, f"No price known: {', '.join(without)}. {OWN}"] if without else lines


def _choice(report: dict[str, Any]) -> list[str]:
    if "choice" not in report:
        return []
    choice = report["choice"]
    those = f"{choice['devices']} x {choice['device']}" if choice["devices"] > 1 else choice["device"]
    rent = "" if choice["price"] is None else f" ({_dollars(choice['price'])} usd of rent)"
    epochs = "" if choice["epochs"] is None else f", {_epochs(choice['epochs'])}"
    return [
        "",
        f"{duration(3600 * choice['hours'])} on {those}{rent} train {choice['parameters']:,} parameters on "
        f"{choice['tokens']:,} tokens ({choice['tokens_per_parameter']:.3g} a parameter{epochs}), in "
        f"{duration(choice['seconds'])} with the evaluations:",
        f"  {choice['command']}",
    ]


def _epochs(number: float) -> str:
    """What reading a text again is worth, where it is read often."""
    again = f"; beyond {REPEATED}, repeated text teaches ever less" if number > REPEATED else ""
    return f"{number:,.1f} epochs{again}"


def _dollars(amount: float) -> str:
    return "<0.01" if 0 < amount < 0.01 else f"{amount:,.2f}"


def _size(amount: float) -> str:
    return f"{amount / 1e9:.2f} GB" if amount >= 1e8 else f"{amount / 1e6:.1f} MB"


def _money(here: dict[str, Any]) -> str:
    if here["price_per_hour"] is None:
        return f"no price known. {OWN}"
    price = "?" if here["price"] is None else f"{_dollars(here['price'])} usd"
    each = " a device and hour" if here["devices"] > 1 else " an hour"
    return f"{price} at {here['price_per_hour']:.2f}{each} by {here['price_source']}"
