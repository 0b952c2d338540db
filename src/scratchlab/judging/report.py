"""A judgment as plain facts: what the terminal, JSON and the Markdown page show."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scratchlab.evaluation.comparison import compare_ratios, judge
from scratchlab.judging import check_words
from scratchlab.judging.agreement import agreement, of_repeats, preferences, steadiness
from scratchlab.judging.answers import Answers
from scratchlab.judging.asking import Outcome
from scratchlab.judging.checks import check
from scratchlab.judging.contest import Contest
from scratchlab.judging.panel import Panel
from scratchlab.judging.prompts import talks_to_the_judge
from scratchlab.judging.ranking import rank
from scratchlab.judging.scores import UNIT, Estimate, Floats, estimate, mean_of, noise_of
from scratchlab.judging.verdicts import judged_against

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Matter:
    """What is judged, and how the report is to see it."""

    answers: Sequence[Answers]
    contest: Contest
    baseline: int
    """The place of the model that the others are held against."""
    smallest_effect: float
    """In points."""
    labels: Floats | None = None
    """What a person prefers: (questions, pairs of models)."""


def report_of(matter: Matter, panels: Sequence[Panel]) -> Facts:
    """All that the panels say; of one that has judged fewer than two questions, that it says nothing."""
    contest = matter.contest
    return {
        "data": matter.answers[0].head["data"],
        "questions": len(contest.questions),
        "models": list(contest.models),
        "baseline": contest.models[matter.baseline],
        "smallest_effect": matter.smallest_effect,
        "anchored": contest.anchored,
        "panels": [_of_panel(matter, panel) for panel in panels],
        "between_judges": _between(contest, panels),
        "with_labels": [] if matter.labels is None else _with_labels(matter.labels, contest, panels),
        "steadier": _steadier(contest, panels),
        "talking": _talking(matter.answers),
        "notes": _notes(matter.answers, contest),
    }


def _of_panel(matter: Matter, panel: Panel) -> Facts:
    return {
        "judge": panel.judge,
        "way": panel.way,
        "repeats": panel.scores.repeats,
        "questions_judged": panel.whole,
        "prompts": _counts(panel),
        "failures": [_failure(matter.contest, outcome) for outcome in panel.failed],
        "forms": dict(Counter(kept.reply.asked for outcome in panel.asked.outcomes for kept in outcome.kept)),
        "cost": panel.cost.to_json(),
        "replies": str(panel.path),
        **(_figures(matter, panel) if panel.says_something else NOTHING),
    }


NOTHING: Facts = {
    "scores": [],
    "verdicts": [],
    "ranking": [],
    "checks": None,
    "flags": [],
    "notes": [],
    "repeats_agree": None,
}


def _figures(matter: Matter, panel: Panel) -> Facts:
    contest, scores = matter.contest, panel.scores
    lengths = np.array([[len(text) for text in texts] for texts in contest.texts], float).T
    checks = check(scores, lengths)
    several, together = contest.n_models > 1, panel.way == "together"
    verdicts = judged_against(scores.models, contest.models, matter.baseline, matter.smallest_effect)
    repeats_agree = of_repeats(scores.values, contest.n_models)
    return {
        "scores": [_score(name, scores.values[:, :, place]) for place, name in enumerate(contest.entries)],
        "verdicts": [one.to_json() for one in verdicts],
        "ranking": [asdict(one) for one in rank(scores.models, contest.models)] if several and together else [],
        "checks": checks.to_json(),
        "flags": check_words.flags(checks),
        "notes": check_words.notes(checks),
        "repeats_agree": repeats_agree and repeats_agree.to_json(),
    }


def _counts(panel: Panel) -> Facts:
    judged = [outcome for outcome in panel.asked.outcomes if outcome.scores is not None]
    replies = sum(len(outcome.kept) for outcome in panel.asked.outcomes)
    return {
        "all": panel.prompts,
        "judged": len(judged),
        "failed": len(panel.failed),
        "left": panel.asked.left,
        "malformed_replies": replies - len(judged),
    }


def _failure(contest: Contest, outcome: Outcome) -> Facts:
    sheet = outcome.sheet
    return {
        "question": contest.questions[sheet.question].id,
        "repeat": sheet.repeat + 1,
        "order": [contest.entries[entry] for entry in sheet.order],
        "problem": outcome.problem,
    }


def _score(name: str, values_QR: Floats) -> Facts:
    noise = noise_of(values_QR)
    return {"model": name, **asdict(estimate(mean_of(values_QR, 1))), "noise": noise and asdict(noise)}


# Agreement.


def _by_question(contest: Contest, panel: Panel) -> Floats:
    """The preferences of a panel over all its repeats."""
    return preferences(mean_of(panel.scores.values, 1), contest.n_models)


def _between(contest: Contest, panels: Sequence[Panel]) -> list[Facts]:
    """Each two panels beside each other."""
    if contest.n_models < 2:
        return []
    rated = [_by_question(contest, panel) for panel in panels]
    found = [
        (panels[a].name, panels[b].name, agreement([rated[a], rated[b]]))
        for a, b in itertools.combinations(range(len(panels)), 2)
    ]
    return [{"a": a, "b": b, **one.to_json()} for a, b, one in found if one is not None]


def _with_labels(labels: Floats, contest: Contest, panels: Sequence[Panel]) -> list[Facts]:
    """Each panel beside a person."""
    found = [(panel.name, agreement([labels, _by_question(contest, panel)])) for panel in panels]
    return [{"judge": name, **one.to_json()} for name, one in found if one is not None]


def _steadier(contest: Contest, panels: Sequence[Panel]) -> list[Facts]:
    """Of judges that were asked in both ways, which one repeats itself better."""
    ways = {(panel.judge, panel.way): panel for panel in panels}
    found: list[Facts] = []
    for name in dict.fromkeys(panel.judge for panel in panels):
        a, b = ways.get((name, "together")), ways.get((name, "one by one"))
        if a is None or b is None or a.scores.repeats < 2 or contest.n_models < 2:
            continue
        rated = [steadiness(panel.scores.values, contest.n_models) for panel in (a, b)]
        known = np.isfinite(rated).all(0)
        if known.sum() < 2:
            continue
        one, other = (own[known] for own in rated)
        apart = compare_ratios(one, other, np.ones(len(one)), UNIT)
        word = judge(apart, higher_is_better=True).word
        found.append(
            {
                "judge": name,
                "together": asdict(estimate(one)),
                "one_by_one": asdict(estimate(other)),
                "difference": asdict(Estimate(apart.difference, apart.error, apart.low, apart.high, apart.n)),
                "p": apart.p,
                "steadier": {"A is better": "together", "B is better": "one by one"}.get(word, "undecided"),
            }
        )
    return found


# What one should know.


def _talking(answers: Sequence[Answers]) -> list[Facts]:
    """Models with answers that talk to the judge."""
    found = [
        (one.model, [a.question.id for a, text in zip(one.answers, one.texts, strict=True) if talks_to_the_judge(text)])
        for one in answers
    ]
    return [{"model": model, "questions": questions} for model, questions in found if questions]


def _notes(answers: Sequence[Answers], contest: Contest) -> list[str]:
    notes: list[str] = []
    if not contest.anchored:
        lacking = sum(not (question.reference or "").strip() for question in contest.questions)
        notes.append(
            f"{lacking:,} of {len(contest.questions):,} questions have no reference answer, so that there are no "
            "anchors: nothing says whether the judge can tell right from wrong, or drifts"
        )
    for one in answers:
        empty, cut = sum(not text for text in one.texts), sum(not answer.written.ended for answer in one.answers)
        if empty or cut:
            notes.append(f"{one.model}: {empty:,} answers are empty, {cut:,} were cut off")
    return notes
