"""The largest micro-batch that a device holds, found by trying: real steps, with a margin left free.

On CUDA an allocation that fails is an exception, and what was taken is given back. A CPU has no such thing: the system
kills what takes too much; so each try there is a process of its own (`python -m scratchlab.training.probe`) that may
take so much and no more. What was found is kept in the user's cache folder, by recipe, device and software.
"""

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from scratchlab import hardware
from scratchlab.errors import DeviceError, TooLargeError
from scratchlab.files import pretty_json, user_file, write_atomically
from scratchlab.recipe import Recipe, recipe_from
from scratchlab.training.measurements import shape_key
from scratchlab.training.memory import HEADROOM, divisors, sequences_a_process
from scratchlab.training.remedies import remedy
from scratchlab.training.step import MicroBatch, SentBatch, TorchBackend, TorchState

STEPS = 2  # the second has the optimizer's moments from its beginning
TOO_MUCH = 3  # exit code of a process that was given less than it needs
OUT_OF_MEMORY = "can't allocate memory"  # how PyTorch says it on a CPU, in a RuntimeError


def probed_micro_batch(recipe: Recipe, vocab_size: int) -> int:
    """The largest divisor of a process's share of the batch that fits its device; of a resolved recipe but for this.

    `TooLargeError` if not even one sequence does.
    """
    rows = sequences_a_process(recipe)
    alone = {"training.global_batch_size": rows, "execution.processes": 1, "execution.shard": None}  # what one takes
    recipe = recipe.replaced({"execution.micro_batch_size": 1, "execution.compile": False} | alone)  # compiled: less
    place = user_file("XDG_CACHE_HOME", ".cache", f"probes/{shape_key(recipe, vocab_size)}.json")
    try:
        return int(json.loads(place.read_text(encoding="utf-8"))["micro_batch_size"])
    except (OSError, ValueError, KeyError):
        pass  # nothing is known yet
    found = largest_that_fits(divisors(rows), _trier(recipe, vocab_size))
    if found is None:
        name = hardware.device_name(recipe.execution.device)
        usable = round(hardware.device_memory(recipe.execution.device) * (1 - HEADROOM))
        what = remedy(recipe, vocab_size, usable, main_memory=hardware.memory())
        raise TooLargeError(f"{name} does not hold a single sequence of this recipe. What helps: {what}.")
    write_atomically(place, pretty_json({"micro_batch_size": found}))
    return found


def largest_that_fits(sizes: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """Of sizes in order, the last that fits, by bisection; None if the first does not."""
    low, high = 0, len(sizes)  # sizes before `low` fit, those from `high` on do not
    while low < high:
        middle = (low + high) // 2
        if fits(sizes[middle]):
            low = middle + 1
        else:
            high = middle
    return sizes[low - 1] if low else None


def without_memory_errors(work: Callable[[], object]) -> bool:
    """Whether `work` got the memory that it asked for; if not, what it took is given back."""
    try:
        work()
        fits = True
    except torch.OutOfMemoryError:
        fits = False  # the exception holds on to the frames, and they to their tensors, until this block is left
    if not fits:
        gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return fits


def _trier(recipe: Recipe, vocab_size: int) -> Callable[[int], bool]:
    if recipe.execution.device == "cpu":
        room = round(hardware.memory() * (1 - HEADROOM))
        return lambda size: fits_in_process(recipe, vocab_size, size, room)
    margin = round(hardware.device_memory(recipe.execution.device) * HEADROOM / 2)
    return lambda size: without_memory_errors(lambda: _take_steps(recipe, vocab_size, size, margin))


def _take_steps(recipe: Recipe, vocab_size: int, size: int, margin: int = 0) -> None:
    """Two steps of two micro-batches, so that gradients are there while the second goes through."""
    device = recipe.execution.device
    kept_free = torch.empty(margin, dtype=torch.uint8, device=device)
    backend = TorchBackend(recipe, vocab_size, end_of_text=0)
    state: TorchState = backend.init()
    shape = (size, recipe.model.context_length)
    tokens = torch.randint(vocab_size, shape, device=device)
    micro = MicroBatch(tokens, tokens, torch.ones(shape, device=device), 0)
    several = 2 if recipe.training.global_batch_size > size else 1
    for step in range(STEPS):
        backend.step(state, SentBatch([micro] * several, float(several * tokens.numel()), False), step)
    hardware.synchronize(device)
    del kept_free


def fits_in_process(recipe: Recipe, vocab_size: int, size: int, room: int) -> bool:
    """Whether a process on this CPU takes its steps in `room` bytes over what it takes before it has a model."""
    order = {"recipe": recipe.model_dump(exclude_unset=True), "vocab_size": vocab_size, "size": size, "room": room}
    command = [sys.executable, "-m", "scratchlab.training.probe"]
    outcome = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, check=False)
    if outcome.returncode not in (0, TOO_MUCH, -9):  # -9: the system ended it
        raise DeviceError(f"A step could not be tried in a process of its own: {outcome.stderr.strip()[-500:]}")
    return outcome.returncode == 0


def _main() -> int:
    import resource

    import psutil

    order: dict[str, Any] = json.load(sys.stdin)
    recipe = recipe_from(order["recipe"], where="probe")
    limit = psutil.Process().memory_info().vms + int(order["room"])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        _take_steps(recipe, int(order["vocab_size"]), int(order["size"]))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or OUT_OF_MEMORY in str(error):
            return TOO_MUCH
        raise
    return 0


if __name__ == "__main__":
    sys.exit(_main())
