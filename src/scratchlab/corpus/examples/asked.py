"""What a corpus of instructions asks, and the answers it has: prompts and responses as tokens."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.shards import Split

Ids = npt.NDArray[np.int64]


class Asked(NamedTuple):
    """An example's last question."""

    id: str
    """What the example is called where it came from."""
    prompt: Ids
    """All that comes before the last response."""
    response: Ids
    """With the token that ends its turn."""


def read_asked(split: Split, number: int) -> Asked:
    """What example `number` of a split of instructions asks last."""
    assert split.marks is not None
    start, stop = split.document_starts[number : number + 2].tolist()
    ids, marks = split.read(start, stop).astype(np.int64), split.marks[start:stop]
    end = int(np.flatnonzero(marks)[-1]) + 1
    read = np.flatnonzero(marks[:end] == 0)
    begin = int(read[-1]) + 1 if len(read) else 1  # something must be read before the first token is written
    return Asked(split.ids[number], ids[:begin], ids[begin:end])
