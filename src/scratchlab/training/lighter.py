"""What to do about memory that ran out, told by name instead of by a traceback."""

import textwrap
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from scratchlab import hardware
from scratchlab.architecture import GPTSection
from scratchlab.errors import DeviceError
from scratchlab.recipe import Recipe
from scratchlab.training.memory import divisors, sequences_a_process

MOST_SAID = 160  # characters of what PyTorch says, which goes on to explain its allocator


@contextmanager
def memory_told(recipe: Recipe, out: Path | None = None) -> Generator[None]:
    """Inside, memory that runs out is a `DeviceError` that names what of a resolved recipe takes less.

    `out` is the folder of its run, if there is one to go on with.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not hardware.lacks_memory(error):
            raise
        said = textwrap.shorten(str(error) or type(error).__name__, MOST_SAID, placeholder=" ...")
        name, fields = hardware.device_name(recipe.settled.device), " or ".join(lighter_fields(recipe))
        others = f" If other programs use it too, end them and scratchlab train --resume {out}." if out else ""
        raise DeviceError(f"{name} ran out of memory ({said}).{others} A run takes less with {fields}.") from error


def lighter_fields(recipe: Recipe) -> list[str]:
    """What a resolved recipe can be given to take less memory, as overrides; at last, what is no field alone."""
    execution, size = recipe.execution, recipe.settled.micro_batch_size
    on_cuda, several = recipe.settled.device.startswith("cuda"), execution.processes > 1
    smaller = [fewer for fewer in divisors(sequences_a_process(recipe)) if fewer < size]
    fields = [f"execution.micro_batch_size={smaller[-1]}"] if smaller else []
    if isinstance(recipe.model, GPTSection) and not execution.activation_checkpointing:
        fields.append("execution.activation_checkpointing=true")
    if isinstance(recipe.model, GPTSection) and several and not execution.shard:
        fields.append("execution.shard=true")
    if on_cuda and not execution.optimizer_offload and not execution.shard:
        fields.append("execution.optimizer_offload=true")
    return [*fields, "a smaller model"]
