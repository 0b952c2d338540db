"""`scratchlab study export`."""

from pathlib import Path
from typing import Any

import click

from scratchlab.cli.output import as_json, show


@click.command(epilog="Example: scratchlab study export studies/mine.toml --skypilot mine.yaml --accelerators H100:8")
@click.argument("path", metavar="STUDY")
@click.option("--skypilot", "out", metavar="FILE", required=True, help="Write a SkyPilot task for spot machines here.")
@click.option("--accelerators", default="H100:1", show_default=True, help="Which GPUs, and how many.")
@click.option("--cloud", help="Where, such as aws or gcp/us-central1.  [default: where it is cheapest]")
@as_json
def export(path: str, out: str, accelerators: str, cloud: str | None, as_json: bool) -> None:
    """Write what rents a machine for STUDY and runs it there, whoever takes machines away meanwhile."""
    from scratchlab.files import write_atomically
    from scratchlab.study.definition import load_study
    from scratchlab.study.skypilot import study_files, task_file

    write_atomically(Path(out), task_file(study_files(load_study(path)), out, accelerators, cloud))
    show({"study": path, "skypilot": out}, as_json, _text)


def _text(report: dict[str, Any]) -> str:
    return f"Wrote {report['skypilot']}. To rent the machine and begin: sky jobs launch {report['skypilot']}"
