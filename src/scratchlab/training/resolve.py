"""Settling every `auto` of a recipe, once, when a run is made."""

import math
import shutil
from collections.abc import Callable

from scratchlab import hardware
from scratchlab.corpus.windows import Windows
from scratchlab.errors import DeviceError, RecipeError
from scratchlab.model.count import activation_bytes_per_sequence, parameter_count
from scratchlab.recipe import Recipe, RNNSection
from scratchlab.training.source import Source


def resolve(
    recipe: Recipe, vocab_size: int, windows: Windows, source: Source | None, say: Callable[[str], None]
) -> Recipe:
    """The recipe with nothing left open: device, precision, threads, micro-batch, compile, and the length in steps.

    `source` is what the run begins from, if not from fresh weights; `say` is told what a person would not expect.
    """
    execution, training = recipe.execution, recipe.training
    device = hardware.choose_device(execution.device)
    precision = _precision(recipe, device)
    if execution.optimizer_offload and not device.startswith("cuda"):
        raise DeviceError(
            f"execution.optimizer_offload = true frees the memory of a CUDA card, and this run is on {device}: "
            "leave it out."
        )
    settled = {
        "training.steps": _steps(recipe, vocab_size, windows),
        "training.precision": precision,
        "execution.device": device,
        "execution.threads": _threads(device, say) if execution.threads == "auto" else execution.threads,
        "execution.micro_batch_size": _micro_batch_size(recipe, device),
        "execution.compile": _compile(recipe, device, say),
    }
    if source is not None:
        settled |= {"start.steps_before": source.steps, "start.sequences_before": source.sequences}
    if training.schedule == "epochs" and training.epoch_steps is None:
        settled["training.epoch_steps"] = max(1, len(windows) // training.global_batch_size)
    return recipe.replaced(settled)


def _precision(recipe: Recipe, device: str) -> hardware.Precision:
    wanted, recurrent = recipe.training.precision, isinstance(recipe.model, RNNSection)
    if wanted == "auto":
        return "float32" if recurrent else hardware.choose_precision(device)
    hardware.refuse_precision(device, wanted)
    if recurrent and wanted in ("bf16", "fp16"):
        raise RecipeError(f"training.precision = {wanted!r}: a recurrent network trains in float32 or tf32.")
    return wanted


def _steps(recipe: Recipe, vocab_size: int, windows: Windows) -> int:
    """The length of the run, rounded up to whole steps."""
    training = recipe.training
    if training.steps is not None:
        return training.steps
    if training.epochs is not None:
        sequences = training.epochs * len(windows)
    else:
        tokens = training.tokens or (training.tokens_per_parameter or 0) * parameter_count(recipe.model, vocab_size)
        sequences = tokens / recipe.model.context_length
    if not sequences < 2**63:
        raise RecipeError("training: the length of the run comes to more than 2^63 sequences.")
    steps = max(1, math.ceil(sequences / training.global_batch_size))
    if training.warmup_steps > steps and recipe.start.schedule == "restarted":
        raise RecipeError(f"training.warmup_steps ({training.warmup_steps}) is more than the run's {steps} steps.")
    return steps


# Of one micro-batch on a CPU. More of it gains no speed there, and costs memory that a laptop may not have; but fewer
# tokens at once than these cost speed (52 layers of 128: 512 tokens take 1.6 times as long as 2,048, 4,096 1.4 times).
CPU_ACTIVATION_BYTES = 512 * 2**20
CPU_TOKENS = 2048


def _micro_batch_size(recipe: Recipe, device: str) -> int:
    """Sequences at once: what fits a CPU's budget or a GPU's free memory. Divides the global batch."""
    chosen, batch_size = recipe.execution.micro_batch_size, recipe.training.global_batch_size
    if chosen != "auto":
        return min(chosen, batch_size)
    per_sequence = activation_bytes_per_sequence(recipe.model, recipe.execution.activation_checkpointing)
    fits = max(1, _activation_budget(device, per_sequence / recipe.model.context_length) // per_sequence)
    return max(size for size in range(1, batch_size + 1) if batch_size % size == 0 and size <= fits)


def _activation_budget(device: str, per_token: float) -> int:
    if not device.startswith("cuda"):
        return max(CPU_ACTIVATION_BYTES, min(round(CPU_TOKENS * per_token), hardware.memory() // 4))
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return int(free * 0.6)  # the rest is for weights, moments, logits and fragmentation


def _threads(device: str, say: Callable[[str], None]) -> int:
    """A thread a core, less those that others keep busy: threads that wait for each other lose more than they add."""
    cores = hardware.usable_cores()
    busy = min(hardware.busy_cores(), cores - 1) if device == "cpu" else 0
    if busy:
        say(
            f"Other programs keep {busy} of {cores} cores busy, so this run uses {cores - busy} threads "
            f"(execution.threads={cores} to insist)."
        )
    return cores - busy


def _compile(recipe: Recipe, device: str, say: Callable[[str], None]) -> bool:
    """Whether to compile. `auto`: on a GPU, where there is a compiler; on a CPU it costs more than it saves."""
    wanted = recipe.execution.compile
    if wanted == "auto":
        wanted = device.startswith("cuda") and recipe.model.architecture == "gpt"
        if wanted and not can_compile():
            say("execution.compile = auto: this machine has no C++ compiler, so the model runs uncompiled, and slower.")
            return False
    elif wanted and not can_compile():
        raise DeviceError("execution.compile = true needs a C++ compiler (g++ or clang++), and this machine has none.")
    return wanted


def can_compile() -> bool:
    """Whether this machine has the compiler that torch.compile needs."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))
