"""The largest micro-batch that a device holds, found by trying: real steps, with a margin left free.

Each try is a process of its own (`python -m scratchlab.training.probe`): what it took is given back, whatever happened,
and so is what a GPU keeps for every process that has used it. On CUDA an allocation that fails is an exception. A CPU
has no such thing, the system kills what takes too much; so there a process may take so much and no more. What was found
is kept in the user's cache folder, by recipe, device and software.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from scratchlab import hardware
from scratchlab.errors import DeviceError, TooLargeError
from scratchlab.files import pretty_json, user_file, write_atomically
from scratchlab.model.count import trained_count
from scratchlab.model.kept import FLOAT
from scratchlab.recipe import Recipe, recipe_from
from scratchlab.training.measurements import shape_key
from scratchlab.training.memory import HEADROOM, divisors, sequences_a_process
from scratchlab.training.remedies import remedy
from scratchlab.training.step import MicroBatch, SentBatch, TorchBackend, TorchState

STEPS = 2  # the second has the optimizer's moments from its beginning
TOO_MUCH = 3  # exit code of a process that was given less than it needs


def probed_micro_batch(recipe: Recipe, vocab_size: int, say: Callable[[str], None] = lambda text: None) -> int:
    """The largest divisor of a process's share of the batch that fits its device; of a resolved recipe but for this.

    `TooLargeError` if not even one sequence does. `say` is told before it takes its time.
    """
    recipe = recipe.replaced({"execution.micro_batch_size": 1, "execution.compile": False})  # compiled takes less
    room = _room(recipe, vocab_size) >> 30  # in GiB: on a CPU, what others leave now
    place = user_file("XDG_CACHE_HOME", ".cache", f"probes/{shape_key(recipe, vocab_size)}-{room}.json")
    try:
        return int(json.loads(place.read_text(encoding="utf-8"))["micro_batch_size"])
    except (OSError, ValueError, KeyError):
        pass  # nothing is known yet
    say("Trying how many sequences the device holds at once: some seconds for each number, once for this recipe.")
    found = largest_that_fits(divisors(sequences_a_process(recipe)), _trier(recipe, vocab_size))
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


def _trier(recipe: Recipe, vocab_size: int) -> Callable[[int], bool]:
    """Tries sizes in one process alone, which has as many rows as each of several."""
    rows, room = sequences_a_process(recipe), _room(recipe, vocab_size)
    alone = {"training.global_batch_size": rows, "execution.processes": 1, "execution.shard": None}
    return lambda size: fits_in_process(recipe.replaced(alone), vocab_size, size, room)


def _room(recipe: Recipe, vocab_size: int) -> int:
    """Bytes for what one process alone takes."""
    execution = recipe.execution
    if execution.device == "cpu":
        room = round(hardware.available_memory() * (1 - HEADROOM)) // execution.processes
    else:
        room = round(hardware.device_memory(execution.device) * (1 - HEADROOM / 2))
    buckets = FLOAT * trained_count(
        recipe.model, vocab_size, recipe.finetuning
    )  # which DDP sums gradients in, beside the gradients
    return max(0, room - (buckets if execution.processes > 1 else 0))


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
    """Whether a process takes its steps in `room` bytes of its device.

    On a CPU: over what it takes before it has a model.
    """
    order = {"recipe": recipe.model_dump(exclude_unset=True), "vocab_size": vocab_size, "size": size, "room": room}
    command = [sys.executable, "-m", "scratchlab.training.probe"]
    outcome = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, check=False)
    if outcome.returncode not in (0, TOO_MUCH, -9):  # -9: the system ended it
        raise DeviceError(f"A step could not be tried in a process of its own: {outcome.stderr.strip()[-500:]}")
    return outcome.returncode == 0


def _main() -> int:
    order: dict[str, Any] = json.load(sys.stdin)
    recipe, room = recipe_from(order["recipe"], where="probe"), int(order["room"])
    try:
        margin = _left_alone(recipe.execution.device, room)
        _take_steps(recipe, int(order["vocab_size"]), int(order["size"]), margin)
    except (MemoryError, RuntimeError) as error:
        if hardware.lacks_memory(error):
            return TOO_MUCH
        raise
    return 0


def _left_alone(device: str, room: int) -> int:
    """Bytes to hold on to while trying, so that `room` is left; a CPU's process is refused more than that instead."""
    if device != "cpu":
        return hardware.device_memory(device) - room
    import resource

    import psutil

    limit = psutil.Process().memory_info().vms + room
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
