"""A tiny study for the tests: a corpus, a baseline of a fraction of a second a run, and study files beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from scratchlab.recipe import Recipe
from scratchlab.recipe_files import load_recipe
from scratchlab.study.definition import Study, load_study
from scratchlab.study.jobs import Job, Outcome, Tell
from scratchlab.study.perform import perform
from scratchlab.study.settled import SettledArm, SettledStudy
from tiny_jobs import tiny_corpus

BASELINE: dict[str, Any] = {
    "model": {"n_layer": 1, "n_head": 2, "d_model": 16, "context_length": 16},
    "training": {"steps": 4, "global_batch_size": 4, "learning_rate": 1e-2},
    "evaluation": {"max_tokens": 200, "sample_tokens": 0},
    "execution": {"device": "cpu"},
}
TWO: dict[str, Any] = {"a": {"model.dropout": 0.5}, "b": {"training.learning_rate": 0.05}}


def write_baseline(folder: Path, corpus: str | Path = "corpora/none", changes: Mapping[str, Any] | None = None) -> Path:
    """`folder`/base.toml, a tiny recipe."""
    path = folder / "base.toml"
    path.write_text(tomli_w.dumps({"corpus": str(corpus), **BASELINE}), encoding="utf-8")
    path.write_text(load_recipe(path).replaced(changes or {}).to_toml(), encoding="utf-8")
    return path


def write_study(folder: Path, tables: Mapping[str, Any] | None = None, **study: Any) -> Path:
    """`folder`/mine.toml: paired, two interventions, two blocks, unless told otherwise."""
    section = {"baseline": "base.toml", "metric": "test.bits_per_byte", **study}
    content = {"study": section, **({"interventions": TWO} if tables is None else tables)}
    path = folder / "mine.toml"
    path.write_text(tomli_w.dumps(content), encoding="utf-8")
    return path


def real_place(folder: Path) -> Path:
    """A folder with a corpus and a baseline on it."""
    write_baseline(folder, tiny_corpus(folder))
    return folder


def as_settled(study: Study) -> SettledStudy:
    """As if settled, without a corpus: for what only reads recipes."""
    execution = {"threads": 1, "compile": False, "micro_batch_size": 4}
    fixed = {f"execution.{name}": value for name, value in execution.items()} | {"training.precision": "float32"}

    def settle(recipe: Recipe) -> SettledArm:
        return SettledArm("given", recipe.replaced(fixed), "corpus", "corpus", None)

    arms = {arm.name: settle(study.baseline.replaced(arm.changes)) for arm in study.arms}
    return SettledStudy({}, {"device": "a processor", "torch": "2", "scratchlab": "0"}, arms)


def load(folder: Path, tables: Mapping[str, Any] | None = None, **study: Any) -> Study:
    return load_study(write_study(folder, tables, **study))


class Here:
    """An engine in this process, that writes down what it was given."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def run(self, jobs: Sequence[Job], tell: Tell) -> None:
        for job in jobs:
            outcome: Outcome = perform(job)
            self.done.append(job.label)
            tell(outcome)
