"""Results of an evaluation, item by item, in a log that is written while it runs; and the figures that follow from it.

    evaluations/MODEL/hellaswag-3f2a9c1e.jsonl      the first line says of what; then a line for each item

The name has a hash of the model, the items and how they are asked: results of one thing are never taken for another's,
and a log that was interrupted goes on.
"""

import json
import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scratchlab import lines
from scratchlab.errors import ScratchlabError
from scratchlab.evaluation.loss import ratio_error
from scratchlab.evaluation.subjects import Subject
from scratchlab.evaluation.tasks import Record, Task, is_right
from scratchlab.files import file_name, sha256_of_json

FORMAT = 1
HEAD = {"model", "task", "task_sha256", "items"}
"""What every log's first line has, whatever it is of."""
WHAT = "the results"


@dataclass(frozen=True, slots=True)
class Log:
    """The results of one model on one task."""

    path: Path
    head: Record

    @classmethod
    def of(cls, folder: Path, subject: Subject, task: Task, settings: Record) -> "Log":
        """The log in `folder` of these; it may not be there yet."""
        head = cls.head_of(subject, task) | settings
        key = sha256_of_json([subject.identity, task.identity, settings])[:12]
        return cls(folder / file_name(subject.name) / f"{file_name(task.name)}-{key}.jsonl", head)

    @staticmethod
    def head_of(subject: Subject, task: Task) -> Record:
        """What a log is of."""
        return {
            "format": FORMAT,
            "model": subject.name,
            "model_sha256": subject.identity,
            "task": task.name,
            "task_sha256": task.identity,
            "metric": task.metric,
            "chance": task.chance,
            "items": len(task.items),
        }

    def held(self) -> AbstractContextManager[None]:
        """Hold it for writing. UnfinishedError while another process does; the lock dies with its process."""
        return lines.held(self.path, WHAT)

    def begin(self) -> None:
        """Make the log, or make it ready to go on: a line that was cut off when its process was killed is dropped."""
        lines.begin(self.path, self.head, WHAT)

    def append(self, records: Iterable[Record]) -> None:
        """Add lines, which are on the disk when this returns."""
        lines.append(self.path, records, WHAT)

    def read(self) -> dict[int, Record]:
        """What there is, by the number of the item."""
        return {record["item"]: record for record in read_log(self.path)[1]}


def read_log(path: Path) -> tuple[Record, list[Record]]:
    """The head of a log and its records. ScratchlabError for a file that is none, or is damaged."""
    try:
        head, *records = [json.loads(line) for line in lines.whole_lines(path)] or [{}]
    except (ValueError, RecursionError):
        raise ScratchlabError(f"{path} is damaged: a line of it is no JSON. Delete it, and evaluate again.") from None
    if not isinstance(head, dict) or head.get("format") != FORMAT or not head.keys() >= HEAD:
        raise ScratchlabError(f"{path} is no log of results that this version of scratchlab can read.")
    fields = records[0].keys() if records and isinstance(records[0], dict) else set[str]()
    for number, record in enumerate(records, start=2):
        if not isinstance(record, dict) or "item" not in record or record.keys() != fields:
            raise ScratchlabError(
                f"{path} is damaged: line {number:,} is no result of an item. Delete it, and evaluate again."
            )
    return head, records


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its standard error over n units; None for a single unit."""

    value: float
    error: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f}" + ("" if self.error is None else f" ± {self.error:.3f}")


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How a model did on a task. Errors are standard errors over items."""

    model: str
    task: str
    metric: str
    chance: float
    n: int
    cut: int
    """Items whose beginning was cut off."""
    accuracy: Figure
    accuracy_norm: Figure
    """Of the likeliest candidate by its loss a character."""
    accuracy_token: Figure
    """Of the likeliest candidate by its loss a token: the one by which CORE is defined."""
    nats: Figure
    """The mean loss of the right candidate, whole: of LAMBADA, the logarithm of its perplexity."""
    bits_per_byte: Figure
    """Of the right candidate: the least noisy figure for small models, and comparable across tokenizers."""

    @property
    def main(self) -> Figure:
        """The figure that counts for this task."""
        figures = {
            "accuracy": self.accuracy,
            "accuracy_norm": self.accuracy_norm,
            "accuracy_token": self.accuracy_token,
        }
        return figures[self.metric]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def summarize(head: Record, records: Sequence[Record]) -> TaskResult:
    """The figures of the items of a log, whatever order they were asked in."""
    records = sorted(records, key=lambda record: record["item"])
    nats = np.array([record["nats"][record["gold"]] for record in records])
    sizes = np.array([record["bytes"][record["gold"]] for record in records])
    bits = nats / math.log(2)
    return TaskResult(
        model=head["model"],
        task=head["task"],
        metric=head["metric"],
        chance=head["chance"],
        n=len(records),
        cut=sum(record["cut"] > 0 for record in records),
        accuracy=share([is_right(record, "accuracy") for record in records]),
        accuracy_norm=share([is_right(record, "accuracy_norm") for record in records]),
        accuracy_token=share([is_right(record, "accuracy_token") for record in records]),
        nats=mean(nats),
        bits_per_byte=Figure(float(bits.sum() / sizes.sum()), ratio_error(bits, sizes), len(records)),
    )


def mean(values: npt.NDArray[np.float64]) -> Figure:
    """The mean and its standard error."""
    n = len(values)
    return Figure(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else None, n)


def share(cases: Sequence[bool]) -> Figure:
    """How many of the cases hold, from 0 to 1."""
    n, mean = len(cases), float(np.mean(cases))
    return Figure(mean, math.sqrt(mean * (1 - mean) / (n - 1)) if n > 1 else None, n)
