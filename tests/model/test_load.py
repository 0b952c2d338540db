"""A model out of its run folder."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import scratchlab
from scratchlab.errors import DeviceError, RunError
from scratchlab.model.gpt import GPT
from scratchlab.model.load import load_model
from scratchlab.runfolder import RunFolder
from tiny import VOCAB, random_tokens, tiny_gpt, tiny_recipe


def make_run(path: Path, changes: dict[str, Any] | None = None) -> RunFolder:
    recipe = tiny_recipe(changes)
    return RunFolder.create(path, recipe, recipe, {"vocab_size": VOCAB}, "{}")


def keep(folder: RunFolder, model: GPT, step: int | None) -> None:
    """As a checkpoint of `step` with a moment beside the weights, or as the best snapshot."""
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    if step is None:
        return folder.save_snapshot("best", 8, lambda path: save_file(tensors, path))
    tensors["final_norm.bias.exp_avg"] = torch.ones(8)
    return folder.save_checkpoint(step, lambda path: save_file(tensors, path), {})


def test_final_and_best_weights_give_logits(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    final, best = tiny_gpt(spread=2.0), tiny_gpt(spread=3.0)
    keep(folder, final, 8)
    keep(folder, best, None)
    tokens = random_tokens(2, 5)
    loaded = scratchlab.load(folder.path)
    assert not loaded.training
    assert torch.equal(loaded(tokens), final(tokens)[0])
    assert torch.equal(scratchlab.load(str(folder.path), at="best", device="cpu")(tokens), best(tokens)[0])


def test_a_model_comes_back_in_its_own_precision(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", {"training.precision": "bf16"})
    keep(folder, tiny_gpt(), 8)
    assert load_model(folder, device="cpu").compute_dtype == torch.bfloat16
    foreign = make_run(tmp_path / "foreign", {"training.precision": "tf32"})
    keep(foreign, tiny_gpt(), 8)
    assert load_model(foreign, device="cpu").compute_dtype == torch.float32, "what this device lacks becomes float32"
    assert load_model(folder, device="cpu", precision="float32").compute_dtype == torch.float32
    with pytest.raises(DeviceError, match="precision = 'fp16': cpu cannot; it offers float32, bf16"):
        load_model(folder, device="cpu", precision="fp16")


def test_a_run_without_weights_is_said(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    with pytest.raises(RunError, match="no best snapshot"):
        load_model(folder, "best")
    with pytest.raises(RunError, match=str(folder.path)):
        load_model(folder)
