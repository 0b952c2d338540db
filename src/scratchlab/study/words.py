"""An analysis in sentences that mislead nobody who knows no statistics."""

from collections.abc import Iterable
from math import floor, log10

from scipy import special

from scratchlab.study.evidence import Evidence, Noise
from scratchlab.study.table import ROLES, Table, listed

MANY_SEEDS = 10_000


def figure(value: float, beside: float | None = None) -> str:
    """A figure to as many digits as its error, or else three, can bear."""
    if value == 0:
        return "0"
    size = abs(beside) if beside else abs(value) / 10
    digits = max(0, min(12, 1 - floor(log10(size)))) if size else 4
    return f"{value:.{digits}f}"


def sentence(
    one: Evidence,
    verdict: str,
    smallest_effect: float | None,
    seeds_needed: int | None,
    higher_is_better: bool,
    unit: str = "seed",
) -> str:
    """The verdict on an arm, and what it rests on. `unit` is what its blocks are called."""
    if one.diverged and not one.n:
        return f"{verdict}: {_does_not_train(one, verdict)}"
    if one.effect is None:
        return f"{verdict}: no block holds a run of it and one that links it to the baseline"
    seen = _seen(one, higher_is_better, unit)
    if verdict == "not judged":
        return f"not judged yet: {seen} so far"
    if verdict == "negligible":
        least = figure(smallest_effect or 0)
        return f"negligible: its 90% interval lies within plus or minus {least}, the least that matters"
    if verdict != "undecided":
        by_rate = one.p_diverged is not None and (one.p_effect is None or one.p_diverged <= one.p_effect)
        rate = f"it diverges {'more' if one.diverges_more else 'less'} often than the baseline"
        return f"{verdict}: {rate}" if by_rate else f"{verdict}: {seen}"
    if seeds_needed is None:
        return f"undecided: {seen}, and nothing says how far {unit}s alone move it: run at least 3 {unit}s of every arm"
    return f"undecided: {seen}, which the noise between {unit}s could do alone; {_how_many(seeds_needed, unit)}"


def _does_not_train(one: Evidence, verdict: str) -> str:
    runs = "its one run" if one.diverged == 1 else f"all {one.diverged} of its runs"
    told = f"it does not train at these settings: {runs} diverged"
    if verdict != "undecided":
        return told
    return f"{told}; so few cannot show that it diverges more often than the baseline"


def _seen(one: Evidence, higher_is_better: bool, unit: str) -> str:
    assert one.effect is not None
    better = "better" if (one.effect > 0) == higher_is_better else "worse"
    way = f"{'higher' if one.effect > 0 else 'lower'} ({better})" if one.effect else "different"
    return f"{figure(abs(one.effect), one.error)} {way} over {one.n} {unit}{'s' * (one.n != 1)}"


def _how_many(needed: int, unit: str) -> str:
    if needed > MANY_SEEDS:
        return f"more than {MANY_SEEDS:,} more {unit}s would be needed: name a larger smallest effect, or let it go"
    return f"about {needed:,} more {unit}{'s' * (needed != 1)} would settle it if that is its true size"


def arm_notes(one: Evidence, verdict: str, claimed_at: int | None, blocks: int) -> tuple[str, ...]:
    """What else one should know of an arm."""
    notes: list[str] = []
    if one.diverged and one.n:
        share = f"{one.diverged} of its {one.diverged + one.n} runs diverged"
        if verdict != "not judged":
            share += f" (against the baseline's rate: Fisher's exact p = {one.p_diverged:.3g})"
        notes.append(f"{share}; its effect is that of the runs which survived, and holds for such runs alone")
    elif one.p_diverged is not None and not one.diverged:
        notes.append("runs of the baseline diverged: the effect is against those which survived")
    if one.own_noise:
        notes.append("it or the baseline scatters more than the other arms, so that its own pairs alone judge it")
    if claimed_at is not None and claimed_at < blocks:
        contrary = one.effect is not None and one.p_effect is not None and one.p_effect > 0.05
        doubt = "; all blocks together would not show it alone" if contrary else ""
        notes.append(f"decided at the look after {claimed_at} blocks{doubt}")
    return tuple(notes)


def table_notes(
    table: Table, claimed: set[str], looks: tuple[int, ...], reached: int | None, noise: Noise | None
) -> tuple[str, ...]:
    """What else one should know of a table."""
    return (
        *_nothing_to_compare(table),
        *_missing(table, claimed),
        *_shared_roles(table),
        *_looks(looks, reached, len(set(table.blocks) - {block for _, block in table.missing()})),
        *_lonely(table, noise),
        *_machines(table),
    )


def _nothing_to_compare(table: Table) -> Iterable[str]:
    if len(table.arms) == 1:
        yield f"there is nothing to compare: every run is of the baseline {table.baseline}"


def _missing(table: Table, claimed: set[str]) -> Iterable[str]:
    """Arms that were decided early need no further runs."""
    lacking: dict[tuple[str, ...], list[str]] = {}
    for arm in table.arms:
        blocks = tuple(block for name, block in table.missing() if name == arm and name not in claimed)
        if blocks and len(blocks) < len(table.blocks):
            lacking.setdefault(blocks, []).append(arm)
    for blocks, arms in lacking.items():
        (has, its) = ("has", "its effect rests on its") if len(arms) == 1 else ("have", "each effect rests on the")
        yield (
            f"missing: {listed(arms)} {has} no run in block {', '.join(blocks)}. Nothing is filled in: {its} other "
            f"{len(table.blocks) - len(blocks)} of {len(table.blocks)} blocks. If runs were lost by chance that is "
            "fair; if they were lost because of what they did, it is not"
        )


def _shared_roles(table: Table) -> Iterable[str]:
    for place, role in enumerate(ROLES):
        seeds = {block: cell.seeds[place] for (_, block), cell in table.by_place.items() if cell.seeds is not None}
        if len(seeds) > 1 and len(set(seeds.values())) == 1:
            yield f"all runs have the {role} seed {next(iter(seeds.values()))}: the verdicts hold for it alone"


def _looks(looks: tuple[int, ...], reached: int | None, blocks: int) -> Iterable[str]:
    if looks and reached is None:
        yield f"no verdict before the first look, at {looks[0]} complete blocks: there are {blocks}"
    later = [look for look in looks if reached is not None and look > reached]
    if later:
        yield f"judged at the look of {reached} blocks; the next is at {later[0]}"


def _lonely(table: Table, noise: Noise | None) -> Iterable[str]:
    if noise is not None:
        half = float(special.stdtrit(noise.n - 1, 0.975)) * noise.error
        yield (
            f"an arm with one run is held against the mean of {noise.n} baseline runs with other seeds, "
            f"{figure(noise.mean, noise.sd)}: one more run of the baseline would fall within {figure(half)} of it in "
            "95 cases of 100"
        )
    elif len(table.blocks) == 1:
        yield (
            "one run an arm says nothing about the noise between seeds, so that no verdict is possible: add blocks, or "
            "give figures of baseline runs with other seeds by --noise"
        )


def _machines(table: Table) -> Iterable[str]:
    kinds = sorted({cell.hardware for cell in table.replicates if cell.hardware})
    if table.mixed_hardware and len(kinds) > 1:
        yield f"runs on {', '.join(kinds)} are mixed: the machine is a covariate of the fit"
