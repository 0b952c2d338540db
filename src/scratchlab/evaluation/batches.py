"""Questions in batches: of like length, so that little is padding, and no larger than what can be held at once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

TOKENS_AT_ONCE = {"cpu": 2_048, "other": 16_384}
"""Of a batch, padding included, by device: enough for full speed, few enough for the memory of a laptop. What a CPU
computes of more no longer stays in its cache (measured, 6 layers of 384: 9,000 take 1.5 times as long as 2,000).
"""


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
    at_once = TOKENS_AT_ONCE.get(device, TOKENS_AT_ONCE["other"])
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


ROWS_WORTH_A_CALL = 8
SHORT = 0.85


def of_like_length(lengths: Mapping[int, int]) -> Iterator[list[int]]:
    """Rows by their lengths, in groups to be read together, long ones first; rows of length 0 are in none.

    A group of several rows ends where the next row would be padded by a sixth: one padded to the longest of all its
    questions' continuations reads twice as many tokens as HellaSwag's have.
    """
    group = list[int]()
    for row in sorted((row for row, length in lengths.items() if length), key=lambda row: -lengths[row]):
        if len(group) >= ROWS_WORTH_A_CALL and lengths[row] < SHORT * lengths[group[0]]:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


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
    shortest = min(len(question.prefix) for question in questions) - 1
    if len(questions) < 2 or shortest < 1:
        return 0
    rows: Any = np.stack([question.prefix[:shortest] for question in questions])
    differ = np.flatnonzero((rows != rows[0]).any(axis=0))
    return int(differ[0]) if len(differ) else shortest
