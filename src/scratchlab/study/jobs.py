"""What a study hands to an engine, and what it hears back: the one interface that all engines have."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from scratchlab.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Job:
    """One run that a study wants."""

    recipe: Recipe
    """Resolved: nothing in it is `auto`."""
    out: Path
    """Its run folder, named for its fingerprint, in a folder of runs that studies share."""
    label: str
    """What a person is told: `no-dropout, block 3`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended for the engine that had it."""

    job: Job
    state: Literal["finished", "failed", "elsewhere"]
    """`elsewhere`: the worker of another coordinator is at it."""
    message: str = ""
    """Of a job that failed: why, and what to do."""


def elsewhere(job: Job) -> Outcome:
    """What is told of a job whose place another process holds."""
    return Outcome(job, "elsewhere", f"Another process is at {job.out}.")


Tell = Callable[[Outcome], None]


def anchored(job: Job) -> Job:
    """The same job where another folder is the current one: its paths are absolute."""
    recipe, changes = job.recipe, dict[str, str]()
    paths = {
        "corpus": recipe.corpus,
        "evaluation.corpus": recipe.evaluation.corpus,
        "evaluation.suites_data": recipe.evaluation.suites_data,
        "start.weights": recipe.start.weights,
    }
    for field, path in paths.items():
        if path is not None:
            changes[field] = str(Path(path).absolute())
    return Job(recipe.replaced(changes), job.out.absolute(), job.label)


class Engine(Protocol):
    """Where jobs are done."""

    def run(self, jobs: Sequence[Job], tell: Tell) -> None:
        """Do all jobs, begun in the order given as workers come free; `tell` is called once a job, as it ends.

        `tell` is called in the thread that called `run`. Raises `Terminated` when it was told to stop: the runs under
        way have saved a checkpoint then.
        """
        ...
