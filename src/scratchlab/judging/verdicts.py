"""Is a model better than the baseline? Differences paired by question, and verdicts in the words of a study.

The error of each pair is its own. A study pools it over its arms, for it has few seeds; here there are tens of
questions or more, and models that descend from one another differ less than others, which pooling would hide.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from scratchlab.evaluation.comparison import LEVEL, Difference, compare_ratios
from scratchlab.judging.scores import UNIT, Floats, Noise, mean_of, noise_of
from scratchlab.study import words
from scratchlab.study.analysis import ClaimWord, Verdict, verdict_of
from scratchlab.study.evidence import Evidence
from scratchlab.study.multiplicity import holm
from scratchlab.study.power import Design, blocks_to_claim, blocks_to_settle


@dataclass(frozen=True, slots=True)
class Figures:
    """A figure of every model as a ratio of sums over questions."""

    models: tuple[str, ...]
    sums: Floats
    """(Q, E); NaN where a model has none."""
    sizes: Floats
    """(Q,)"""
    higher_is_better: bool
    smallest_effect: float | None


@dataclass(frozen=True, slots=True)
class Versus:
    """A model beside the baseline, on the questions that both have a figure of."""

    model: str
    baseline: str
    n: int
    effect: float
    """The model's figure less the baseline's."""
    error: float
    low: float
    high: float
    """95% interval, not adjusted for the number of models."""
    low_90: float
    high_90: float
    p: float
    p_holm: float
    """Adjusted for all models that are held against the baseline."""
    verdict: Verdict
    needed: int | None
    """Of an undecided one: how many more questions would settle it four times in five, if the effect is as seen."""
    method: str
    sentence: str
    noise: Noise | None = None
    """Where the error comes from, where a judge was asked repeatedly."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def against_baseline(figures: Figures, baseline: int) -> list[Versus]:
    """Every other model beside the one at the place `baseline`. UsageError for fewer than two questions in common."""
    others = [place for place in range(len(figures.models)) if place != baseline]
    found = [_difference(figures, place, baseline) for place in others]
    adjusted = holm([one.p for one in found])
    return [
        _versus(figures, figures.models[place], figures.models[baseline], one, p)
        for place, one, p in zip(others, found, adjusted, strict=True)
    ]


def judged_against(values_QRE: Floats, models: Sequence[str], baseline: int, smallest: float | None) -> list[Versus]:
    """The same of a judge's scores, with the two noises; differences are taken within the prompt where there is one."""
    figures = Figures(tuple(models), mean_of(values_QRE, 1), np.ones(len(values_QRE)), True, smallest)
    found = against_baseline(figures, baseline)
    others = [place for place in range(len(models)) if place != baseline]
    noises = [noise_of(values_QRE[:, :, place] - values_QRE[:, :, baseline]) for place in others]
    return [replace(one, noise=noise) for one, noise in zip(found, noises, strict=True)]


def _difference(figures: Figures, a: int, b: int) -> Difference:
    pair = figures.sums[:, [a, b]]
    known = np.isfinite(pair).all(1) & np.isfinite(figures.sizes)
    return compare_ratios(pair[known, 0], pair[known, 1], figures.sizes[known], UNIT)


def _versus(figures: Figures, model: str, baseline: str, found: Difference, adjusted: float) -> Versus:
    smallest, comparisons = figures.smallest_effect, len(figures.models) - 1
    claim: ClaimWord | None = None
    if adjusted < LEVEL:
        claim = "helps" if (found.difference > 0) == figures.higher_is_better else "hurts"
    verdict = verdict_of(found.low_90, found.high_90, smallest, claim)
    needed = _more(found, smallest, LEVEL / comparisons) if verdict == "undecided" else None
    return Versus(
        model=model,
        baseline=baseline,
        n=found.n,
        effect=found.difference,
        error=found.error,
        low=found.low,
        high=found.high,
        low_90=found.low_90,
        high_90=found.high_90,
        p=found.p,
        p_holm=adjusted,
        verdict=verdict,
        needed=needed,
        method=found.method,
        sentence=words.sentence(
            _evidence(model, found), verdict, smallest, needed, figures.higher_is_better, UNIT.removesuffix("s")
        ),
    )


def _more(found: Difference, smallest: float | None, level: float) -> int | None:
    """Questions beyond those there are; None where no number of them would do."""
    design = Design(math.sqrt(found.variance), 1, level)
    if smallest is not None:
        return max(1, blocks_to_settle(design, found.difference, smallest) - found.n)
    return max(1, blocks_to_claim(design, found.difference) - found.n) if found.difference else None


def _evidence(model: str, found: Difference) -> Evidence:
    """As the words of a study take it."""
    return Evidence(
        name=model,
        n=found.n,
        mean=found.a,
        effect=found.difference,
        error=found.error,
        freedom=found.n - 1,
        method=found.method,
        diverged=0,
        p_diverged=None,
        diverges_more=False,
        spread=math.sqrt(found.variance),
        freedom_per_block=1,
    )
