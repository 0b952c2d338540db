"""What the model that a run of pairs began from made of them: scored once, before the first step, and kept.

So no second model has to be in memory while a run trains, and a run that is resumed is held against the very same bits.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file

from scratchlab.corpus.examples.pairs import fit_pairs
from scratchlab.corpus.shards import Split
from scratchlab.corpus.store import Corpus
from scratchlab.errors import RunError
from scratchlab.evaluation.loss import byte_lengths
from scratchlab.evaluation.pairs import score_pairs
from scratchlab.evaluation.scorer import Scorer
from scratchlab.runfolder import RunFolder
from scratchlab.training.checkpoint import write_tensors
from scratchlab.training.data import holds_pairs
from scratchlab.training.world import World

Reference = Mapping[str, npt.NDArray[np.float64]]
"""By split (train, and those that score) the margin of each pair in nats; 0 of those that are left out."""


def kept_reference(folder: RunFolder, step: int, world: World) -> Reference | None:
    """The reference of a run that is at `step`; None if it is still to be made, which it is before the first step.

    `RunError` if it is lost: the weights that it was made of may be gone.
    """
    path = world.by_first(lambda: _good(folder, step))
    return path and load_file(path)


def _good(folder: RunFolder, step: int) -> Path | None:
    try:
        return folder.reference()
    except RunError as error:
        if step:
            raise RunError(f"{error} What a run of pairs is held against is lost: make the run anew.") from None
        return None


def make_reference(
    folder: RunFolder, scorer: Scorer, corpus: Corpus, yardstick: Corpus, context_length: int, world: World
) -> Reference:
    """Score all pairs by the weights as they are, and keep what comes of it. All processes take part."""
    sizes = byte_lengths(corpus.tokenizer)
    found = {one.name: _margins(scorer, one, context_length, sizes) for one in _splits(corpus, yardstick)}
    tensors = {name: torch.from_numpy(margins) for name, margins in found.items()}
    world.by_first(lambda: folder.save_reference(lambda path: write_tensors(tensors, path)))
    return found


def _splits(corpus: Corpus, yardstick: Corpus) -> Iterator[Split]:
    yield corpus.split("train")
    if holds_pairs(yardstick):
        yield from (yardstick.split(name) for name in yardstick.manifest.splits if name != "train")


def _margins(
    scorer: Scorer, split: Split, context_length: int, symbol_bytes: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    margins = np.zeros(len(fit_pairs(split, context_length).prompts))
    scored = score_pairs(scorer, split, context_length, symbol_bytes)
    margins[scored.numbers] = scored.margins
    return margins
