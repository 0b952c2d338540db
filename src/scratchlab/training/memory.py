"""How much memory training takes, part by part, as functions of the recipe. Nothing here is measured or fitted.

What a step holds at its fullest: weights, their gradients and the optimizer's moments in float32; what the forward pass
keeps (`model/kept.py`); logits. On a GPU that is what PyTorch reports as allocated. A process on a CPU has more in main
memory: what it takes before it has a model, and the holes between tensors that the C library keeps
(`hardware.keep_freed_memory`): a tenth to two fifths of the rest, which only running it tells.
"""

from dataclasses import asdict, dataclass, replace

from scratchlab.evaluation.loss import STREAMS, rows_at_once
from scratchlab.model.count import parameter_count
from scratchlab.model.kept import FLOAT, Kept, Shape, kept_bytes, recomputed, scoring_bytes
from scratchlab.recipe import ModelSection, Recipe, RNNSection

MOMENTS = {"adamw": 2, "rmsprop": 1}
HEADROOM = 0.1
"""Of a card's memory, left alone: CUDA itself, what else the machine shows on it, and holes between tensors."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by part at the fullest moment of a step."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    evaluation: int = 0
    """What scoring text takes beyond all this, where it takes more than a step."""
    process: int = 0
    """What the process takes by itself; on a CPU alone, where it comes out of the same memory."""

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    def to_json(self) -> dict[str, int]:
        return {**asdict(self), "total": self.total}


def memory_of(recipe: Recipe, vocab_size: int, process: int = 0) -> Memory:
    """Memory of one process that trains a resolved recipe; of several that shard it, each has a part of the weights."""
    return _memory(recipe, vocab_size, recipe.settled.micro_batch_size, process)


def with_evaluation(memory: Memory, recipe: Recipe, vocab_size: int, tokens: int) -> Memory:
    """The same of a run that also scores a text of so many tokens: weights, gradients and moments are there then."""
    length = recipe.model.context_length
    rows = STREAMS if recipe.model.remembers else min(rows_at_once(length, recipe.settled.device), -(-tokens // length))
    scoring = scoring_bytes(recipe.model, vocab_size, _shape(recipe, rows))
    gradients = memory.weights - memory.gradients  # those that are not there at the fullest moment of a step
    return replace(memory, evaluation=max(0, scoring + gradients - memory.activations - memory.logits))


def largest_micro_batch(recipe: Recipe, vocab_size: int, room: int, process: int = 0) -> int | None:
    """The largest micro-batch that divides a process's share of the batch and fits `room` bytes; None if no sequence
    does."""
    fitting = (
        size
        for size in reversed(divisors(sequences_a_process(recipe)))
        if _memory(recipe, vocab_size, size, process).total <= room
    )
    return next(fitting, None)


def sequences_a_process(recipe: Recipe) -> int:
    """The most sequences of a step that are one process's."""
    return -(-recipe.training.global_batch_size // recipe.execution.processes)


def divisors(n: int) -> list[int]:
    """The numbers that divide n, the smallest first."""
    low = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return low + [n // d for d in reversed(low) if d * d != n]


def kept_of(recipe: Recipe, vocab_size: int, micro_batch_size: int) -> Kept:
    """What a micro-batch of a recipe keeps for its backward pass, its device and its precision settled."""
    shape = _shape(recipe, micro_batch_size)
    kept = kept_bytes(recipe.model, vocab_size, shape)
    if not recipe.execution.activation_checkpointing:
        return kept
    return recomputed(kept, FLOAT * shape.n * recipe.model.d_model)


def _shape(recipe: Recipe, rows: int) -> Shape:
    half = recipe.training.precision in ("bf16", "fp16") and not isinstance(recipe.model, RNNSection)
    return Shape(rows, recipe.model.context_length, 2 if half else FLOAT, recipe.execution.device == "cpu")


def _memory(recipe: Recipe, vocab_size: int, micro_batch_size: int, process: int) -> Memory:
    shards = recipe.execution.processes if recipe.execution.shard else 1
    weights = FLOAT * parameter_count(recipe.model, vocab_size)
    kept = kept_of(recipe, vocab_size, micro_batch_size)
    head = FLOAT * _head_size(recipe.model, vocab_size)
    accumulates = sequences_a_process(recipe) > micro_batch_size
    before = weights if accumulates else head  # gradients that are there at the loss: the head's, or earlier ones
    logits = min(kept.logits + kept.logits_passing, kept.peak - sum(kept.layers))
    passing = weights if recipe.training.optimizer == "rmsprop" else head  # in the update; at the end of the backward
    if before + kept.peak > weights + passing:
        gradients, activations = before, kept.peak - logits
    else:
        gradients, activations, logits = weights, passing, 0
    moments = MOMENTS[recipe.training.optimizer] * weights // shards
    return Memory(
        weights=weights // shards,
        gradients=gradients // shards,
        optimizer=0 if recipe.execution.optimizer_offload else moments,  # off-loaded, they are in main memory
        activations=activations + (weights // recipe.model.n_layer if shards > 1 else 0),  # a layer is gathered whole
        logits=logits,
        process=process,
    )


def _head_size(model: ModelSection, vocab_size: int) -> int:
    if isinstance(model, RNNSection):
        return vocab_size * (model.d_model + 1)
    return model.padded(vocab_size) * model.d_model
