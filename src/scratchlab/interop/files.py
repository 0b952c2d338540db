"""Opening what other programs saved: safetensors, PyTorch files by tensors alone, JSON."""

import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scratchlab.errors import RunError

# A file of a model by its name: where it lies on this machine, or None if the model has no such file.
Find = Callable[[str], Path | None]


def inside(folder: Path) -> Find:
    """Finds the files of a folder."""
    return lambda name: folder / name if (folder / name).is_file() else None


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} could not be read: {error}.") from None


def read_pickle(path: Path) -> Any:
    """What `torch.save` wrote, opened so that nothing in it is executed. `RunError` if it is more than data."""
    try:
        with warnings.catch_warnings():  # about protocols, which a user can do nothing about
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" not in str(error) and "GLOBAL" not in str(error):
            raise RunError(f"{path} is damaged, or no file of PyTorch's.") from None
        raise RunError(
            f"{path} holds more than tensors, numbers and text, so that opening it could execute what is inside. Save "
            "the model's state_dict() alone, best as safetensors, and import that."
        ) from None
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise RunError(f"{path} could not be read: {str(error).splitlines()[0] if str(error) else error!r}.") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} could not be read: {error}.") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} should hold a JSON object, not {type(content).__name__}.")
    return content


def tensors_of(state: Any, path: Path) -> dict[str, Tensor]:
    """A state dict; `RunError` if `state` is none."""
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise RunError(f"{path} holds no state_dict: a table of tensors by name was expected.")
    return dict(state)
