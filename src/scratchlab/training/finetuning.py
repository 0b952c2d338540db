"""A run taught from examples, or from pairs of answers: its corpus and its recipe, made from the run it begins with."""

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from scratchlab.corpus.examples.build import build_examples
from scratchlab.corpus.examples.encode import open_wording
from scratchlab.corpus.examples.packing import PackedRows
from scratchlab.corpus.examples.pairs import PairRows, read_pair
from scratchlab.corpus.manifest import MANIFEST
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import CorpusError, UsageError
from scratchlab.recipe import Recipe, recipe_from
from scratchlab.runfolder import RunFolder
from scratchlab.training.data import check_data, holds_pairs, labels_of, training_sequences
from scratchlab.training.resolve import steps_of

DEFAULT_TEMPLATE = "alpaca"  # it takes no token that a base model does not know
EXAMPLES_A_STEP = 16  # fewer make a noisy gradient of some hundred tokens, more leave a set of a thousand few steps
EPOCHS = 3.0  # Alpaca's; the book takes two. From the third on a small set is learned by heart
RATE_OF_IMPORTED = 5e-5  # the book's and Alpaca's range for GPT-2 and larger ones
SHARE_OF_RATE = 0.1  # of the rate that a run was trained with: enough to learn a manner, not enough to unlearn
LORA_TIMES = 10.0  # adapters begin at nothing and hold few numbers: the book takes 16 times the rate, others 10
EPOCHS_OF_PAIRS = 1.0  # the paper's, and what trl's recipes take: a second one learns pairs by heart
# Of the rate for instructions: a model that answers is to be nudged, and not to forget how it does. Large models get a
# hundredth; a tenth is a choice for small ones, and not measured (studies/preferences.toml asks).
PAIRS_TIMES = 0.1
WARMUP_SHARE = 0.1  # of the steps: a fresh optimizer knows nothing of the size of gradients
EVALUATIONS = 10  # enough to see where the validation loss turns


Kind = Literal["instructions", "pairs", "labels"]


def examples_corpus(
    folder: RunFolder, data: str, place: Path, template: str | None, split: str, kind: Kind = "instructions"
) -> Corpus:
    """The examples of a kind in `data`, worded by `template` for the model of a run, as a corpus at `place`.

    The run's own template unless another is named, else Alpaca's; texts with labels have none. `data` that is a corpus
    already is taken as it is. A corpus that is at `place` must be the very same one.
    """
    if (Path(data) / MANIFEST).is_file():
        if template is not None or split != "auto":
            asked = f"--split {split}" if template is None else f"--template {template}"
            raise UsageError(f"{asked}: {data} is a corpus, whose examples are worded and split already.")
        return _of_kind(open_corpus(data), kind)
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


def _of_kind(corpus: Corpus, kind: Kind) -> Corpus:
    """UsageError for a corpus of examples of another kind than was asked for."""
    held = corpus.manifest.examples.kind if corpus.manifest.examples else "instructions"  # `check_data` tells of text
    if held == kind:
        return corpus
    remedy = f"leave --{kind} out" if held == "instructions" else f"add --{held}"
    raise UsageError(f"--data {corpus.path} holds {held}, not {kind}: {remedy}.")


def finetuning_recipe(
    folder: RunFolder, corpus: Corpus, finetuning: Mapping[str, Any], overrides: Mapping[str, Any]
) -> Recipe:
    """The recipe of a run that begins from the weights of `folder` and learns from `corpus`; `overrides` come last.

    What is left open of it: see the constants above. RecipeError for what does not go together.
    """
    before, pairs, labels = folder.resolved(), holds_pairs(corpus), labels_of(corpus)
    adapts = "lora_rank" in finetuning or "finetuning.lora_rank" in overrides
    rate = _rate(folder, pairs) * (LORA_TIMES if adapts else 1)
    tables: dict[str, Any] = {
        "corpus": str(corpus.path),
        "model": before.model.model_dump(exclude_defaults=True)
        | {"architecture": before.model.architecture, **({"labels": len(labels)} if labels else {})},
        "training": {
            "epochs": EPOCHS_OF_PAIRS if pairs else EPOCHS,
            "global_batch_size": 1,
            "learning_rate": float(f"{rate:.12g}"),  # a tenth of .003 is .0003, and no more digits
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


def _rate(folder: RunFolder, pairs: bool) -> float:
    """The learning rate for instructions, or for pairs; a run that was taught says at which rate it was."""
    own, taught = folder.resolved().training.learning_rate, folder.chat_template_path.is_file()
    if "imported" in folder.manifest():
        for_instructions = RATE_OF_IMPORTED
    else:
        for_instructions = own if pairs and taught else SHARE_OF_RATE * own
    return for_instructions * (PAIRS_TIMES if pairs else 1)


def _filled(recipe: Recipe, overrides: Mapping[str, Any], fields: Mapping[str, Any]) -> Recipe:
    """The recipe with the fields that nobody asked for otherwise."""
    return recipe.replaced({name: value for name, value in fields.items() if name not in overrides})


class Piece(NamedTuple):
    """A stretch of an example: its text, special tokens by their names, and whether it is learned from."""

    text: str
    learned: bool
    rejected: bool = False
    """Whether it is what is to become less likely."""


class Shown(NamedTuple):
    """An example as a run takes it."""

    id: str
    pieces: list[Piece]
    """None where nothing of it fits, and it is left out."""
    cut: bool


def first_examples(recipe: Recipe, corpus: Corpus, count: int) -> list[Shown]:
    """The first training examples with what a run of this recipe learns from each."""
    rows = training_sequences(recipe, corpus)
    assert isinstance(rows, PackedRows | PairRows)
    pieces = _pieces_of_pair if isinstance(rows, PairRows) else _pieces
    return [
        Shown(own, pieces(rows, number, corpus.tokenizer), number in rows.fit.cut)
        for number, own in enumerate(rows.split.ids[:count])
    ]


def _pieces(rows: Any, number: int, tokenizer: Tokenizer) -> list[Piece]:
    tokens, learned = rows.tokens_of(number)
    stretches = itertools.groupby(zip(tokens, learned, strict=True), key=lambda pair: pair[1])
    return [Piece(_text([token for token, _ in stretch], tokenizer), is_learned) for is_learned, stretch in stretches]


def _pieces_of_pair(rows: Any, number: int, tokenizer: Tokenizer) -> list[Piece]:
    if number in rows.fit.useless:
        return []
    prompt, chosen, rejected = (_text(part.tolist(), tokenizer) for part in read_pair(rows.split, rows.fit, number))
    return [Piece(prompt, False), Piece(chosen, True), Piece(rejected, True, rejected=True)]


def _text(tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    """Their text, special tokens by their names."""
    names = {token: name.encode() for name, token in tokenizer.specials.items()}
    symbols = [names.get(token) or tokenizer.token_bytes(token) for token in tokens]
    return b"".join(symbols).decode(errors="replace")
