"""What was measured of recipes on this machine, kept in the user's cache folder for later forecasts."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scratchlab import hardware
from scratchlab.files import pretty_json, sha256_of_json, user_file, write_atomically
from scratchlab.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one recipe takes on one machine."""

    seconds_per_step: float
    first_steps: float
    """Seconds that the first steps took longer than later ones: kernels are chosen, or compiled."""
    seconds_per_scored_token: float
    seconds_per_sample: float
    seconds_per_checkpoint: float
    peak_memory: int
    """Bytes, after all of it: on a CPU with all that the process takes."""
    day: str


def known_measurement(recipe: Recipe, vocab_size: int) -> Measurement | None:
    """What was measured before of a resolved recipe of this shape, on this device with this software."""
    try:
        content: dict[str, Any] = json.loads(_place(recipe, vocab_size).read_text(encoding="utf-8"))
        return Measurement(**content)
    except (OSError, ValueError, TypeError):  # none, or one that another version wrote
        return None


def keep_measurement(recipe: Recipe, vocab_size: int, measured: Measurement) -> None:
    """Keep it for `known_measurement`."""
    write_atomically(_place(recipe, vocab_size), pretty_json(asdict(measured)))


def shape_key(recipe: Recipe, vocab_size: int) -> str:
    """A hash of all that time and memory of a step depend on: shape, batch, execution, device, software."""
    parts = {
        "model": recipe.model.model_dump(exclude_defaults=True),
        "vocab_size": vocab_size,
        "training": recipe.training.model_dump(include={"global_batch_size", "optimizer", "precision", "order"}),
        "execution": recipe.execution.model_dump(),
        "environment": hardware.environment(recipe.execution.device),
    }
    if recipe.finetuning.lora_rank is not None:
        parts["finetuning"] = recipe.finetuning.model_dump(exclude_defaults=True)
    return sha256_of_json(parts)[:16]


def _place(recipe: Recipe, vocab_size: int) -> Path:
    return user_file("XDG_CACHE_HOME", ".cache", f"measurements/{shape_key(recipe, vocab_size)}.json")
