"""Several processes that evaluate together: which part of the work is whose, and what all of them found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from torch import distributed

Floats = npt.NDArray[np.float64]
Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Share:
    """Of pieces of work numbered from 0, those that are `rank` modulo `count`."""

    rank: int
    count: int


def own_share() -> Share:
    """This process's share; all of the work where there is one process."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return Share(0, 1)
    return Share(distributed.get_rank(), distributed.get_world_size())


def gathered(parts: Sequence[Part]) -> list[Part]:
    """The parts of all processes, those of the first one first. All must call this."""
    count = own_share().count
    if count == 1:
        return list(parts)
    of_all: list[list[Part]] = [[] for _ in range(count)]
    distributed.all_gather_object(of_all, list(parts))
    return [part for own in of_all for part in own]


def summed(values: Floats) -> Floats:
    """The sum over all processes, each of which must call this, with as many values."""
    return np.sum(gathered([values]), axis=0)
