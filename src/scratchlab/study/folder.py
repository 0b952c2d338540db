"""Where a study's files lie, and what its finished runs say.

studies/mine.toml        the study
studies/mine/            settled.json, table.csv (what the analysis takes, after each run), reports
studies/runs/<name>/     runs, each named for its fingerprint: the studies beside one another share them
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scratchlab.devices import price_per_hour
from scratchlab.runfolder import Record, RunFolder
from scratchlab.study.definition import Study
from scratchlab.study.design import Figures, Known, PlannedRun, Schedule, table_of
from scratchlab.study.jobs import Job
from scratchlab.study.settled import SettledStudy
from scratchlab.study.table import write_table
from scratchlab.training.journal import HOPELESS
from scratchlab.training.summary import step_records


def job_of(study: Study, run: PlannedRun) -> Job:
    """A planned run as an engine takes it."""
    return Job(run.recipe, study.runs / run.name, run.label)


def known_runs(study: Study, settled: SettledStudy) -> Known:
    """Looks finished runs up in the study's folder of runs; what was found once is not read again."""
    found: dict[str, Figures] = {}

    def look_up(name: str) -> Figures | None:
        if name not in found:
            figures = read_figures(study, settled, study.runs / name)
            if figures is None:
                return None
            found[name] = figures
        return found[name]

    return look_up


def read_figures(study: Study, settled: SettledStudy, path: Path) -> Figures | None:
    """What the run at `path` came to; None if it is not finished. A run that diverged is finished."""
    folder = RunFolder(path)
    if not folder.exists():
        return None
    result = folder.result()
    if result is None and not has_diverged(folder):
        return None
    manifest, result = folder.manifest(), result or {}
    seconds: Mapping[str, float] = result.get("cost", {}).get("seconds") or _seconds(folder.meters())
    total, training = sum(seconds.values()), seconds.get("training", 0.0)
    return Figures(
        value=figure(result, study.file.study.metric),
        validation=figure(result, "validation.nats_per_token"),
        evaluation=manifest["evaluation_corpus"]["sha256"],
        hardware=_hardware(manifest["environment"], settled.environment),
        seconds=training,
        other_seconds=total - training,
        price=price_of(study, manifest["environment"]["device"], total),
    )


def has_diverged(folder: RunFolder) -> bool:
    """Whether an unfinished run gave up: its last steps had no finite gradient."""
    last = step_records(folder.metrics())[-HOPELESS:]
    return len(last) == HOPELESS and all(record["skipped"] for record in last)


def figure(result: Mapping[str, Any], dotted: str) -> float | None:
    """A figure of result.json by its dotted path; None where it is not finite."""
    value: Any = result
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if value is None else float(value)


def price_of(study: Study, device: str, seconds: float) -> float | None:
    """What so many seconds on a device cost: by the study file, or else by the table of devices, if that knows."""
    price = study.file.study.price
    if price is None and study.file.study.currency.upper() == "USD":
        price = price_per_hour(device)
    if isinstance(price, dict):
        price = next((price[part] for part in price if part in device), None)
    return None if price is None else price * seconds / 3600


def write_results(study: Study, schedule: Schedule) -> None:
    """Write table.csv, if there is anything to write."""
    if schedule.counted:
        write_table(table_of(study, schedule.counted), study.folder / "table.csv")


def _seconds(meters: list[Record]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for part, amount in (item for record in meters for item in record["seconds"].items()):
        seconds[part] = seconds.get(part, 0.0) + amount
    return seconds


def _hardware(environment: Mapping[str, str], pinned: Mapping[str, str]) -> str:
    """What a run ran on, with the software where it is not what the study was settled with."""
    other = [f"{name} {environment[name]}" for name in ("scratchlab", "torch") if environment[name] != pinned[name]]
    return ", ".join([environment["device"], *other])
