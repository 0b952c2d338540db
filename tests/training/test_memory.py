"""Memory by part against the tensors of a real step."""

from typing import Any

import pytest
import torch
from torch import Tensor

from crew import together
from meter import Meter, PatientMeter
from scratchlab.training.memory import divisors, largest_micro_batch, memory_of, with_evaluation
from scratchlab.training.step import TorchBackend
from scratchlab.training.world import World
from tiny import VOCAB, tiny_batch, tiny_recipe

WIDE = {"model.d_model": 64, "model.context_length": 32, "training.global_batch_size": 8}


def bytes_of(tensors: list[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize(
    "changes",
    [
        {"execution.micro_batch_size": 8},
        {"execution.micro_batch_size": 2},
        {"execution.micro_batch_size": 2, "training.precision": "bf16"},
        {"execution.micro_batch_size": 8, "model.n_layer": 6, "model.dropout": 0.1},
        {"execution.micro_batch_size": 1, "training.optimizer": "rmsprop", "training.weight_decay": 0.0},
    ],
    ids=["whole", "in parts", "bf16", "deep", "rmsprop"],
)
def test_each_part_is_that_of_a_real_step(changes: dict[str, Any]) -> None:
    recipe = tiny_recipe(WIDE | changes)
    backend = TorchBackend(recipe, VOCAB)
    state = backend.init()
    for step in range(2):  # the first makes the moments
        backend.step(state, tiny_batch(recipe, step), step)
    weights = list(state.model.parameters())
    moments = [part for kept in state.optimizer.state.values() for part in kept.values() if part.dim()]
    memory = memory_of(recipe, VOCAB, process=10)
    assert memory.weights == bytes_of([weight.data for weight in weights])
    assert memory.optimizer == bytes_of(moments)
    assert memory.gradients <= bytes_of([weight.grad for weight in weights if weight.grad is not None])
    state.optimizer.zero_grad(set_to_none=True)
    with Meter([*weights, *moments]) as meter:
        backend.step(state, tiny_batch(recipe, 2), 2)
    whole = meter.peak + memory.weights + memory.optimizer
    assert memory.total - 10 == pytest.approx(whole, rel=0.06)


def test_a_micro_batch_divides_the_batch_and_fits_and_none_may() -> None:
    recipe = tiny_recipe(WIDE | {"training.global_batch_size": 12, "execution.micro_batch_size": 12})
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
    assert divisors(1) == [1]
    for size in divisors(12):
        room = memory_of(recipe.replaced({"execution.micro_batch_size": size}), VOCAB).total
        assert largest_micro_batch(recipe, VOCAB, room, tokens=0) == size
    smallest = memory_of(recipe.replaced({"execution.micro_batch_size": 1}), VOCAB).total
    assert largest_micro_batch(recipe, VOCAB, smallest - 1, tokens=0) is None


def test_what_an_evaluation_takes_has_to_fit_too() -> None:
    recipe = tiny_recipe(WIDE | {"execution.micro_batch_size": 1})
    whole = with_evaluation(memory_of(recipe, VOCAB), recipe, VOCAB)
    assert whole.evaluation > 0
    assert largest_micro_batch(recipe, VOCAB, whole.total - 1) is None
    assert largest_micro_batch(recipe, VOCAB, whole.total) is not None


SPREAD = {"model.d_model": 64, "model.n_layer": 4, "training.global_batch_size": 8, "execution.processes": 2}
MODES: list[dict[str, Any]] = [
    {"execution.shard": shard, "execution.micro_batch_size": size} for shard in (None, True) for size in (4, 1)
]


def metered(world: World) -> list[tuple[int, int]]:
    """For each mode the peak of a real step, and what is there when all weights are gathered to evaluate."""
    found: list[tuple[int, int]] = []
    for mode in MODES:
        recipe = tiny_recipe(SPREAD | mode)
        backend = TorchBackend(recipe, VOCAB, None, world)
        state, batches = backend.init(), [next(tiny_batch(recipe, step).split(4)) for step in range(3)]
        for step in range(2):  # the first makes the moments, the second lays DDP's buckets out anew
            backend.step(state, batches[step], step)
        weights = list(state.model.parameters())
        moments = [part for kept in state.optimizer.state.values() for part in kept.values()]
        with PatientMeter(
            [*weights, *moments, *(weight.grad for weight in weights if weight.grad is not None)]
        ) as meter:
            backend.step(state, batches[2], 2)
            step, model = meter.peak, backend.model(state)
            found.append((step, meter.look()))
            del model
    return found


def test_copies_and_parts_of_several_processes_are_those_of_real_steps() -> None:
    """With buckets of DDP, gradients that wait for the last micro-batch, and what FSDP2 has whole."""
    for mode, (step, evaluation) in zip(MODES, together(2, metered)[0], strict=True):
        recipe = tiny_recipe(SPREAD | mode)
        memory = memory_of(recipe, VOCAB)
        assert memory.total == pytest.approx(step, rel=0.06), mode
        assert with_evaluation(memory, recipe, VOCAB, 0).total == pytest.approx(max(step, evaluation), rel=0.06), mode


def test_half_the_bytes_take_less() -> None:
    whole = memory_of(tiny_recipe(WIDE), VOCAB)
    half = memory_of(tiny_recipe(WIDE | {"training.precision": "bf16"}), VOCAB)
    assert half.activations < whole.activations
    assert half.weights == whole.weights
    assert torch.float32.itemsize * 2 * whole.weights // 4 == whole.optimizer


def test_moments_that_are_elsewhere_take_nothing_here() -> None:
    memory = memory_of(tiny_recipe(WIDE), VOCAB)
    offloaded = memory_of(tiny_recipe(WIDE | {"execution.optimizer_offload": True}), VOCAB)
    assert memory.total - offloaded.total == memory.optimizer > 0


def test_recomputed_activations_take_less() -> None:
    deep = WIDE | {"model.n_layer": 8, "execution.micro_batch_size": 8}
    again = memory_of(tiny_recipe(deep | {"execution.activation_checkpointing": True}), VOCAB)
    assert again.activations < memory_of(tiny_recipe(deep), VOCAB).activations / 2
