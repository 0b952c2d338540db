"""What does a loss of 2.5 look like? What one model wrote at several places of its training.

Prompts, temperature, top-k and seed are the same everywhere, so that two entries differ in their weights alone. All
losses are measured here, in the same way, on the validation split that scored the run.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from scratchlab.corpus.store import open_corpus
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import CorpusError, RunError
from scratchlab.evaluation.loss import Ints, LossResult, ScoredText, byte_lengths, evaluate_loss
from scratchlab.evaluation.scorer import ModelScorer
from scratchlab.evaluation.texts import own_corpus
from scratchlab.evaluation.yardsticks import words
from scratchlab.generation.engine import Settings
from scratchlab.generation.text import prompt_tokens, run_tokenizer, write
from scratchlab.model.build import Model
from scratchlab.model.load import fresh_model, load_model
from scratchlab.runfolder import Record, RunFolder
from scratchlab.seeds import generator

SETTINGS = Settings(max_tokens=200, temperature=0.8, top_k=50, seed=1)
OPENINGS = 3  # prompts from the validation split, besides the beginning of a document
OPENING_WORDS, OPENING_CHARACTERS = 5, 40
OPENING_TOKENS = 1024  # of a text in which one is looked for
# Whether a word is known is asked of so much of the training text: 4 MB of characters, some 16 MB of BPE's symbols.
KNOWN_TOKENS = 4_000_000
CURVE_POINTS = 150

Weights = Literal["fresh", "snapshot", "best", "last"]


@dataclass(frozen=True, slots=True)
class Entry:
    """The weights at one place of the training, and what they wrote."""

    step: int
    weights: Weights
    tokens: int
    """Seen until then, with those of the runs that it went on from."""
    loss: LossResult
    asked: tuple[float, ...] = ()
    """The losses that this one is the nearest to, of those that were asked for."""
    samples: tuple[str, ...] = ()
    """One for each prompt, which it does not repeat. Empty if the loss is not finite: such weights cannot write."""
    words: int = 0
    """In all samples together, of four letters and more."""
    known_words: int | None = None
    """How many of them occur in the training text; None if that is not there any more."""

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss.nats_per_token)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"loss": self.loss.to_json()}


@dataclass(frozen=True, slots=True)
class Gallery:
    """The entries of one run in the order of the training."""

    run: str
    steps: int
    """Of the whole run, which may not be finished."""
    prompts: tuple[str, ...]
    """An empty one is the beginning of a document."""
    settings: Settings
    """Its seed is that of the first prompt; each further prompt has the next one (`seed_of`)."""
    entries: tuple[Entry, ...]
    curve: tuple[tuple[int, float], ...]
    """The loss of training batches by step, thinned out."""
    notes: tuple[str, ...]
    """What a reader must know of it, in sentences."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"entries": [entry.to_json() for entry in self.entries]}


def make_gallery(
    folder: RunFolder,
    prompts: Sequence[str] = (),
    losses: Sequence[float] = (),
    settings: Settings = SETTINGS,
    device: str = "auto",
    say: Callable[[str], None] = lambda text: None,
) -> Gallery:
    """Samples at every place of the training whose weights were kept, or at those nearest to `losses` (nats per token).

    Raises RunError for a run without weights, CorpusError if the text that scored it is not there, or for a prompt that
    its tokenizer cannot encode.
    """
    text, tokenizer = own_corpus(folder).split("validation"), run_tokenizer(folder)
    prompts = tuple(prompts) or ("", *openings(text, tokenizer))
    for prompt in prompts:
        prompt_tokens(tokenizer, prompt)  # what cannot be encoded is refused before anything long begins
    measured: list[Entry] = []
    for step, weights in sorted(places(folder).items()):
        measured.append(measure(folder, step, weights, text, byte_lengths(tokenizer), device))
        say(f"step {step}: {measured[-1].loss.nats_per_token:.4f} nats/token")
    known = known_words(folder, tokenizer)
    entries: list[Entry] = []
    for entry in nearest(measured, losses) if losses else measured:
        say(f"writing with the weights of step {entry.step}")
        entries.append(write_samples(folder, entry, tokenizer, prompts, settings, known, device))
    return Gallery(
        run=str(folder.path),
        steps=folder.resolved().settled.steps,
        prompts=prompts,
        settings=settings,
        entries=tuple(entries),
        curve=curve(folder.metrics()),
        notes=tuple(_notes(folder, measured[-1], known)),
    )


def places(folder: RunFolder) -> dict[int, Weights]:
    """The steps whose weights can be had, each with where they are from: a step that is kept twice is listed once."""
    found: dict[int, Weights] = {} if folder.manifest().get("lineage") else {0: "fresh"}
    if folder.has_snapshot("best"):
        found[folder.snapshot("best")[1]["step"]] = "best"
    found |= dict.fromkeys(folder.snapshot_steps(), "snapshot")
    if checkpoints := folder.checkpoint_steps():
        found[checkpoints[-1]] = "last"
    if not found:
        raise RunError(f"{folder.path} has no weights yet. To train it: scratchlab train --resume {folder.path}")
    return found


def _model(folder: RunFolder, step: int, weights: Weights, device: str) -> Model:
    match weights:
        case "fresh":
            return fresh_model(folder, device)
        case "snapshot":
            return load_model(folder, step, device)
        case "best":
            return load_model(folder, "best", device)
        case "last":
            return load_model(folder, "final", device)


def measure(folder: RunFolder, step: int, weights: Weights, text: ScoredText, symbol_bytes: Ints, device: str) -> Entry:
    """An entry without samples. Its loss is measured as those along the training were."""
    recipe, lineage = folder.resolved(), folder.manifest().get("lineage", [])
    model, most = _model(folder, step, weights, device), recipe.evaluation.max_tokens
    length, score = recipe.model.context_length, ModelScorer(model).windows
    before = sum(earlier["tokens"] for earlier in lineage)
    return Entry(
        step=step,
        weights=weights,
        tokens=before + step * recipe.training.global_batch_size * length,
        loss=evaluate_loss(score, text, length, most, recipe.model.remembers, symbol_bytes=symbol_bytes),
    )


def nearest(entries: Sequence[Entry], losses: Sequence[float]) -> list[Entry]:
    """Of `entries` those whose loss is the nearest to one of `losses`, in order, each told to which of them."""
    finite = [entry for entry in entries if entry.finite]
    if not finite:
        raise RunError("None of the weights that were kept has a finite loss: the run has diverged.")
    asked: dict[int, list[float]] = {}
    for loss in losses:
        found = min(finite, key=lambda entry: abs(entry.loss.nats_per_token - loss))
        asked.setdefault(found.step, []).append(loss)
    return [replace(entry, asked=tuple(asked[entry.step])) for entry in finite if entry.step in asked]


def write_samples(
    folder: RunFolder,
    entry: Entry,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    settings: Settings,
    known: frozenset[str] | None,
    device: str,
) -> Entry:
    """The entry with what its weights write after each prompt."""
    if not entry.finite:
        return entry
    model = _model(folder, entry.step, entry.weights, device)
    each = [(prompt, replace(settings, seed=seed_of(settings, number))) for number, prompt in enumerate(prompts)]
    samples = tuple("".join(write(model, tokenizer, prompt, own)) for prompt, own in each)
    found = [word for sample in samples for word in words(sample)]
    count = None if known is None else sum(word in known for word in found)
    return replace(entry, samples=samples, words=len(found), known_words=count)


def seed_of(settings: Settings, number: int) -> int:
    """The seed of prompt `number`, as `scratchlab sample` takes it.

    With one for all prompts, weights that know little would write the same after each.
    """
    return (settings.seed + number) % 2**63


def known_words(folder: RunFolder, tokenizer: Tokenizer) -> frozenset[str] | None:
    """The words of (the beginning of) the training text; None if the corpus is no longer where it was."""
    recorded = folder.manifest()["corpus"]
    try:
        corpus = open_corpus(recorded["path"])
    except CorpusError:
        return None
    if corpus.sha256 != recorded["sha256"]:
        return None
    split = corpus.split("train")
    return frozenset(words(tokenizer.decode(split.read(0, min(len(split), KNOWN_TOKENS)))))


def openings(text: ScoredText, tokenizer: Tokenizer, n: int = OPENINGS, seed: int = 1) -> tuple[str, ...]:
    """The first words of `n` documents of a split, drawn by `seed`; of paragraphs, where there are fewer documents."""
    random, starts = generator(seed, "gallery"), text.document_starts
    documents = len(starts) - 1
    if documents >= n:
        drawn = sorted(random.choice(documents, n, replace=False).tolist())
        spans = [(int(starts[i]), min(int(starts[i + 1]), int(starts[i]) + OPENING_TOKENS)) for i in drawn]
        found = [tokenizer.decode(text.read(*span)) for span in spans]
    else:
        drawn = sorted(random.integers(0, max(1, len(text) - OPENING_TOKENS), n).tolist())
        found = [tokenizer.decode(text.read(i, min(i + OPENING_TOKENS, len(text)))) for i in drawn]
        found = [_from_next_beginning(each) for each in found]
    return tuple(dict.fromkeys(opening for each in found if (opening := _first_words(each))))


def _from_next_beginning(text: str) -> str:
    """From where the next paragraph begins, or the next line or word if there is none."""
    return next((after for border in ("\n\n", "\n", " ") if (after := text.partition(border)[2].strip())), text)


def _first_words(text: str) -> str:
    few = re.match(rf"(?:\S+\s+){{0,{OPENING_WORDS - 1}}}\S*", text.lstrip())
    return few[0][:OPENING_CHARACTERS].rstrip() if few else ""


def curve(metrics: Sequence[Record]) -> tuple[tuple[int, float], ...]:
    """The loss of training batches: medians of groups of steps, each group as long by the logarithm of the step."""
    known = [(record["step"], record["loss"]) for record in metrics if record.get("loss") is not None]
    if not known:
        return ()
    steps, losses = (np.array(column) for column in zip(*known, strict=True))
    groups = np.floor(np.log1p(steps) / np.log1p(steps[-1] + 1) * CURVE_POINTS)
    borders = np.flatnonzero(np.diff(groups)) + 1
    parts = zip(np.split(steps, borders), np.split(losses, borders), strict=True)
    return tuple((int(np.median(part)), float(np.median(values))) for part, values in parts)


def _notes(folder: RunFolder, last: Entry, known: frozenset[str] | None) -> list[str]:
    steps, unit = folder.resolved().settled.steps, last.loss.unit
    notes = [
        f"Losses are of {last.loss.n_tokens:,} tokens of the validation split ({last.loss.n_bytes:,} bytes), with the "
        f"standard error over {last.loss.n_units} {unit}. It is the same text for all entries, so that their errors "
        "are not independent."
    ]
    if not folder.snapshot_steps():
        notes.append(
            "The run kept no snapshots on the way, so that only its first, best and last weights can be shown. Runs "
            "keep them unless the recipe says evaluation.snapshots = 0."
        )
    if folder.result() is None:
        notes.append(f"The run is not finished: its last weights so far are those of step {last.step:,} of {steps:,}.")
    if known is None:
        notes.append("The training text is not where it was, so that known words could not be counted.")
    return notes
