"""A trained model out of its run folder."""

import typing
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from scratchlab import hardware
from scratchlab.errors import RunError, UsageError
from scratchlab.model.build import Model, build_model, empty_model
from scratchlab.runfolder import RunFolder, step_name

At = Literal["final", "best"]


class Logits(nn.Module):
    """A model that is called with tokens (B, T) and gives logits (B, T, V), and nothing else."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.model(tokens_BT)[0]


def load(run: str | Path, at: At = "final", device: str = "auto") -> Logits:
    """The model of a run as a torch module in evaluation mode, called with tokens (B, T), giving logits (B, T, V)."""
    return Logits(load_model(RunFolder.open(run), at, device)).eval()


def load_model(
    folder: RunFolder, at: At | int = "final", device: str = "auto", precision: hardware.Precision | None = None
) -> Model:
    """The weights of the last checkpoint, the best snapshot or that of a step, in the precision they were trained in.

    On a device that does not have that precision, in float32. `precision` is another one, DeviceError if it is not to
    be had. `RunError` if there are no such weights.
    """
    if not isinstance(at, int) and at not in typing.get_args(At):
        raise UsageError(f"at = {at!r}: the weights are those of {' or '.join(typing.get_args(At))}.")
    device, manifest = hardware.choose_device(device), folder.manifest()
    if precision is not None:
        hardware.refuse_precision(device, precision, "precision")
    dtype = _compute_dtype(folder, device) if precision is None else hardware.compute_dtype(precision)
    model = empty_model(folder.resolved().model, manifest["vocab_size"], dtype, manifest.get("end_of_text"))
    model.load_state_dict(_weights(folder, at, [name for name, _ in model.named_parameters()]), assign=True)
    return model.to(device).eval()


def fresh_model(folder: RunFolder, device: str = "auto") -> Model:
    """The weights that a run's seed gives: what it had before its first step, unless it began from others."""
    device, manifest, recipe = hardware.choose_device(device), folder.manifest(), folder.resolved()
    vocab_size, end_of_text, dtype = manifest["vocab_size"], manifest.get("end_of_text"), _compute_dtype(folder, device)
    return build_model(recipe.model, vocab_size, recipe.seeds.init, dtype, device, end_of_text).eval()


def _compute_dtype(folder: RunFolder, device: str) -> torch.dtype:
    precision = folder.resolved().settled.precision
    return hardware.compute_dtype(precision if precision in hardware.precisions_of(device) else "float32")


def _weights(folder: RunFolder, at: At | int, names: list[str]) -> dict[str, Tensor]:
    if at != "final":
        path, _ = folder.snapshot(step_name(at) if isinstance(at, int) else at)
    else:
        found, problems = folder.last_good_checkpoint()
        if problems:
            remedy = f"To train those steps again: scratchlab train --resume {folder.path}"
            raise RunError("\n".join([*problems, remedy]))
        if found is None:
            raise RunError(f"{folder.path} has no checkpoint to take weights from.")
        path, _ = found
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise RunError(f"{path} is damaged or does not hold this model: {error}.") from None
