"""A step on several processes, with a copy of the weights in each (DDP) or a part (FSDP2): the arithmetic of one.

Processes are dear, so each crew does all that is asked of its size, in both modes, once; the tests look at what came
of it.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed
from torch.utils._python_dispatch import TorchDispatchMode

from crew import together
from scratchlab.corpus.loader import Loader
from scratchlab.corpus.windows import Batch, Windows
from scratchlab.recipe import Recipe
from scratchlab.training import parallel
from scratchlab.training.optimizers import MOMENTS
from scratchlab.training.step import TorchBackend
from scratchlab.training.world import ALONE, World
from tiny import VOCAB, distance, random_stream, tiny_recipe

STEPS, CUT = 50, 44
Kept = dict[str, Tensor]
Begin = tuple[Kept, dict[str, Any]]
"""What a checkpoint holds."""

TOLERANCE = 1e-6
"""Of losses and gradient norms over 50 steps in float32, relative (measured: 3e-7); docs/many-gpus.md states it."""


def recipe_of(shard: bool = False, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Rows of a batch that 4 processes cannot share evenly, one at a time."""
    base = {"training.global_batch_size": 6, "execution.micro_batch_size": 1, "execution.shard": shard}
    return tiny_recipe({"training.steps": STEPS, **base, **(changes or {})})


def loader_of(recipe: Recipe, world: World) -> Loader:
    rows = recipe.training.global_batch_size
    windows = Windows(random_stream(400), recipe.model.context_length, rows if recipe.model.remembers else None)
    return Loader(windows, rows, recipe.seeds.data, rank=world.rank, ranks=world.size)


Metrics = list[dict[str, float]]


def trained(
    world: World, recipe: Recipe, steps: Iterable[int], begin: Begin | None = None, cut: int | None = None
) -> tuple[Metrics, Begin, Begin | None]:
    """The metrics of some steps, what a checkpoint would hold after them, and before the step `cut`."""
    backend, loader = TorchBackend(recipe, VOCAB, world=world), loader_of(recipe, world)
    state, metrics, kept = backend.restore(*begin) if begin else backend.init(), [], None
    for step in steps:
        if step == cut:
            kept = checkpoint(backend, state)
        state, values = backend.step(state, backend.send(loader.batch(step)), step)
        metrics.append({name: float(value) for name, value in values.items()})
    return metrics, checkpoint(backend, state), kept


def checkpoint(backend: TorchBackend, state: Any) -> Begin:
    return {name: tensor.clone() for name, tensor in backend.tensors(state).items()}, backend.extras(state)


def farthest(a: Kept, b: Kept) -> float:
    """How far weights are apart. The bias of keys has no say in a softmax: what Adam makes of its gradient is noise."""
    assert a.keys() == b.keys()
    return max(distance(a[name], b[name]) for name in b if not name.endswith((*MOMENTS, "qkv.bias")))


def near(ours: Metrics, theirs: Metrics, tolerance: float = TOLERANCE) -> bool:
    return len(ours) == len(theirs) and all(
        a == pytest.approx(b, rel=tolerance) for a, b in zip(ours, theirs, strict=True)
    )


# What a crew does.

FEW = {"training.global_batch_size": 3}
RMSPROP = {"training.optimizer": "rmsprop", "training.weight_decay": 0.0}
FP16 = {"training.precision": "fp16", "training.clip_value": 1.0}


def all_of_it(world: World, shard: bool) -> dict[str, Any]:
    curve, end, kept = trained(world, recipe_of(shard), range(STEPS), cut=CUT)
    told: list[Any] = [kept]
    distributed.broadcast_object_list(told)
    few, few_end, _ = trained(world, recipe_of(shard, FEW), range(5))
    return {
        "curve": curve,
        "end": end,
        "resumed": trained(world, recipe_of(shard), range(CUT, STEPS), told[0])[:2],
        "rows": taken(world, recipe_of(shard, {"execution.micro_batch_size": 2}), 9),
        "few": (few, few_end),
        "weighted": weighted_step(world, recipe_of(shard)),
        "sums": [counted(world, recipe_of(shard, {"execution.micro_batch_size": micro}), 3) for micro in (1, 3)],
        "skipped": [poisoned(world, recipe_of(shard, changes)) for changes in ({}, FP16)],
        "rmsprop": trained(world, recipe_of(shard, RMSPROP), range(4))[:2],
    }


def taken(world: World, recipe: Recipe, steps: int) -> list[list[list[int]]]:
    """The rows that a process puts through its model, without those that are blank."""
    backend, loader = TorchBackend(recipe, VOCAB, world=world), loader_of(recipe, world)
    sent = [backend.send(loader.batch(step)) for step in range(steps)]
    return [[row for micro in b.micro_batches if not micro.blank for row in micro.tokens.tolist()] for b in sent]


def weighted_step(world: World, recipe: Recipe) -> tuple[float, float]:
    """Loss and gradient norm of a batch whose rows differ in how many targets count."""
    backend, batch = TorchBackend(recipe, VOCAB, world=world), loader_of(recipe, world).batch(0)
    number = batch.first_sequence + np.arange(len(batch.tokens))[:, None]
    weights = (np.arange(batch.tokens.shape[1]) <= number).astype(np.float32)
    batch = Batch(batch.tokens, batch.targets, weights, batch.first_sequence)
    _, metrics = backend.step(backend.init(), batch, 0)
    return float(metrics["loss"]), float(metrics["gradient_norm"])


class Watch(TorchDispatchMode):
    """Counts what FSDP2 sums gradients by."""

    scatters = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.scatters += "reduce_scatter" in str(func)
        return func(*args, **(kwargs or {}))


def counted(world: World, recipe: Recipe, steps: int) -> list[int]:
    """How often gradients were summed in each step."""
    sums, summing, of_steps = [0], parallel.sum_gradients, list[int]()

    def counting(state: None, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
        sums[0] += 1
        return summing(state, bucket)

    parallel.sum_gradients = counting
    backend, loader = TorchBackend(recipe, VOCAB, world=world), loader_of(recipe, world)
    state = backend.init()
    for step in range(steps):
        sums[0] = 0
        with Watch() as watch:
            state, _ = backend.step(state, backend.send(loader.batch(step)), step)
        of_steps.append(sums[0] + watch.scatters)
    parallel.sum_gradients = summing
    return of_steps


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


# What came of it.


def both_modes(world: World) -> dict[bool, dict[str, Any]]:
    return {shard: all_of_it(world, shard) for shard in (False, True)}


@functools.cache
def both(size: int) -> list[dict[bool, dict[str, Any]]]:
    return together(size, both_modes)


def crew(size: int, shard: bool) -> list[dict[str, Any]]:
    """What each process of a crew reports."""
    return [reports[shard] for reports in both(size)]


@functools.cache
def alone() -> tuple[Metrics, Begin]:
    return trained(ALONE, recipe_of(), range(STEPS))[:2]


CREWS = pytest.mark.parametrize(("size", "shard"), [(2, False), (2, True), (4, False), (4, True)])


@CREWS
def test_the_curve_is_that_of_one_process(size: int, shard: bool) -> None:
    expected, (weights, _) = alone()
    first, *others = crew(size, shard)
    assert near(first["curve"], expected)
    assert farthest(first["end"][0], weights) < 1e-5
    assert all(other["curve"] == first["curve"] for other in others), "every process knows the global figures"
    assert all(other["end"][0] == {} for other in others), "the first one alone keeps the weights"


@CREWS
def test_as_many_processes_go_on_to_the_same_bits(size: int, shard: bool) -> None:
    first = crew(size, shard)[0]
    metrics, (kept, extras) = first["resumed"]
    assert metrics == first["curve"][CUT:]
    assert extras == first["end"][1]
    assert all(torch.equal(kept[name], tensor) for name, tensor in first["end"][0].items())


@CREWS
def test_the_data_are_those_of_one_process(size: int, shard: bool) -> None:
    whole = taken(ALONE, recipe_of(), 9)
    shares = [report["rows"] for report in crew(size, shard)]
    assert [[row for share in shares for row in share[step]] for step in range(9)] == whole


@CREWS
def test_a_process_may_have_no_rows(size: int, shard: bool) -> None:
    expected, (weights, _), _ = trained(ALONE, recipe_of(changes=FEW), range(5))
    metrics, (kept, _) = crew(size, shard)[0]["few"]
    assert near(metrics, expected)
    assert farthest(kept, weights) < 1e-5


@CREWS
def test_the_mean_is_over_the_targets_of_all_processes(size: int, shard: bool) -> None:
    """Not a mean of the means of processes."""
    expected = weighted_step(ALONE, recipe_of())
    for report in crew(size, shard):
        assert report["weighted"] == pytest.approx(expected, rel=TOLERANCE)


@CREWS
def test_gradients_are_summed_once_a_step_whatever_the_micro_batches(size: int, shard: bool) -> None:
    """By DDP's communication hook, which has one bucket for so small a model; by FSDP2 in as many parts as it has."""
    pieces = recipe_of().model.n_layer + 1 if shard else 1
    for report in crew(size, shard):
        assert report["sums"] == [[pieces] * 3] * 2


@CREWS
def test_what_one_process_cannot_use_all_skip(size: int, shard: bool) -> None:
    for report in crew(size, shard):
        for (skipped, extras, same), scale in zip(report["skipped"], (1.0, 2.0**15), strict=True):
            assert skipped == [False, True, False]
            assert same, "weights stay as they are"
            assert extras["loss_scale"] == scale


@CREWS
def test_rmsprop_is_that_of_one_process(size: int, shard: bool) -> None:
    expected, (weights, _), _ = trained(ALONE, recipe_of(changes=RMSPROP), range(4))
    metrics, (kept, _) = crew(size, shard)[0]["rmsprop"]
    assert near(metrics, expected, 1e-5)
    assert farthest(kept, weights) < 1e-4


# From one number of processes to another.


def test_from_one_process_to_many_and_back_in_either_mode() -> None:
    """1, 4 with copies, 2 with parts, 4 with parts, 2 with copies, 1."""
    expected, (weights, _), _ = trained(ALONE, recipe_of(), range(12))
    metrics, begin, _ = trained(ALONE, recipe_of(), range(2))
    places = [(4, False), (2, True), (4, True), (2, False)]
    for number, (size, shard) in enumerate(places, start=1):
        steps = range(2 * number, 2 * number + 2)
        more, begin, _ = together(size, trained, recipe_of(shard), steps, begin)[0]
        metrics += more
    more, (kept, _), _ = trained(ALONE, recipe_of(), range(10, 12), begin)
    assert near(metrics + more, expected)
    assert farthest(kept, weights) < 1e-5


def test_a_network_that_remembers_is_shared_by_rows() -> None:
    """Each process carries what its rows remember; a checkpoint has them all, and others share them anew."""
    model = {"architecture": "rnn", "cell": "lstm", "d_model": 8, "n_layer": 2, "context_length": 6}
    recipe = recipe_of(changes={"training.order": "streams", "execution.micro_batch_size": 2})
    recipe = Recipe.model_validate(recipe.model_dump() | {"model": model})
    expected, (kept, _), _ = trained(ALONE, recipe, range(9))
    assert kept["carried.0"].shape == (2, 6, 8)
    metrics, begin, _ = together(4, trained, recipe, range(5))[0]
    assert begin[0]["carried.1"].shape == (2, 6, 8)
    more, (again, _), _ = together(2, trained, recipe, range(5, 9), begin)[0]
    assert near(metrics + more, expected, 1e-5)
    assert farthest(again, kept) < 1e-4
    fewer = recipe.replaced({"training.global_batch_size": 3})
    assert near(together(4, trained, fewer, range(3))[0][0], trained(ALONE, fewer, range(3))[0], 1e-5)
