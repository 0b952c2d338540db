"""A trained model out of its run folder."""

import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from scratchlab import hardware
from scratchlab.errors import RunError, UsageError
from scratchlab.model.build import Model, build_model, empty_model
from scratchlab.model.lora import adapt, merged
from scratchlab.recipe import Recipe
from scratchlab.runfolder import RunFolder, step_name

At = Literal["final", "best"]


class Logits(nn.Module):
    """A model that is called with tokens (B, T) and gives logits (B, T, V), of tokens or labels, and nothing else."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.model(tokens_BT)[0]


def load(run: str | Path, at: At = "final", device: str = "auto") -> Logits:
    """The model of a run as a torch module in evaluation mode, called with tokens (B, T), giving logits (B, T, V)."""
    return Logits(_load(RunFolder.open(run), at, device)).eval()


def load_model(
    folder: RunFolder, at: At | int = "final", device: str = "auto", precision: hardware.Precision | None = None
) -> Model:
    """The weights of the last checkpoint, the best snapshot or that of a step, in the precision they were trained in.

    On a device that does not have that precision, in float32. `precision` is another one, DeviceError if it is not to
    be had. Adapters are merged. `RunError` if there are no such weights, or if they tell labels.
    """
    if getattr(folder.resolved().model, "labels", None) is not None:
        raise RunError(
            f"{folder.path} tells labels of texts; it writes nothing, and knows no next token. What it says of texts: "
            f"scratchlab classify {folder.path}"
        )
    return _load(folder, at, device, precision)


def load_classifier(folder: RunFolder, at: At = "final", device: str = "auto") -> Model:
    """The same of a run that learned to tell labels. `RunError` for any other."""
    if getattr(folder.resolved().model, "labels", None) is None:
        raise RunError(
            f"{folder.path} tells no labels. Teach it from texts that have some: scratchlab finetune {folder.path} "
            "--labels --data FILE --out DIR"
        )
    return _load(folder, at, device)


def _load(folder: RunFolder, at: At | int, device: str, precision: hardware.Precision | None = None) -> Model:
    if not isinstance(at, int) and at not in typing.get_args(At):
        raise UsageError(f"at = {at!r}: the weights are those of {' or '.join(typing.get_args(At))}.")
    device = hardware.choose_device(device)
    if precision is not None:
        hardware.refuse_precision(device, precision, "precision")
    dtype = _compute_dtype(folder, device) if precision is None else hardware.compute_dtype(precision)
    path = weights_at(folder, at)
    model = adapt(_empty(folder, dtype), folder.resolved().finetuning)
    try:
        stored = StoredTensors(*folder.weight_files(path))
        model.load_state_dict({name: stored[name] for name, _ in model.named_parameters()}, assign=True)
    except SafetensorError as error:
        raise RunError(f"{path} is damaged or does not hold this model: {error}.") from None
    return merged(model).to(device).eval()


def merged_tensors(recipe: Recipe, vocab_size: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights of the plain model, where `tensors` are those of a run of `recipe` that may have adapters."""
    model = adapt(empty_model(recipe.model, vocab_size, end_of_text=0), recipe.finetuning)
    model.load_state_dict({name: tensors[name] for name, _ in model.named_parameters()}, assign=True)
    return {name: parameter.detach() for name, parameter in merged(model).named_parameters()}


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of files, read as they are asked for: no more than one has to be in memory at a time.

    What is in several comes from the last.
    """

    def __init__(self, *paths: Path) -> None:
        files = [safe_open(path, framework="pt") for path in paths]
        self._file_of = {name: file for file in files for name in list(file.keys())}

    def __getitem__(self, name: str) -> Tensor:
        return self._file_of[name].get_tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._file_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def fresh_model(folder: RunFolder, device: str = "auto") -> Model:
    """The weights that a run's seed gives: what it had before its first step, unless it began from others."""
    device, manifest, recipe = hardware.choose_device(device), folder.manifest(), folder.resolved()
    vocab_size, end_of_text, dtype = manifest["vocab_size"], manifest.get("end_of_text"), _compute_dtype(folder, device)
    return build_model(recipe.model, vocab_size, recipe.seeds.init, dtype, device, end_of_text).eval()


def _empty(folder: RunFolder, dtype: torch.dtype) -> Model:
    manifest = folder.manifest()
    return empty_model(folder.resolved().model, manifest["vocab_size"], dtype, manifest.get("end_of_text"))


def _compute_dtype(folder: RunFolder, device: str) -> torch.dtype:
    precision = folder.resolved().settled.precision
    return hardware.compute_dtype(precision if precision in hardware.precisions_of(device) else "float32")


def weights_at(folder: RunFolder, at: At | int) -> Path:
    """The file of the weights that are asked for; of adapters, where the run trains those."""
    if at != "final":
        return folder.snapshot(step_name(at) if isinstance(at, int) else at)[0]
    found, problems = folder.last_good_checkpoint()
    if problems:
        remedy = f"To train those steps again: scratchlab train --resume {folder.path}"
        raise RunError("\n".join([*problems, remedy]))
    if found is None:
        raise RunError(f"{folder.path} has no checkpoint to take weights from.")
    return found[0]
