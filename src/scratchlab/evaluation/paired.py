"""Two sides' results of the same tasks, brought together item by item from their logs, and compared.

A side is a model, or several: runs of the same recipe with other seeds.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scratchlab.errors import ScratchlabError, UsageError
from scratchlab.evaluation.comparison import Difference, Floats, Verdict, compare_ratios, compare_shares, judge
from scratchlab.evaluation.replicates import compare_runs
from scratchlab.evaluation.results import read_log
from scratchlab.evaluation.tasks import Record, is_right

Seeds = tuple[tuple[str, int], ...]
"""A run's, by role."""

SHOWN = 10  # items named in a message


@dataclass(frozen=True, slots=True)
class Results:
    """What one model did on one task, item by item in the order of their numbers."""

    path: Path
    head: Record
    records: tuple[Record, ...]

    @property
    def model(self) -> str:
        return self.head["model"]

    @property
    def task(self) -> str:
        return self.head["task"]

    @property
    def is_loss(self) -> bool:
        return self.head.get("kind", "choices") == "loss"

    @property
    def items(self) -> str:
        """What they are called."""
        return self.head.get("unit", "documents") if self.is_loss else "items"


def read_results(path: Path) -> Results:
    """The results of a log. ScratchlabError if it is damaged, or its evaluation has not come to its end."""
    head, records = read_log(path)
    records.sort(key=lambda record: record["item"])
    results = Results(path, head, tuple(records))
    numbers = [record["item"] for record in records]
    if len(set(numbers)) < len(numbers):
        raise ScratchlabError(f"{path} is damaged: an item is in it twice. Delete it, and evaluate again.")
    expected = head.get("items", len(records))
    if len(records) < expected or not records:
        raise ScratchlabError(
            f"{path}: {head['model']} has answered {len(records):,} of {expected:,} {results.items} of {head['task']}. "
            "Evaluate it again: it goes on where it stopped."
        )
    bad = [record["item"] for record in records if not np.isfinite(np.array(record["nats"], float)).all()]
    if bad:
        raise ScratchlabError(
            f"{path}: the loss of {head['model']} is not finite on {_listed(bad, results.items)} of {head['task']}: "
            "nothing can be compared with that."
        )
    return results


def check_same(a: Results, b: Results) -> None:
    """UsageError unless both answered the same items, asked in the same way; it says which differ."""
    if a.is_loss != b.is_loss:
        raise UsageError(f"{a.path} and {b.path}: one is of a loss, the other of choices. Name two logs of one task.")
    problems = list(_differing(a, b))
    if not problems and a.head["task_sha256"] != b.head["task_sha256"]:
        problems = ["the items have the same numbers, but other texts or another wording"]
    if problems:
        raise UsageError(
            f"{a.path} ({a.model} on {a.task}) and {b.path} ({b.model} on {b.task}) are not of the same {a.items}: "
            f"{'; '.join(problems)}. Evaluate both on the same task."
        )


def _differing(a: Results, b: Results) -> list[str]:
    by_number = [{record["item"]: record for record in side.records} for side in (a, b)]
    only_a, only_b = (sorted(mine.keys() - other.keys()) for mine, other in (by_number, by_number[::-1]))
    fixed = ("bytes",) if a.is_loss else ("gold", "bytes")
    unlike = [
        number
        for number in sorted(by_number[0].keys() & by_number[1].keys())
        if any(by_number[0][number][field] != by_number[1][number][field] for field in fixed)
    ]
    found = [(only_a, f"only {a.model} has"), (only_b, f"only {b.model} has"), (unlike, "other texts have")]
    return [f"{what} {_listed(numbers, a.items)}" for numbers, what in found if numbers]


def _listed(numbers: Sequence[int], what: str) -> str:
    more = len(numbers) - SHOWN
    shown = ", ".join(map(str, numbers[:SHOWN])) + (f" and {more:,} more" if more > 0 else "")
    return f"{what} {shown}"


# Figures.


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a task as a ratio of sums over items, of each run of both sides."""

    name: str
    higher_is_better: bool
    a: Floats
    b: Floats
    """Sums of each run on each item, (runs, items)."""
    sizes: Floats
    """Of the items, (items,)."""


def figures(a: Sequence[Results], b: Sequence[Results]) -> list[Figure]:
    """The figures of a task that can be compared; the one that counts comes first.

    Nats per token are left out where the tokenizers cut the documents differently.
    """
    if a[0].is_loss:
        return _loss_figures(a, b)
    metric = a[0].head["metric"]
    right = [np.array([[is_right(record, metric) for record in run.records] for run in side], float) for side in (a, b)]
    nats = [_rows(side, lambda record: record["nats"][record["gold"]]) for side in (a, b)]
    sizes = np.array([record["bytes"][record["gold"]] for record in a[0].records], float)
    return [Figure(metric, True, right[0], right[1], np.ones(len(sizes))), _bits(nats, sizes)]


def _loss_figures(a: Sequence[Results], b: Sequence[Results]) -> list[Figure]:
    nats = [_rows(side, lambda record: record["nats"]) for side in (a, b)]
    tokens = [_rows(side, lambda record: record["tokens"]) for side in (a, b)]
    bits = _bits(nats, np.array([record["bytes"] for record in a[0].records], float))
    same = all((row == tokens[0][0]).all() for side in tokens for row in side)
    return [Figure("nats_per_token", False, nats[0], nats[1], tokens[0][0]), bits] if same else [bits]


def _rows(side: Sequence[Results], value: Callable[[Record], float]) -> Floats:
    return np.array([[value(record) for record in run.records] for run in side], float)


def _bits(nats: Sequence[Floats], sizes: Floats) -> Figure:
    return Figure("bits_per_byte", False, nats[0] / math.log(2), nats[1] / math.log(2), sizes)


# Comparisons.


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of one task, of two sides."""

    task: str
    figure: str
    items: Difference
    """Over other items: what these models would show on other items of the kind."""
    seeds: Difference | None
    """Over other seeds, on these items: what other runs would show. None for one run against one."""
    verdict: Verdict

    @property
    def deciding(self) -> Difference:
        """What the verdict comes from."""
        return self.seeds or self.items

    def to_json(self) -> dict[str, Any]:
        found, verdict = self.deciding, self.verdict
        shown = {name: getattr(found, name) for name in ("a", "b", "difference", "low", "high", "p", "n", "unit")}
        return {
            "task": self.task,
            "figure": self.figure,
            **shown,
            "method": found.method,
            "verdict": verdict.word,
            "sentence": verdict.sentence,
            "needed": verdict.needed,
            "effect": verdict.effect,
            "n_items": self.items.n,
            "item_error": self.items.error,
            "seed_error": None if self.seeds is None else self.seeds.error,
            "over_items": self.items.to_json(),
            "over_seeds": None if self.seeds is None else self.seeds.to_json(),
        }


def compare_task(
    a: Sequence[Results],
    b: Sequence[Results],
    seeds: tuple[Sequence[Seeds | None], Sequence[Seeds | None]],
    smallest_effect: float | None = None,
) -> list[Comparison]:
    """Compare two sides on one task, a comparison a figure.

    `seeds` are those of the runs, where they are known: equal ones pair the runs. `smallest_effect` is a difference
    of the figure that counts; smaller ones do not matter. UsageError if items differ or two runs are the same.
    """
    first, *others = [*a, *b]
    for other in others:
        check_same(first, other)
    _check_runs(a, b, seeds)
    order = pairing(*seeds)
    ahead = [b[place] for place in order] if order else b
    return [
        _compare(first.task, first.items, figure, bool(order), smallest_effect if place == 0 else None)
        for place, figure in enumerate(figures(a, ahead))
    ]


def _compare(task: str, unit: str, figure: Figure, paired: bool, smallest_effect: float | None) -> Comparison:
    runs = [side.sum(1) / figure.sizes.sum() for side in (figure.a, figure.b)]
    alone = len(runs[0]) == len(runs[1]) == 1
    if alone and figure.name.startswith("accuracy"):
        items = compare_shares(figure.a[0] > 0, figure.b[0] > 0)
    else:
        items = compare_ratios(figure.a.mean(0), figure.b.mean(0), figure.sizes, unit)
    seeds = None if alone else compare_runs(runs[0], runs[1], paired)
    verdict = judge(seeds or items, figure.higher_is_better, smallest_effect)
    return Comparison(task, figure.name, items, seeds, verdict)


def _check_runs(a: Sequence[Results], b: Sequence[Results], seeds: tuple[Sequence[Seeds | None], ...]) -> None:
    """A run that is there twice, or a repeat of the same seeds, would count as evidence that it is not."""
    by_weights: dict[str, Results] = {}
    for run in [*a, *b]:
        twin = by_weights.setdefault(run.head.get("model_sha256", str(run.path)), run)
        if twin is not run:
            raise UsageError(f"{twin.model} and {run.model} are the same model: there is nothing to compare.")
    for side, own in zip((a, b), seeds, strict=True):
        by_seeds: dict[Seeds, Results] = {}
        for run, seed in zip(side, own, strict=True):
            twin = run if seed is None else by_seeds.setdefault(seed, run)
            if twin is not run:
                raise UsageError(
                    f"{twin.model} and {run.model} have the same seeds. Two runs of one side must differ in their "
                    "seeds (seeds.init, seeds.data, seeds.noise): a repeat says nothing about the noise between seeds."
                )


def pairing(a: Sequence[Seeds | None], b: Sequence[Seeds | None]) -> list[int] | None:
    """For each run of A the place of B's run with the same seeds; None if they do not pair, or are one a side."""
    if len(a) < 2 or None in a or set(a) != set(b):
        return None
    return [list(b).index(seeds) for seeds in a]
