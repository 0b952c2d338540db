"""Opening what other programs saved: safetensors, PyTorch files by tensors alone, JSON."""

import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scratchlab.errors import RunError


def refuse_existing(to: str | Path, what: str = "export") -> None:
    """RunError if something is there, where an export or import shall make its folder."""
    if Path(to).exists():
        raise RunError(f"{to} exists already; an {what} needs a folder of its own.")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} could not be read: {error}.") from None


def read_pickle(path: Path) -> Any:
    """What `torch.save` wrote, opened so that nothing in it is executed. `RunError` if it is more than data."""
    with path.open("rb") as file:
        begins = file.read(4)
    if not begins.startswith((b"PK\x03\x04", b"\x80")):  # a zip archive; a pickle, as PyTorch wrote until 1.5
        raise RunError(f"{path} is no file of PyTorch's, nor safetensors.")
    try:
        with warnings.catch_warnings():  # about protocols, which a user can do nothing about
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged pickle can raise anything, and PyTorch's own advice would be to execute it
        raise RunError(
            f"{path} is damaged, or holds more than tensors, numbers and text; nothing of it was executed. Save the "
            "model's state_dict() alone, best as safetensors, and import that."
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} could not be read: {error}.") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} should hold a JSON object, not {type(content).__name__}.")
    return content


def whole_numbers(settings: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """`RunError` names those that are missing or are not whole numbers above 0."""
    wrong = [
        f"{name} is missing" if name not in settings else f"{name} = {settings[name]!r}"
        for name in names
        if type(settings.get(name)) is not int or settings[name] < 1
    ]
    if wrong:
        raise RunError(f"{where}: {'; '.join(wrong)}: a whole number above 0 was expected.")


def tensors_of(state: Any, path: Path) -> dict[str, Tensor]:
    """A state dict; `RunError` if `state` is none."""
    table = state if isinstance(state, dict) else {}
    if not table or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in table.items()):
        raise RunError(f"{path} holds no state_dict: a table of tensors by name was expected.")
    return dict(table)
