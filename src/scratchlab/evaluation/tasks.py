"""A task: items, how they are asked, and which figure counts.

Its items become questions to a model, and what the model answers becomes records, from which all figures follow.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from scratchlab.errors import CorpusError, UsageError
from scratchlab.evaluation.items import Item, Wording, worded
from scratchlab.evaluation.scorer import Answer, Ids, Question
from scratchlab.evaluation.subjects import Subject
from scratchlab.files import sha256_of_json

Metric = Literal["accuracy", "accuracy_norm", "accuracy_token"]


@dataclass(frozen=True, slots=True)
class Task:
    """Items that are scored together."""

    name: str
    items: tuple[Item, ...]
    wording: Wording
    metric: Metric = "accuracy"
    """The figure that counts: by the likeliest candidate, by the likeliest a character, or by that a token."""
    chance: float = 0.0
    """The accuracy of guessing, from 0 to 1."""

    @property
    def identity(self) -> str:
        """SHA-256 of the items and of how they are asked: results of another task are not mixed with this one's."""
        return sha256_of_json([asdict(self.wording), [asdict(item) for item in self.items]])


def ask(task: Task, place: int, subject: Subject, truncate: bool = False) -> tuple[list[Question], int]:
    """The item at `place` as questions, and how many tokens were cut off at its beginning.

    A question for each different context. What a model cannot see at once is an error, or is cut off if `truncate`.
    """
    name = f"{task.name}, item {task.items[place].number}"
    try:
        item = worded(task.items, place, task.wording)
        pairs = [_encode(subject, *pair) for pair in zip(item.contexts, item.continuations, strict=True)]
    except CorpusError as error:
        raise CorpusError(f"{name}: {error}") from error
    longest = max(len(context) + len(continuation) - 1 for context, continuation in pairs)
    excess = max(0, longest - (subject.context_length or longest))
    if excess:
        _check_length(task, item, subject, longest, pairs, truncate)
        pairs = [(context[min(excess, len(context) - 1) :], continuation) for context, continuation in pairs]
    if len({context.tobytes() for context, _ in pairs}) == 1:
        return [Question(pairs[0][0], tuple(continuation for _, continuation in pairs), name)], excess
    return [Question(context, (continuation,), name) for context, continuation in pairs], excess


def _check_length(
    task: Task, item: Item, subject: Subject, longest: int, pairs: Sequence[tuple[Ids, Ids]], truncate: bool
) -> None:
    assert subject.context_length is not None
    if (alone := max(len(continuation) for _, continuation in pairs)) > subject.context_length:
        raise UsageError(
            f"{task.name}, item {item.number}: an answer alone has {alone} tokens, and {subject.name} sees "
            f"{subject.context_length} at once. Leave this task out."
        )
    if not truncate:
        raise UsageError(
            f"{task.name}, item {item.number}: it has {longest} tokens, and {subject.name} sees "
            f"{subject.context_length} at once. Leave this task out, or let the beginnings of such items be cut off "
            "(--truncate), which is counted."
        )


def _encode(subject: Subject, context: str, continuation: str) -> tuple[Ids, Ids]:
    """Tokens of a text, and of what follows it: those by which the two together are longer.

    Spaces between them go with what follows, as tokens take them.
    """
    text = context.rstrip(" ")
    continuation = context[len(text) :] + continuation
    if not text:
        return np.array([subject.start]), _ids(subject, continuation)
    alone, whole = _ids(subject, text), _ids(subject, text + continuation)
    if len(alone) >= len(whole):  # the text's last token has taken in what follows
        return whole[:-1] if len(whole) > 1 else np.array([subject.start]), whole[-1:]
    return alone, whole[len(alone) :]


def _ids(subject: Subject, text: str) -> Ids:
    return np.asarray(subject.encoder.encode(text), np.int64)


Record = dict[str, Any]


def record(task: Task, place: int, answers: Sequence[Answer], cut: int) -> Record:
    """What is kept of an item: for each candidate its loss in nats, and its length in characters, bytes and tokens."""
    item = task.items[place]
    return {
        "item": item.number,
        "gold": item.gold,
        "nats": [float(answer.nats.sum(dtype=np.float64)) for answer in answers],
        "greedy": [answer.greedy for answer in answers],
        "characters": [len(continuation) for continuation in item.continuations],
        "bytes": [len(continuation.encode()) for continuation in item.continuations],
        "tokens": [len(answer.nats) for answer in answers],
        "cut": cut,
    }


# Figures of an item, from what is kept of it.


def chosen(record: Record) -> int:
    """The place of the candidate that the model finds likeliest."""
    return int(np.argmin(record["nats"]))


def chosen_by_character(record: Record) -> int:
    """The same by loss a character: long candidates are not at a disadvantage."""
    return int(np.argmin(np.array(record["nats"]) / np.array(record["characters"])))


def chosen_by_token(record: Record) -> int:
    """The same by loss a token, as DCLM's evaluation chooses. It depends on the tokenizer."""
    return int(np.argmin(np.array(record["nats"]) / np.array(record["tokens"])))


_CHOOSES = {"accuracy": chosen, "accuracy_norm": chosen_by_character, "accuracy_token": chosen_by_token}


def is_right(record: Record, metric: Metric) -> bool:
    """Whether the right candidate was chosen; of a single one, whether the model would have written it."""
    if len(record["nats"]) == 1:
        return record["greedy"][0]
    return _CHOOSES[metric](record) == record["gold"]
