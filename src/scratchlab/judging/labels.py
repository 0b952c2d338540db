"""A person's own judgment: labels in JSON Lines, made in the terminal or elsewhere; and preference pairs to learn from.

    {"question": "17", "a": "runs/base", "b": "runs/tuned", "preferred": "b", "prompt": [...], "chosen": "...", ...}
    {"question": "17", "model": "runs/base", "score": 40}

The first kind is what `scratchlab label` writes: `preferred` is a, b or neither, and where one is preferred the line is
a preference pair too (prompt, chosen, rejected; `cut_off` where one of these was). Of the second kind, scores of one
person on whatever scale, two of a question say which answer is better.
"""

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scratchlab.errors import UsageError
from scratchlab.judging.agreement import preferences
from scratchlab.judging.answers import Answers, Question
from scratchlab.judging.contest import Contest
from scratchlab.judging.scores import Floats
from scratchlab.lines import whole_lines
from scratchlab.seeds import generator

Preferred = Literal["a", "b", "neither"]
SIGNS: dict[Preferred, float] = {"a": 1.0, "b": -1.0, "neither": 0.0}
SHOWN = 10  # problems named in one message

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Choice:
    """Two answers to a question, to be shown in this order."""

    question: Question
    models: tuple[str, str]
    texts: tuple[str, str]
    ended: tuple[bool, bool]
    """Whether each was ended by its model, and not cut off."""


def choices(answers: Sequence[Answers], seed: int) -> list[Choice]:
    """Every two different answers to every question, in an order in which each question comes once before any again.

    Which of the two stands left is drawn at random, as is everything else.
    """
    models, questions = range(len(answers)), answers[0].questions
    pairs = list(itertools.combinations(models, 2))
    found: list[Choice] = []
    for turn in range(len(pairs)):
        for place in generator(seed, "label", turn).permutation(len(questions)):
            question = questions[place]
            rng = generator(seed, "label", question.id)
            pair = pairs[(int(rng.integers(len(pairs))) + turn) % len(pairs)]
            sides = pair if generator(seed, "side", question.id, turn).random() < 0.5 else pair[::-1]
            texts = tuple(answers[side].texts[place] for side in sides)
            if texts[0] != texts[1]:
                a, b = (answers[side] for side in sides)
                found.append(
                    Choice(question, (a.model, b.model), (texts[0], texts[1]), (a.ended[place], b.ended[place]))
                )
    return found


def label_of(choice: Choice, preferred: Preferred) -> Record:
    """The line of a label."""
    a, b = choice.models
    line: Record = {"question": choice.question.id, "a": a, "b": b, "preferred": preferred}
    if preferred == "neither":
        return line
    first, second = zip(choice.texts, choice.ended, strict=True)
    return line | _pair(choice.question, *((first, second) if preferred == "a" else (second, first)))


def _pair(question: Question, chosen: tuple[str, bool], rejected: tuple[str, bool]) -> Record:
    """The fields of a pair: answers, each with whether it ended."""
    pair: Record = {"prompt": list(question.messages), "chosen": chosen[0], "rejected": rejected[0]}
    cut_off = [name for name, (_, ended) in (("chosen", chosen), ("rejected", rejected)) if not ended]
    return pair | ({"cut_off": cut_off} if cut_off else {})


def done(path: Path) -> set[tuple[str, frozenset[str]]]:
    """What was labeled before: questions, each with the two models."""
    lines = [json.loads(line) for line in whole_lines(path) if line.strip()] if path.exists() else []
    return {(line["question"], frozenset((line["a"], line["b"]))) for line in lines if "preferred" in line}


def check_own(path: Path) -> None:
    """UsageError for a file that holds anything but labels: it is not added to, nor is a torn end of it taken off."""
    if not path.is_file():
        return
    *whole, last = path.read_bytes().split(b"\n")
    torn = _parsed(last) is None and (last.startswith(BEGINNING) or BEGINNING.startswith(last))
    for number, line in enumerate(whole if torn else [*whole, last], 1):
        if line.strip() and not _is_label(_parsed(line)):
            raise UsageError(
                f"--out {path}: line {number:,} is no label, and nothing was written there. Name a file of "
                "labels, or one that is not there yet."
            )


BEGINNING = b'{"question": '
"""Of a line that `label_of` makes."""


def _parsed(line: bytes) -> Any:
    """None for what is no JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_label(found: Any) -> bool:
    kinds = ({"question", "a", "b", "preferred"}, {"question", "model", "score"})
    return isinstance(found, dict) and any(found.keys() >= kind for kind in kinds)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Preference pairs, and how many questions gave none, by the reason."""

    lines: list[Record]
    left_out: dict[str, int]

    def to_json(self) -> Record:
        return {"pairs": len(self.lines), "pairs_left_out": self.left_out}


def pairs_of(contest: Contest, values_QE: Floats, least: float) -> Pairs:
    """Preference pairs by a judge's scores: of each question the best and the worst answer, if they differ by `least`.

    Questions that were not judged give none, nor do those whose best and worst answers read alike, or one is empty.
    """
    lines, left_out = list[Record](), Counter[str]()
    for place, question in enumerate(contest.questions):
        scores = values_QE[place, : contest.n_models]
        if np.isnan(scores).any():
            left_out["no score"] += 1
            continue
        best, worst = int(scores.argmax()), int(scores.argmin())
        (chosen, _), (rejected, _) = sides = [(contest.texts[k][place], contest.ended[k][place]) for k in (best, worst)]
        if chosen == rejected:
            left_out["equal answers"] += 1
        elif not chosen or not rejected:
            left_out["an empty answer"] += 1
        elif scores[best] - scores[worst] < least:
            left_out["too little between them"] += 1
        else:
            names = {"question": question.id, "a": contest.entries[best], "b": contest.entries[worst], "preferred": "a"}
            lines.append(names | _pair(question, *sides))
    return Pairs(lines, dict(left_out))


# Reading.


def read_labels(path: Path, contest: Contest) -> Floats:
    """What a person prefers, (questions, pairs of models), as `agreement.preferences` has it.

    UsageError with all lines that are no labels, or are of questions or models that are not here.
    """
    if contest.n_models < 2:
        raise UsageError("--labels: a person says which of two answers is better, and there are answers of one model.")
    if not path.is_file():
        raise UsageError(f"--labels {path}: there is no such file.")
    questions = {question.id: place for place, question in enumerate(contest.questions)}
    pairs = {pair: place for place, pair in enumerate(itertools.combinations(contest.models, 2))}
    preferred = np.full((len(questions), len(pairs)), np.nan)
    scores = np.full((len(questions), contest.n_models), np.nan)
    problems: list[str] = []
    for number, line in enumerate(whole_lines(path), 1):
        if not line.strip():
            continue
        try:
            _take(json.loads(line), questions, pairs, contest.models, preferred, scores)
        except (ValueError, RecursionError) as error:
            problems.append(f"line {number:,}: {error}")
    if problems:
        more = [f"and {len(problems) - SHOWN:,} more"] if len(problems) > SHOWN else []
        raise UsageError("\n  ".join([f"--labels {path}: {len(problems):,} lines:", *problems[:SHOWN], *more]))
    return np.where(np.isnan(preferred), preferences(scores, contest.n_models), preferred)


def _take(
    line: Any,
    questions: dict[str, int],
    pairs: dict[tuple[str, str], int],
    models: Sequence[str],
    preferred: Floats,
    scores: Floats,
) -> None:
    """Put a label where it belongs. ValueError for what is none."""
    if not isinstance(line, dict) or str(line.get("question")) not in questions:
        raise ValueError(f"expected a label with a question of these answers, not {line!r:.100}")
    place = questions[str(line["question"])]
    if "preferred" in line:
        a, b = str(line.get("a")), str(line.get("b"))
        if line["preferred"] not in SIGNS or ((a, b) not in pairs and (b, a) not in pairs):
            raise ValueError(f"expected models a and b of {', '.join(models)} and preferred: {', '.join(SIGNS)}")
        sign = SIGNS[line["preferred"]]
        preferred[place, pairs.get((a, b), pairs.get((b, a), 0))] = sign if (a, b) in pairs else -sign
        return
    score = line.get("score")
    if line.get("model") not in models or not isinstance(score, int | float) or isinstance(score, bool):
        raise ValueError(f"expected preferred with a and b, or a score with a model of {', '.join(models)}")
    scores[place, models.index(line["model"])] = score
