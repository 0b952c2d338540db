"""Is model A better than model B? Their difference on the same items, with its interval, and a verdict.

Both answered the same items, so what makes an item hard or easy drops out of the difference: only items on which they
differ say anything. What follows holds for other items of the same kind, and for these two models as they are: whether
training again with other seeds would show it, `replicates` says.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from scratchlab.errors import UsageError
from scratchlab.seeds import generator

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LEVEL = 0.05
"""How often a difference is claimed where there is none."""
POWER = 0.8
"""How often a difference of the size that was planned for is found."""
MANY = 1_000
"""From so many items on, in effect, intervals are bootstrapped: over fewer they would be too short."""
RESAMPLES = 4_000


@dataclass(frozen=True, slots=True)
class Difference:
    """A's figure less B's, with what is known of the true difference."""

    a: float
    b: float
    error: float
    """Standard error of the difference."""
    low: float
    high: float
    """95% interval."""
    low_90: float
    high_90: float
    """90% interval: what lies outside is refuted by one of two one-sided tests at 5%."""
    p: float
    """Two-sided, that there is no difference."""
    n: int
    unit: str
    """What `n` counts, in the plural."""
    method: str
    variance: float
    """`n` times the squared error: what each of them adds to the noise."""
    groups: int = 1
    """Two where the two sides are not paired: each has its own mean to be estimated from."""

    @property
    def difference(self) -> float:
        return self.a - self.b

    def within(self, effect: float) -> bool:
        """Whether a difference as large as `effect`, either way, is refuted: two one-sided tests (Schuirmann 1987)."""
        return -effect < self.low_90 and self.high_90 < effect

    def needed(self, effect: float) -> int:
        """How many units would show a true difference of `effect` four times in five."""
        return units_needed(self.variance, effect, self.groups)

    def to_json(self) -> dict[str, Any]:
        return {"difference": self.difference, **asdict(self)}


# Choices: right or wrong.


def compare_shares(right_a: Bools, right_b: Bools) -> Difference:
    """The difference of two accuracies on the same items: McNemar's test, and Tango's interval, which belongs to it.

    The test is the mid-p one: the exact one finds too little (at 200 items of which 20 differ it is wrong in 2.9 cases
    of 100 where 5 are meant, the mid-p one in 4.6; Fagerland, Lydersen and Laake 2013, BMC Medical Research
    Methodology 13:91, recommend it). UsageError for fewer than two items.
    """
    n = _enough(len(right_a), "items")
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    apart, differ = (only_a - only_b) / n, (only_a + only_b) / n
    low, high = tango_interval(only_a, only_b, n, 1 - LEVEL)
    low_90, high_90 = tango_interval(only_a, only_b, n, 1 - 2 * LEVEL)
    return Difference(
        a=float(right_a.mean()),
        b=float(right_b.mean()),
        error=math.sqrt((differ - apart**2) / (n - 1)),
        low=low,
        high=high,
        low_90=low_90,
        high_90=high_90,
        p=mcnemar(only_a, only_b),
        n=n,
        unit="items",
        method="McNemar's test, mid-p; Tango's interval",
        variance=differ,
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """Mid-p value of McNemar's test from the numbers of items that only one of the two got right."""
    differ, fewer = only_a + only_b, min(only_a, only_b)
    tail = stats.binom.cdf(fewer, differ, 0.5) - stats.binom.pmf(fewer, differ, 0.5) / 2
    return min(1.0, 2 * float(tail))


def tango_interval(only_a: int, only_b: int, n: int, confidence: float) -> tuple[float, float]:
    """Interval for the difference of two paired shares: all that the score test does not refute.

    Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17, 891-908. It keeps its coverage also where few items differ, or none.
    """
    z, seen = float(stats.norm.isf((1 - confidence) / 2)), (only_a - only_b) / n

    def refuted(difference: float) -> bool:
        linear = (2 * n - only_a + only_b) * difference - only_a - only_b
        root = math.sqrt(max(0.0, linear**2 + 8 * n * only_b * difference * (1 - difference)))
        share_b = (root - linear) / (4 * n)  # the likeliest share of "only B" if this were the difference
        variance = n * (2 * share_b + difference * (1 - difference))
        return abs(only_a - only_b - n * difference) > z * math.sqrt(max(0.0, variance))

    return _edge(refuted, -1.0, seen), _edge(refuted, 1.0, seen)


def _edge(refuted: Callable[[float], bool], outside: float, inside: float) -> float:
    """Where the interval ends, to the last bit, by halving."""
    while (middle := (outside + inside) / 2) not in (outside, inside):
        if refuted(middle):
            outside = middle
        else:
            inside = middle
    return inside


# Loss: sums over items of unequal size.


def compare_ratios(sums_a: Floats, sums_b: Floats, sizes: Floats, unit: str = "items") -> Difference:
    """The difference of sum(sums_a) / sum(sizes) and sum(sums_b) / sum(sizes), clustered by item.

    Over few items a t interval: the linearized error with each residual raised by what its own item took of it
    (Bell and McCaffrey 2002, "CR2"), and the degrees of freedom of the effective number of items (Kish 1965): ten
    documents of which one is longer than the rest together are hardly more than one. Over many a bootstrap of whole
    items (percentiles, always the same draws). UsageError for fewer than two items.
    """
    n = _enough(len(sizes), unit)
    weights = sizes / sizes.sum()
    difference = float((sums_a - sums_b).sum() / sizes.sum())
    residuals = (sums_a - sums_b) / sizes.sum() - difference * weights
    error = math.sqrt(float((np.square(residuals) / np.maximum(1 - weights, 1e-9)).sum()))
    effective = float(1 / np.square(weights).sum())
    if effective >= MANY:
        low, low_90, high_90, high, p = _bootstrapped(sums_a - sums_b, sizes)
    else:
        low, low_90, high_90, high, p = _by_t(difference, error, max(1.0, effective - 1))
    method = "bootstrap" if effective >= MANY else f"t, {effective:.0f} {unit} in effect"
    return Difference(
        a=float(sums_a.sum() / sizes.sum()),
        b=float(sums_b.sum() / sizes.sum()),
        error=error,
        low=low,
        high=high,
        low_90=low_90,
        high_90=high_90,
        p=p,
        n=n,
        unit=unit,
        method=method,
        variance=n * error**2,
    )


Limits = tuple[float, float, float, float, float]
"""2.5%, 5%, 95% and 97.5% of what the true difference may be, and p."""


def _by_t(difference: float, error: float, freedom: float) -> Limits:
    wide, narrow = (float(stats.t.isf(tail, freedom)) * error for tail in (LEVEL / 2, LEVEL))
    p = float(2 * stats.t.sf(abs(difference) / error, freedom)) if error else float(difference == 0)
    return difference - wide, difference - narrow, difference + narrow, difference + wide, p


def _bootstrapped(differences: Floats, sizes: Floats) -> Limits:
    n, rng = len(sizes), generator(0, "comparison", "bootstrap")
    drawn = np.empty(RESAMPLES)
    rows = max(1, 2**20 // n)  # resamples at once: some megabytes
    for start in range(0, RESAMPLES, rows):
        places = rng.integers(n, size=(min(rows, RESAMPLES - start), n))
        drawn[start : start + rows] = differences[places].sum(1) / sizes[places].sum(1)
    low, low_90, high_90, high = np.quantile(drawn, [LEVEL / 2, LEVEL, 1 - LEVEL, 1 - LEVEL / 2])
    rarer = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p = min(1.0, 2 * (1 + int(rarer)) / (1 + RESAMPLES))
    return float(low), float(low_90), float(high_90), float(high), p


def _enough(n: int, unit: str) -> int:
    if n < 2:
        raise UsageError(
            f"A comparison needs two {unit} at least, and there is {n}: nothing says how much they differ."
        )
    return n


# What follows.


def units_needed(variance: float, effect: float, groups: int = 1) -> int:
    """How many units (in each of `groups`) show a true difference of `effect` with power 80%, two-sided at 5%.

    `variance` is that of one unit's difference. For few units the t distribution makes it more than the normal would.
    """
    z = float(stats.norm.isf(LEVEL / 2) + stats.norm.ppf(POWER))
    n = max(2, math.ceil(z**2 * variance / effect**2))
    while n < 100 and power(n, variance, effect, groups) < POWER:
        n += 1
    return n


def power(n: int, variance: float, effect: float, groups: int = 1) -> float:
    """How often `n` units (in each of `groups`) show a true difference of `effect`: from the noncentral t."""
    freedom, shift = groups * (n - 1), effect / math.sqrt(variance / n)
    return float(stats.nct.sf(stats.t.isf(LEVEL / 2, freedom), freedom, shift))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison comes to."""

    word: Literal["A is better", "B is better", "no difference", "undecided"]
    sentence: str
    needed: int | None = None
    """Of an undecided one: how many units would show `effect` four times in five."""
    effect: float | None = None
    """The smallest difference that matters, or else, where it is undecided, the one that was seen."""


def judge(found: Difference, higher_is_better: bool, smallest_effect: float | None = None) -> Verdict:
    """The verdict on a difference: first whether it is too small to matter, then whether there is one."""
    if smallest_effect is not None and found.within(smallest_effect):
        return Verdict("no difference", f"no difference larger than {smallest_effect:g}", effect=smallest_effect)
    if found.p < LEVEL:
        better = "A is better" if (found.difference > 0) == higher_is_better else "B is better"
        return Verdict(better, better, effect=smallest_effect)
    return _undecided(found, abs(found.difference) if smallest_effect is None else smallest_effect)


def _undecided(found: Difference, effect: float) -> Verdict:
    if effect == 0 or found.variance == 0:
        return Verdict("undecided", "undecided: no difference was seen; name the smallest that matters")
    needed = found.needed(effect)
    enough = needed <= found.n
    sentence = (
        f"undecided: {found.n:,} {found.unit} would show {effect:.2g} four times in five, so it is likely smaller"
        if enough
        else f"undecided: about {needed:,} {found.unit} would be needed for {effect:.2g}"
    )
    return Verdict("undecided", sentence, needed, effect)
