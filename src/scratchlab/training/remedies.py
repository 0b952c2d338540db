"""What to change where a device does not hold a run: the least change that the memory formula finds to help."""

from collections.abc import Iterator
from typing import Any

from scratchlab.architecture import GPTSection
from scratchlab.recipe import Recipe
from scratchlab.training.memory import largest_micro_batch, memory_of, offloaded_bytes, with_evaluation

CARDS = (2, 4, 8)  # as they are rented, on one machine

Changes = dict[str, Any]


def remedy(
    recipe: Recipe,
    vocab_size: int,
    room: int,
    process: int = 0,
    tokens: int | None = None,
    main_memory: int | None = None,
) -> str:
    """What makes `room` bytes hold a resolved recipe, of which they do not hold a single sequence as it is.

    `tokens` are those of a text that is scored, as in `largest_micro_batch`; `main_memory` is what off-loading may
    take, where that is known.
    """
    one = recipe.replaced({"execution.micro_batch_size": 1})
    step = memory_of(one, vocab_size, process)
    least = with_evaluation(step, one, vocab_size, tokens)
    fits_by_formula = least.total <= room  # and trying has shown that more is taken than it says

    def helps(changed: Recipe) -> bool:
        if main_memory is not None and offloaded_bytes(changed, vocab_size) > main_memory:
            return False
        if fits_by_formula:
            return memory_of(changed, vocab_size, process).total < step.total
        return largest_micro_batch(changed, vocab_size, room, process, tokens) is not None

    for changes in _changes(recipe):
        if helps(one.replaced(changes)):
            return _said(changes)
    if fits_by_formula:
        return "a smaller model or model.context_length, or a larger card"
    state = least.weights + least.gradients + least.optimizer
    if state > room:
        return f"weights, gradients and moments alone take {_of(state, room)}: a smaller model, or a larger card"
    return f"the least of it takes {_of(least.total, room)}: a smaller model or model.context_length, or a larger card"


def _changes(recipe: Recipe) -> Iterator[Changes]:
    """What is not done yet, the least of it first: time for memory, the moments elsewhere, more cards."""
    execution, gpt = recipe.execution, isinstance(recipe.model, GPTSection)
    on_card = execution.device.startswith("cuda")
    again: Changes = {"execution.activation_checkpointing": True}
    away: Changes = {"execution.optimizer_offload": True}
    recomputes = gpt and not execution.activation_checkpointing
    offloads = on_card and not execution.optimizer_offload and not execution.shard
    shares = gpt and on_card and not execution.optimizer_offload
    if shares and execution.processes > 1 and not execution.shard:
        yield {"execution.shard": True}
    if recomputes:
        yield again
    if offloads:
        yield away
    if recomputes and offloads:
        yield again | away
    for cards in (number for number in CARDS if shares and number > execution.processes):
        shared: Changes = {"execution.processes": cards, "execution.shard": True}
        yield shared
        if recomputes:
            yield shared | again


def _said(changes: Changes) -> str:
    """As overrides, with what they come to."""
    cards = changes.get("execution.processes")
    means = {
        "execution.activation_checkpointing": "a third more time",
        "execution.optimizer_offload": "the optimizer in main memory, and slower",
        "execution.shard": f"FSDP2 on {cards} such cards" if cards else "FSDP2",
    }
    overrides = [f"{field}={str(value).lower()}" for field, value in changes.items()]
    return f"{' '.join(overrides)} ({', '.join(means[field] for field in changes if field in means)})"


def _of(amount: int, room: int) -> str:
    return f"{amount / 1e9:.1f} GB of {room / 1e9:.1f}"
