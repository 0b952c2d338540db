"""The full state of a run at a step, on disk and back.

One format whatever trained it: a safetensors file keyed `name`, `name.exp_avg`, `name.exp_avg_sq`, `name.step`, and a
JSON file for the rest. No random state is kept, for there is none: every stream is a function of seed and step. Of a
run that trains adapters it holds those alone; the frozen weights are in the snapshot `base`, once.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from scratchlab.errors import RunError
from scratchlab.model.count import parameter_count, trained_count
from scratchlab.model.load import StoredTensors
from scratchlab.recipe import Recipe
from scratchlab.runfolder import KEPT_CHECKPOINTS, Record, RunFolder
from scratchlab.training.backend import Backend
from scratchlab.training.world import World

BYTES_PER_PARAMETER = 12  # a weight and AdamW's two moments, float32
SNAPSHOTS_FROM = 1 / 256  # of the run: till then a model learns little more than which tokens are frequent


def save_checkpoint(
    folder: RunFolder, backend: Backend, state: Any, step: int, world: World, weights_of: int | None = None
) -> None:
    """Keep everything a resume needs. `ScratchlabError` if the disk is full; the earlier checkpoints stay.

    All processes take part, for each may have a part of the weights; the first one writes. `weights_of` is said of a
    run that is over, whose weights are those of an earlier step.
    """
    tensors, extras = backend.tensors(state), backend.extras(state)
    if weights_of is not None:
        extras = {**extras, "weights_of": weights_of}
    world.by_first(lambda: folder.save_checkpoint(step, lambda path: write_tensors(tensors, path), extras))


def save_snapshot(folder: RunFolder, backend: Backend, state: Any, name: str, step: int, world: World) -> None:
    """Keep the weights that are trained, and no moments, as the snapshot `name`. All processes take part."""
    weights = backend.weights(state)
    world.by_first(lambda: folder.save_snapshot(name, step, lambda path: write_tensors(weights, path)))


def snapshot_steps(recipe: Recipe) -> frozenset[int]:
    """The steps of a resolved recipe at which a snapshot is kept, to look at learning afterwards.

    By the logarithm of the step, for so loss falls nearly in a line: with 4 of them, before the 256th, 64th, 16th and
    4th part of the run is done, so that with the first and the last weights there are six losses at like distances. A
    rule that waits for a loss would see none before the first evaluation, and by then most of the fall is over. And
    what depends on the recipe alone is the same for a run that was killed and resumed.

    Fresh weights follow from the seed and are not kept; those that another run left are, at step 0.
    """
    steps, kept = recipe.settled.steps, recipe.evaluation.snapshots
    begin = {0} if kept and recipe.start.weights is not None else set[int]()
    on_the_way = {round(steps * SNAPSHOTS_FROM ** (1 - place / kept)) for place in range(kept)} - {0}
    return frozenset((begin | on_the_way) - {steps})


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file. Its writer hides what the system said in a text; `OSError` brings it back. It also
    makes the file its owner's alone; here all may read it whom the umask lets.
    """
    path.touch()
    permissions = path.stat().st_mode
    try:
        save_file(tensors, path, metadata)
        path.chmod(permissions)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        raise (OSError(int(code[1]), os.strerror(int(code[1]))) if code else error) from error


def restore_checkpoint(
    folder: RunFolder, backend: Backend, say: Callable[[str], None], world: World
) -> tuple[Any, Record]:
    """The state of the last good checkpoint and its record (`step` above all); a damaged one is named and passed over.

    Without a good one the run begins again, which gives the same numbers, only later. Of several processes the first
    looks for it, and each reads its part.
    """
    found, problems = world.by_first(folder.last_good_checkpoint)
    for problem in problems:
        say(f"Warning: {problem}")
    if found is None:
        if folder.resolved().start.weights is not None:
            raise RunError(f"{folder.path} began from other weights, and no checkpoint is whole: make the run anew.")
        if problems:
            say("No checkpoint is whole, so the run begins again at step 0; its numbers will be the same.")
        return backend.init(), {"step": 0}
    path, record = found
    if problems:
        say(f"Falling back to the checkpoint of step {record['step']}.")
    state = backend.restore(StoredTensors(*world.by_first(lambda: folder.weight_files(path))), record)
    say(f"Going on from step {record['step']}.")
    return state, record


def check_disk(free_bytes: int, recipe: Recipe, vocab_size: int) -> int:
    """Bytes the checkpoints and snapshots of a resolved recipe will take. `RunError` if the disk does not have them.

    Beside adapters there is the base, once.
    """
    trained = trained_count(recipe.model, vocab_size, recipe.finetuning)
    base = 0 if recipe.finetuning.lora_rank is None else 4 * parameter_count(recipe.model, vocab_size)
    # One more checkpoint than is kept, and one more `best`: each is written before the old one goes.
    on_the_way = 4 * len(snapshot_steps(recipe))
    needed = base + trained * (BYTES_PER_PARAMETER * (KEPT_CHECKPOINTS + 1) + 2 * 4 + on_the_way)
    if needed > free_bytes:
        few = " Or keep fewer: evaluation.snapshots=0." if on_the_way else ""
        raise RunError(
            f"The run needs {needed / 1e9:.1f} GB of disk for its checkpoints and {free_bytes / 1e9:.1f} GB are free. "
            f"Free some space or put the run on another disk with --out.{few}"
        )
    return needed
