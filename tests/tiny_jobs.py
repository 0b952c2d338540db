"""Tiny jobs for the tests of engines: runs of a second or less, and what of them must be equal to the bit."""

import contextlib
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from scratchlab.corpus.build import build_corpus
from scratchlab.files import sha256_of_file
from scratchlab.recipe import Recipe, recipe_from
from scratchlab.runfolder import RunFolder
from scratchlab.study.jobs import Job, Outcome
from scratchlab.study.perform import fingerprint_of

CHECKPOINT_EVERY = 4


def tiny_corpus(folder: Path) -> Path:
    """A corpus of a few words over and over."""
    words = random.Random(1).choices(["the", "cat", "sat", "on", "a", "mat", "and", "purred."], k=4000)
    (folder / "text.txt").write_text(" ".join(words), encoding="utf-8")
    build_corpus([str(folder / "text.txt")], folder / "corpus", tokenizer="char")
    return folder / "corpus"


def resolved_recipe(corpus: Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """24 steps of a model of two layers on one thread, nothing in it `auto`; plus dotted changes."""
    tables = {
        "corpus": str(corpus),
        "model": {"n_layer": 2, "n_head": 2, "d_model": 32, "context_length": 32, "dropout": 0.1},
        "training": {
            "steps": 24,
            "global_batch_size": 8,
            "checkpoint_every": CHECKPOINT_EVERY,
            "precision": "float32",
        },
        "evaluation": {"every": 12, "sample_tokens": 8, "snapshots": 0},
        "execution": {"device": "cpu", "threads": 1, "compile": False, "micro_batch_size": 4},
    }
    return recipe_from(tables, where="test").replaced(changes or {})


def job(recipe: Recipe, runs: Path) -> Job:
    name = fingerprint_of(recipe)[:16]
    return Job(recipe, runs / name, f"run {name}")


def jobs_of(corpus: Path, runs: Path, seeds: int, changes: Mapping[str, Any] | None = None) -> list[Job]:
    """The same recipe with so many seeds."""
    return [job(resolved_recipe(corpus, {"seeds.init": seed, **(changes or {})}), runs) for seed in range(1, seeds + 1)]


def bits(out: Path) -> dict[str, str]:
    """Hashes of all that is a function of the recipe."""
    folder = RunFolder.open(out)
    assert folder.result() is not None
    tensors, _ = folder.checkpoint(folder.checkpoint_steps()[-1])
    names = ("metrics.jsonl", "samples.jsonl")
    return {name: sha256_of_file(out / name) for name in names} | {"weights": sha256_of_file(tensors)}


def steps_trained(out: Path) -> int:
    """Steps that were computed in all: more than the run has, if any were computed again."""
    folder = RunFolder.open(out)
    recipe, result = folder.resolved(), folder.result()
    assert result is not None
    return result["cost"]["tokens"] // (recipe.training.global_batch_size * recipe.model.context_length)


def wait_until(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.002)


def reached(out: Path, step: int) -> bool:
    """Whether a run has a checkpoint as late as `step`."""
    return max(RunFolder(out).checkpoint_steps(), default=0) >= step


def process_at(job: Job) -> psutil.Process:
    """The process of this one's that is at a run: it holds the lock of its place."""
    lock = str(job.out.parent / ".locks" / job.out.name)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(file.path == lock for file in process.open_files()):
                return process
    raise AssertionError(f"nobody is at {job.out}")


class Told:
    """What an engine told, for the test to look at."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []

    def __call__(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    @property
    def states(self) -> list[str]:
        return [outcome.state for outcome in self.outcomes]
