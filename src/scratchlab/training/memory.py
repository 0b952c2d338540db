"""How much memory training takes, part by part, as functions of the recipe. Nothing here is measured or fitted.

What a step holds at its fullest: weights in float32, gradients and the optimizer's moments of those that are trained;
what the forward pass keeps (`model/kept.py`); logits. On a GPU that is what PyTorch reports as allocated. A process on
a CPU has more in main memory: what it takes before it has a model, and the holes between tensors that the C library
keeps (`hardware.keep_freed_memory`): a tenth to two fifths of the rest, which only running it tells.
"""

from dataclasses import asdict, dataclass, replace

from scratchlab.architecture import ModelSection, RNNSection
from scratchlab.evaluation.loss import STREAMS, rows_at_once
from scratchlab.model.count import adapted_matrices, adapter_count, parameter_count, trained_count, trains_head
from scratchlab.model.kept import FLOAT, Kept, Shape, kept_bytes, recomputed, scoring_bytes
from scratchlab.recipe import Recipe

MOMENTS = {"adamw": 2, "rmsprop": 1}
BLOCKS_AT_ONCE = 3
"""That a process of FSDP2 has whole: one that is computed with, the next, and the buffer that it came in."""
HEADROOM = 0.1
"""Of a card's memory, left alone: CUDA itself, what else the machine shows on it, and holes between tensors."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by part at the fullest moment of a step."""

    weights: int
    """Of several processes that share them out, its part, and what is whole for the moment."""
    gradients: int
    """Of several processes with a copy each, also the buckets in which DDP sums them."""
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
    """Memory of one process that trains a resolved recipe."""
    return _memory(recipe, vocab_size, recipe.settled.micro_batch_size, process)


def with_evaluation(memory: Memory, recipe: Recipe, vocab_size: int, tokens: int | None = None) -> Memory:
    """The same of a run that also scores a text of so many tokens (None: of very many), in between or at the end.

    Weights, gradients and moments are there then; where each process has a part, a whole copy of the weights; and
    beside adapters a copy of the matrices that they are merged into.
    """
    length = recipe.model.context_length
    rows = STREAMS if recipe.model.remembers else rows_at_once(length, recipe.execution.device)
    if tokens is not None and not recipe.model.remembers:
        rows = min(rows, -(-tokens // length))
    weights, trained = _weights(recipe, vocab_size), _trained(recipe, vocab_size)
    own = _own_part(recipe, weights)
    whole = (weights if own < weights else 0) + _merged(recipe, vocab_size)
    scoring = scoring_bytes(recipe.model, vocab_size, _shape(recipe, rows)) + whole
    step = memory.total - memory.process
    return replace(memory, evaluation=max(0, own + _own_part(recipe, trained) + memory.optimizer + scoring - step))


def largest_micro_batch(
    recipe: Recipe, vocab_size: int, room: int, process: int = 0, tokens: int | None = None
) -> int | None:
    """The largest micro-batch that divides a process's share of the batch and fits `room` bytes; None if no sequence
    does. Evaluating a text of so many tokens (None: of very many) has to fit as well."""

    def fits(size: int) -> bool:
        step = _memory(recipe, vocab_size, size, process)
        return with_evaluation(step, recipe, vocab_size, tokens).total <= room

    return next(filter(fits, reversed(divisors(sequences_a_process(recipe)))), None)


def offloaded_bytes(recipe: Recipe, vocab_size: int) -> int:
    """What a process has in main memory of weights, gradients and moments that are off-loaded there: 16 bytes a
    parameter that is trained, with AdamW. 0 where they are not."""
    if not recipe.execution.optimizer_offload:
        return 0
    return (2 + MOMENTS[recipe.training.optimizer]) * _trained(recipe, vocab_size)


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
    kept = kept_bytes(recipe.model, vocab_size, shape, recipe.finetuning)
    if not recipe.execution.activation_checkpointing:
        return kept
    return recomputed(kept, FLOAT * shape.n * recipe.model.d_model)


def compute_bytes(recipe: Recipe) -> int:
    """Of a number in the compute type, the precision settled: 4, or 2 in bf16 and fp16."""
    return 2 if recipe.training.precision in ("bf16", "fp16") and not isinstance(recipe.model, RNNSection) else FLOAT


def _shape(recipe: Recipe, rows: int) -> Shape:
    return Shape(rows, recipe.model.context_length, compute_bytes(recipe), recipe.execution.device == "cpu")


def _memory(recipe: Recipe, vocab_size: int, micro_batch_size: int, process: int) -> Memory:
    weights, trained = _weights(recipe, vocab_size), _trained(recipe, vocab_size)
    kept = kept_of(recipe, vocab_size, micro_batch_size)
    head = FLOAT * _head_size(recipe.model, vocab_size) * trains_head(recipe.model, recipe.finetuning)
    earlier = trained if sequences_a_process(recipe) > micro_batch_size else 0  # gradients of micro-batches before
    at_loss, at_end = _gradients(recipe, trained, earlier, head)
    logits = min(kept.logits + kept.logits_passing, kept.peak - sum(kept.layers))
    passing = trained if recipe.training.optimizer == "rmsprop" else head  # in the update; at the end of the backward
    if at_loss + kept.peak > at_end + passing:
        gradients, activations = at_loss, kept.peak - logits
    else:
        gradients, activations, logits = at_end, passing, 0
    moments = MOMENTS[recipe.training.optimizer] * _own_part(recipe, trained)
    return Memory(
        weights=_own_part(recipe, weights) + _gathered(recipe, vocab_size, weights),
        gradients=gradients,
        optimizer=0 if recipe.execution.optimizer_offload else moments,  # off-loaded, they are in main memory
        activations=activations,
        logits=logits,
        process=process,
    )


def _weights(recipe: Recipe, vocab_size: int) -> int:
    """Bytes of all weights, with adapters."""
    adapters = adapter_count(recipe.model, vocab_size, recipe.finetuning)
    return FLOAT * (parameter_count(recipe.model, vocab_size) + adapters)


def _trained(recipe: Recipe, vocab_size: int) -> int:
    """Bytes of the weights that are trained."""
    return FLOAT * trained_count(recipe.model, vocab_size, recipe.finetuning)


def _merged(recipe: Recipe, vocab_size: int) -> int:
    """Bytes of the matrices that adapters are merged into."""
    matrices = adapted_matrices(recipe.model, vocab_size, recipe.finetuning)
    return FLOAT * sum(n_in * n_out * n for n_in, n_out, n in matrices)


def _own_part(recipe: Recipe, whole: int) -> int:
    """Bytes that one process has of `whole`, which several may share out."""
    return -(-whole // recipe.execution.processes) if recipe.execution.shard else whole


def _gradients(recipe: Recipe, trained: int, earlier: int, head: int) -> tuple[int, int]:
    """Bytes of gradients that are there at the loss, and at the end of the backward pass, of so many bytes
    of weights.

    Between the micro-batches of a step they are whole in every process, for they are summed with those of the last
    one. DDP sums them in buckets, which are there at all times: a second place for every gradient. FSDP2 lets go of a
    block's when they are summed, but for the part that is its own.
    """
    at_loss = earlier or head  # the head's own come with the loss
    if recipe.execution.shard:
        return at_loss, earlier or _own_part(recipe, trained)
    if recipe.execution.processes > 1:
        return trained + at_loss, trained + earlier
    return at_loss, trained


def _gathered(recipe: Recipe, vocab_size: int, weights: int) -> int:
    """Bytes of weights that FSDP2 has whole at a time: what is around the blocks, and some of them."""
    if not recipe.execution.shard:
        return 0
    around = FLOAT * parameter_count(recipe.model.model_copy(update={"n_layer": 0}), vocab_size)
    return around + (weights - around) * min(BLOCKS_AT_ONCE, recipe.model.n_layer) // recipe.model.n_layer


def _head_size(model: ModelSection, vocab_size: int) -> int:
    if isinstance(model, RNNSection):
        return vocab_size * (model.d_model + 1)
    return model.head_rows(vocab_size) * model.d_model
