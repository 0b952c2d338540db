"""CORE: one figure from 22 tasks, each centered so that chance is 0 and knowing everything is 1.

Li et al. 2024, DataComp-LM (arXiv:2406.11794). suites.toml has the tasks and says where the chances come from.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scratchlab.errors import UsageError
from scratchlab.evaluation.results import Figure, TaskResult
from scratchlab.evaluation.suites import CORE, Definition, Missing, definitions, suites


@dataclass(frozen=True, slots=True)
class CoreTask:
    """A task's part in CORE."""

    task: str
    accuracy: Figure
    centered: float
    """(accuracy - chance) / (1 - chance). Negative where guessing the commonest answer does better."""
    centered_v1: float
    error: float | None
    """The standard error of `centered`, over items."""
    whole: bool
    """Whether all items of the task were asked."""


@dataclass(frozen=True, slots=True)
class CoreScore:
    """CORE, or what there is of it."""

    title: str
    """What the value may be called: CORE only if all items of all 22 tasks were asked."""
    value: float
    """The mean of the centered accuracies of `tasks`."""
    value_v1: float
    """The same by the chances in use before September 2025: those of the paper's figures and of nanochat's."""
    error: float | None
    """The standard error over items, of both values; tasks are taken to be independent."""
    cut: int
    """Items whose beginning was cut off, in all tasks."""
    tasks: tuple[CoreTask, ...]
    missing: tuple[Missing, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def core_score(results: Sequence[TaskResult]) -> CoreScore:
    """CORE from one model's results; those of tasks that are not CORE's are passed over. UsageError if all are."""
    by_name = {result.task: result for result in results if result.task in suites()[CORE]}
    if not by_name:
        raise UsageError("CORE has nothing to go by: none of its tasks was asked. Ask them with --suite core.")
    tasks = tuple(_centered(definitions()[name], result) for name, result in by_name.items())
    absent = [definitions()[name] for name in suites()[CORE] if name not in by_name]
    errors = [task.error for task in tasks if task.error is not None]
    return CoreScore(
        title=_title(tasks),
        value=sum(task.centered for task in tasks) / len(tasks),
        value_v1=sum(task.centered_v1 for task in tasks) / len(tasks),
        error=math.hypot(*errors) / len(tasks) if len(errors) == len(tasks) else None,
        cut=sum(result.cut for result in by_name.values()),
        tasks=tasks,
        missing=tuple(Missing.of(definition) for definition in absent),
    )


def _centered(definition: Definition, result: TaskResult) -> CoreTask:
    chance, chance_v1 = definition.chance or 0.0, definition.chance_v1 or 0.0
    accuracy = result.main
    return CoreTask(
        task=result.task,
        accuracy=accuracy,
        centered=(accuracy.value - chance) / (1 - chance),
        centered_v1=(accuracy.value - chance_v1) / (1 - chance_v1),
        error=None if accuracy.error is None else accuracy.error / (1 - chance),
        whole=result.n == definition.items,
    )


def _title(tasks: Sequence[CoreTask]) -> str:
    total, parts = len(suites()[CORE]), sum(not task.whole for task in tasks)
    if len(tasks) == total and not parts:
        return "CORE"
    of_items = f", {parts} of them in part" if parts else ""
    return f"CORE over {len(tasks)} of {total} tasks{of_items} (not comparable)"
