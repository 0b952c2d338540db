"""Where a study's files lie, and what its finished runs say.

studies/mine.toml        the study
studies/mine/            settled.json, table.csv (what the analysis takes, after each run), reports
studies/runs/<name>/     runs, each named for its fingerprint: the studies beside one another share them
"""

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scratchlab.devices import price_per_hour
from scratchlab.errors import RunError
from scratchlab.runfolder import Record, RunFolder
from scratchlab.study.definition import Study
from scratchlab.study.design import Figures, Known, PlannedRun, Schedule, table_of
from scratchlab.study.jobs import Job
from scratchlab.study.settled import SettledStudy
from scratchlab.study.table import write_table
from scratchlab.training.journal import HOPELESS
from scratchlab.training.summary import EVALUATING, device_seconds, step_records


def job_of(study: Study, run: PlannedRun) -> Job:
    """A planned run as an engine takes it."""
    return Job(run.recipe, study.runs / run.name, run.label)


def known_runs(study: Study, settled: SettledStudy, tell: Callable[[str], None]) -> Known:
    """Looks finished runs up in the study's folder of runs; what was found once is not read again.

    A damaged run is not known, and `tell` is told of it, once.
    """
    found: dict[str, Figures] = {}
    damaged: set[str] = set()

    def look_up(name: str) -> Figures | None:
        if name in found:
            return found[name]
        try:
            figures = read_figures(study, settled, study.runs / name)
        except RunError as error:
            if name not in damaged:
                remedy = f"Move {study.runs / name} away to have it done anew."
                tell(f"A run cannot be read, and is left out: {error} {remedy}")
            damaged.add(name)
            return None
        if figures is not None:
            found[name] = figures
        return figures

    return look_up


def read_figures(study: Study, settled: SettledStudy, path: Path) -> Figures | None:
    """What the run at `path` came to; None if it is not finished. A run that diverged is finished.

    `RunError` names what of its files is damaged.
    """
    folder = RunFolder(path)
    if not folder.exists():
        return None
    result = folder.result()
    if result is None and not has_diverged(folder):
        return None
    _check_answers(study, folder)
    try:
        return _figures(study, settled, folder, result)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunError(f"{path}: result.json or manifest.json is damaged ({type(error).__name__}: {error}).") from None


def _check_answers(study: Study, folder: RunFolder) -> None:
    """`RunError` if the metric is of answers, and a run that another study made was asked more or fewer questions."""
    if not study.file.study.metric.startswith("answers."):
        return
    asked, wanted = (recipe.evaluation.answers for recipe in (folder.resolved(), study.baseline))
    if asked != wanted:
        raise RunError(f"{folder.path}: it was asked {asked} questions, and this study asks {wanted}.")


def _figures(study: Study, settled: SettledStudy, folder: RunFolder, result: Record | None) -> Figures:
    """`result` is None for a run that gave up, for want of finite gradients."""
    manifest, metric = folder.manifest(), study.file.study.metric
    seconds = device_seconds(folder.meters()) or (result["cost"]["seconds"] if result else {})
    total, training = sum(seconds.values()), seconds.get("training", 0.0)
    evaluating = sum(seconds.get(part, 0.0) for part in EVALUATING)
    device = manifest["environment"]["device"]
    return Figures(
        value=None if result is None else figure(result, metric),
        validation=figure(result, tuned_by(result["validation"])) if result and result["validation"] else None,
        evaluation=manifest["evaluation_corpus"]["sha256"],
        hardware=_hardware(manifest["environment"], settled.environment),
        seconds=training,
        other_seconds=total - training,
        price=price_of(study, device, total),
        price_without_evaluation=price_of(study, device, total - evaluating),
    )


def tuned_by(validation: Mapping[str, Any]) -> str:
    """The figure that says which trial of an arm went best."""
    return "validation.loss" if "loss" in validation else "validation.nats_per_token"


def has_diverged(folder: RunFolder) -> bool:
    """Whether an unfinished run gave up: its last steps had no finite gradient."""
    last = step_records(folder.metrics())[-HOPELESS:]
    return len(last) == HOPELESS and all(record["skipped"] for record in last)


def figure(result: Mapping[str, Any], dotted: str) -> float | None:
    """A figure of result.json by its dotted path; None where it is not finite. KeyError or so if there is none."""
    value: Any = result
    for part in dotted.split("."):
        value = value[part]
    if value is not None and not isinstance(value, int | float):
        raise ValueError(f"{dotted} is {value!r}, not a number")
    return None if value is None else float(value)


def price_of(study: Study, device: str, seconds: float) -> float | None:
    """What so many device-seconds cost: by the study file, or else by the table of devices, if that knows."""
    price = study.file.study.price
    if price is None and study.file.study.currency.upper() == "USD":
        price = price_per_hour(device)
    if isinstance(price, dict):
        price = next((price[part] for part in price if part in device), None)
    return None if price is None else price * seconds / 3600


def arms_with_runs(study: Study) -> set[str]:
    """The arms of which results were there when the study was last run."""
    path = study.folder / "table.csv"
    if not path.is_file():
        return set()
    with path.open(encoding="utf-8", newline="") as file:
        return {row["arm"] for row in csv.DictReader(file)}


def write_results(study: Study, schedule: Schedule) -> None:
    """Write table.csv, if there is anything to write."""
    if schedule.counted:
        write_table(table_of(study, schedule.counted), study.folder / "table.csv")


def _hardware(environment: Mapping[str, str], pinned: Mapping[str, str]) -> str:
    """What a run ran on, with the software where it is not what the study was settled with."""
    other = [f"{name} {environment[name]}" for name in ("scratchlab", "torch") if environment[name] != pinned[name]]
    return ", ".join([environment["device"], *other])
