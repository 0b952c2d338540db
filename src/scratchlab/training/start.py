"""Making a run, and picking one up where it was cut off."""

import math
import shutil
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from scratchlab import hardware
from scratchlab.architecture import GPTSection
from scratchlab.corpus.loader import Loader, prefetch
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.corpus.windows import Sequences
from scratchlab.errors import CorpusError, RecipeError, RunError
from scratchlab.files import nearest_existing
from scratchlab.model.count import parameter_count, trained_count, training_flops_per_token
from scratchlab.recipe import Recipe, fingerprint
from scratchlab.runfolder import RunFolder
from scratchlab.training.backend import Backend
from scratchlab.training.checkpoint import check_disk, restore_checkpoint, write_tensors
from scratchlab.training.data import check_data, holds_pairs, training_sequences, what_fits
from scratchlab.training.forecast import forecast_here, tried_micro_batch
from scratchlab.training.journal import Journal
from scratchlab.training.measurements import known_measurement
from scratchlab.training.progress import Reporter
from scratchlab.training.reference import Reference, kept_reference, make_reference
from scratchlab.training.resolve import resolve
from scratchlab.training.source import find_source, fresh_tensors, starting_extras, starting_tensors
from scratchlab.training.step import TorchBackend, fresh_extras
from scratchlab.training.summary import validation_loss, validation_records
from scratchlab.training.tasks import AskedTask, check_identities, identities, tasks_of
from scratchlab.training.work import split_tokens
from scratchlab.training.world import ALONE, World


@dataclass
class Run:
    """One run under way: everything the loop touches."""

    folder: RunFolder
    recipe: Recipe
    """Resolved: nothing in it is `auto`."""
    corpus: Corpus
    yardstick: Corpus
    """The corpus that scores: `corpus`, unless the recipe names another."""
    tasks: list[AskedTask]
    """What it is asked while it trains."""
    reference: Reference
    """Of a run that learns from pairs, what they are held against."""
    loader: Loader
    backend: Backend
    state: Any
    step: int
    """Where this process starts or goes on; at the end, how many steps there were."""
    weights_of: int | None
    """Of a run with patience that is over: the step of its best evaluation, whose weights are now the run's."""
    validated: list[float]
    """The validation losses so far, in nats a token (of pairs, a pair); infinite where it diverged."""
    journal: Journal
    report: Reporter
    world: World
    """The processes that train it, as this one sees them."""

    @property
    def steps(self) -> int:
        return self.recipe.settled.steps

    @property
    def best(self) -> float:
        """The lowest validation loss so far."""
        return min(self.validated, default=math.inf)

    def place(self, step: int) -> int:
        """Where a step stands in the schedule, which may go on from that of an earlier run."""
        return self.recipe.settled.steps_before + step

    def batches(self) -> Generator[Any]:
        """What each step from here on takes, in order, on the device. To be closed.

        A CUDA device gets it ahead of the step. On a CPU the thread that reads ahead takes its time from the cores that
        compute: measured on two busy ones, steps took 2 to 6% longer with it.
        """

        def take(step: int) -> Any:
            return self.backend.send(self.loader.batch(step))

        steps = range(self.step, self.steps)
        if self.recipe.settled.device.startswith("cuda"):
            return prefetch(take, steps)
        return (take(step) for step in steps)


def create_run(
    recipe: Recipe, out: str | Path, say: Callable[[str], None] = lambda text: None, world: World = ALONE
) -> RunFolder:
    """Settle what is open in `recipe` and make its run folder; nothing is trained yet. For one process alone."""
    RunFolder(Path(out)).refuse_existing()  # before anything takes its time
    corpus, yardstick = open_corpora(recipe)
    check_data(recipe, corpus, yardstick)
    tasks = tasks_of(recipe, corpus.tokenizer)
    masked = isinstance(recipe.model, GPTSection) and recipe.model.document_mask
    if masked and corpus.tokenizer.end_of_text is None:
        raise RecipeError(
            f"model.document_mask: the documents of {corpus.path} do not part at <|endoftext|>, so there is nothing "
            "to mask. Build the corpus with a bpe tokenizer from more than one document, or leave the field out."
        )
    sequences = training_sequences(recipe, corpus)
    source = find_source(recipe, corpus)
    resolved = resolve(recipe, corpus.vocab_size, sequences, source, say, world)
    free = shutil.disk_usage(nearest_existing(Path(out))).free
    manifest = {
        "fingerprint": fingerprint(resolved, corpus.sha256, yardstick.sha256, source and source.sha256),
        "lineage": source.lineage if source else [],
        "seeds": resolved.seeds.model_dump(),
        "corpus": {"path": str(corpus.path.absolute()), "sha256": corpus.sha256},
        "evaluation_corpus": {"path": str(yardstick.path.absolute()), "sha256": yardstick.sha256},
        "tokenizer_sha256": corpus.tokenizer.sha256,
        "vocab_size": corpus.vocab_size,
        "end_of_text": corpus.tokenizer.end_of_text,
        **what_fits(sequences, recipe, yardstick, say),
        "disk_bytes_needed": check_disk(free, resolved, corpus.vocab_size),
        "environment": hardware.environment(resolved.execution.device),
        "command": sys.argv,
        "forecast": forecast_here(
            resolved,
            corpus.vocab_size,
            split_tokens(yardstick),
            known_measurement(resolved, corpus.vocab_size),
            hardware.resident_memory(),
            tried_micro_batch(recipe, resolved),
            world.local_size if world.started else None,
        ).to_json(),
    }
    if corpus.manifest.examples is not None and corpus.manifest.examples.labels:
        manifest["labels"] = list(corpus.manifest.examples.labels)
    if tasks:
        manifest["tasks"] = identities(tasks)
    begin, base, template = None, None, corpus.chat_template
    if template is not None:
        manifest["chat_template_sha256"] = sha256(template.source.encode()).hexdigest()
    if source is not None:
        extras = starting_extras(resolved, source, fresh_extras(resolved.settled))
        tensors = trained = starting_tensors(resolved, source, corpus.vocab_size)
        if recipe.finetuning.lora_rank is not None:
            trained = fresh_tensors(resolved, corpus.vocab_size)
            base = lambda path: write_tensors(tensors, path)  # noqa: E731
            if corpus.vocab_size > source.vocab_size:
                say(FROZEN_TOKENS)
        begin = (lambda path: write_tensors(trained, path)), extras
    spoken = corpus.tokenizer.to_json(), begin, template and template.source, base
    return RunFolder.create(out, recipe, resolved, manifest, *spoken)


FROZEN_TOKENS = (
    "The tokens that the corpus adds to the vocabulary keep the rows that they begin with: adapters leave embeddings "
    "frozen."
)


def holds_same(out: str | Path, recipe: Recipe) -> bool:
    """Whether a run of this very recipe, as it was given, is at `out`: to make it again is to go on with it."""
    folder = RunFolder(Path(out))
    return folder.exists() and folder.recipe().model_dump() == recipe.model_dump()


def pick_up(folder: RunFolder, report: Reporter, world: World = ALONE) -> Run:
    """The run at its last good checkpoint (at step 0 if it has none), with later records dropped.

    Of several processes all call this, and each gets its part. They may be more or fewer than the run had before.
    """
    recipe, corpus, yardstick, tasks = world.agreed(lambda: _reopened(folder, world))
    backend = TorchBackend(recipe, corpus.vocab_size, corpus.tokenizer.end_of_text, world, holds_pairs(corpus))
    state, record = restore_checkpoint(folder, backend, report.say, world)
    step, weights_of = record["step"], record.get("weights_of")
    # What was written at the very step of a checkpoint came after it, but for the end of a run.
    validated = world.by_first(lambda: _rewound(folder, step if weights_of is None else step + 1))
    tokens_per_step = recipe.training.global_batch_size * recipe.model.context_length
    flops_per_token = training_flops_per_token(recipe.model, corpus.vocab_size, recipe.finetuning)
    journal = Journal(folder, tokens_per_step, flops_per_token, recipe.settled, world)
    reference: Reference = {}
    if holds_pairs(corpus):
        kept = kept_reference(folder, step, world)
        if kept is None:
            report.say("What the weights make of the pairs is scored once, before the first step.")
            with journal.spent_on("reference"):
                scored = corpus, yardstick, recipe.model.context_length
                kept = make_reference(folder, backend.scorer(state), *scored, world)
        reference = kept
    sequences = training_sequences(recipe, corpus, reference.get("train"))
    if step == 0:
        report.say(_what_is_ahead(folder, recipe, corpus.vocab_size, sequences, world))
    return Run(
        folder=folder,
        recipe=recipe,
        corpus=corpus,
        yardstick=yardstick,
        tasks=tasks,
        reference=reference,
        loader=Loader(
            sequences,
            recipe.training.global_batch_size,
            recipe.seeds.data,
            recipe.settled.sequences_before,
            world.rank,
            world.size,
        ),
        backend=backend,
        state=state,
        step=step,
        weights_of=weights_of,
        validated=validated,
        journal=journal,
        report=report,
        world=world,
    )


def _reopened(folder: RunFolder, world: World) -> tuple[Recipe, Corpus, Corpus, list[AskedTask]]:
    """The recipe of a run, its corpora and its tasks, if all are what they were, and this process can go on with it."""
    recipe = folder.resolved()
    corpus, yardstick = open_corpora(recipe, folder)
    lineage = folder.manifest().get("lineage")
    weights = lineage[-1]["weights_sha256"] if lineage else None
    if fingerprint(recipe, corpus.sha256, yardstick.sha256, weights) != folder.manifest()["fingerprint"]:
        raise RunError(
            f"{folder.path}: resolved.json is not what the run was started with (its fingerprint is another). Put the "
            "old file back, or start a new run."
        )
    device = hardware.choose_device(world.device(recipe.settled.device))
    hardware.refuse_precision(device, recipe.settled.precision)
    tasks = tasks_of(recipe, corpus.tokenizer)
    check_identities(tasks, folder.manifest().get("tasks", {}))
    return recipe, corpus, yardstick, tasks


def _rewound(folder: RunFolder, step: int) -> list[float]:
    """The folder goes back to `step`; gives the validation losses that are left."""
    folder.rewind(step)
    return [validation_loss(record["validation"]) for record in validation_records(folder.metrics())]


def _what_is_ahead(folder: RunFolder, recipe: Recipe, vocab_size: int, sequences: Sequences, world: World) -> str:
    steps, taken = recipe.settled.steps, recipe.settled.steps * recipe.training.global_batch_size
    tokens, megabytes = taken * recipe.model.context_length, folder.manifest()["disk_bytes_needed"] / 1e6
    trained = trained_count(recipe.model, vocab_size, recipe.finetuning)
    adapters = f"{trained:,} in adapters beside " if recipe.finetuning.lora_rank else ""
    return (
        f"{adapters}{parameter_count(recipe.model, vocab_size):,} parameters, {steps:,} steps, {tokens:,} tokens "
        f"({taken / len(sequences):.1f} epochs), up to {megabytes:,.0f} MB of disk, "
        f"on {hardware.device_name(world.device(recipe.settled.device))}"
        + (f", {world.size} processes" if world.size > 1 else "")
    )


def open_corpora(recipe: Recipe, folder: RunFolder | None = None) -> tuple[Corpus, Corpus]:
    """The corpus that trains and the one that scores; of an existing run they must be the very same as before."""
    if not recipe.corpus:
        raise RecipeError("corpus: this recipe, of an imported model, has none to train on: add corpus=PATH.")
    recorded = folder.manifest() if folder else {}
    corpus = _open(recipe.corpus, recorded.get("corpus"))
    if recipe.evaluation.corpus is None:
        return corpus, corpus
    yardstick = _open(recipe.evaluation.corpus, recorded.get("evaluation_corpus"))
    if yardstick.tokenizer.meaning != corpus.tokenizer.meaning:
        raise CorpusError(
            f"{yardstick.path} (evaluation.corpus) and {corpus.path} (corpus) have different tokenizers, so the one "
            "cannot score a model of the other. Build it with the other's tokenizer."
        )
    return corpus, yardstick


def _open(path: str, recorded: dict[str, str] | None) -> Corpus:
    corpus = open_corpus(recorded["path"] if recorded else path)
    if recorded and corpus.sha256 != recorded["sha256"]:
        raise RunError(
            f"{corpus.path} is not the corpus this run was started on: its hash is {corpus.sha256[:12]}, the run's "
            f"{recorded['sha256'][:12]}. Put the old corpus back, or start a new run."
        )
    return corpus
