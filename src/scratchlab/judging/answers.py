"""What models answered: a file a model, written while it answers, that holds all that judging it takes.

    answers/runs-first-3f2a9c1e.jsonl       the first line says of what; then a line for each question

The name has a hash of the model, its template, the settings and the questions: answers of one thing are never taken
for another's, and a model that was interrupted goes on.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scratchlab.corpus.chat import Message
from scratchlab.corpus.examples.rows import Conversation
from scratchlab.errors import ScratchlabError, UsageError
from scratchlab.files import sha256_of_json
from scratchlab.lines import whole_lines

FORMAT = 1
KIND = "answers"
HEAD = {"model", "model_sha256", "data", "data_sha256", "items", "settings"}

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be answered."""

    number: int
    """Its place in the file, from 1."""
    id: str
    messages: tuple[Message, ...]
    reference: str | None
    """How somebody who knows would answer; None where the file does not say."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """The loss of a model on a reference answer, the end of its turn included, given the question."""

    nats: float
    tokens: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Written:
    """An answer."""

    text: str
    tokens: int | None
    """None where an endpoint does not say."""
    ended: bool
    """Whether the model ended its turn; else it was cut off: at the most tokens, or where its context ends."""
    cut: int = 0
    """Tokens at the beginning of the question that did not fit into the model's context."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it is kept."""

    question: Question
    written: Written
    seed: int
    likelihood: Likelihood | None


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model answered to all questions of a file."""

    path: Path
    model: str
    head: Record
    answers: tuple[Answer, ...]

    @property
    def questions(self) -> tuple[Question, ...]:
        return tuple(answer.question for answer in self.answers)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(answer.written.text.strip() for answer in self.answers)

    @property
    def ended(self) -> tuple[bool, ...]:
        """Whether each was ended by the model, and not cut off."""
        return tuple(answer.written.ended for answer in self.answers)


def questions_of(conversations: Sequence[Conversation]) -> list[Question]:
    """The questions of conversations; what the assistant says last is the reference."""
    return [Question(number, one.id, one.prompt, one.reference) for number, one in enumerate(conversations, 1)]


def identity_of(questions: Sequence[Question]) -> str:
    """SHA-256 of questions and references: what was answered elsewhere is not compared with it."""
    return sha256_of_json([[one.id, one.messages, one.reference] for one in questions])


def record_of(answer: Answer) -> Record:
    """The line of an answer."""
    question = answer.question
    return {
        "item": question.number,
        "id": question.id,
        "messages": list(question.messages),
        "reference": question.reference,
        "answer": answer.written.text,
        "tokens": answer.written.tokens,
        "ended": answer.written.ended,
        "cut": answer.written.cut,
        "seed": answer.seed,
        "likelihood": None if answer.likelihood is None else asdict(answer.likelihood),
    }


def answer_of(record: Record) -> Answer:
    """The answer of a line. KeyError, TypeError or ValueError for what is none."""
    messages = tuple(Message(role=one["role"], content=one["content"]) for one in record["messages"])
    likelihood = record["likelihood"]
    return Answer(
        Question(int(record["item"]), str(record["id"]), messages, record["reference"]),
        Written(str(record["answer"]), record["tokens"], bool(record["ended"]), int(record["cut"])),
        int(record["seed"]),
        None if likelihood is None else Likelihood(**likelihood),
    )


def read_lines(path: Path) -> tuple[Record, dict[int, Answer]]:
    """The head of a file of answers, and the answers by the number of the question, as far as they go.

    ScratchlabError if it is something else, or damaged.
    """
    try:
        head, *records = [json.loads(line) for line in whole_lines(path)] or [{}]
    except (ValueError, RecursionError):
        raise ScratchlabError(f"{path} is no file of answers, or is damaged: a line of it is no JSON.") from None
    if not isinstance(head, dict) or head.get("kind") != KIND or not head.keys() >= HEAD:
        raise ScratchlabError(f"{path} is no file of answers: scratchlab answer writes them.")
    if head["format"] != FORMAT:
        raise ScratchlabError(f"{path} has format {head['format']}; this scratchlab reads {FORMAT}.")
    found: dict[int, Answer] = {}
    for number, record in enumerate(records, start=2):
        try:
            answer = answer_of(record)
        except (KeyError, TypeError, ValueError):
            raise ScratchlabError(
                f"{path} is damaged: line {number:,} is no answer. Delete it, answer again."
            ) from None
        found[answer.question.number] = answer
    return head, found


def open_answers(places: Sequence[Path]) -> list[Answers]:
    """The answers in files, and in all files of folders, to the same questions.

    UsageError if there are none or they are to other questions; ScratchlabError for what is damaged or unfinished.
    """
    paths = list(dict.fromkeys(path for place in places for path in _files(place)))
    found = [_whole(path) for path in paths]
    for other in found[1:]:
        if other.head["data_sha256"] != found[0].head["data_sha256"]:
            raise UsageError(
                f"{found[0].path} answers {found[0].head['data']}, {other.path} answers other questions "
                f"({other.head['data']}): name answers to the same questions."
            )
    return _with_names_apart(found)


def _files(place: Path) -> Iterable[Path]:
    if place.is_file():
        return [place]
    found = sorted(place.glob("*.jsonl"))
    if not found:
        is_there = "has no answers in it" if place.is_dir() else "is not there"
        raise UsageError(f"{place} {is_there}: scratchlab answer MODEL... --data FILE --out {place} writes them.")
    return found


def _whole(path: Path) -> Answers:
    head, found = read_lines(path)
    if len(found) < head["items"]:
        raise ScratchlabError(
            f"{path}: {head['model']} has answered {len(found):,} of {head['items']:,} questions. Let it answer again, "
            "by the same command: it goes on where it stopped."
        )
    return Answers(path, head["model"], head, tuple(found[number] for number in sorted(found)))


def _with_names_apart(found: Sequence[Answers]) -> list[Answers]:
    """One model with several settings has a name for each: that of its file."""
    counts = Counter(one.model for one in found)
    return [replace(one, model=f"{one.model} ({one.path.stem})") if counts[one.model] > 1 else one for one in found]
