"""Settling every `auto` of a recipe, once, when a run is made."""

import importlib.util
import math
import shutil
from collections.abc import Callable, Sized

from scratchlab import hardware
from scratchlab.architecture import RNNSection
from scratchlab.errors import DeviceError, RecipeError, TooLargeError
from scratchlab.model.count import parameter_count
from scratchlab.model.kept import layer_bytes_per_sequence
from scratchlab.recipe import Recipe
from scratchlab.training.memory import HEADROOM, compute_bytes, divisors, largest_micro_batch, sequences_a_process
from scratchlab.training.probe import probed_micro_batch
from scratchlab.training.remedies import remedy
from scratchlab.training.source import Source
from scratchlab.training.world import ALONE, World


def resolve(
    recipe: Recipe,
    vocab_size: int,
    sequences: Sized,
    source: Source | None,
    say: Callable[[str], None],
    world: World = ALONE,
) -> Recipe:
    """The recipe with nothing left open: device, precision, threads, micro-batch, compile, and the length in steps.

    `source` is what the run begins from, if not from fresh weights; `say` is told what a person would not expect;
    `world` are the processes that torchrun started.
    """
    execution, training = recipe.execution, recipe.training
    device = hardware.choose_device(execution.device)
    precision = _precision(recipe, device)
    processes, here = _processes(recipe, device, world)
    if execution.optimizer_offload and not device.startswith("cuda"):
        raise DeviceError(
            f"execution.optimizer_offload = true frees the memory of a CUDA card, and this run is on {device}: "
            "leave it out."
        )
    settled = {
        "training.steps": steps_of(recipe, vocab_size, sequences),
        "training.precision": precision,
        "execution.device": device,
        "execution.threads": _threads(device, here, say) if execution.threads == "auto" else execution.threads,
        "execution.compile": _compile(recipe, device, say),
        "execution.processes": processes,
    }
    if source is not None:
        settled |= {"start.steps_before": source.steps, "start.sequences_before": source.sequences}
    if training.schedule == "epochs" and training.epoch_steps is None:
        settled["training.epoch_steps"] = max(1, len(sequences) // training.global_batch_size)
    resolved = recipe.replaced(settled)
    resolved = resolved.replaced({"execution.shard": _shard(resolved, vocab_size, here)})
    size = _micro_batch_size(resolved) or _most_sequences(resolved, vocab_size, say)
    return resolved.replaced({"execution.micro_batch_size": size})


def _processes(recipe: Recipe, device: str, world: World) -> tuple[int, int]:
    """How many processes train together, and how many of them on this machine."""
    execution = recipe.execution
    asked, given = execution.processes, "processes" in execution.model_fields_set
    if world.started and given and asked != world.size:
        raise RecipeError(
            f"execution.processes = {asked}, and torchrun started {world.size}. Leave the field out of the recipe, or "
            f"leave torchrun out: scratchlab train starts {asked} by itself."
        )
    processes, here = (world.size, world.local_size) if world.started else (asked, asked)
    if processes > 1 and device not in ("cpu", "cuda"):
        remedy = "each takes a card of its own if it says cuda" if device.startswith("cuda") else "one trains there"
        raise RecipeError(f"execution.device = {device!r} is a single device, for {processes} processes: {remedy}.")
    if device == "cuda" and processes > 1 and here > (cards := hardware.cuda_devices()):
        asked_for = f"torchrun started {here}" if world.started else f"execution.processes = {here}"
        remedy = f"--nproc-per-node={cards}" if world.started else f"execution.processes={cards}"
        raise DeviceError(
            f"{asked_for}, each of which takes a card, and this machine has {cards}: {remedy}, or more machines "
            "(docs/many-gpus.md)."
        )
    return processes, here


def _room(device: str, here: int) -> int:
    """Bytes for each of `here` processes on this machine: its card, less what is left alone, or its part of memory."""
    memory = hardware.device_memory(device)
    return memory // here if device == "cpu" else round(memory * (1 - HEADROOM))


def _precision(recipe: Recipe, device: str) -> hardware.Precision:
    wanted, recurrent = recipe.training.precision, isinstance(recipe.model, RNNSection)
    if wanted == "auto":
        return "float32" if recurrent else hardware.choose_precision(device)
    hardware.refuse_precision(device, wanted)
    if recurrent and wanted in ("bf16", "fp16"):
        raise RecipeError(f"training.precision = {wanted!r}: a recurrent network trains in float32 or tf32.")
    return wanted


def steps_of(recipe: Recipe, vocab_size: int, sequences: Sized) -> int:
    """The length of a run, rounded up to whole steps. `sequences` are those of an epoch."""
    training = recipe.training
    if training.steps is not None:
        return training.steps
    if training.epochs is not None:
        taken = training.epochs * len(sequences)
    else:
        tokens = training.tokens or (training.tokens_per_parameter or 0) * parameter_count(recipe.model, vocab_size)
        taken = tokens / recipe.model.context_length
    if not taken < 2**63:
        raise RecipeError("training: the length of the run comes to more than 2^63 sequences.")
    steps = max(1, math.ceil(taken / training.global_batch_size))
    if training.warmup_steps > steps and recipe.start.schedule == "restarted":
        raise RecipeError(f"training.warmup_steps ({training.warmup_steps}) is more than the run's {steps} steps.")
    return steps


# Of one micro-batch on a CPU. More of it gains no speed there, and costs memory that a laptop may not have; but fewer
# tokens at once than these cost speed (52 layers of 128: 512 tokens take 1.6 times as long as 2,048, 4,096 1.4 times).
CPU_ACTIVATION_BYTES = 512 * 2**20
CPU_TOKENS = 2048


def _micro_batch_size(recipe: Recipe) -> int | None:
    """Sequences at once: as many as a CPU gains by. Divides a process's share of the batch. None for a GPU: all that it
    holds."""
    chosen, batch_size = recipe.execution.micro_batch_size, sequences_a_process(recipe)
    if chosen != "auto":
        return min(chosen, batch_size)
    if recipe.execution.device.startswith("cuda"):
        return None
    per_sequence = layer_bytes_per_sequence(
        recipe.model, compute_bytes(recipe), recipe.execution.activation_checkpointing
    )
    most = min(round(CPU_TOKENS * per_sequence / recipe.model.context_length), hardware.memory() // 4)
    fits = max(1, max(CPU_ACTIVATION_BYTES, most) // per_sequence)
    return max(size for size in divisors(batch_size) if size <= fits)


def _most_sequences(recipe: Recipe, vocab_size: int, say: Callable[[str], None]) -> int:
    """The largest micro-batch of a GPU: found by trying, but by formula where each process has a part of the weights.

    For one process alone, which tries, has nobody to share them with. `TooLargeError` if not even one sequence fits.
    """
    if not recipe.execution.shard:
        return probed_micro_batch(recipe, vocab_size, say)
    size = largest_micro_batch(recipe, vocab_size, _room(recipe.execution.device, 1))
    if size is None:
        name, room = hardware.device_name(recipe.execution.device), _room(recipe.execution.device, 1)
        raise TooLargeError(
            f"{name} does not hold a single sequence of this recipe, even where {recipe.execution.processes} processes "
            f"share its weights (FSDP2). What helps: {remedy(recipe, vocab_size, room)}."
        )
    return size


def _shard(recipe: Recipe, vocab_size: int, here: int) -> bool | None:
    """Whether each process keeps a part of the weights alone: where a device does not hold what a copy takes.

    `here` processes are on this machine.
    """
    wanted, processes = recipe.execution.shard, recipe.execution.processes
    recurrent = isinstance(recipe.model, RNNSection)
    if wanted and recurrent:
        raise RecipeError("execution.shard = true: a recurrent network is not sharded. Leave the field out.")
    if wanted and processes == 1:
        raise RecipeError("execution.shard = true: one process has nobody to share with. Set execution.processes.")
    if recipe.execution.optimizer_offload:
        if wanted:
            raise RecipeError("execution.shard and execution.optimizer_offload do not go together: leave one out.")
        return wanted
    if wanted is not None or recurrent or processes == 1:
        return wanted
    return True if largest_micro_batch(recipe, vocab_size, _room(recipe.execution.device, here)) is None else None


def _threads(device: str, here: int, say: Callable[[str], None]) -> int:
    """A thread a core, less those that others keep busy: threads that wait for each other lose more than they add.

    Of `here` processes each has as many.
    """
    cores = hardware.usable_cores()
    busy = min(hardware.busy_cores(), cores - 1) if device == "cpu" else 0
    threads, insisting = (max(1, free // here) for free in (cores - busy, cores))
    if threads < insisting:
        each = " in each process" if here > 1 else ""
        say(
            f"Other programs keep {busy} of {cores} cores busy, so this run uses {threads} threads{each} "
            f"(execution.threads={insisting} to insist)."
        )
    return threads


def _compile(recipe: Recipe, device: str, say: Callable[[str], None]) -> bool:
    """Whether to compile. `auto`: on a GPU, where that can be done; on a CPU it costs more than it saves."""
    wanted = recipe.execution.compile
    automatic = wanted == "auto"
    if automatic:
        wanted = device.startswith("cuda") and recipe.model.architecture == "gpt"
    lacking = wanted and lacks_to_compile(device)
    if not lacking:
        return bool(wanted)
    if not automatic:
        raise DeviceError(f"execution.compile = true: {lacking}. Leave the field out.")
    say(f"execution.compile = auto: {lacking}, so the model runs uncompiled, and slower.")
    return False


def lacks_to_compile(device: str) -> str | None:
    """Why torch.compile cannot compile for a device of this machine; None if it can."""
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        return "this machine has no C++ compiler (g++ or clang++)"
    if not device.startswith("cuda"):
        return None
    if importlib.util.find_spec("triton") is None:
        return "Triton, which writes the kernels of a GPU, is not installed (pip install triton)"
    if (capability := hardware.compute_capability(device)) < TRITON_NEEDS:
        able, needed = (".".join(map(str, version)) for version in (capability, TRITON_NEEDS))
        return f"{hardware.device_name(device)} is of compute capability {able}, and Triton needs {needed}"
    return None


TRITON_NEEDS = (7, 0)  # Volta
