"""What a run learns from: the windows of a text, examples, or pairs of answers; and what cannot be asked of which."""

from collections.abc import Callable, Iterator
from typing import Any

from scratchlab.architecture import GPTSection, RNNSection
from scratchlab.corpus.examples.fit import SHOWN, fit_instructions, fit_labels
from scratchlab.corpus.examples.packing import PackedRows
from scratchlab.corpus.examples.pairs import Margins, PairRows, fit_pairs
from scratchlab.corpus.store import Corpus
from scratchlab.corpus.windows import Sequences, Windows
from scratchlab.errors import CorpusError, RecipeError
from scratchlab.evaluation.chrf import require_chrf
from scratchlab.recipe import Recipe


def holds_pairs(corpus: Corpus) -> bool:
    """Whether a run on this corpus learns which answer of two is better."""
    return corpus.manifest.examples is not None and corpus.manifest.examples.kind == "pairs"


def training_sequences(recipe: Recipe, corpus: Corpus, margins: Margins | None = None) -> Sequences:
    """The windows of the training split, in the order that the recipe asks for; or rows of its examples. Rows of pairs
    come with `margins`, if they are known yet."""
    split, model, examples = corpus.split("train"), recipe.model, corpus.manifest.examples
    if examples is None:
        parallel = recipe.training.global_batch_size if recipe.training.order == "streams" else None
        return Windows(split, model.context_length, parallel)
    parted_at = corpus.tokenizer.end_of_text if isinstance(model, GPTSection) and model.document_mask else None
    if holds_pairs(corpus):
        return PairRows(split, model.context_length, parted_at, margins)
    learned = "labels" if examples.kind == "labels" else recipe.finetuning.learn_from
    return PackedRows(split, model.context_length, learned, parted_at)


def check_data(recipe: Recipe, corpus: Corpus, yardstick: Corpus) -> None:
    """`RecipeError`, with all of it, for what a recipe asks of its corpora that they cannot give.

    `MissingExtraError` for what it takes to score answers, now rather than at the run's end.
    """
    problems = [*_problems(recipe, corpus), *_problems_of_scoring(recipe, corpus, yardstick)]
    if problems:
        raise RecipeError("\n  ".join(["The recipe and its corpus do not go together:", *problems]))
    if recipe.evaluation.answers:
        require_chrf()


def _problems(recipe: Recipe, corpus: Corpus) -> Iterator[str]:
    examples, given = corpus.manifest.examples, recipe.finetuning.model_dump(exclude_defaults=True)
    yield from _problems_of_labels(recipe, corpus)
    if examples is None:
        for name in sorted(given.keys() & {"learn_from", "beta"}):
            yield f"finetuning.{name}: {corpus.path} is text, not examples: leave it out."
        return
    if examples.kind != "instructions" and "learn_from" in given:
        yield f"finetuning.learn_from is for instructions, and {corpus.path} holds {examples.kind}: leave it out."
    if examples.kind == "pairs" and recipe.start.weights is None:
        yield f"start.weights: {corpus.path} holds pairs, which are judged against the model that a run begins from."
    if examples.kind != "pairs" and "beta" in given:
        yield f"finetuning.beta is for pairs, and {corpus.path} holds {examples.kind}: leave it out."
    if isinstance(recipe.model, RNNSection):
        yield (
            "model.architecture = 'rnn' cannot learn from examples: it remembers all that it has read, so that those "
            "in one row would see each other. Use a GPT."
        )
    if recipe.training.order == "streams":
        yield "training.order = 'streams' reads a text on from step to step, and examples are none: leave it out."


def _problems_of_labels(recipe: Recipe, corpus: Corpus) -> Iterator[str]:
    """A head of labels and the labels of the texts must be as many."""
    labels, asked = labels_of(corpus), getattr(recipe.model, "labels", None)
    if asked is None and labels:
        yield (
            f"corpus: {corpus.path} holds texts with {len(labels)} labels, which a model of language does not tell: "
            f"set model.labels = {len(labels)}, as scratchlab finetune --labels does."
        )
    if asked is not None and asked != len(labels):
        holds = f"has {len(labels)}" if labels else "is of no texts with labels"
        yield f"model.labels = {asked}, and {corpus.path} {holds}."
    if asked is not None and recipe.evaluation.suites is not None:
        yield "evaluation.suites asks which token comes next, and model.labels tells labels: leave it out."


def labels_of(corpus: Corpus) -> tuple[str, ...]:
    """The names of the labels of a corpus, by their numbers; none, if its examples are others."""
    return () if corpus.manifest.examples is None else corpus.manifest.examples.labels


def _problems_of_scoring(recipe: Recipe, corpus: Corpus, yardstick: Corpus) -> Iterator[str]:
    examples, splits = yardstick.manifest.examples, yardstick.manifest.splits
    if holds_pairs(yardstick) and not holds_pairs(corpus):  # there is no reference to score them against
        yield f"evaluation.corpus: {yardstick.path} holds pairs, by which only runs that learn from pairs are scored."
    if labels_of(yardstick) != labels_of(corpus):
        theirs, ours = (", ".join(labels_of(one)) or "none" for one in (yardstick, corpus))
        yield f"evaluation.corpus: {yardstick.path} has other labels ({theirs}) than {corpus.path} ({ours})."
    asked = examples is not None and examples.kind == "instructions"
    if recipe.evaluation.answers and not (asked and "test" in splits):
        holds = "is text" if examples is None else f"holds {examples.kind}"
        has = "has no test split" if asked else holds
        yield f"evaluation.answers: {yardstick.path} {has}, and what is answered are the instructions of one."
    if recipe.training.patience is not None and "validation" not in splits:
        yield f"training.patience: {yardstick.path} has no validation split to tell when to stop."


def what_fits(
    sequences: Sequences, recipe: Recipe, yardstick: Corpus, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """For the manifest: the windows of a text, and what of examples fits the model, split by split.

    `say` is told of those that do not fit. CorpusError where a split that scores has none that does.
    """
    examples: dict[str, Any] = {}
    fit = fit_pairs if holds_pairs(yardstick) else fit_labels if labels_of(yardstick) else fit_instructions
    if yardstick.manifest.examples is not None:
        for name in [name for name in yardstick.manifest.splits if name != "train"]:
            split = yardstick.split(name)
            examples[name] = fit(split, recipe.model.context_length).to_json(split)
            if not examples[name]["examples"]:
                raise CorpusError(
                    f"None of the examples of the {name} split of {yardstick.path} has any of its response (of pairs: "
                    f"of both answers) within model.context_length = {recipe.model.context_length} tokens."
                )
    windows = {"windows": sequences.counts()} if isinstance(sequences, Windows) else {}
    if not windows:
        examples = {"train": sequences.counts(), **examples}
    for name, counts in examples.items():
        for sentence in _misfits(name, counts, recipe.model.context_length):
            say(sentence)
    return windows | ({"examples": examples} if examples else {})


def _misfits(split: str, counts: dict[str, Any], context_length: int) -> Iterator[str]:
    """What is to be known of examples that do not fit."""
    total, context = counts["examples"] + counts["left_out"], f"model.context_length = {context_length} tokens"
    if counts["cut"]:
        yield f"{split}: {counts['cut']:,} of {total:,} examples reach beyond {context}: their ends are cut off."
    if counts["left_out"]:
        more = ", ..." if counts["left_out"] > SHOWN else ""
        yield (
            f"{split}: {counts['left_out']:,} of {total:,} examples have no room to answer in {context}: they are left "
            f"out ({', '.join(counts['left_out_ids'])}{more})."
        )
