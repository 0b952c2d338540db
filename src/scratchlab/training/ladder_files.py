"""Ladders kept as files: written, drawn, and those of several machines side by side."""

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from scratchlab.errors import UsageError
from scratchlab.files import pretty_json, write_atomically
from scratchlab.training.ladder import Record

FORMAT = 1


def default_path(recipe: str | Path, report: Record) -> Path:
    """`ladders/RECIPE-DEVICE.json`."""
    device = re.sub(r"[^a-z0-9]+", "-", report["environment"]["device"].lower()).strip("-")
    return Path("ladders") / f"{Path(recipe).stem}-{device}.json"


def keep(report: Record, path: Path, chart: Path) -> None:
    """Write the report as JSON, and its chart as a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    chart.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, pretty_json({"ladder": FORMAT} | report))
    picture = io.BytesIO()
    _figure(report).savefig(picture, format="png", dpi=150)
    write_atomically(chart, picture.getvalue())


def _figure(report: Record) -> Figure:
    """A bar a rung: milliseconds a step, with the speed-up over the first rung written beside it."""
    rungs = report["rungs"]
    figure = Figure(figsize=(8, 1.2 + 0.45 * len(rungs)), layout="constrained")
    axes: Any = figure.subplots()
    milliseconds = [1e3 * rung["seconds"] for rung in rungs]
    bars = axes.barh([label(rung, first=rung is rungs[0]) for rung in rungs], milliseconds, color="tab:blue")
    speeds = [f"{1e3 * rung['seconds']:,.1f} ms, {rung['times_first']['ratio']:.2f} x" for rung in rungs]
    axes.bar_label(bars, speeds, padding=4)
    axes.set_xlim(0, 1.35 * max(milliseconds))
    axes.invert_yaxis()
    axes.set_xlabel(f"ms a step of {report['sequences_a_step']} x {report['shape']['context_length']} tokens")
    axes.set_title(f"{report['environment']['device']}, PyTorch {report['environment']['torch']}", fontsize="medium")
    return figure


def label(rung: Record, first: bool) -> str:
    """`+ bf16`; the first rung adds nothing."""
    return rung["name"] if first else f"+ {rung['name']}"


def read(paths: Sequence[str]) -> list[Record]:
    """The ladders of these files, the slowest device first. `UsageError` if they are not of one shape."""
    reports = [_read(Path(path)) for path in paths]
    shapes = {json.dumps(report["shape"], sort_keys=True): path for path, report in zip(paths, reports, strict=True)}
    if len(shapes) > 1:
        one, other = list(shapes.items())[:2]
        raise UsageError(
            f"{one[1]} and {other[1]} are ladders of different models ({one[0]} and {other[0]}): a table compares "
            "devices on one. Give ladders of the same recipe and vocabulary."
        )
    return sorted(reports, key=lambda report: best(report)["tokens_per_second"])


def _read(path: Path) -> Record:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: could not be read: {getattr(error, 'strerror', None) or error}.") from None
    if not isinstance(report, dict) or report.get("ladder") != FORMAT:
        raise UsageError(f"{path} is no ladder of this version. scratchlab ladder RECIPE writes them into ladders/.")
    return report


def best(report: Record) -> Record:
    """The fastest rung."""
    return max(report["rungs"], key=lambda rung: rung["tokens_per_second"])


def devices(reports: Sequence[Record]) -> Record:
    """The processor table: for each device its first rung, each further one's tokens/s, and its best."""
    names = list(dict.fromkeys(rung["name"] for report in reports for rung in report["rungs"]))
    rows: list[Record] = []
    for report in reports:
        speeds = {rung["name"]: rung["tokens_per_second"] for rung in report["rungs"]}
        top = best(report)
        rows.append(
            {
                "device": report["environment"]["device"],
                "torch": report["environment"]["torch"],
                "date": report["date"],
                "sequences_a_step": report["sequences_a_step"],
                "tokens_per_second": {name: speeds.get(name) for name in names},
                "best_rung": top["name"],
                "times_first": top["times_first"],
                "peak_memory_bytes": top["peak_memory_bytes"],
            }
        )
    return {"shape": reports[0]["shape"], "rungs": names, "devices": rows}
