"""Instructions for the tests, made in memory: a model of two layers learns them by heart in a second."""

import json
from pathlib import Path
from typing import Any

from scratchlab.corpus.build import build_corpus
from scratchlab.recipe import Recipe, recipe_from

WORDS = ("cat", "dog", "sun", "sea", "hat", "map", "ink", "oak", "bee", "ice")


def alpaca(number: int) -> dict[str, Any]:
    """An instruction of which every third has an input."""
    word, again = WORDS[number % 10], number // 10
    if number % 3 == 0:
        return {"instruction": "Say it.", "input": f"{word} {again}", "output": f"{word}?"}
    return {"instruction": f"Say {word} {again}.", "input": "", "output": f"{word} {again}!"}


def write_alpaca(path: Path, count: int = 40) -> str:
    path.write_text(json.dumps([alpaca(number) for number in range(count)]), encoding="utf-8")
    return str(path)


def write_lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


MODEL: dict[str, Any] = {"n_layer": 1, "n_head": 2, "d_model": 32, "context_length": 64}
HERE: dict[str, Any] = {"device": "cpu", "threads": 1, "compile": False, "micro_batch_size": 4}


def base_recipe(folder: Path, changes: dict[str, Any] | None = None) -> Recipe:
    """Two steps on a text of bytes: what a run can begin from."""
    tables: dict[str, Any] = {
        "corpus": str(folder / "text"),
        "model": MODEL,
        "training": {"steps": 2, "global_batch_size": 4, "precision": "float32"},
        "evaluation": {"sample_tokens": 0, "snapshots": 0},
        "execution": HERE,
    }
    return recipe_from(tables, "base").replaced(changes or {})


def build_text(folder: Path) -> None:
    """Two documents, so that there is an end of text."""
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text(f"{name}: every effort moves you. " * 40, encoding="utf-8")
    paths = [str(folder / f"{name}.txt") for name in ("a", "b")]
    build_corpus(paths, folder / "text", tokenizer="byte", split="contiguous:.8,.1,.1")
