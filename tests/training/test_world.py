"""How the processes of a run part."""

import os
import sys
import time
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from crew import together
from scratchlab.training.world import World


class Outliving:
    """Goes when it is handed over, which `together` does when the processes have parted."""

    def __init__(self, copies: DistributedDataParallel) -> None:
        self.copies = copies

    def __reduce__(self) -> Any:
        del self.copies
        return str, ("parted",)


def parting(world: World) -> Outliving:
    """Gloo's thread is kept from letting go of what it sent: on one core Python's lock never comes free for it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    copies, sent = DistributedDataParallel(nn.Linear(2, 2)), torch.zeros(1)
    sys.setswitchinterval(1000.0)
    distributed.all_reduce(sent, async_op=True)
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end:
        pass
    return Outliving(copies)


def test_what_outlives_the_group_lets_its_process_go_on() -> None:
    """It hung: DDP freed the group with Python's lock held, and gloo's thread waited for the lock."""
    assert together(2, parting) == ["parted", "parted"]
