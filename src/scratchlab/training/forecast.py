"""What a run will take, before it is paid for: memory, time, money, disk; on this machine and on others.

On this machine time is measured on real steps (`training/timing.py`). For others it is FLOPs over the share of the peak
that the table of devices gives, and never less than moving the bytes or launching the kernels takes: an estimate, good
for choosing a card, not for a bill. FLOPs are counted by `model/count.py`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scratchlab import hardware
from scratchlab.corpus.store import Corpus
from scratchlab.devices import RULE_OF_THUMB, Device, row_of
from scratchlab.hardware import Precision
from scratchlab.model.count import forward_flops_per_token, parameter_count, training_flops_per_token
from scratchlab.model.kept import FLOAT
from scratchlab.recipe import Recipe, RNNSection
from scratchlab.training.checkpoint import BYTES_PER_PARAMETER, check_disk, snapshot_steps
from scratchlab.training.measurements import Measurement
from scratchlab.training.memory import HEADROOM, Memory, kept_of, largest_micro_batch, memory_of, with_evaluation

# Rules of thumb for devices that are not here: nobody measured these on them.
LAUNCH_SECONDS = 5e-6  # of a kernel, however small what it computes
LAUNCHES_PER_LAYER = 60  # forward and backward
DISK_RATE = 500e6  # bytes a second of a checkpoint


@dataclass(frozen=True, slots=True)
class Forecast:
    """One run on one device."""

    device: str
    precision: Precision
    micro_batch_size: int
    largest_micro_batch: int | None
    """That divides the batch and fits; None if not even one sequence does."""
    memory: Memory
    peak_memory: int | None
    """Bytes, where it was measured; what `memory` adds up to is the formula's."""
    room: int | None
    """Bytes the device has."""
    seconds: Mapping[str, float] | None
    """By what they go to; None where nothing tells how long a step takes."""
    basis: str
    """What the time rests on."""
    tokens_per_second: float | None
    price_per_hour: float | None
    price_source: str | None
    disk_bytes: int
    remedy: str | None
    """What to do, where the device cannot do it."""

    @property
    def total_seconds(self) -> float | None:
        return None if self.seconds is None else sum(self.seconds.values())

    @property
    def price(self) -> float | None:
        if self.price_per_hour is None or self.total_seconds is None:
            return None
        return self.price_per_hour * self.total_seconds / 3600

    def to_json(self) -> dict[str, Any]:
        derived = {"memory": self.memory.to_json(), "total_seconds": self.total_seconds, "price": self.price}
        return {**asdict(self), **derived}


@dataclass(frozen=True, slots=True)
class Work:
    """What a run has to do, however fast: counted from a resolved recipe."""

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

    @staticmethod
    def of(recipe: Recipe, vocab_size: int, yardstick: Corpus) -> "Work":
        evaluation, steps = recipe.evaluation, recipe.settled.steps
        splits = {split: record.tokens for split, record in yardstick.manifest.splits.items()}
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
        )


def forecast_here(
    recipe: Recipe, vocab_size: int, yardstick: Corpus, measured: Measurement | None, process: int
) -> Forecast:
    """A resolved recipe on this machine, as it was measured, or by the table, if that knows the device.

    `process` is what this process has in main memory before it has a model.
    """
    device = recipe.settled.device
    name, work = hardware.device_name(device), Work.of(recipe, vocab_size, yardstick)
    process = process if device == "cpu" else 0
    room, row = hardware.device_memory(device), row_of(name)
    memory = with_evaluation(memory_of(recipe, vocab_size, process), recipe, vocab_size, work.longest_text)
    if measured is not None:
        seconds, basis = _seconds_as_measured(work, measured), f"steps timed here on {measured.day}"
    elif row is not None and row[1].peak(recipe.settled.precision):
        seconds, basis = _seconds_by_table(recipe, vocab_size, work, row[1]), _basis(row[1])
    else:
        seconds, basis = None, "nothing: no steps were timed (--measure)"
    usable = room if device == "cpu" else round(room * (1 - HEADROOM))
    fits = largest_micro_batch(recipe, vocab_size, usable, process)
    return Forecast(
        device=name,
        precision=recipe.settled.precision,
        micro_batch_size=recipe.settled.micro_batch_size,
        largest_micro_batch=fits,
        memory=memory,
        peak_memory=measured and measured.peak_memory,
        room=room,
        seconds=seconds,
        basis=basis,
        tokens_per_second=_rate(work, seconds),
        price_per_hour=row and row[1].price,
        price_source=row and _source(row[1]),
        disk_bytes=check_disk(2**63, recipe, vocab_size),
        remedy=_remedy(recipe, vocab_size, fits, usable, process),
    )


def forecast_there(recipe: Recipe, vocab_size: int, yardstick: Corpus, name: str, device: Device) -> Forecast:
    """A resolved recipe on a device of the table, with the precision and the micro-batch that it would choose there."""
    precision, refused = _precision_there(recipe, name, device)
    there = recipe.replaced({"training.precision": precision, "execution.device": "cuda"})
    room = device.memory
    usable = 2**63 if room is None else round(room * (1 - HEADROOM))
    fits = largest_micro_batch(there, vocab_size, usable)
    there = there.replaced({"execution.micro_batch_size": fits or 1})
    work = Work.of(there, vocab_size, yardstick)
    known = refused is None and device.peak(precision) is not None and fits is not None
    seconds = _seconds_by_table(there, vocab_size, work, device) if known else None
    return Forecast(
        device=name,
        precision=precision,
        micro_batch_size=fits or 1,
        largest_micro_batch=fits,
        memory=with_evaluation(memory_of(there, vocab_size), there, vocab_size, work.longest_text),
        peak_memory=None,
        room=room,
        seconds=seconds,
        basis=_basis(device) if known else "nothing",
        tokens_per_second=_rate(work, seconds),
        price_per_hour=device.price,
        price_source=_source(device),
        disk_bytes=check_disk(2**63, there, vocab_size),
        remedy=refused or _remedy(there, vocab_size, fits, usable, 0),
    )


def seconds_of_size(
    recipe: Recipe, vocab_size: int, yardstick: Corpus, like: Recipe, forecast: Forecast
) -> float | None:
    """Seconds of a whole run on this machine at the FLOP/s of `forecast`, which is of `like`, of another size."""
    if not forecast.tokens_per_second:
        return None
    rate = forecast.tokens_per_second * training_flops_per_token(like.model, vocab_size)
    work = Work.of(recipe, vocab_size, yardstick)
    training = work.steps * work.tokens_per_step * training_flops_per_token(recipe.model, vocab_size)
    return (training + work.scored_tokens * forward_flops_per_token(recipe.model, vocab_size)) / rate


def happened(forecast: Mapping[str, Any], cost: Mapping[str, Any], peak_memory: int) -> dict[str, Any]:
    """Forecast against what came of it: each with its error, as a share of what happened."""
    expected = forecast["peak_memory"] or forecast["memory"]["total"]
    return {
        "basis": forecast["basis"],
        "seconds": _beside(forecast["total_seconds"], cost["total_seconds"]),
        "peak_memory": _beside(expected, peak_memory),
    }


def _beside(expected: float | None, actual: float) -> dict[str, float | None]:
    error = None if expected is None or not actual else expected / actual - 1
    return {"forecast": expected, "happened": actual, "error": error}


def _seconds_as_measured(work: Work, measured: Measurement) -> dict[str, float]:
    snapshot = measured.seconds_per_checkpoint * FLOAT / BYTES_PER_PARAMETER  # weights alone
    scoring = work.scored_tokens * measured.seconds_per_scored_token
    return {
        "training": work.steps * measured.seconds_per_step + measured.first_steps,
        "evaluation": scoring + work.evaluations * (measured.seconds_per_sample + snapshot),  # the best is kept
        "checkpoints": work.checkpoints * measured.seconds_per_checkpoint,
        "snapshots": work.snapshots * snapshot,
    }


def _seconds_by_table(recipe: Recipe, vocab_size: int, work: Work, device: Device) -> dict[str, float]:
    settled = recipe.settled
    rate = (device.peak(settled.precision) or 0.0) * (device.share or RULE_OF_THUMB)
    flops = training_flops_per_token(recipe.model, vocab_size) * work.tokens_per_step
    micro_batches = -(-recipe.training.global_batch_size // settled.micro_batch_size)
    launches = micro_batches * recipe.model.n_layer * LAUNCHES_PER_LAYER * LAUNCH_SECONDS
    moved = _bytes_moved(recipe, vocab_size, work, micro_batches) / (device.bandwidth * 1e9) if device.bandwidth else 0
    scoring = work.scored_tokens * forward_flops_per_token(recipe.model, vocab_size) / rate
    checkpoint = BYTES_PER_PARAMETER * work.parameters / DISK_RATE
    return {
        "training": work.steps * max(flops / rate, moved, launches),
        "evaluation": scoring + work.evaluations * checkpoint * FLOAT / BYTES_PER_PARAMETER,
        "checkpoints": work.checkpoints * checkpoint,
        "snapshots": work.snapshots * checkpoint * FLOAT / BYTES_PER_PARAMETER,
    }


def _bytes_moved(recipe: Recipe, vocab_size: int, work: Work, micro_batches: int) -> int:
    """The least a step moves: what is kept is written and read, weights are read twice, and seven numbers updated."""
    kept = kept_of(recipe, vocab_size, recipe.settled.micro_batch_size)
    weights = FLOAT * work.parameters
    return micro_batches * 2 * (kept.total + kept.logits_passing + weights) + 7 * weights


def _rate(work: Work, seconds: Mapping[str, float] | None) -> float | None:
    if seconds is None or not seconds["training"]:
        return None
    return work.steps * work.tokens_per_step / seconds["training"]


def _basis(device: Device) -> str:
    if device.share is None:
        return f"{RULE_OF_THUMB:.0%} of its peak, a rule of thumb"
    return f"{device.share:.0%} of its peak, as published: {device.share_source}"


def _source(device: Device) -> str | None:
    return device.price_source and f"{device.price_source}, {device.price_date}"


def _precision_there(recipe: Recipe, name: str, device: Device) -> tuple[Precision, str | None]:
    """What it would train in, and what to do if the recipe insists on what the device has not."""
    wanted = recipe.training.precision
    if isinstance(recipe.model, RNNSection):
        return "float32", None
    if wanted == "auto":
        return device.precision, None
    if device.peak(wanted) is None and device.float32 is not None:
        return wanted, f"{name} has no {wanted}: training.precision={device.precision}"
    return wanted, None


def _remedy(recipe: Recipe, vocab_size: int, fits: int | None, room: int, process: int) -> str | None:
    if fits is not None and fits >= recipe.settled.micro_batch_size:
        return None
    if fits is not None:
        return f"execution.micro_batch_size={fits}"
    memory = memory_of(recipe.replaced({"execution.micro_batch_size": 1}), vocab_size, process)
    state = memory.weights + memory.gradients + memory.optimizer
    if state > room:
        return (
            f"weights, gradients and moments alone take {state / 1e9:.1f} GB of {room / 1e9:.1f}: a smaller model, a "
            "larger card, or several that share them"
        )
    return f"one sequence takes {memory.total / 1e9:.1f} GB of {room / 1e9:.1f}: a smaller model.context_length"
