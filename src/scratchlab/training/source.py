"""Beginning from the weights of another run, whose vocabulary may lack special tokens that this one has."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from scratchlab.architecture import GPTSection, ModelSection
from scratchlab.corpus.store import Corpus
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import RecipeError, RunError, UsageError
from scratchlab.generation.text import run_tokenizer, speaks
from scratchlab.model.build import empty_model
from scratchlab.model.initialize import initial_value
from scratchlab.model.load import StoredTensors, merged_tensors
from scratchlab.model.lora import adapt
from scratchlab.recipe import Recipe
from scratchlab.runfolder import Record, RunFolder
from scratchlab.training.optimizers import MOMENTS


@dataclass(frozen=True, slots=True)
class Source:
    """The run that another begins from, as it was when that one was made."""

    files: tuple[Path, ...]
    """Those with its tensors; the last one's take the place of others of their names."""
    recipe: Recipe
    sha256: str
    steps: int
    sequences: int
    """Where that run's schedule and its data ended: with those of the runs before it that it went on from."""
    state: Record
    vocab_size: int
    lineage: list[Record]
    """Where the weights come from, the oldest first: run, fingerprint, step, tokens, the hash of the weights, and the
    corpus they learned from."""


def find_source(recipe: Recipe, corpus: Corpus) -> Source | None:
    """The run that `recipe` names in `[start]`; `RecipeError` if this recipe cannot begin from it."""
    start = recipe.start
    if start.weights is None and recipe.finetuning.lora_rank is not None:
        raise RecipeError("finetuning.lora_rank: adapters go beside weights that a run has learned: set start.weights.")
    if start.weights is None:
        return None
    if start.steps_before or start.sequences_before:
        raise RecipeError(
            "start.steps_before and start.sequences_before are settled when the run is made: leave them out."
        )
    folder = _open(start.weights)
    path, state = folder.snapshot("best") if start.at == "best" else _last_checkpoint(folder)
    earlier, manifest = folder.resolved(), folder.manifest()
    _check(recipe, corpus, earlier, folder, start.weights)
    sha256 = folder.weights_sha256(state)
    for which, other in (("this recipe", recipe), (start.weights, earlier)):
        if start.optimizer == "kept" and other.finetuning.lora_rank is not None:
            raise RecipeError(f"start.optimizer = 'kept': {which} trains adapters, which begin anew in every run.")
    if start.optimizer == "kept" and "imported" in manifest:
        raise RecipeError(f"start.optimizer = 'kept': {start.weights} was imported, and has weights alone.")
    if start.optimizer == "kept" and earlier.training.optimizer != recipe.training.optimizer:
        used = earlier.training.optimizer
        raise RecipeError(f"start.optimizer = 'kept': {start.weights} was trained with training.optimizer = {used!r}.")
    if start.optimizer == "kept" and "weights_of" in state:
        raise RecipeError(f"start.optimizer = 'kept': {start.weights} ended with its best weights, and has them alone.")
    if start.optimizer == "kept" and changes_head(recipe.model, earlier.model):
        raise RecipeError(f"start.optimizer = 'kept': {start.weights} knows nothing of labels.")
    if start.optimizer == "kept" and manifest["vocab_size"] != corpus.vocab_size:
        raise RecipeError(f"start.optimizer = 'kept': {start.weights} knows nothing of the tokens that are new.")
    steps = state.get("weights_of", state["step"])
    sequences = steps * earlier.training.global_batch_size
    record = {
        "run": str(folder.path.absolute()),
        "fingerprint": manifest["fingerprint"],
        "at": start.at,
        "step": steps,
        "tokens": sequences * earlier.model.context_length,
        "weights_sha256": sha256,
        **folder.learned(),
    }
    if "imported" in manifest:
        record["imported"] = manifest["imported"]
    before = earlier.settled
    return Source(
        files=folder.weight_files(path),
        recipe=earlier,
        sha256=sha256,
        steps=before.steps_before + steps,
        sequences=before.sequences_before + sequences,
        state=state,
        vocab_size=manifest["vocab_size"],
        lineage=[*manifest.get("lineage", []), record],
    )


def _open(name: str) -> RunFolder:
    try:
        return RunFolder.open(name)
    except RunError as error:
        raise RecipeError(f"start.weights: {error} It names the folder of a run, trained here or imported.") from None


def _last_checkpoint(folder: RunFolder) -> tuple[Path, Record]:
    found, problems = folder.last_good_checkpoint()
    if problems:
        raise RunError("\n".join([*problems, f"To train those steps again: scratchlab train --resume {folder.path}"]))
    if found is None:
        raise RunError(f"{folder.path} has no checkpoint to begin from.")
    return found


def _check(recipe: Recipe, corpus: Corpus, earlier: Recipe, folder: RunFolder, name: str) -> None:
    grows = isinstance(recipe.model, GPTSection) and _lacks_specials_alone(folder, corpus.tokenizer)
    if not (grows or speaks(folder, corpus.tokenizer)):
        raise RecipeError(f"start.weights: {name} has another tokenizer than {corpus.path}: its tokens mean others.")
    ours, theirs = (_shapes(config, corpus.vocab_size) for config in (recipe.model, earlier.model))
    if changes_head(recipe.model, earlier.model):
        ours, theirs = ({name: own[name] for name in own if name not in HEADS} for own in (ours, theirs))
    different = sorted(tensor for tensor in ours | theirs if ours.get(tensor) != theirs.get(tensor))
    if different:
        first = different[0]
        raise RecipeError(
            f"start.weights: the model of {name} is not this recipe's: {first} is {theirs.get(first)} there and "
            f"{ours.get(first)} here ({len(different)} differ). [model] must say what that run's recipe says."
        )
    if other := [field for field in MEANING if _said(recipe.model, field) != _said(earlier.model, field)]:
        listed = ", ".join(f"{field} = {getattr(earlier.model, field)!r}" for field in other)
        raise RecipeError(f"start.weights: {name} was trained with model.{listed}; with another they mean nothing.")
    if recipe.start.data == "continued":
        same = [
            folder.manifest()["corpus"]["sha256"] == corpus.sha256,
            earlier.model.context_length == recipe.model.context_length,
            earlier.training.order == recipe.training.order,
            earlier.seeds.data == recipe.seeds.data,
            recipe.training.order == "shuffled"
            or earlier.training.global_batch_size == recipe.training.global_batch_size,
        ]
        if not all(same):
            raise RecipeError(
                f"start.data = 'continued' needs the corpus, context_length, order and data seed of {name} (and its "
                "global_batch_size, where order = 'streams'): only then is there a place to go on from."
            )


def _lacks_specials_alone(folder: RunFolder, tokenizer: Tokenizer) -> bool:
    """Whether the run's tokenizer is this one without the special tokens at its end."""
    known = run_tokenizer(folder)
    added = sorted((token, name) for name, token in tokenizer.specials.items() if token >= known.vocab_size)
    try:
        return bool(added) and known.with_specials([name for _, name in added]).meaning == tokenizer.meaning
    except UsageError:  # it can have no more of them
        return False


# What weights of the same shapes mean something else by.
MEANING = (
    "n_head",
    "norm",
    "norm_position",
    "positions",
    "mlp",
    "qk_norm",
    "residual",
    "logit_cap",
    "embedding",
    "initialization",
)


def _said(model: ModelSection, field: str) -> Any:
    """What a model says of a field; sinusoidal positions are as large as its initial weights (`sinusoid_size`)."""
    if field == "initialization" and getattr(model, "positions", None) != "sinusoidal":
        return None
    return getattr(model, field, None)


def _shapes(model: ModelSection, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Of every parameter."""
    return {name: tuple(p.shape) for name, p in empty_model(model, vocab_size, end_of_text=0).named_parameters()}


def starting_tensors(recipe: Recipe, source: Source, vocab_size: int) -> dict[str, Tensor]:
    """What the new run begins from: weights (adapters are merged), moments if they are kept, what was remembered."""
    tensors = dict(StoredTensors(*source.files))
    if source.recipe.finetuning.lora_rank is not None:
        tensors = merged_tensors(source.recipe, source.vocab_size, tensors)
    if vocab_size > source.vocab_size:
        assert isinstance(recipe.model, GPTSection), "a recurrent network learns from no examples"
        grown = [name for name in VOCABULARY if name in tensors]
        tensors |= {name: _with_rows(name, tensors[name], source.vocab_size, vocab_size, recipe) for name in grown}
    if changes_head(recipe.model, source.recipe.model):
        tensors.pop("head.weight", None)
        tensors |= fresh_tensors(recipe, vocab_size, ("label_head.weight",))
    kept = recipe.start.optimizer == "kept"
    remembered = recipe.start.data == "continued"
    return {
        name: tensor
        for name, tensor in tensors.items()
        if (kept or not name.endswith(tuple(f".{part}" for part in MOMENTS)))
        and (remembered or not name.startswith("carried."))
    }


HEADS = ("head.weight", "label_head.weight")


def changes_head(model: ModelSection, earlier: ModelSection) -> bool:
    """Whether a model of language becomes one that tells labels: its head goes, and another is drawn."""
    return getattr(model, "labels", None) is not None and getattr(earlier, "labels", None) is None


def fresh_tensors(recipe: Recipe, vocab_size: int, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """What these parameters of a recipe begin as; None: all that are trained."""
    model = adapt(empty_model(recipe.model, vocab_size, end_of_text=0), recipe.finetuning)
    table, seed, wanted = model.initial_table(), recipe.seeds.init, None if names is None else set(names)
    return {
        name: initial_value(name, tuple(parameter.shape), table, seed)
        for name, parameter in model.named_parameters()
        if (parameter.requires_grad if wanted is None else name in wanted)
    }


# The tensors that have a row a token.
VOCABULARY = ("token_embedding.weight", "head.weight")


def _with_rows(name: str, weights: Tensor, known: int, vocab_size: int, recipe: Recipe) -> Tensor:
    """The rows of a vocabulary of `known` tokens with those of the tokens that were added to it.

    A new row is the mean of the known ones, so that the new token is about as likely as any and takes little from the
    others (a row drawn afresh may lie far from all of them and win every softmax; Hewitt 2021), plus what a fresh model
    would draw for it by the parameter's name, so that two new tokens differ. Rows that a padded vocabulary has to spare
    mean nothing, whatever is in them, and are made anew when a token takes them.
    """
    assert isinstance(recipe.model, GPTSection)
    table = empty_model(recipe.model, vocab_size, end_of_text=0).initial_table()
    shape = recipe.model.padded(vocab_size), weights.shape[1]
    grown = initial_value(name, shape, table, recipe.seeds.init).to(weights.dtype)
    grown[known:vocab_size] += weights[:known].mean(0)
    grown[:known] = weights[:known]
    return grown


def starting_extras(recipe: Recipe, source: Source, fresh: dict[str, Any]) -> dict[str, Any]:
    """The same for what else a checkpoint holds."""
    if recipe.start.optimizer == "fresh":
        return fresh
    return {name: source.state.get(name, value) for name, value in fresh.items()}
