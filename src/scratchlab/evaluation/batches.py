"""Questions in batches: of like length, so that little is padding, and no larger than what can be held at once."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

TOKENS_AT_ONCE = {"cpu": 2_048, "other": 16_384}
"""Of a batch, padding included, by device: enough for full speed, few enough for the memory of a laptop. What a CPU
computes of more no longer stays in its cache (measured, 6 layers of 384: 9,000 take 1.5 times as long as 2,000).
"""


def tokens_at_once(device: str) -> int:
    """By the device's name: "cpu", "cuda", "cuda:1" and the like."""
    return TOKENS_AT_ONCE.get(device.partition(":")[0], TOKENS_AT_ONCE["other"])


class Asked(Protocol):
    """A question's tokens; see scorer.Question."""

    @property
    def prefix(self) -> npt.NDArray[np.int64]: ...
    @property
    def continuations(self) -> tuple[npt.NDArray[np.int64], ...]: ...


def width(question: Asked) -> int:
    """Tokens that a model sees at most at once of a question: all but the last of the longest continuation."""
    return len(question.prefix) + max(map(len, question.continuations)) - 1


def in_batches(questions: Sequence[Asked], most: int | None, device: str) -> Iterator[list[int]]:
    """The places of questions that are read together, long ones first: what memory does not suffice for fails at once.

    Padded to their longest prefix and their longest continuation they have at most `most` tokens a row, if each has.
    `device` is "cpu", "cuda" and the like.
    """
    at_once = tokens_at_once(device)
    order = sorted(range(len(questions)), key=lambda place: (-width(questions[place]), place))
    batch, prefix, choice, rows = list[int](), 0, 0, 0
    for place in order:
        question = questions[place]
        longer = max(prefix, len(question.prefix)), max(choice, *map(len, question.continuations))
        more = rows + len(question.continuations)
        too_wide = most is not None and sum(longer) - 1 > most
        if batch and (too_wide or more * sum(longer) > at_once):
            yield batch
            batch, rows = [], 0
            longer, more = (len(question.prefix), max(map(len, question.continuations))), len(question.continuations)
        batch.append(place)
        (prefix, choice), rows = longer, more
    if batch:
        yield batch


def rows_in_batches(lengths: Sequence[int], device: str) -> Iterator[list[int]]:
    """The places of rows of tokens that are read together, long ones first, padded to the first of them."""
    at_once = tokens_at_once(device)
    batch = list[int]()
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > at_once:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


WORTH_SHARING = 2 / 3
"""Of the tokens that would be read otherwise: reading in several passes costs something too."""


def worth_sharing(questions: Sequence[Asked], shared: int) -> bool:
    """Whether reading prefixes once, and the `shared` tokens that all begin with once, saves a third or more."""
    whole = sum(len(question.continuations) for question in questions) * max(map(width, questions))
    choices = [len(choice) for question in questions for choice in question.continuations]
    longest = max(len(question.prefix) for question in questions)
    once = shared + len(questions) * (longest - shared) + sum(size > 1 for size in choices) * (max(choices) - 1)
    return once < WORTH_SHARING * whole


def shared_length(questions: Sequence[Asked]) -> int:
    """How many tokens all prefixes begin with in common; of each prefix one token at least is left."""
    shortest = min((len(question.prefix) for question in questions), default=0) - 1
    if len(questions) < 2 or shortest < 1:
        return 0
    rows: Any = np.stack([question.prefix[:shortest] for question in questions])
    differ = np.flatnonzero((rows != rows[0]).any(axis=0))
    return int(differ[0]) if len(differ) else shortest
