"""What the parts of a model card say, each from the run folder and no more: a list of paragraphs; none for no part."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scratchlab.corpus.hub import SCHEME
from scratchlab.corpus.manifest import SourceRecord
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.errors import CorpusError
from scratchlab.interop.proof_files import CHARTS
from scratchlab.interop.told import told, told_recipe
from scratchlab.runfolder import Record, RunFolder
from scratchlab.training.summary import validation_records
from scratchlab.words import duration, with_error

Part = tuple[str, list[str]]
"""A title and the paragraphs below it."""
MOST_SOURCES = 12
MOST_WRITTEN = 1200  # characters of a sample
SIZES = ("n_layer", "n_head", "n_kv_head", "d_model", "context_length")
LOWEST = "where its validation loss was lowest"


def which_weights(folder: RunFolder, at: str | int) -> str:
    """Of which step they are, and why those."""
    if isinstance(at, int):
        return f"These are the weights of step {at:,}."
    if at != "final":
        return f"These are the weights of step {folder.snapshot(at)[1]['step']:,}, {LOWEST}."
    checkpoint, _ = folder.last_good_checkpoint()
    state = {"step": 0} if checkpoint is None else checkpoint[1]
    if (best := state.get("weights_of")) is not None:
        return f"These are the weights of its last checkpoint: those of step {best:,} of {state['step']:,}, {LOWEST}."
    return f"These are the weights of its last checkpoint, at step {state['step']:,}."


def what_it_is(folder: RunFolder, proof: Record) -> list[str]:
    """Sizes, the switches in which it differs from GPT-2, and which of its weights these are."""
    weights = [] if "imported" in folder.manifest() else [which_weights(folder, proof["run"]["at"])]
    manifest, model = folder.manifest(), folder.resolved().model
    given = model.model_dump(exclude_defaults=True)
    rows = [(name, value) for name in SIZES if (value := getattr(model, name, None)) is not None]
    rows += [("vocabulary", f"{manifest['vocab_size']:,}"), ("class in transformers", proof["class"])]
    rows += [(name, value) for name, value in given.items() if name not in SIZES]
    of_run = proof["run"]["parameters"]
    rows += [("parameters", f"{proof['checks']['parameters']['hub']:,}")]
    table = _table(("", ""), rows)
    if of_run == proof["checks"]["parameters"]["hub"]:
        return [table, *weights]
    why = (
        "padding of its vocabulary is left out here, and zeros stand for biases that this class has and the run has not"
    )
    return [table, f"The run itself has {of_run:,}: {why}.", *weights]


def data(folder: RunFolder) -> list[str]:
    """Sources, tokens, cleaning and the hash of the corpus, as far as it is where it was."""
    recorded = folder.manifest().get("corpus") or {}
    if not recorded.get("path"):
        return ["The weights were imported, and what they were trained on is not recorded here."]
    name, sha256 = told(recorded["path"]), recorded["sha256"]
    corpus = corpus_of(folder)
    if corpus is None:
        return [f"The corpus {name} (SHA-256 {sha256}), which was no longer there when this card was written."]
    manifest, tokenizer = corpus.manifest, corpus.manifest.tokenizer
    splits = [
        (split, f"{one.documents:,}", f"{one.tokens:,}", f"{one.bytes:,}") for split, one in manifest.splits.items()
    ]
    said = [
        f"The corpus {name} (SHA-256 {sha256}); tokenizer: {told(tokenizer.spec)}, {tokenizer.vocab_size:,} symbols.",
        _table(("source", "documents", "bytes of text"), _sources(manifest.sources)),
        _table(("split", "documents", "tokens", "bytes of text"), splits),
    ]
    cleaned = [*manifest.cleaning.filters]
    if manifest.cleaning.near_duplicates is not None:
        cleaned.append(f"near duplicates (likeness {manifest.cleaning.near_duplicates:g} and more)")
    said += [f"Cleaned of: exact duplicates{''.join(f', {kind}' for kind in cleaned)}."]
    if (overlap := manifest.overlap) is not None and overlap.share is not None:
        said += [f"Of the test split's stretches of {overlap.n} words, {overlap.share:.2%} are in the training split."]
    return said


def corpus_of(folder: RunFolder) -> Corpus | None:
    """The corpus that trained it, if it is still where it was and the same."""
    recorded = folder.manifest().get("corpus") or {}
    if not recorded.get("path"):
        return None
    try:
        corpus = open_corpus(recorded["path"])
    except CorpusError:
        return None
    return corpus if corpus.sha256 == recorded["sha256"] else None


def datasets(corpus: Corpus) -> list[str]:
    """The datasets of the Hub that it was made of, as USER/NAME."""
    places = [source.location or source.source for source in corpus.manifest.sources]
    return sorted({place.removeprefix(SCHEME).partition("?")[0] for place in places if place.startswith(SCHEME)})


def _sources(sources: Sequence[SourceRecord]) -> list[tuple[str, str, str]]:
    rows = [(told(one.source), f"{one.documents:,}", f"{one.bytes:,}") for one in sources[:MOST_SOURCES]]
    if others := sources[MOST_SOURCES:]:
        counts = (sum(one.documents for one in others), sum(one.bytes for one in others))
        rows.append((f"and {len(others):,} more", f"{counts[0]:,}", f"{counts[1]:,}"))
    return rows


def training(folder: RunFolder) -> list[str]:
    """Steps, tokens, machine, time, money, seeds and the recipe."""
    manifest, result = folder.manifest(), folder.result()
    if result is None:
        return [*_lessons(folder), *_unfinished(folder)]
    recipe, cost, environment = folder.resolved(), result["cost"], manifest["environment"]
    settled, optimization = recipe.settled, recipe.training
    tokens = result["steps"] * optimization.global_batch_size * recipe.model.context_length
    seeds = ", ".join(f"{role} {seed}" for role, seed in manifest["seeds"].items())
    rows = [
        ("steps", f"{result['steps']:,} of {optimization.global_batch_size} sequences"),
        ("tokens", f"{tokens:,}" + _before(result, tokens)),
        ("learning rate", f"{optimization.learning_rate:g}, {optimization.schedule}; {optimization.optimizer}"),
        ("precision", settled.precision),
        ("machine", f"{environment['device']}" + (f", {settled.processes} processes" if settled.processes > 1 else "")),
        ("time", f"{duration(cost['total_seconds'])} ({_parts(cost['seconds'])})"),
        ("money", _money(cost, environment["device"])),
        ("speed", f"{cost['training_tokens_per_second']:,.0f} tokens/s while training"),
        ("FLOPs", f"{cost['training_flops']:.2e}, by scratchlab's count"),
        ("seeds", seeds),
        ("software", f"scratchlab {environment['scratchlab']}, torch {environment['torch']}"),
        ("fingerprint", f"`{manifest['fingerprint']}`"),
    ]
    return [_table(("", ""), rows), *_lineage(manifest), *_lessons(folder), _recipe(folder)]


def _lessons(folder: RunFolder) -> list[str]:
    """What it learned from examples, if it did: which, how many, beside what."""
    manifest, recipe = folder.manifest(), folder.resolved()
    train = manifest.get("examples", {}).get("train")
    if not train:
        return []
    said, many, left_out = recipe.finetuning, f"{train['examples']:,}", _left_out(train)
    if folder.has_reference():
        first = told(manifest["lineage"][-1]["run"])
        lessons = (
            f"It learned preferences, by DPO (beta {said.beta:g}): from {many} pairs{left_out}, each of a chosen and a "
            f"rejected answer. What it is measured against is {first}, whose weights it began from."
        )
    elif "labels" in manifest:
        lessons = f"It learned to tell {len(manifest['labels']):,} labels, from {many} texts{left_out}."
    else:
        which = "the responses alone" if said.learn_from == "responses" else "all that is said"
        lessons = f"It was taught to answer, from {many} examples{left_out}; it learned {which}."
    if said.lora_rank is not None:
        lessons += f" Adapters of rank {said.lora_rank} were trained beside frozen weights; they are part of these now."
    return [lessons]


def _left_out(counts: Record) -> str:
    """How many there were besides that do not fit the context."""
    return f" ({counts['left_out']:,} more did not fit its context)" if counts["left_out"] else ""


def _unfinished(folder: RunFolder) -> list[str]:
    if "imported" in folder.manifest():
        return []
    steps = folder.checkpoint_steps()
    at = f" at step {steps[-1]:,}" if steps else ""
    return [f"The run was not finished: these are weights{at}, and there is no test loss.", _recipe(folder)]


def _before(result: Record, own: int) -> str:
    all_of_them = result.get("tokens_with_lineage", own)
    return "" if all_of_them == own else f" ({all_of_them:,} with those of the runs it began from)"


def _parts(seconds: dict[str, float]) -> str:
    return ", ".join(f"{part} {duration(amount)}" for part, amount in seconds.items())


def _money(cost: Record, device: str) -> str:
    if cost.get("price") is None:
        return f"no price is known of {device}"
    source = f"; {cost['price_source']}" if cost.get("price_source") else ""
    return f"{cost['price']:.2f} USD at {cost['price_per_hour']:.2f} a device and hour{source}"


def _lineage(manifest: Record) -> list[str]:
    return [
        f"Its weights came from {told(one['run'])} at step {one['step']:,} ({one['tokens']:,} tokens; fingerprint "
        f"`{one['fingerprint']}`)."
        for one in manifest.get("lineage", [])
    ]


def _recipe(folder: RunFolder) -> str:
    toml = told_recipe(folder.recipe())
    return f"<details><summary>The recipe</summary>\n\n```toml\n{toml.strip()}\n```\n\n</details>"


def quality(folder: RunFolder, proof: Record) -> list[str]:
    """The test loss with its error, the last validation, and tasks that it was asked."""
    result = folder.result() or {}
    scored = [(result[part], name) for part, name in SCORED if result.get(part)]
    rows = [(name, *_loss(loss)) for loss, name in scored]
    said = [_table(("loss on", "bits per byte", "nats per token", "n"), rows)] if rows else []
    preferred = [(name, *_preferred(figures)) for figures, name in scored if "pairs" in figures]
    if preferred:
        said.append("Of pairs these are the losses of the chosen answers alone.")
        said.append(_table(("pairs of", "prefers the chosen one", "margin in nats", "n"), preferred))
    if not result.get("test"):
        said.append("It has no test loss: nothing was scored on a test split.")
    elif proof["run"]["at"] != "final":
        said.append(f"These figures are of the final weights; the weights here are those {_at(proof['run']['at'])}.")
    asked = [record for record in folder.metrics() if "suites" in record]
    if asked:
        said.append(_table(("task", "metric", "value", "n"), [_task(*one) for one in asked[-1]["suites"].items()]))
    if answers := result.get("answers"):
        chrf = with_error(answers["chrf"], answers["chrf_error"], 2)
        said.append(f"Answers to {answers['n']:,} questions of the test split: chrF {chrf} beside the references.")
    return said


SCORED = (("test", "test split"), ("validation", "validation split, at the end"))


def _at(at: str | int) -> str:
    return "of the lowest validation loss" if at == "best" else f"of step {at:,}"


def _loss(loss: Record) -> tuple[str, str, str]:
    bits, nats = (with_error(loss[name], loss[f"{name}_error"], 4) for name in ("bits_per_byte", "nats_per_token"))
    return bits, nats, f"{loss['n_units']:,} {loss['unit']}, {loss['n_tokens']:,} tokens"


def _preferred(figures: Record) -> tuple[str, str, str]:
    share, margin = (with_error(figures[name], figures[f"{name}_error"], 3) for name in ("accuracy", "margin"))
    return share, margin, f"{figures['pairs']:,}"


def _task(name: str, figures: Record) -> tuple[str, str, str, str]:
    main: Record = figures[figures["metric"]]
    return name, figures["metric"], with_error(main["value"], main["error"], 3), f"{main['n']:,}"


def charts(pictures: Sequence[Path]) -> list[str]:
    return (
        ["\n".join(f"![{path.stem.replace('_', ' ')}]({CHARTS}/{path.name})" for path in pictures)] if pictures else []
    )


def samples(folder: RunFolder, at: str | int) -> list[str]:
    """The last one, as it was written: from the start of a text, or as the answer to a question.

    Of a snapshot, the last one that was written by then.
    """
    written = [one for one in folder.samples() if not isinstance(at, int) or one["step"] <= at]
    if not written:
        return []
    last = written[-1]
    scored = {one["step"]: one["validation"] for one in validation_records(folder.metrics())}
    loss = scored.get(last["step"])
    by = f" (validation loss {with_error(loss['nats_per_token'], None, 3)} nats a token)" if loss else ""
    asked = [f"To the question:\n\n{_quoted(last['prompt'])}", "it answers:"] if last.get("prompt") else []
    return [f"At step {last['step']:,}{by}, by itself:"] * (not asked) + [*asked, _quoted(last["text"])]


def _quoted(text: str) -> str:
    """As a block of code, whatever is in it; for what cannot be seen stands U+FFFD."""
    text = text.strip("\n")[:MOST_WRITTEN] or "(nothing)"
    text = "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}text\n{text}\n{fence}"


def studies(found: Sequence[Record]) -> list[str]:
    """The place of the run in each study that has it."""
    return [
        f"It is block {one['block']} of the arm `{one['arm']}` in the study `{one['study']}`, which has "
        f"{one['runs']:,} runs and judges by `{one['metric']}`. A difference between arms rests on all of them."
        for one in found
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in lines
    )
