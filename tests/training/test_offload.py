"""The optimizer on the CPU: the same steps, and the same checkpoints. (The device is here the CPU too.)"""

from typing import Any

import pytest
import torch
from torch import Tensor

from scratchlab import hardware
from scratchlab.corpus.windows import Windows
from scratchlab.errors import DeviceError, RecipeError
from scratchlab.recipe import recipe_from
from scratchlab.training import offload
from scratchlab.training.resolve import resolve
from scratchlab.training.step import TorchBackend, TorchState
from tiny import VOCAB, random_stream, tiny_batch, tiny_recipe

OFFLOAD = {"execution.optimizer_offload": True}
RMSPROP = {"training.optimizer": "rmsprop", "training.weight_decay": 0.0}


def trained(changes: dict[str, Any], steps: int, state: TorchState | None = None, first: int = 0) -> dict[str, Tensor]:
    recipe = tiny_recipe({"execution.micro_batch_size": 2, **changes})
    backend = TorchBackend(recipe, VOCAB)
    state = state or backend.init()
    for step in range(first, steps):
        state, _ = backend.step(state, tiny_batch(recipe, step), step)
    return {name: tensor.clone() for name, tensor in backend.tensors(state).items()}


@pytest.mark.parametrize("changes", [{}, RMSPROP], ids=["adamw", "rmsprop"])
def test_steps_are_the_same_to_the_bit(changes: dict[str, Any]) -> None:
    here, there = trained(changes, 4), trained(changes | OFFLOAD, 4)
    assert here.keys() == there.keys()
    assert all(torch.equal(here[name], there[name]) for name in here)


@pytest.mark.parametrize(("before", "after"), [({}, OFFLOAD), (OFFLOAD, {})], ids=["there", "back"])
def test_a_checkpoint_moves_there_and_back(before: dict[str, Any], after: dict[str, Any]) -> None:
    backend = TorchBackend(tiny_recipe({"execution.micro_batch_size": 2, **after}), VOCAB)
    state = backend.restore(trained(before, 2), {"loss_scale": 1.0, "good_steps": 0})
    resumed, straight = trained(after, 4, state, first=2), trained({}, 4)
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)


def test_the_optimizer_holds_nothing_of_the_device() -> None:
    backend = TorchBackend(tiny_recipe(OFFLOAD), VOCAB)
    state = backend.init()
    state, _ = backend.step(state, tiny_batch(backend.recipe), 0)
    held = {parameter for group in state.optimizer.param_groups for parameter in group["params"]}
    assert held == set(state.optimizer.state)
    assert held.isdisjoint(state.parameters.values())
    assert all(parameter.grad is None for parameter in state.parameters.values()), "gradients leave the device"


def test_a_bad_gradient_changes_nothing() -> None:
    backend = TorchBackend(tiny_recipe(OFFLOAD), VOCAB)
    state = backend.init()
    before = {name: tensor.clone() for name, tensor in state.model.named_parameters()}
    next(iter(state.parameters.values())).register_hook(lambda gradient: gradient * float("nan"))
    state, metrics = backend.step(state, tiny_batch(backend.recipe), 0)
    assert bool(metrics["skipped"])
    assert all(torch.equal(before[name], tensor) for name, tensor in state.model.named_parameters())


class OnCard(torch.nn.Parameter):
    """A parameter that says it lies on the second card."""

    device = torch.device("cuda:1")  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]


def test_the_card_that_is_waited_for_is_that_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr(offload, "synchronize", waited.append)
    offload.send_gradients({"w": OnCard(torch.ones(2))}, {"w": torch.nn.Parameter(torch.ones(2))})
    assert waited == ["cuda:1"]


def test_switches_that_would_be_ignored_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = Windows(random_stream(200), 6)
    recipe = tiny_recipe({**OFFLOAD, "execution.device": "auto", "execution.micro_batch_size": 2})
    with pytest.raises(DeviceError, match=r"frees the memory of a CUDA card, .* on cpu: leave it out"):
        resolve(recipe, VOCAB, windows, None, lambda text: None)
    monkeypatch.setattr(hardware, "choose_device", lambda name: "cuda")
    monkeypatch.setattr(hardware, "precisions_of", lambda device: ["float32", "tf32", "bf16", "fp16"])
    assert resolve(recipe, VOCAB, windows, None, lambda text: None).execution.optimizer_offload
    with pytest.raises(RecipeError, match="recomputes the blocks of a GPT, and a recurrent network has none"):
        recipe_from(
            {
                "corpus": "c",
                "model": {"architecture": "rnn"},
                "training": {"steps": 1},
                "execution": {"activation_checkpointing": True},
            },
            where="recipe",
        )
