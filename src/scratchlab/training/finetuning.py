"""A run taught from examples: its corpus and its recipe, made from the run that it begins with."""

import itertools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from scratchlab.corpus.examples.build import build_examples
from scratchlab.corpus.examples.encode import open_wording
from scratchlab.corpus.examples.packing import PackedRows
from scratchlab.corpus.manifest import MANIFEST
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.errors import CorpusError, UsageError
from scratchlab.recipe import Recipe, recipe_from
from scratchlab.runfolder import RunFolder
from scratchlab.training.data import check_data, labels_of, training_sequences
from scratchlab.training.resolve import steps_of

DEFAULT_TEMPLATE = "alpaca"  # it takes no token that a base model does not know
EXAMPLES_A_STEP = 16  # fewer make a noisy gradient of some hundred tokens, more leave a set of a thousand few steps
EPOCHS = 3.0  # Alpaca's; the book takes two. From the third on a small set is learned by heart
RATE_OF_IMPORTED = 5e-5  # the book's and Alpaca's range for GPT-2 and larger ones
SHARE_OF_RATE = 0.1  # of the rate that a run was trained with: enough to learn a manner, not enough to unlearn
LORA_TIMES = 10.0  # adapters begin at nothing and hold few numbers: the book takes 16 times the rate, others 10
WARMUP_SHARE = 0.1  # of the steps: a fresh optimizer knows nothing of the size of gradients
EVALUATIONS = 10  # enough to see where the validation loss turns


def examples_corpus(
    folder: RunFolder,
    data: str,
    place: Path,
    template: str | None,
    split: str,
    kind: Literal["instructions", "labels"] = "instructions",
) -> Corpus:
    """The examples in `data`, worded by `template` for the model of a run, as a corpus at `place`.

    The run's own template unless another is named, else Alpaca's; texts with labels have none. `data` that is a corpus
    already is taken as it is. A corpus that is at `place` must be the very same one.
    """
    if (Path(data) / MANIFEST).is_file():
        if template is not None or split != "auto":
            asked = f"--split {split}" if template is None else f"--template {template}"
            raise UsageError(f"{asked}: {data} is a corpus, whose examples are worded and split already.")
        return open_corpus(data)
    if kind == "labels" and template is not None:
        raise UsageError(f"--template {template}: texts with labels are taken as they are: leave it out.")
    own = str(folder.path) if folder.chat_template_path.is_file() else DEFAULT_TEMPLATE
    wording = None if kind == "labels" else open_wording(template or own)

    def build(where: Path) -> Corpus:
        return build_examples([data], where, kind, wording, str(folder.path), split)

    if not place.exists():
        return build(place)
    with tempfile.TemporaryDirectory() as scratch:
        built = build(Path(scratch) / "corpus")
    there = open_corpus(place)
    if there.sha256 != built.sha256:
        raise CorpusError(f"{place} is there, and is of other examples or worded otherwise. Give another --out.")
    return there


def finetuning_recipe(
    folder: RunFolder, corpus: Corpus, finetuning: Mapping[str, Any], overrides: Mapping[str, Any]
) -> Recipe:
    """The recipe of a run that begins from the weights of `folder` and learns from `corpus`; `overrides` come last.

    What is left open of it: see the constants above. RecipeError for what does not go together.
    """
    imported, before = "imported" in folder.manifest(), folder.resolved()
    rate = RATE_OF_IMPORTED if imported else SHARE_OF_RATE * before.training.learning_rate
    labels = labels_of(corpus)
    adapts = "lora_rank" in finetuning or "finetuning.lora_rank" in overrides
    tables: dict[str, Any] = {
        "corpus": str(corpus.path),
        "model": before.model.model_dump(exclude_defaults=True)
        | {"architecture": before.model.architecture, **({"labels": len(labels)} if labels else {})},
        "training": {
            "epochs": EPOCHS,
            "global_batch_size": 1,
            "learning_rate": rate * (LORA_TIMES if adapts else 1),
            "schedule": "cosine",
            "final_learning_rate": 0.0,
        },
        "start": {"weights": str(folder.path)},
    }
    recipe = recipe_from(tables | ({"finetuning": dict(finetuning)} if finetuning else {}), where="finetune")
    recipe = recipe.replaced(overrides)
    check_data(recipe, corpus, corpus)
    rows = training_sequences(recipe, corpus)
    examples_a_row = rows.counts()["examples"] / len(rows)
    recipe = _filled(recipe, overrides, {"training.global_batch_size": max(1, round(EXAMPLES_A_STEP / examples_a_row))})
    steps = steps_of(recipe, corpus.vocab_size, rows)
    every = max(1, steps // EVALUATIONS)
    return _filled(recipe, overrides, {"training.warmup_steps": round(WARMUP_SHARE * steps), "evaluation.every": every})


def _filled(recipe: Recipe, overrides: Mapping[str, Any], fields: Mapping[str, Any]) -> Recipe:
    """The recipe with the fields that nobody asked for otherwise."""
    return recipe.replaced({name: value for name, value in fields.items() if name not in overrides})


class Piece(NamedTuple):
    """A stretch of an example: its text, special tokens by their names, and whether it is learned from."""

    text: str
    learned: bool


class Shown(NamedTuple):
    """An example as a run takes it."""

    id: str
    pieces: list[Piece]
    """None where nothing of it fits, and it is left out."""
    cut: bool


def first_examples(recipe: Recipe, corpus: Corpus, count: int) -> list[Shown]:
    """The first training examples with what a run of this recipe learns from each."""
    rows, tokenizer = training_sequences(recipe, corpus), corpus.tokenizer
    assert isinstance(rows, PackedRows)
    names = {token: name.encode() for name, token in tokenizer.specials.items()}
    shown: list[Shown] = []
    for number, own in enumerate(rows.split.ids[:count]):
        tokens, learned = rows.tokens_of(number)
        symbols = [names.get(token) or tokenizer.token_bytes(token) for token in tokens]
        pieces = [
            Piece(b"".join(symbol for symbol, _ in stretch).decode(errors="replace"), is_learned)
            for is_learned, stretch in itertools.groupby(zip(symbols, learned, strict=True), key=lambda pair: pair[1])
        ]
        shown.append(Shown(own, pieces, number in rows.fit.cut))
    return shown
