"""What is judged: the answers of all models to each question, with two anchors among them that a judge must tell apart.

The anchors are the reference answer and a bad one: the reference answer to another question, of about the same length,
so that neither its language nor its length gives it away, but only what it says. A judge that does not read the
question puts them level.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scratchlab.errors import UsageError
from scratchlab.judging.answers import Answers, Question
from scratchlab.seeds import generator

REFERENCE, BAD = "the reference", "a bad answer"
"""What the anchors are called."""
CANDIDATES = 20
"""Other references of which the one nearest in length is the bad answer."""


@dataclass(frozen=True, slots=True)
class Contest:
    """Models that answered the same questions."""

    questions: tuple[Question, ...]
    entries: tuple[str, ...]
    """The models; then the anchors, where there are any."""
    texts: tuple[tuple[str, ...], ...]
    """(entries, questions)"""
    ended: tuple[tuple[bool, ...], ...]
    """Whether each was ended by whoever wrote it, and not cut off."""
    n_models: int

    @property
    def models(self) -> tuple[str, ...]:
        return self.entries[: self.n_models]

    @property
    def anchored(self) -> bool:
        return len(self.entries) > self.n_models


def contest_of(answers: Sequence[Answers], seed: int) -> Contest:
    """The contest of these models. It has anchors if every question has a reference, and two of them differ.

    UsageError for a single question, of which no figure has an error.
    """
    if len(answers[0].questions) < 2:
        raise UsageError(f"{answers[0].head['data']}: a judgment takes two questions at least.")
    questions, models = answers[0].questions, tuple(one.model for one in answers)
    texts = tuple(one.texts for one in answers)
    anchors = _anchors([(question.reference or "").strip() for question in questions], seed)
    names = (REFERENCE, BAD) if anchors else ()
    if clash := set(models) & set(names):
        raise UsageError(f"a model is called {clash.pop()!r}, as an anchor is: rename its folder and answer again.")
    ended = (*(one.ended for one in answers), *((True,) * len(questions) for _ in anchors))
    return Contest(questions, (*models, *names), (*texts, *anchors), ended, len(models))


def _anchors(references: Sequence[str], seed: int) -> tuple[tuple[str, ...], ...]:
    """References and bad answers; nothing where a question has no reference, or no other one for a bad answer."""
    if not all(references) or len(set(references)) < 2:
        return ()
    return tuple(references), tuple(_bad(references, place, seed) for place in range(len(references)))


def _bad(references: Sequence[str], place: int, seed: int) -> str:
    """The reference of another question that says something else: of some drawn at random the nearest in length."""
    own = references[place]
    others = sorted({text for text in references if text.casefold() != own.casefold()} or set(references) - {own})
    rng = generator(seed, "bad anchor", place)
    drawn = [others[number] for number in rng.permutation(len(others))[:CANDIDATES]]
    return min(drawn, key=lambda text: abs(len(text) - len(own)))
