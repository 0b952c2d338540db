"""One model on several processes: a copy in each (DDP), or a part in each (FSDP2).

How is chosen once, when a backend is built. Gradients are summed, not averaged, for each process divides by the weight
of the whole batch already; and they are summed once a step, with those of its last micro-batch.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel

from scratchlab.model.build import Model
from scratchlab.model.gpt import GPT
from scratchlab.model.loss import Objective
from scratchlab.model.preferences import Preferences
from scratchlab.training.world import World

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

Learned = Objective | Preferences


@dataclass(frozen=True, slots=True)
class Spread:
    """How a model is spread over the processes of a run."""

    shard: Callable[[Model, str, bool], None]
    """(model without values, device, whether to compile): each process keeps its part of every parameter."""
    wrap: Callable[[Learned, bool], Any]
    """(objective of the model with its values, whether to compile): what a micro-batch goes through."""
    passing: Callable[[Any, bool], AbstractContextManager[Any]]
    """(what was wrapped, whether it is the last micro-batch of a step): around its forward and backward pass."""


def spread_of(world: World, shard: bool) -> Spread:
    """The way to go for so many processes."""
    if world.size == 1:
        return PLAIN
    return SHARDED if shard else REPLICATED


# One process.


def _compiled(objective: Learned, compile: bool) -> Learned:
    if compile:
        objective.compile(dynamic=False)
    return objective


PLAIN = Spread(shard=lambda model, device, compile: None, wrap=_compiled, passing=lambda objective, last: nullcontext())


# A copy in each: DDP.


def _replicated(objective: Learned, compile: bool) -> DistributedDataParallel:
    replicas = DistributedDataParallel(_compiled(objective, compile), gradient_as_bucket_view=True)
    replicas.register_comm_hook(None, sum_gradients)
    return replicas


def sum_gradients(
    state: None,
    bucket: distributed.GradBucket,  # pyright: ignore[reportPrivateImportUsage]
) -> torch.futures.Future[Tensor]:
    """DDP's communication hook: the sum over all processes, where it would take the mean by itself."""
    summing = distributed.all_reduce(bucket.buffer(), async_op=True)
    assert summing is not None
    return summing.get_future().then(lambda done: done.value()[0])


REPLICATED = Spread(
    shard=PLAIN.shard,
    wrap=_replicated,
    passing=lambda replicas, last: nullcontext() if last else replicas.no_sync(),
)


# A part in each: FSDP2.


def _shard(model: Model, device: str, compile: bool) -> None:
    """Each block by itself, so that one at a time is whole; what is left with the model. All of it in float32."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method  # a second, which few runs need

    assert isinstance(model, GPT), "resolving a recipe refuses to shard a recurrent network"
    mesh = init_device_mesh(torch.device(device).type, (distributed.get_world_size(),))
    for block in model.blocks:
        if compile:
            block.compile(dynamic=False)
    for part in (*model.blocks, model):  # what is left with the model stays whole, for the loss reads the head's weight
        sharded = fully_shard(part, mesh=mesh, reshard_after_forward=part is not model)
        sharded.set_gradient_divide_factor(1.0)  # a sum, of this part: of those inside it says nothing
        sharded.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(model, "hidden")  # what the objective calls of a model


def _passing_shards(objective: Learned, last: bool) -> AbstractContextManager[None]:
    objective.model.set_requires_gradient_sync(last)
    return nullcontext()


SHARDED = Spread(shard=_shard, wrap=lambda objective, compile: objective, passing=_passing_shards)


# Parts and wholes.


def _is_part(tensor: Tensor) -> TypeGuard["DTensor"]:
    """Whether this process has a part of it alone. Asked this way, importing DTensor is spared to all other runs."""
    return hasattr(tensor, "full_tensor")


def fill(own: Tensor, full: Tensor) -> None:
    """Copy `full` into `own`: all of it, or the rows that this process has."""
    if _is_part(own):
        parts, mesh = full.chunk(own.device_mesh.size()), own.device_mesh
        rank = mesh.get_local_rank()
        own.to_local().copy_(parts[rank] if rank < len(parts) else full[:0])
    else:
        own.copy_(full)


def in_full(tensor: Tensor) -> Tensor:
    """The whole of a tensor of which this process may have a part; all processes must ask."""
    return tensor.full_tensor() if _is_part(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """What this process has of it, to be changed in place."""
    return tensor.to_local() if _is_part(tensor) else tensor


def whole_model(model: Model, empty: Callable[[], Model]) -> Model:
    """The model with all its weights in this process: itself, or a copy of it (made of `empty`) where it has parts.

    For what goes forward only: with no gradients and moments the whole has room, and each process is free to score as
    many batches as are its share. All processes must ask.
    """
    parameters = dict(model.named_parameters())
    if not any(_is_part(parameter) for parameter in parameters.values()):
        return model
    copy = empty()
    copy.load_state_dict({name: in_full(p.detach()) for name, p in parameters.items()}, assign=True)
    return copy.requires_grad_(False)
