"""A step on several processes, with a copy of the weights in each (DDP) or a part (FSDP2): the arithmetic of one."""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributed.tensor.debug import CommDebugMode

from crew import together
from scratchlab.corpus.loader import Loader
from scratchlab.corpus.windows import Batch, Windows
from scratchlab.recipe import Recipe
from scratchlab.training import parallel
from scratchlab.training.optimizers import MOMENTS
from scratchlab.training.step import TorchBackend
from scratchlab.training.world import ALONE, World
from tiny import VOCAB, distance, random_stream, tiny_recipe

SIZES = (2, 4)
MODES = pytest.mark.parametrize("shard", [False, True], ids=["ddp", "fsdp2"])
Kept = dict[str, Tensor]


def recipe_of(shard: bool, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Rows of a batch that 4 processes cannot share evenly, one at a time."""
    base = {"training.global_batch_size": 6, "execution.micro_batch_size": 1, "execution.shard": shard}
    return tiny_recipe({"training.steps": 50, **base, **(changes or {})})


def loader_of(recipe: Recipe, world: World) -> Loader:
    rows = recipe.training.global_batch_size
    windows = Windows(random_stream(400), recipe.model.context_length, rows if recipe.model.remembers else None)
    return Loader(windows, rows, recipe.seeds.data, rank=world.rank, ranks=world.size)


def trained(
    world: World, recipe: Recipe, steps: Iterable[int], begin: tuple[Kept, dict[str, Any]] | None = None
) -> tuple[list[dict[str, float]], Kept, dict[str, Any]]:
    """The metrics of some steps, and what a checkpoint would hold after them."""
    backend, loader = TorchBackend(recipe, VOCAB, world=world), loader_of(recipe, world)
    state, metrics = backend.restore(*begin) if begin else backend.init(), []
    for step in steps:
        state, values = backend.step(state, backend.send(loader.batch(step)), step)
        metrics.append({name: float(value) for name, value in values.items()})
    tensors = {name: tensor.clone() for name, tensor in backend.tensors(state).items()}
    return metrics, tensors, backend.extras(state)


def farthest(a: Kept, b: Kept) -> float:
    assert a.keys() == b.keys()
    return max(distance(a[name], b[name]) for name in a)


def farthest_weights(a: Kept, b: Kept) -> float:
    return max(distance(a[name], b[name]) for name in b if not name.endswith(MOMENTS))


# Curves.


@MODES
@pytest.mark.parametrize("size", SIZES)
def test_the_curve_is_that_of_one_process(size: int, shard: bool) -> None:
    """50 steps in float32: docs/many-gpus.md states the tolerance."""
    recipe = recipe_of(shard)
    expected, weights, _ = trained(ALONE, recipe, range(50))
    (metrics, kept, _), *others = together(size, trained, recipe, range(50))
    assert all(other == metrics for other, _, _ in others), "every process knows the global figures"
    assert all(tensors == {} for _, tensors, _ in others), "and the first one alone keeps the weights"
    for ours, theirs in zip(metrics, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert farthest_weights(kept, weights) < 1e-3


def taken(world: World, recipe: Recipe, steps: int) -> list[list[list[int]]]:
    """The rows that a process puts through its model, micro-batch by micro-batch, without those that are blank."""
    backend, loader = TorchBackend(recipe, VOCAB, world=world), loader_of(recipe, world)
    sent = [backend.send(loader.batch(step)) for step in range(steps)]
    assert len({len(batch.micro_batches) for batch in sent}) == 1
    return [[row for micro in b.micro_batches if not micro.blank for row in micro.tokens.tolist()] for b in sent]


@pytest.mark.parametrize("size", SIZES)
def test_the_data_are_those_of_one_process(size: int) -> None:
    recipe = recipe_of(False, {"execution.micro_batch_size": 2})
    alone, shares = taken(ALONE, recipe, 9), together(size, taken, recipe, 9)
    assert [sum((share[step] for share in shares), []) for step in range(9)] == alone


@MODES
def test_more_processes_than_rows(shard: bool) -> None:
    recipe = recipe_of(shard, {"training.global_batch_size": 3})
    expected, weights, _ = trained(ALONE, recipe, range(5))
    metrics, kept, _ = together(4, trained, recipe, range(5))[0]
    assert [m["loss"] for m in metrics] == pytest.approx([m["loss"] for m in expected], rel=1e-5)
    assert farthest_weights(kept, weights) < 1e-4


def weighted_step(world: World, recipe: Recipe) -> tuple[float, float]:
    """Loss and gradient norm of a batch whose rows differ in how many targets count."""
    backend, batch = TorchBackend(recipe, VOCAB, world=world), loader_of(recipe, world).batch(0)
    number = batch.first_sequence + np.arange(len(batch.tokens))[:, None]
    weights = (np.arange(batch.tokens.shape[1]) <= number).astype(np.float32)
    batch = Batch(batch.tokens, batch.targets, weights, batch.first_sequence)
    _, metrics = backend.step(backend.init(), batch, 0)
    return float(metrics["loss"]), float(metrics["gradient_norm"])


@MODES
def test_the_mean_is_over_the_targets_of_all_processes(shard: bool) -> None:
    """Not a mean of the means of processes."""
    recipe = recipe_of(shard)
    expected = weighted_step(ALONE, recipe)
    for found in together(2, weighted_step, recipe):
        assert found == pytest.approx(expected, rel=1e-5)


# Synchronization.


def counted(world: World, recipe: Recipe, steps: int) -> tuple[list[int], int]:
    """How often gradients were summed in each step, and in how many pieces they are."""
    sums, summing = [0], parallel.sum_gradients

    def counting(state: None, bucket: torch.distributed.GradBucket) -> torch.futures.Future[Tensor]:
        sums[0] += 1
        return summing(state, bucket)

    parallel.sum_gradients = counting
    backend, loader = TorchBackend(recipe, VOCAB, world=world), loader_of(recipe, world)
    state, totals = backend.init(), [sums[0]]
    for step in range(steps):
        with CommDebugMode() as watched:
            state, _ = backend.step(state, backend.send(loader.batch(step)), step)
        scattered = sum(n for op, n in watched.get_comm_counts().items() if "reduce_scatter" in str(op))
        sums[0] += scattered
        totals.append(sums[0])
    pieces = len(state.model.blocks) + 1 if recipe.settled.shard else 1
    return [after - before for before, after in pairwise(totals)], pieces


@MODES
def test_gradients_are_summed_once_a_step_whatever_the_micro_batches(shard: bool) -> None:
    for micro in (1, 3):
        recipe = recipe_of(shard, {"execution.micro_batch_size": micro})
        for sums, pieces in together(2, counted, recipe, 3):
            assert sums == [pieces] * 3


# Steps that are skipped.


def poisoned(world: World, recipe: Recipe) -> tuple[list[bool], dict[str, Any], bool]:
    """Three steps, of which the second has a loss that is not finite in the last process alone."""
    backend, loader, skipped = TorchBackend(recipe, VOCAB, world=world), loader_of(recipe, world), []
    state = backend.init()
    for step in range(3):
        before = [parameter.detach().clone() for parameter in state.parameters.values()]
        batch = loader.batch(step)
        if step == 1 and world.rank == world.size - 1:
            batch.weights[:] = np.inf
        state, metrics = backend.step(state, backend.send(batch), step)
        skipped.append(bool(metrics["skipped"]))
        if step == 1:
            same = all(
                torch.equal(parallel.local(new), parallel.local(old))
                for new, old in zip(state.parameters.values(), before, strict=True)
            )
    return skipped, backend.extras(state), same


@MODES
def test_what_one_process_cannot_use_all_skip(shard: bool) -> None:
    for precision in ("float32", "fp16"):
        recipe = recipe_of(shard, {"training.precision": precision, "training.clip_value": 1.0})
        for skipped, extras, same in together(2, poisoned, recipe):
            assert skipped == [False, True, False]
            assert same
            assert extras["loss_scale"] == (1.0 if precision == "float32" else 2.0**15)


# Checkpoints.


@MODES
@pytest.mark.parametrize("size", SIZES)
def test_as_many_processes_go_on_to_the_same_bits(size: int, shard: bool) -> None:
    recipe = recipe_of(shard)
    straight, kept, _ = together(size, trained, recipe, range(6))[0]
    before, *begin = together(size, trained, recipe, range(3))[0]
    after, again, _ = together(size, trained, recipe, range(3, 6), tuple(begin))[0]
    assert before + after == straight
    assert all(torch.equal(again[name], kept[name]) for name in kept)


def test_from_one_process_to_many_and_back_in_either_mode() -> None:
    """1, 4 with copies, 2 with parts, 4 with parts, 2 with copies, 1."""
    straight, kept, _ = trained(ALONE, recipe_of(False), range(12))
    metrics, *begin = trained(ALONE, recipe_of(False), range(2))
    places = [(4, False), (2, True), (4, True), (2, False)]
    for number, (size, shard) in enumerate(places, start=1):
        steps = range(2 * number, 2 * number + 2)
        more, *begin = together(size, trained, recipe_of(shard), steps, tuple(begin))[0]
        metrics += more
    more, again, _ = trained(ALONE, recipe_of(False), range(10, 12), tuple(begin))
    for ours, theirs in zip(metrics + more, straight, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert farthest_weights(again, kept) < 1e-3
    assert again.keys() == kept.keys()


def test_rmsprop_knows_its_moments_in_either_mode() -> None:
    changes = {"training.optimizer": "rmsprop", "training.weight_decay": 0.0}
    straight, kept, _ = trained(ALONE, recipe_of(False, changes), range(4))
    for shard in (False, True):
        recipe = recipe_of(shard, changes)
        _, *begin = together(2, trained, recipe, range(2))[0]
        _, again, _ = together(2, trained, recipe, range(2, 4), tuple(begin))[0]
        assert farthest(again, kept) < 1e-3


# Networks that remember.


def test_a_network_that_remembers_is_shared_by_rows() -> None:
    """Each process carries what its rows remember; a checkpoint has them all, and others share them anew."""
    model = {"architecture": "rnn", "cell": "lstm", "d_model": 8, "n_layer": 2, "context_length": 6}
    recipe = recipe_of(False, {"training.order": "streams", "execution.micro_batch_size": 2})
    recipe = Recipe.model_validate(recipe.model_dump() | {"model": model})
    straight, kept, _ = trained(ALONE, recipe, range(9))
    assert kept["carried.0"].shape == (2, 6, 8)
    first, *begin = together(4, trained, recipe, range(5))[0]
    assert begin[0]["carried.1"].shape == (2, 6, 8)
    more, again, _ = together(2, trained, recipe, range(5, 9), tuple(begin))[0]
    assert [m["loss"] for m in first + more] == pytest.approx([m["loss"] for m in straight], rel=1e-5)
    assert farthest(again, kept) < 1e-3
    fewer = recipe.replaced({"training.global_batch_size": 3})
    assert together(4, trained, fewer, range(3))[0][0] == pytest.approx(trained(ALONE, fewer, range(3))[0], rel=1e-4)
