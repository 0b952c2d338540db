"""What a run has to do, and how long that takes: by what was measured here, or by the table of devices.

By the table time is FLOPs over the share of the peak that a row gives, and never less than moving the bytes or
launching the kernels takes: an estimate, good for choosing a card, not for a bill. FLOPs are counted by
`model/count.py`. Several devices share the rows of a batch, and of a text that is scored; that they wait for each
other's gradients is not in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from scratchlab.corpus.store import Corpus
from scratchlab.devices import RULE_OF_THUMB, Device
from scratchlab.model.count import (
    forward_flops_per_token,
    parameter_count,
    trained_count,
    training_flops_per_token,
)
from scratchlab.model.kept import FLOAT
from scratchlab.recipe import Recipe
from scratchlab.training.checkpoint import BYTES_PER_PARAMETER, snapshot_steps
from scratchlab.training.measurements import Measurement
from scratchlab.training.memory import kept_of

# Rules of thumb for devices that are not here: nobody measured these on them.
LAUNCH_SECONDS = 5e-6  # of a kernel, however small what it computes
LAUNCHES_PER_LAYER = 60  # forward and backward
DISK_RATE = 500e6  # bytes a second of a checkpoint
LINK_RATE = 12e9  # bytes a second between a card and main memory: PCIe 3.0 by sixteen
HOST_RATE = 20e9  # bytes a second that the CPU reads and writes while it updates weights


@dataclass(frozen=True, slots=True)
class Work:
    """Counted from a resolved recipe, however fast it is done."""

    steps: int
    tokens_per_step: int
    scored_tokens: int
    """By evaluations on the way and the test at the end."""
    longest_text: int
    """Tokens of the longer split that is scored."""
    evaluations: int
    checkpoints: int
    snapshots: int
    parameters: int
    trained: int
    """Of the parameters; or the numbers of the adapters beside them."""
    devices: int

    @staticmethod
    def of(recipe: Recipe, vocab_size: int, splits: Mapping[str, int]) -> "Work":
        """`splits` says how many tokens each split of the text has that scores the run."""
        evaluation, steps = recipe.evaluation, recipe.settled.steps
        evaluations = max(1, -(-steps // evaluation.every))
        validation = min(splits.get("validation", 0), evaluation.max_tokens or 2**63)
        return Work(
            steps=steps,
            tokens_per_step=recipe.training.global_batch_size * recipe.model.context_length,
            scored_tokens=evaluations * validation + splits.get("test", 0),
            longest_text=max(validation, splits.get("test", 0)),
            evaluations=evaluations,
            checkpoints=max(1, -(-steps // recipe.training.checkpoint_every)),
            snapshots=len(snapshot_steps(recipe)),
            parameters=parameter_count(recipe.model, vocab_size),
            trained=trained_count(recipe.model, vocab_size, recipe.finetuning),
            devices=recipe.settled.devices,
        )


def split_tokens(corpus: Corpus) -> dict[str, int]:
    """How many tokens each split has."""
    return {split: record.tokens for split, record in corpus.manifest.splits.items()}


def seconds_as_measured(work: Work, measured: Measurement) -> dict[str, float]:
    """By what they go to; of one device that was measured, if several share the work."""
    snapshot = measured.seconds_per_checkpoint * FLOAT / BYTES_PER_PARAMETER  # weights alone
    scoring = work.scored_tokens * measured.seconds_per_scored_token / work.devices
    return {
        "training": work.steps * measured.seconds_per_step / work.devices + measured.first_steps,
        "evaluation": scoring + work.evaluations * (measured.seconds_per_sample + snapshot),  # the best is kept
        "checkpoints": work.checkpoints * measured.seconds_per_checkpoint,
        "snapshots": work.snapshots * snapshot,
    }


def seconds_by_table(recipe: Recipe, vocab_size: int, work: Work, device: Device) -> dict[str, float]:
    """By what they go to, of a resolved recipe on devices of one row, whose peak in its precision is known."""
    settled = recipe.settled
    rate = (device.peak(settled.precision) or 0.0) * (device.share or RULE_OF_THUMB)
    rows = -(-recipe.training.global_batch_size // work.devices)
    passes = -(-rows // settled.micro_batch_size)
    again = 4 / 3 if recipe.execution.activation_checkpointing else 1  # a second forward pass, which is a third of all
    flops = (
        again
        * training_flops_per_token(recipe.model, vocab_size, recipe.finetuning)
        * rows
        * recipe.model.context_length
    )
    launches = again * passes * recipe.model.n_layer * LAUNCHES_PER_LAYER * LAUNCH_SECONDS
    moved = _bytes_moved(recipe, vocab_size, work, passes) / (device.bandwidth * 1e9) if device.bandwidth else 0
    scoring = work.scored_tokens * forward_flops_per_token(recipe.model, vocab_size) / rate / work.devices
    checkpoint = BYTES_PER_PARAMETER * work.trained / DISK_RATE
    return {
        "training": work.steps * (max(flops / rate, moved, launches) + _seconds_away(recipe, work)),
        "evaluation": scoring + work.evaluations * checkpoint * FLOAT / BYTES_PER_PARAMETER,
        "checkpoints": work.checkpoints * checkpoint,
        "snapshots": work.snapshots * checkpoint * FLOAT / BYTES_PER_PARAMETER,
    }


def _bytes_moved(recipe: Recipe, vocab_size: int, work: Work, passes: int) -> int:
    """The least a step moves: what is kept is written and read, weights are read twice, and seven numbers updated for
    each that is trained."""
    kept = kept_of(recipe, vocab_size, recipe.settled.micro_batch_size)
    weights = FLOAT * work.parameters
    return passes * 2 * (kept.total + kept.logits_passing + weights) + 7 * FLOAT * work.trained


def _seconds_away(recipe: Recipe, work: Work) -> float:
    """Of a step whose optimizer is off-loaded: gradients go to the CPU, it updates seven numbers a parameter, and the
    weights come back."""
    if not recipe.execution.optimizer_offload:
        return 0.0
    return FLOAT * work.trained * (2 / LINK_RATE + 7 / HOST_RATE)


def tokens_per_second(work: Work, seconds: Mapping[str, float] | None) -> float | None:
    """While training, of all devices together."""
    if seconds is None or not seconds["training"]:
        return None
    return work.steps * work.tokens_per_step / seconds["training"]
