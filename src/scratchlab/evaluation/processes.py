"""Evaluation shared by the processes of a run: each does its part, and all know the whole."""

from collections.abc import Sequence
from typing import TypeVar

import torch.distributed

Part = TypeVar("Part")


def place_among() -> tuple[int, int]:
    """Which process this is, from 0, and how many there are; (0, 1) where there is one."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def gathered(parts: Sequence[Part]) -> list[Part]:
    """The parts of all processes, those of the first one first. All have to call it."""
    _, count = place_among()
    if count == 1:
        return list(parts)
    all_parts: list[list[Part]] = [[] for _ in range(count)]
    torch.distributed.all_gather_object(all_parts, list(parts))
    return [part for parts in all_parts for part in parts]
