"""A judge put to work, in one of two ways: on all answers to a question together, or on each alone in its prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from scratchlab.judging.asking import Asked, Outcome, Task, ask_all, missing
from scratchlab.judging.contest import Contest
from scratchlab.judging.cost import Budget, Cost, Price, cost_of, guess
from scratchlab.judging.design import Sheet, alone, together
from scratchlab.judging.judges import Judge
from scratchlab.judging.paid import open_replies, path_of, read_replies
from scratchlab.judging.scores import Scores, scores_of

Way = Literal["together", "one by one"]
SHEETS: dict[Way, Callable[[int, int, int, int], list[Sheet]]] = {"together": together, "one by one": alone}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How judges are asked."""

    ways: tuple[Way, ...]
    repeats: int
    seed: int
    tries: int
    at_once: int
    price: Price | None
    most: float | None
    """Dollars."""
    folder: Path
    """Where replies are kept."""


@dataclass(frozen=True, slots=True)
class Panel:
    """What a judge made of a contest, in one way."""

    judge: str
    way: Way
    prompts: int
    asked: Asked
    scores: Scores
    cost: Cost
    """Of all replies that this rests on, whenever they were paid."""
    path: Path
    """Where the replies are kept."""

    @property
    def name(self) -> str:
        return self.judge if self.way == "together" else f"{self.judge}, one by one"

    @property
    def whole(self) -> int:
        """Questions of which every entry has a score."""
        return int(np.isfinite(self.scores.values).any(1).all(-1).sum())

    @property
    def says_something(self) -> bool:
        """Every figure has an error, which takes two questions."""
        return self.whole >= 2

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.asked.outcomes if outcome.scores is None]


def panels_of(
    contest: Contest, judges: Sequence[Judge], plan: Plan, progress: Callable[[str, int, int], None]
) -> list[Panel]:
    """Put judges to work, one after another, each in all ways of the plan. The money is for all together."""
    budget = Budget(plan.price, plan.most)
    found: list[Panel] = []
    for judge in judges:
        with open_replies(plan.folder, judge) as replies:
            for way in plan.ways:
                task = _task(contest, judge, plan, way)
                name = f"{judge.name}, {way}"
                asked = ask_all(
                    task, replies, budget, plan.at_once, lambda done, total, name=name: progress(name, done, total)
                )
                paid = [kept.reply for outcome in asked.outcomes for kept in outcome.kept]
                scores = scores_of(contest, asked.outcomes, plan.repeats)
                cost, path = cost_of(paid, plan.price), path_of(plan.folder, judge.name)
                found.append(Panel(judge.name, way, len(task.sheets), asked, scores, cost, path))
    return found


def _task(contest: Contest, judge: Judge, plan: Plan, way: Way) -> Task:
    sheets = SHEETS[way](len(contest.questions), len(contest.entries), plan.repeats, plan.seed)
    return Task(contest, sheets, judge, plan.seed, plan.tries)


@dataclass(frozen=True, slots=True)
class Ahead:
    """What a judge would be asked."""

    judge: str
    prompts: int
    kept: int
    """Of them: replied to before."""
    guess: Cost
    """Of the rest, where nothing is asked twice."""


def ahead_of(contest: Contest, judges: Sequence[Judge], plan: Plan) -> list[Ahead]:
    """What would be asked, and about what it would cost; nobody is asked, and nothing written."""
    found: list[Ahead] = []
    for judge in judges:
        path = path_of(plan.folder, judge.name)
        known = read_replies(path) if path.exists() else {}
        tasks = [_task(contest, judge, plan, way) for way in plan.ways]
        total = sum(len(task.sheets) for task in tasks)
        prompts = [prompt for task in tasks for prompt in missing(task, known)]
        found.append(Ahead(judge.name, total, total - len(prompts), guess(prompts, plan.price)))
    return found
