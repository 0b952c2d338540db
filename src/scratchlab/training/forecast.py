"""What a run will take, before it is paid for: memory, time, money, disk; on this machine and on others.

On this machine time is measured on real steps (`training/timing.py`); for others it is worked out from the table of
devices (`training/work.py`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from scratchlab import hardware
from scratchlab.architecture import GPTSection, RNNSection
from scratchlab.devices import RULE_OF_THUMB, Device, row_of
from scratchlab.hardware import Precision
from scratchlab.model.count import forward_flops_per_token, training_flops_per_token
from scratchlab.recipe import Recipe
from scratchlab.training.checkpoint import check_disk
from scratchlab.training.measurements import Measurement
from scratchlab.training.memory import (
    HEADROOM,
    Memory,
    largest_micro_batch,
    memory_of,
    offloaded_bytes,
    sequences_a_process,
    with_evaluation,
)
from scratchlab.training.remedies import remedy
from scratchlab.training.work import Work, seconds_as_measured, seconds_by_table, tokens_per_second

Splits = Mapping[str, int]
"""How many tokens each split of the text has that scores a run."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """One run on one device, or on several of a kind."""

    device: str
    devices: int
    processes: int
    mode: Literal["DDP", "FSDP2"] | None
    """How several processes share the work: each with a copy of the weights, or with a part."""
    precision: Precision
    micro_batch_size: int
    largest_micro_batch: int | None
    """That divides a process's share of the batch and fits; None if not even one sequence does."""
    memory: Memory
    """Of one process."""
    peak_memory: int | None
    """Bytes, where it was measured; what `memory` adds up to is the formula's."""
    room: int | None
    """Bytes a process has: its device, or its part of a CPU's memory."""
    main_memory: int
    """Bytes that all processes together off-load to the CPU."""
    seconds: Mapping[str, float] | None
    """By what they go to; None where nothing tells how long a step takes."""
    basis: str
    """What the time rests on."""
    tokens_per_second: float | None
    """Of all devices together."""
    price_per_hour: float | None
    """The rent of one device, in dollars."""
    price_source: str | None
    disk_bytes: int
    remedy: str | None
    """What to do, where the device cannot do it."""

    @property
    def those(self) -> str:
        """The devices, as they are told."""
        return f"{self.devices} x {self.device}" if self.devices > 1 else self.device

    @property
    def total_seconds(self) -> float | None:
        return None if self.seconds is None else sum(self.seconds.values())

    @property
    def price(self) -> float | None:
        if self.price_per_hour is None or self.total_seconds is None:
            return None
        return self.devices * self.price_per_hour * self.total_seconds / 3600

    def to_json(self) -> dict[str, Any]:
        derived = {"memory": self.memory.to_json(), "total_seconds": self.total_seconds, "price": self.price}
        return {**asdict(self), **derived}


def forecast_here(
    recipe: Recipe,
    vocab_size: int,
    splits: Splits,
    measured: Measurement | None,
    process: int,
    tried: int | None = None,
    here: int | None = None,
) -> Forecast:
    """A resolved recipe on this machine, as it was measured, or by the table, if that knows the device.

    `process` is what this process has in main memory before it has a model; `tried` the largest micro-batch that was
    found by trying (0 if none fits); `here` how many of its processes are on this machine, if not all.
    """
    settled, work = recipe.settled, Work.of(recipe, vocab_size, splits)
    name, on_cpu, here = hardware.device_name(settled.device), settled.device == "cpu", here or settled.processes
    row, process = row_of(name), process if on_cpu else 0
    device = row[1] if row else Device()
    room = hardware.device_memory(settled.device) // (here if on_cpu else 1)
    usable = room if on_cpu else round(room * (1 - HEADROOM))
    by_formula = largest_micro_batch(recipe, vocab_size, usable, process, work.longest_text)
    fits = by_formula if tried is None else tried or None
    too_much = _too_much_main_memory(here * offloaded_bytes(recipe, vocab_size))
    if measured is not None:
        of_one = f", on one of {work.devices} devices" if work.devices > 1 else ""
        seconds, basis = seconds_as_measured(work, measured), f"steps timed here on {measured.day}{of_one}"
    elif device.peak(settled.precision):
        seconds, basis = seconds_by_table(recipe, vocab_size, work, device), _basis(device)
    else:
        seconds, basis = None, NOTHING_TIMED
    forecast = _forecast(recipe, vocab_size, work, name, device, process, fits, seconds, basis)
    return replace(
        forecast,
        peak_memory=measured.peak_memory if measured and settled.processes == 1 else None,
        room=room,
        remedy=too_much or _remedy(recipe, vocab_size, fits, usable, process, work, hardware.memory() // here),
    )


def tried_micro_batch(given: Recipe, resolved: Recipe) -> int | None:
    """The micro-batch that resolving a recipe found by trying; None where it was given, or chosen by formula."""
    left_open = given.execution.micro_batch_size == "auto"
    on_card = resolved.settled.device.startswith("cuda") and not resolved.settled.shard
    return resolved.settled.micro_batch_size if left_open and on_card else None


NOTHING_TIMED = "nothing: no steps were timed here yet (--measure times some)"


def forecast_there(recipe: Recipe, vocab_size: int, splits: Splits, name: str, device: Device) -> Forecast:
    """A recipe on a device of the table, with all that it leaves open settled as it would be there.

    Its length is settled, and each of its processes has such a device.
    """
    precision, refused = _precision_there(recipe, name, device)
    usable = 2**63 if device.memory is None else round(device.memory * (1 - HEADROOM))
    there, fits = _settled_there(recipe, vocab_size, splits, precision, usable)
    work = Work.of(there, vocab_size, splits)
    impossible = refused or _remedy(there, vocab_size, fits, usable, 0, work)
    known = impossible is None and device.peak(precision) is not None
    seconds = seconds_by_table(there, vocab_size, work, device) if known else None
    basis = _basis(device) if known else "nothing"
    return replace(_forecast(there, vocab_size, work, name, device, 0, fits, seconds, basis), remedy=impossible)


def _forecast(
    recipe: Recipe,
    vocab_size: int,
    work: Work,
    name: str,
    device: Device,
    process: int,
    fits: int | None,
    seconds: Mapping[str, float] | None,
    basis: str,
) -> Forecast:
    settled = recipe.settled
    return Forecast(
        device=name,
        devices=work.devices,
        processes=settled.processes,
        mode=None if settled.processes == 1 else "FSDP2" if settled.shard else "DDP",
        precision=settled.precision,
        micro_batch_size=settled.micro_batch_size,
        largest_micro_batch=fits,
        memory=with_evaluation(memory_of(recipe, vocab_size, process), recipe, vocab_size, work.longest_text),
        peak_memory=None,
        room=device.memory,
        main_memory=settled.processes * offloaded_bytes(recipe, vocab_size),
        seconds=seconds,
        basis=basis,
        tokens_per_second=tokens_per_second(work, seconds),
        price_per_hour=device.price,
        price_source=device.rent_source,
        disk_bytes=check_disk(2**63, recipe, vocab_size),
        remedy=None,
    )


def _settled_there(
    recipe: Recipe, vocab_size: int, splits: Splits, precision: Precision, usable: int
) -> tuple[Recipe, int | None]:
    """The recipe resolved for a card of so many usable bytes, and the largest micro-batch that fits there."""
    execution, alone = recipe.execution, recipe.execution.processes == 1
    there = recipe.replaced(
        {
            "training.precision": precision,
            "execution.device": "cuda",
            "execution.compile": False,
            "execution.threads": 1,
            "execution.micro_batch_size": 1,
        }
    )
    text = Work.of(there, vocab_size, splits).longest_text
    fits = largest_micro_batch(there, vocab_size, usable, 0, text)
    may_share = execution.shard is None and not alone and isinstance(recipe.model, GPTSection)
    if fits is None and may_share and not execution.optimizer_offload:
        there = there.replaced({"execution.shard": True})
        fits = largest_micro_batch(there, vocab_size, usable, 0, text)
    asked = execution.micro_batch_size
    size = fits or 1 if asked == "auto" else min(asked, sequences_a_process(there))
    return there.replaced({"execution.micro_batch_size": size}), fits


def seconds_of_size(
    recipe: Recipe, vocab_size: int, splits: Splits, like: Recipe, forecast: Forecast, process: int
) -> float | None:
    """Seconds of a whole run on this machine at the FLOP/s of `forecast`, which is of `like`, of another size.

    None where the machine does not hold it.
    """
    assert forecast.tokens_per_second
    assert forecast.room
    work = Work.of(recipe, vocab_size, splits)
    usable = forecast.room if recipe.settled.device == "cpu" else round(forecast.room * (1 - HEADROOM))
    if largest_micro_batch(recipe, vocab_size, usable, process, work.longest_text) is None:
        return None
    rate = forecast.tokens_per_second * training_flops_per_token(like.model, vocab_size, like.finetuning)
    training = work.steps * work.tokens_per_step * training_flops_per_token(recipe.model, vocab_size, recipe.finetuning)
    return (training + work.scored_tokens * forward_flops_per_token(recipe.model, vocab_size)) / rate


def happened(forecast: Mapping[str, Any], cost: Mapping[str, Any], peak_memory: int) -> dict[str, Any]:
    """Forecast against what came of it: each with its error, as a share of what happened.

    The time of tasks that were asked on the way is left out, for it was not forecast.
    """
    expected = forecast["peak_memory"] or forecast["memory"]["total"]
    seconds = cost["total_seconds"] - cost["seconds"].get("suites", 0.0)
    return {
        "basis": forecast["basis"],
        "seconds": _beside(forecast["total_seconds"], seconds),
        "peak_memory": _beside(expected, peak_memory),
    }


def _beside(expected: float | None, actual: float) -> dict[str, float | None]:
    error = None if expected is None or not actual else expected / actual - 1
    return {"forecast": expected, "happened": actual, "error": error}


def _basis(device: Device) -> str:
    if device.share is None:
        return f"{RULE_OF_THUMB:.0%} of its peak, a rule of thumb"
    return f"{device.share:.0%} of its peak, as published: {device.share_source}"


def _precision_there(recipe: Recipe, name: str, device: Device) -> tuple[Precision, str | None]:
    """What it would train in, and what to do if the recipe insists on what the device has not."""
    wanted = recipe.training.precision
    if wanted == "auto":
        return "float32" if isinstance(recipe.model, RNNSection) else device.precision, None
    if device.peak(wanted) is None and device.float32 is not None:
        return wanted, f"{name} has no {wanted}: training.precision={device.precision}"
    return wanted, None


def _remedy(
    recipe: Recipe,
    vocab_size: int,
    fits: int | None,
    usable: int,
    process: int,
    work: Work,
    main_memory: int | None = None,
) -> str | None:
    if fits is None:
        return remedy(recipe, vocab_size, usable, process, work.longest_text, main_memory)
    return None if fits >= recipe.settled.micro_batch_size else f"execution.micro_batch_size={fits}"


def _too_much_main_memory(taken: int) -> str | None:
    """What to do where off-loading takes more than this machine has."""
    if taken <= hardware.memory():
        return None
    return (
        f"off-loading takes {taken / 1e9:.1f} GB of main memory, and there are {hardware.memory() / 1e9:.1f}: leave "
        "execution.optimizer_offload out"
    )
