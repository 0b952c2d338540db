"""What an author is: somebody who answers, whoever made it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from scratchlab.evaluation import scorer
from scratchlab.evaluation.batches import width
from scratchlab.evaluation.subjects import Subject
from scratchlab.generation.engine import Settings
from scratchlab.judging.answers import Likelihood, Question, Written
from scratchlab.seeds import derive

Write = Callable[[Sequence[Question], Settings], Iterator[tuple[int, Written]]]
"""The answers to questions, each with the place of its question, in whatever order they are done."""


@dataclass(frozen=True, slots=True)
class Author:
    """Somebody who answers."""

    name: str
    identity: str
    """SHA-256 of what answers depend on, settings and template aside."""
    template: str
    """How it is spoken to: the name of a template, or SHA-256 of one."""
    write: Write
    likelihoods: Callable[[Sequence[Question]], list[Likelihood | None]]
    """Of the reference answers: None where there is none, it does not fit, or nobody can say."""


def seed_of(seed: int, question: Question) -> int:
    """The seed with which a question is answered: whatever else is asked. 31 bits, which any server takes."""
    return derive(seed, "answer", question.id) >> 97


def likelihoods(
    subject: Subject, questions: Sequence[Question], as_scored: Callable[[Question], scorer.Question | None]
) -> list[Likelihood | None]:
    """What `subject` thinks of the reference answers."""
    asked: dict[int, scorer.Question] = {}
    for place, question in enumerate(questions):
        one = as_scored(question) if question.reference and question.reference.strip() else None
        if one is not None and (subject.context_length is None or width(one) <= subject.context_length):
            asked[place] = one
    found: list[Likelihood | None] = [None] * len(questions)
    for place, (answer,) in zip(asked, subject.scorer.answers(list(asked.values())), strict=True):
        size = len((questions[place].reference or "").encode())
        found[place] = Likelihood(float(answer.nats.astype(np.float64).sum()), len(answer.nats), size)
    return found
