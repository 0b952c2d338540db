"""How a model was trained, for its card: by the run's result, or, of a run that was not finished, by its records."""

import math
from collections.abc import Mapping

from scratchlab.devices import price_per_hour, rent_source
from scratchlab.interop.card_parts import table
from scratchlab.interop.card_story import earlier, in_order
from scratchlab.interop.told import told, told_recipe
from scratchlab.model.count import training_flops_per_token
from scratchlab.runfolder import Record, RunFolder
from scratchlab.training.summary import cost
from scratchlab.words import duration

UNKNOWN = "not known"


def not_finished(folder: RunFolder) -> str | None:
    """How far a run has come, in a sentence; None for one that is finished, and for weights that were imported."""
    if folder.result() is not None or "imported" in folder.manifest():
        return None
    reached, planned = _steps(folder), folder.resolved().settled.steps
    return f"The run was not finished: its last checkpoint is of step {reached:,}, of {planned:,} that were planned."


def training(folder: RunFolder) -> list[str]:
    """Steps, tokens, machine, time, money, seeds and the recipe; nothing of weights that were imported."""
    if "imported" in folder.manifest():
        return []
    recipe, manifest, steps = folder.resolved(), folder.manifest(), _steps(folder)
    settled, optimization = recipe.settled, recipe.training
    tokens = steps * optimization.global_batch_size * recipe.model.context_length
    environment: Mapping[str, str] = manifest.get("environment") or {}
    unfinished = not_finished(folder)
    planned = f" ({settled.steps:,} were planned)" if unfinished else ""
    processes = f", {settled.processes} processes" if settled.processes > 1 else ""
    software = ", ".join(f"{name} {environment[name]}" for name in ("scratchlab", "torch") if name in environment)
    rows = [
        ("steps", f"{steps:,} of {optimization.global_batch_size} sequences{planned}"),
        ("tokens", f"{tokens:,}" + _with_earlier(folder, tokens) + _padded(folder)),
        ("learning rate", f"{optimization.learning_rate:g}, {optimization.schedule}; {optimization.optimizer}"),
        ("precision", settled.precision),
        ("machine", environment.get("device", UNKNOWN) + processes),
        *_spent(folder, environment.get("device", UNKNOWN)),
        ("seeds", ", ".join(f"{role} {seed}" for role, seed in manifest.get("seeds", {}).items()) or UNKNOWN),
        ("software", software or UNKNOWN),
        ("fingerprint", f"`{manifest['fingerprint']}`"),
    ]
    told_so = [f"{unfinished} There is no test loss, and what it took is added up from its records."] * bool(unfinished)
    return [*told_so, table(("", ""), rows), *in_order(folder, steps, tokens), *_lessons(folder), _recipe(folder)]


def _steps(folder: RunFolder) -> int:
    """How many it took; of a run that is not finished, those of its last checkpoint."""
    result = folder.result()
    return result["steps"] if result else next(iter(reversed(folder.checkpoint_steps())), 0)


def _with_earlier(folder: RunFolder, own: int) -> str:
    before = sum(one.tokens for one in earlier(folder))
    return f" ({own + before:,} with those of the runs it began from)" if before else ""


def _padded(folder: RunFolder) -> str:
    return ", padding between examples included" if folder.manifest().get("examples") else ""


def _spent(folder: RunFolder, device: str) -> list[tuple[str, str]]:
    """Time, money, speed and FLOPs, steps included that were repeated or that no checkpoint has."""
    result = folder.result()
    spent = result["cost"] if result else _so_far(folder, device)
    if spent is None:
        return [(name, UNKNOWN) for name in ("time", "money", "speed", "FLOPs")]
    parts = ", ".join(f"{part} {duration(amount)}" for part, amount in spent["seconds"].items())
    return [
        ("time", f"{duration(spent['total_seconds'])} ({parts})"),
        ("money", _money(spent, device)),
        ("speed", f"{spent['training_tokens_per_second']:,.0f} tokens/s while training"),
        ("FLOPs", f"{spent['training_flops']:.2e}, by scratchlab's count"),
    ]


def _so_far(folder: RunFolder, device: str) -> Record | None:
    """What a run took that has no result, by its meters; None where there are none."""
    meters, recipe = folder.meters(), folder.resolved()
    if not meters:
        return None
    flops = training_flops_per_token(recipe.model, folder.manifest()["vocab_size"], recipe.finetuning)
    summed = cost(meters, flops, math.nan, None, price_per_hour(device))  # no peak: nothing is said of a share of it
    return summed | {"price_source": rent_source(device)}


def _money(spent: Record, device: str) -> str:
    if spent.get("price") is None:
        return f"no price is known of {device}"
    source = f"; {spent['price_source']}" if spent.get("price_source") else ""
    return f"{spent['price']:.2f} USD at {spent['price_per_hour']:.2f} a device and hour{source}"


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


def _recipe(folder: RunFolder) -> str:
    toml = told_recipe(folder.recipe())
    return f"<details><summary>The recipe</summary>\n\n```toml\n{toml.strip()}\n```\n\n</details>"
