"""The processes of one run, as torchrun starts them: who is who, and how they agree.

All do the same with their share of each batch. The first one alone writes the run's folder and tells what happens;
what may fail there is done by `World.by_first`, so that all go on together or give up together.
"""

import atexit
import os
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore

from scratchlab.errors import LostError, ScratchlabError, Terminated
from scratchlab.evaluation.processes import gathered
from scratchlab.training.signals import StopRequest

PATIENCE = timedelta(minutes=30)
"""How long one process may keep the others waiting: a large checkpoint on a slow disk. One that is lost is noticed by
its closed connection, or by torchrun, not by this."""

START = "scratchlab/start"
LOOK_SECONDS = 0.05

T = TypeVar("T")

_GROUPS: list[distributed.ProcessGroup] = []
"""Every group of this process, to its end.

A group that goes waits for gloo's threads, and those for Python's lock if they hold the last tensor sent. Python's own
reference gives the lock up first; DDP's does not, and may be the last one, in the traceback of what ended the run: then
they wait for one another for ever (seen in a fifth of the runs stopped on a busy machine).
"""
atexit.register(_GROUPS.clear)


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run, as one of them sees them. One process unless torchrun started it."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among the processes of this machine."""
    local_size: int = 1
    started: bool = False
    """Whether torchrun started this process, be it the only one."""

    @classmethod
    def here(cls) -> "World":
        """What torchrun's environment says."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if not all(name in os.environ for name in names):
            return cls()
        return cls(*(int(os.environ[name]) for name in names), started=True)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device of this process, where the recipe's is `name`: each has a CUDA device of its own."""
        return f"cuda:{self.local_rank}" if name == "cuda" and self.size > 1 else name

    def by_first(self, work: Callable[[], T]) -> T:
        """What `work` gives the first process, which alone does it. What it raises, all raise; the first tells it."""
        if self.size == 1:
            return work()
        told: list[Any] = [None, None]
        if self.first:
            told = list(_attempted(work))
        distributed.broadcast_object_list(told)
        result, error = told
        if error is not None:
            raise _hushed(error, not self.first)
        return result

    def agreed(self, work: Callable[[], T]) -> T:
        """What `work` gives this process. If it fails in one, all give up; the first that failed tells it."""
        if self.size == 1:
            return work()
        result, own = _attempted(work)
        failures = [(rank, error) for rank, error in enumerate(gathered([own])) if error is not None]
        if failures:
            rank, error = failures[0]
            raise _hushed(own or error, self.rank != rank)
        return result  # pyright: ignore[reportReturnType]  # it did not fail

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes, in place. On CUDA nobody waits for it but what computes with it."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value


ALONE = World()
"""One process, which nobody started with others."""


def _attempted(work: Callable[[], T]) -> tuple[T | None, ScratchlabError | None]:
    try:
        return work(), None
    except ScratchlabError as error:
        return None, error


def _hushed(error: ScratchlabError, told: bool) -> ScratchlabError:
    error.told = told
    return error


@contextmanager
def joined(world: World, meeting: str = "env://") -> Generator[None]:
    """Inside, the processes can compute together; nothing is done where there is one, or where they can already.

    CUDA tensors go by NCCL, all else by gloo. `LostError` if another process is lost meanwhile. `meeting` is where they
    find one another (`init_method` of torch.distributed).
    """
    with _loss_told(world):
        if world.size == 1 or distributed.is_initialized():
            yield
            return
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and distributed.is_nccl_available() else "gloo"
        where: dict[str, Any] = {"init_method": meeting}
        if meeting == "env://" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            where = {"store": _agreed_store(world)}
        distributed.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=PATIENCE, **where)
        _GROUPS.append(distributed.distributed_c10d._get_default_group())  # pyright: ignore[reportPrivateUsage]
        try:
            yield
        finally:
            distributed.destroy_process_group()


def _agreed_store(world: World) -> PrefixStore:
    """torchrun's store, under a name that all processes of this start, and of no other, agree on.

    PyTorch takes the number of restarts for that name, and agents of several machines need not have the same: one that
    was told of the loss on another machine has restarted nothing by its own count, and all wait for one another for
    ever. So the first process makes up a name. A process that reads it asks to be let in, with a number of its own;
    only the first process of this very start repeats that number, so a name that an earlier start left lets nobody in.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = distributed.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
        address, port, is_master=False, timeout=PATIENCE, wait_for_workers=False
    )
    own = uuid.uuid4().hex
    if world.first:
        store.set(START, own)
        for rank in range(1, world.size):
            store.set(f"{own}/{rank} is let in", store.get(f"{own}/{rank} asks").decode())
        return PrefixStore(own, store)
    while True:
        name = store.get(START).decode()
        answer = f"{name}/{world.rank} is let in"
        store.set(f"{name}/{world.rank} asks", own)
        while store.get(START).decode() == name:
            if store.check([answer]) and store.get(answer).decode() == own:
                return PrefixStore(name, store)
            time.sleep(LOOK_SECONDS)


@contextmanager
def _loss_told(world: World) -> Generator[None]:
    try:
        yield
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        raise _hushed(LostError(LOST), not world.first) from error
    except Terminated as error:  # which all come to by themselves
        error.told = not world.first
        raise


LOST = (
    "Another process of this run was lost. Under torchrun --max-restarts=3 all of them now begin again, from the last "
    "checkpoint; otherwise scratchlab train --resume goes on from there."
)


def _is_loss(error: RuntimeError) -> bool:
    """Whether it says that another process no longer answers: gloo does so in words alone."""
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


@dataclass
class CommonStop:
    """A request to stop that all processes hear at the same step, whichever of them was asked.

    At each step they tell one another, and read what was told at the step before: nobody waits for an answer. It goes
    by the CPU, so that the device is not waited for either.
    """

    stop: StopRequest
    world: World
    _told: tuple[Tensor, Any] | None = field(default=None, init=False)

    def heard(self) -> bool:
        """Whether to stop now. All processes ask at every step."""
        if self.world.size == 1:
            return self.stop.requested
        before, asked = self._told, torch.tensor(int(self.stop.requested))
        self._told = asked, distributed.all_reduce(asked, distributed.ReduceOp.MAX, async_op=True)
        if before is None:
            return False
        answer, under_way = before
        under_way.wait()
        return bool(answer)
