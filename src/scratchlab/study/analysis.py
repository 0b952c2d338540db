"""Which changes are real: from the table of a study's runs to a verdict on each arm.

Read it from top to bottom. In short:

1. Every arm ran in the same blocks (a block is one triple of seeds): each is compared with the baseline within them.
2. How far runs scatter is estimated once, from all arms together (ordinary least squares, value ~ arm + block). This
   pooling is what makes 3 to 8 seeds enough. An arm that scatters more than the rest is judged by its own pairs alone.
3. Each effect gets a 95% t interval and a p value. Because several changes are tried, p is adjusted (Holm), so that
   a study of useless changes claims anything at all in at most 5 cases of 100.
4. A change is *negligible* if the 90% interval of its effect lies within plus or minus the smallest effect that
   matters; else it *helps* or *hurts* if the adjusted p is small; else it is *undecided*, with the seeds that would
   settle it.

Looks: if the study said so beforehand, it is judged at 3, 5 and 8 blocks, and may stop at each. Looking three times at
5% would claim too much (.117 of useless changes), so the 5% are split: .005, .015, .03. Within a look Holm keeps its
share, and by the sum of the shares all looks together keep 5%. A claim made at an early look stands at the later ones
and leaves the family there; that costs nothing, for it is either true, or the one error already paid for.

The simulations that hold all of this are in docs/statistics.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from scratchlab.errors import ScratchlabError, UsageError
from scratchlab.study import words
from scratchlab.study.evidence import Evidence, Noise, gather
from scratchlab.study.least_squares import LEVEL
from scratchlab.study.multiplicity import benjamini_hochberg, holm, shared_noise
from scratchlab.study.power import Design, blocks_to_settle
from scratchlab.study.table import Table, check_table

ClaimWord = Literal["helps", "hurts"]
Verdict = Literal["helps", "hurts", "negligible", "undecided", "not judged"]

SHARE_OF_LOSS = 0.001
"""Where nobody says what matters: a thousandth of the baseline, or its deviation over seeds if that is larger."""


@dataclass(frozen=True, slots=True)
class ArmResult:
    """What is known of an arm. Effects are arm less baseline, in the metric's own unit."""

    name: str
    n: int
    """Runs that finished."""
    mean: float | None
    effect: float | None
    low: float | None
    high: float | None
    """The 95% interval of the effect, not adjusted for the number of arms."""
    p: float | None
    """That the arm is as the baseline; two-sided, not adjusted. None before the first look: so nobody peeks."""
    p_holm: float | None
    """p adjusted for the declared interventions, as of the look that decided it; None for an exploratory arm."""
    verdict: Verdict
    seeds_needed: int | None
    """How many more seeds would settle an undecided arm four times in five, if the effect is what was seen."""
    low_90: float | None
    high_90: float | None
    error: float | None
    freedom: float
    method: str
    exploratory: bool
    p_exploratory: float | None
    """p of an exploratory arm, adjusted by Benjamini-Hochberg."""
    diverged: int
    p_diverged: float | None
    """Fisher's exact test of the rates of divergence, where any run diverged."""
    decided_at: int | None
    """The look (in blocks) at which it was claimed to help or hurt."""
    sentence: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Analysis:
    """A study, judged."""

    baseline: str
    n: int
    mean: float
    sd: float | None
    """Of the baseline over seeds."""
    metric: str
    higher_is_better: bool
    smallest_effect: float | None
    smallest_effect_is: str
    """Where it comes from."""
    blocks: int
    """That the verdicts rest on."""
    residual_sd: float | None
    """Of one run about what its arm and its block make expected, pooled over arms."""
    freedom: int
    looks: tuple[int, ...]
    look: int | None
    """The last one reached; None: none yet, or none declared."""
    level: float
    """What an adjusted p had to be below at the last look."""
    arms: tuple[ArmResult, ...]
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> ArmResult:
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def settled(self) -> bool:
        """Whether every arm has been judged, and none is undecided."""
        return all(arm.verdict not in ("undecided", "not judged") for arm in self.arms)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def analyze(
    table: Table,
    smallest_effect: float | None = None,
    looks: Sequence[int] | None = None,
    declared: Sequence[str] | None = None,
    noise: Sequence[float] | None = None,
    reached: int | None = None,
) -> Analysis:
    """Judge every arm of a table against its baseline.

    `looks`: block counts at which the study was declared to be judged; without them it is judged once, on all there
    is. `declared`: the family of interventions (default: every arm); other arms are exploratory. `noise`: figures of
    baseline runs, by which arms with a single run are judged. `reached`: how many blocks are done with, where the
    caller knows (default: those in which no arm that is still open lacks a run). UsageError and ScratchlabError for
    tables that cannot be judged.
    """
    check_table(table)
    _check_arguments(table, smallest_effect, looks, declared)
    family = tuple(declared) if declared is not None else table.arms[1:]
    known_noise = None if noise is None else Noise.of(noise)
    claims: dict[str, Claim] = {}
    judged: Judged | None = None
    for blocks, level in _levels(table, looks):
        open_arms = [arm for arm in table.arms if arm not in claims]
        if looks is not None and (_done(table, open_arms) if reached is None else reached) < blocks:
            break
        judged = _judge_at(table, blocks, level, family, claims, known_noise)
        claims |= judged.claims
    if judged is None:  # before the first look: figures, but no verdict
        judged = replace(_judge_at(table, len(table.blocks), 0.0, family, claims, known_noise), adjusted={})
    return _report(table, judged, claims, smallest_effect, looks, family, known_noise)


def _levels(table: Table, looks: Sequence[int] | None) -> list[tuple[int, float]]:
    """(blocks, level) of each look."""
    return [(len(table.blocks), LEVEL)] if looks is None else list(zip(looks, look_levels(len(looks)), strict=True))


def look_levels(looks: int) -> list[float]:
    """The level of each of so many looks. They grow as 1, 3, 6, ...: early claims must be strong; together 5%."""
    weights = [(i + 1) * (i + 2) / 2 for i in range(looks)]
    return [LEVEL * weight / sum(weights) for weight in weights]


def _done(table: Table, arms: Sequence[str]) -> int:
    """How many blocks from the first on have a run of each of `arms`."""
    lacking = {block for arm, block in table.missing() if arm in arms}
    return next((i for i, block in enumerate(table.blocks) if block in lacking), len(table.blocks))


# One look.


@dataclass(frozen=True, slots=True)
class Claim:
    """That an arm helps or hurts, made at a look."""

    word: ClaimWord
    blocks: int
    adjusted: float
    """Its p then."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a look comes to."""

    blocks: int
    level: float
    evidence: Mapping[str, Evidence]
    adjusted: Mapping[str, float]
    claims: Mapping[str, Claim]
    """Those made at this look."""


def _judge_at(
    table: Table, blocks: int, level: float, family: Sequence[str], claims: Mapping[str, Claim], noise: Noise | None
) -> Judged:
    """Judge what the first `blocks` blocks show, given what was claimed before."""
    evidence = gather(table.first(blocks), noise)
    still = [name for name in family if name not in claims]
    exploring = [name for name in evidence if name not in family]
    adjusted = _adjust_family(evidence, still) | _adjust_exploratory(evidence, exploring)
    new = {
        name: Claim("helps" if evidence[name].better(table.higher_is_better) else "hurts", blocks, p)
        for name, p in adjusted.items()
        if p < level and name not in claims
    }
    return Judged(blocks, level, evidence, adjusted, new)


def _adjust_family(evidence: Mapping[str, Evidence], names: Sequence[str]) -> dict[str, float]:
    """Holm over the declared interventions; one that has not run yet counts all the same.

    Arms with one run each, all judged by the same few noise runs, by the joint test of that.
    """
    ready = [(name, evidence[name].p) for name in names if name in evidence]
    tested = {name: p for name, p in ready if p is not None}
    single = [evidence[name].t for name in tested if evidence[name].noise_runs]
    if len(single) == len(names) and single:
        runs = evidence[next(iter(tested))].noise_runs
        return dict(zip(tested, shared_noise(single, runs), strict=True))
    return dict(zip(tested, holm(list(tested.values()), len(names)), strict=True))


def _adjust_exploratory(evidence: Mapping[str, Evidence], names: Sequence[str]) -> dict[str, float]:
    tested = {name: p for name in names if (p := evidence[name].p) is not None}
    return dict(zip(tested, benjamini_hochberg(list(tested.values())), strict=True))


# The report.


def _report(
    table: Table,
    judged: Judged,
    claims: Mapping[str, Claim],
    smallest_effect: float | None,
    looks: Sequence[int] | None,
    family: Sequence[str],
    noise: Noise | None,
) -> Analysis:
    seen = table.first(judged.blocks)
    values = seen.finished(table.baseline)
    if not values:
        raise ScratchlabError(
            f"Every run of the baseline {table.baseline!r} diverged: there is nothing to compare with. "
            "Lower its learning rate, or take another baseline."
        )
    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
    if noise is not None and sd is None:
        sd = noise.sd
    smallest, origin = _smallest(smallest_effect, mean, sd)
    counts = [name not in claims for name in family], [n not in claims for n in judged.evidence if n not in family]
    last_level = judged.level if looks is None else _levels(table, looks)[-1][1]
    arms = tuple(
        _arm(seen, one, judged, claims, smallest, name in family, last_level / max(1, sum(counts[name not in family])))
        for name, one in judged.evidence.items()
    )
    first = next(iter(judged.evidence.values()), None)
    residual, freedom = (None, 0) if first is None else (first.residual_sd, first.residual_freedom)
    reached = judged.blocks if looks is not None and judged.level else None
    return Analysis(
        baseline=table.baseline,
        n=len(values),
        mean=mean,
        sd=sd,
        metric=table.metric,
        higher_is_better=table.higher_is_better,
        smallest_effect=smallest,
        smallest_effect_is=origin,
        blocks=len(seen.blocks),
        residual_sd=residual,
        freedom=freedom,
        looks=tuple(looks or ()),
        look=reached,
        level=judged.level,
        arms=arms,
        notes=words.table_notes(seen, set(claims), tuple(looks or ()), reached, noise),
    )


def _smallest(given: float | None, mean: float, sd: float | None) -> tuple[float | None, str]:
    """The smallest effect that matters, and where it comes from."""
    if given is not None:
        return given, "as given"
    if sd is None:
        return None, "unknown: it takes two runs of the baseline, or --smallest-effect"
    share = SHARE_OF_LOSS * abs(mean)
    if not max(sd, share):
        return None, "unknown: the baseline is 0 in every run, so it takes --smallest-effect"
    return (sd, "one deviation of the baseline over seeds") if sd > share else (share, "0.1% of the baseline")


def _arm(
    table: Table,
    one: Evidence,
    judged: Judged,
    claims: Mapping[str, Claim],
    smallest: float | None,
    in_family: bool,
    level: float,
) -> ArmResult:
    """The row of an arm: its evidence, the verdict on it, and both in words."""
    claim = claims.get(one.name)
    adjusted = judged.adjusted.get(one.name) if claim is None else claim.adjusted
    low, high = one.interval(LEVEL)
    low_90, high_90 = one.interval(2 * LEVEL)
    too_small = smallest if judged.level and not one.diverges_more else None
    verdict: Verdict = "not judged"
    if judged.level:
        verdict = verdict_of(low_90, high_90, too_small, None if claim is None else claim.word)
    needed = _more_seeds(one, smallest, level) if verdict == "undecided" else None
    return ArmResult(
        name=one.name,
        n=one.n,
        mean=one.mean,
        effect=one.effect,
        low=low,
        high=high,
        p=one.p if judged.level else None,
        p_holm=adjusted if in_family else None,
        verdict=verdict,
        seeds_needed=needed,
        low_90=low_90,
        high_90=high_90,
        error=one.error,
        freedom=one.freedom,
        method=one.method,
        exploratory=not in_family,
        p_exploratory=None if in_family else adjusted,
        diverged=one.diverged,
        p_diverged=one.p_diverged if judged.level else None,
        decided_at=None if claim is None else claim.blocks,
        sentence=words.sentence(one, verdict, smallest, needed, table.higher_is_better),
        notes=words.arm_notes(one, verdict, None if claim is None else claim.blocks, judged.blocks),
    )


def verdict_of(low_90: float | None, high_90: float | None, smallest: float | None, claim: ClaimWord | None) -> Verdict:
    """In this order: too small to matter; claimed; not known. Without a `smallest` effect nothing is too small."""
    reach = None if low_90 is None or high_90 is None else max(-low_90, high_90)
    if smallest is not None and reach is not None and reach < smallest:  # two one-sided tests at 5% (Schuirmann 1987)
        return "negligible"
    return claim or "undecided"


def _more_seeds(one: Evidence, smallest: float | None, level: float) -> int | None:
    """Seeds beyond those there are; None where nothing says how far runs scatter."""
    if one.effect is None or one.spread is None or smallest is None or math.isnan(one.spread):
        return None
    design = Design(one.spread, one.freedom_per_block, level)
    return max(1, blocks_to_settle(design, one.effect, smallest) - one.n)


def _check_arguments(
    table: Table, smallest_effect: float | None, looks: Sequence[int] | None, declared: Sequence[str] | None
) -> None:
    if smallest_effect is not None and not (smallest_effect > 0 and math.isfinite(smallest_effect)):
        raise UsageError(f"The smallest effect should be a number above 0, not {smallest_effect:g}.")
    if looks is not None and (list(looks) != sorted(set(looks)) or not looks or min(looks) < 2):
        raise UsageError(f"Looks should be growing numbers of blocks from 2 on, such as 3, 5, 8; not {list(looks)}.")
    if declared is not None and table.baseline in declared:
        raise UsageError(f"The baseline {table.baseline!r} cannot be one of the interventions.")
