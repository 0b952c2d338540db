"""The tasks that a run is asked while it trains."""

from collections.abc import Sequence
from pathlib import Path

from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import RecipeError, RunError
from scratchlab.evaluation.running import Asked, ask_all
from scratchlab.evaluation.subjects import model_subject
from scratchlab.evaluation.suites import load_suite, where_from
from scratchlab.evaluation.tasks import Task
from scratchlab.model.build import empty_model
from scratchlab.recipe import Recipe

AskedTask = tuple[Task, list[Asked]]
"""A task with its items as questions."""


def tasks_of(recipe: Recipe, tokenizer: Tokenizer) -> list[AskedTask]:
    """The tasks that a recipe names, made into questions once. RecipeError for one that cannot be asked."""
    evaluation = recipe.evaluation
    if evaluation.suites is None:
        return []
    tasks, missing = load_suite(evaluation.suites, Path(evaluation.suites_data) if evaluation.suites_data else None)
    if missing:
        raise RecipeError(f"evaluation.suites: {where_from(missing)}")
    reader = model_subject("this model", "", empty_model(recipe.model, tokenizer.vocab_size), tokenizer)
    return [(task, ask_all(reader, task, evaluation.truncate)) for task in tasks]


def identities(tasks: Sequence[AskedTask]) -> dict[str, str]:
    """For the manifest: what was asked."""
    return {task.name: task.identity for task, _ in tasks}


def check_identities(tasks: Sequence[AskedTask], recorded: dict[str, str]) -> None:
    """RunError if a run would go on with other items than it began with."""
    for name, identity in identities(tasks).items():
        if recorded.get(name) != identity:
            raise RunError(
                f"evaluation.suites: the items of {name} are not those that the run was started with. Put the old "
                "files back, or start a new run."
            )
