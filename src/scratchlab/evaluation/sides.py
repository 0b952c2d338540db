"""The two sides of a comparison, as a person names them: models, several of them, patterns, or logs."""

import fnmatch
import glob
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scratchlab.errors import ScratchlabError, UsageError
from scratchlab.evaluation.paired import Comparison, Results, Seeds, check_same, compare_task, read_results
from scratchlab.evaluation.subjects import BEST
from scratchlab.evaluation.tasks import Record
from scratchlab.runfolder import RunFolder

Kind = Literal["choices", "loss"]


@dataclass(frozen=True, slots=True)
class Run:
    """A model of one side, with the logs that there are of it."""

    model: str
    logs: dict[str, tuple[Path, Record]]
    """Path and head, by the hash of the task."""
    notes: tuple[str, ...] = ()

    @property
    def is_log(self) -> bool:
        """Whether it was named by a log, not by its name."""
        return [str(path) for path, _ in self.logs.values()] == [self.model]

    def tasks(self) -> str:
        return ", ".join(sorted({head["task"] for _, head in self.logs.values()})) or "nothing"

    def seeds(self) -> Seeds | None:
        """The seeds of a run folder by role; None for a model of another kind."""
        folder = RunFolder(Path(self.model.removesuffix(BEST)))
        return tuple(sorted(folder.manifest()["seeds"].items())) if folder.exists() else None


@dataclass(frozen=True, slots=True)
class Report:
    """What there is to say of two sides."""

    a: list[str]
    """The models of either."""
    b: list[str]
    comparisons: list[Comparison]
    notes: list[str]


def compare_sides(
    a: str,
    b: str,
    folder: Path,
    *,
    task: str | None = None,
    kind: Kind | None = None,
    smallest_effect: float | None = None,
) -> Report:
    """Compare two sides on every task of which both have results in `folder`, or on those of one name or one kind.

    A side is a model, several with commas between them, a pattern of run folders, or logs. Where there is nothing to
    compare, ScratchlabError names the command that makes it.
    """
    side_a, side_b = ([_only(run, task, kind) for run in find_runs(side, folder)] for side in (a, b))
    runs = [*side_a, *side_b]
    common = [key for key in runs[0].logs if all(key in run.logs for run in runs)]
    if not common:
        _refuse(runs, folder, task, kind)
    heads = [runs[0].logs[key][1] for key in common]
    if smallest_effect is not None and len({_kind(head) for head in heads}) > 1:
        raise UsageError(
            f"--smallest-effect {smallest_effect:g}: of an accuracy, or of a loss? There are results of both. "
            "Add --task NAME or --loss."
        )
    comparisons, notes = list[Comparison](), _notes(runs, common)
    seeds = [run.seeds() for run in side_a], [run.seeds() for run in side_b]
    for key, head in sorted(zip(common, heads, strict=True), key=lambda one: (_kind(one[1]), one[1]["task"])):
        read_a, read_b = ([read_results(run.logs[key][0]) for run in side] for side in (side_a, side_b))
        found = compare_task(read_a, read_b, seeds, smallest_effect)
        comparisons += found
        notes += [note for run in (*read_a, *read_b) for note in _cut(run)]
        if _kind(head) == "loss" and len(found) == 1:
            notes.append(f"{head['task']}: the tokenizers differ, so that nats per token cannot be compared.")
    return Report([run.model for run in side_a], [run.model for run in side_b], comparisons, notes)


def _kind(head: Record) -> Kind:
    return head.get("kind", "choices")


def _only(run: Run, task: str | None, kind: Kind | None) -> Run:
    logs = {
        key: log
        for key, log in run.logs.items()
        if (task is None or log[1]["task"] == task) and (kind is None or _kind(log[1]) == kind)
    }
    return Run(run.model, logs, run.notes)


def _refuse(runs: Sequence[Run], folder: Path, task: str | None, kind: Kind | None) -> None:
    """Say why no task can be compared: other items under the same name, or no results."""
    first, *others = runs
    for other in others:
        for path, head in first.logs.values():
            for path_of_other, head_of_other in other.logs.values():
                same_name = (head["task"], _kind(head)) == (head_of_other["task"], _kind(head_of_other))
                if same_name or (first.is_log and other.is_log):
                    check_same(read_results(path), read_results(path_of_other))
    what = f" of {task}" if task else " of a loss" if kind == "loss" else ""
    there = "; ".join(f"{run.model}: {run.tasks()}" for run in runs)
    names = " ".join(shlex.quote(run.model.removesuffix(BEST)) for run in runs)
    best = " --at best" if all(run.model.endswith(BEST) for run in runs) else ""
    suite = "" if kind == "loss" else f" --suite {task or 'NAME'}"
    raise ScratchlabError(
        f"In {folder} there are no results{what} that all of these have ({there}). "
        f"Evaluate them on the same: scratchlab evaluate {names}{suite}{best}"
    )


def _notes(runs: Sequence[Run], common: Sequence[str]) -> list[str]:
    """What the comparisons leave out, and which of several results they are of."""
    notes = [note for run in runs for note in run.notes]
    left_out = sorted({head["task"] for run in runs for key, (_, head) in run.logs.items() if key not in common})
    if left_out:
        notes.append(f"Not compared, for not all have the same results of them: {', '.join(left_out)}.")
    return notes


def _cut(run: Results) -> list[str]:
    """Of a model that could not see all of some items at once."""
    cut = sum(record.get("cut", 0) > 0 for record in run.records)
    if not cut:
        return []
    return [f"{run.model} was asked {run.task} without the beginnings of {cut:,} of {len(run.records):,} items."]


# Finding them.


def find_runs(names: str, folder: Path) -> list[Run]:
    """The models of a side with their logs in `folder`. UsageError for a pattern that nothing matches."""
    heads = None
    runs: list[Run] = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name.endswith(".jsonl"):
            runs.append(_run_of_log(Path(name)))
            continue
        heads = heads if heads is not None else _heads(folder)
        models = _matching(name, folder, heads) if _is_pattern(name) else [name]
        runs += [_run(model, heads) for model in models]
    if not runs:
        raise UsageError(f"{names!r} names no model.")
    return runs


def _run_of_log(path: Path) -> Run:
    if not path.is_file():
        raise UsageError(f"{path}: there is no such log.")
    head = read_results(path).head
    return Run(str(path), {head["task_sha256"]: (path, head)})


def _heads(folder: Path) -> dict[Path, Record]:
    """The heads of all logs in `folder`; files that are none are passed over."""
    found: dict[Path, Record] = {}
    for path in sorted(folder.glob("*/*.jsonl")):
        with path.open("rb") as file:
            line = file.readline()
        try:
            head = json.loads(line)
        except ValueError:
            continue
        if isinstance(head, dict) and {"model", "task", "task_sha256"} <= head.keys():
            found[path] = head
    return found


def _run(model: str, heads: dict[Path, Record]) -> Run:
    """A model with the newest log of each task."""
    logs: dict[str, tuple[Path, Record]] = {}
    notes: list[str] = []
    own = [path for path, head in heads.items() if os.path.normpath(head["model"]) == os.path.normpath(model)]
    for path in sorted(own, key=lambda path: path.stat().st_mtime_ns):
        key = heads[path]["task_sha256"]
        if key in logs:
            notes.append(f"{model} was evaluated on {heads[path]['task']} several times; the newest counts: {path}.")
        logs[key] = (path, heads[path])
    return Run(model, logs, tuple(notes))


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def _matching(pattern: str, folder: Path, heads: dict[Path, Record]) -> list[str]:
    """The run folders that match, and the models that were evaluated and match: all must have results."""
    runs = [path for path in glob.glob(pattern) if RunFolder(Path(path)).exists()]
    logged = [
        head["model"]
        for head in heads.values()
        if fnmatch.fnmatchcase(head["model"], pattern)
        and head["model"].count("/") == pattern.count("/")
        and head["model"].endswith(BEST) == pattern.endswith(BEST)
    ]
    models = sorted({os.path.normpath(name) for name in [*runs, *logged]})
    if not models:
        raise UsageError(f"{pattern}: no run folder, and no model with results in {folder}, has such a name.")
    return models
