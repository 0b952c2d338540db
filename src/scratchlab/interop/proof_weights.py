"""Two numbers of each tensor of an export, by which a change of it is named without the run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scratchlab.interop.names import listed
from scratchlab.runfolder import Record

GOLDEN = (math.sqrt(5) - 1) / 2
AT_ONCE = 2**22
CLOSE = 1e-11
"""How far a sum in float64 may be off where it is taken in another order, as a share of its terms' absolute values."""

Sums = Sequence[float]
"""How many numbers, their sum with a weight for each by its place, and the sum of their squares."""


def sums_of(exported: Path) -> dict[str, Sums]:
    """By the names of the tensors in the safetensors files of a folder. SafetensorError for one that is damaged."""
    found: dict[str, Sums] = {}
    for path in sorted(exported.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: _sums(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118  it is no mapping
    return found


def _sums(tensor: Tensor) -> Sums:
    """The weights by place are spread evenly over 0.5 to 1.5 and the same on every machine: numbers that change places,
    or that change by amounts which cancel out, change the sum."""
    flat, weighted, squares = tensor.flatten(), 0.0, 0.0
    for start in range(0, len(flat), AT_ONCE):
        piece = flat[start : start + AT_ONCE].double().numpy()
        places = np.arange(start, start + len(piece), dtype=np.float64)
        weighted += float(piece @ (places * GOLDEN % 1 + 0.5))
        squares += float(piece @ piece)
    return [len(flat), weighted, squares]


def check_weights(exported: Path, proved: Mapping[str, Sums]) -> Record:
    """Every tensor of the files by its sums."""
    try:
        found = sums_of(exported)
    except (SafetensorError, OSError) as error:
        return {"passed": False, "said": f"they could not be read: {error}"}
    changed = [name for name in proved if name in found and not _same(found[name], proved[name])]
    wrong = {
        "missing": [name for name in proved if name not in found],
        "new": [name for name in found if name not in proved],
        "of other numbers": changed,
    }
    said = "; ".join(f"{listed(names)}: {what}" for what, names in wrong.items() if names)
    return {"passed": not said, "said": said or f"{len(proved)} tensors have the sums of the proof"}


def _same(found: Sums, proved: Sums) -> bool:
    (count, weighted, squares), (their_count, their_weighted, their_squares) = found, proved
    most = CLOSE * 1.5 * math.sqrt(count * squares)  # no sum of absolute values is larger (Cauchy, Schwarz)
    same = abs(squares - their_squares) <= CLOSE * squares and abs(weighted - their_weighted) <= most
    return count == their_count and same
