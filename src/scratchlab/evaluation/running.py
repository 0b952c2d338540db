"""Asking a model the items of a task: long ones first, results kept as they come, so that nothing is asked twice."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from scratchlab.errors import RunError
from scratchlab.evaluation.batches import width
from scratchlab.evaluation.processes import gathered, own_share
from scratchlab.evaluation.results import Log, TaskResult, summarize
from scratchlab.evaluation.scorer import Answer, Question
from scratchlab.evaluation.subjects import Subject
from scratchlab.evaluation.tasks import Record, Task, ask, record

TOKENS_KEPT = 16_384
"""Results are written each time that items of about so many tokens are done: seconds at most are lost."""

Asked = tuple[int, list[Question], int]
"""An item's place, its questions, and how many tokens were cut off."""


def evaluate_task(
    subject: Subject,
    task: Task,
    folder: Path,
    *,
    truncate: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TaskResult:
    """Score `subject` on every item of `task`, going on with the log in `folder` if there is one.

    `progress` is told of the tokens that are done, and of all there are. UsageError, before anything is asked, for an
    item that is longer than the model's context, unless `truncate`. UnfinishedError while another process does the
    same.
    """
    log = Log.of(folder, subject, task, {"truncate": truncate})
    asked = ask_all(subject, task, truncate)
    with log.held():
        return _go_on(subject, task, asked, log, progress)


def _go_on(
    subject: Subject, task: Task, asked: Sequence[Asked], log: Log, progress: Callable[[int, int], None]
) -> TaskResult:
    log.begin()
    known = log.read()
    ahead = [item for item in asked if task.items[item[0]].number not in known]
    total = sum(map(_tokens, asked))
    done = total - sum(map(_tokens, ahead))
    progress(done, total)
    for chunk in _chunks(sorted(ahead, key=lambda item: -max(map(width, item[1])))):
        log.append(answered(subject, task, chunk))
        done += sum(map(_tokens, chunk))
        progress(done, total)
    known = log.read()
    return summarize(log.head, [known[item.number] for item in task.items])


def ask_all(subject: Subject, task: Task, truncate: bool = False) -> list[Asked]:
    """Every item of a task as questions. UsageError for one that is longer than the model's context."""
    return [(place, *ask(task, place, subject, truncate)) for place in range(len(task.items))]


def score_task(subject: Subject, task: Task, asked: Sequence[Asked]) -> TaskResult:
    """Score items that were put into questions before, keeping no log; the processes of a run share them.

    RunError, in all of them, for a loss that is not finite.
    """
    share = own_share()
    try:
        own = answered(subject, task, asked[share.rank :: share.count])
    except RunError as error:  # all must hear of it: none is to wait for another's results
        own = error
    found = gathered([own])
    if errors := [part for part in found if isinstance(part, RunError)]:
        raise errors[0]
    return summarize(
        Log.head_of(subject, task), [record for part in found if isinstance(part, list) for record in part]
    )


def answered(subject: Subject, task: Task, asked: Sequence[Asked]) -> list[Record]:
    """What is kept of items that are asked together."""
    answers = iter(subject.scorer.answers([question for _, questions, _ in asked for question in questions]))
    records: list[Record] = []
    for place, questions, cut in asked:
        own: list[Answer] = [answer for _ in questions for answer in next(answers)]
        if not all(np.isfinite(answer.nats).all() for answer in own):
            raise RunError(
                f"{task.name}, item {task.items[place].number}: {subject.name} gives a loss that is not finite, so it "
                "cannot choose. It has diverged, or its weights are damaged."
            )
        records.append(record(task, place, own, cut))
    return records


def _tokens(item: Asked) -> int:
    """What an item costs: its prefixes once, and the continuations."""
    return sum(len(question.prefix) + sum(map(len, question.continuations)) for question in item[1])


def _chunks(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    chunk, size = list[Asked](), 0
    for item in asked:
        chunk.append(item)
        size += _tokens(item)
        if size >= TOKENS_KEPT:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
