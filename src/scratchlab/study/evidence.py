"""What the runs say of each arm: its effect, how well it is known, and what else happened. No verdict yet."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from scratchlab.study.least_squares import Fit, Floats, fit_blocks, noisier_arms
from scratchlab.study.table import Table


@dataclass(frozen=True, slots=True)
class Noise:
    """How baseline runs scatter that are not in the table, or are there without their like."""

    n: int
    mean: float
    sd: float

    @property
    def error(self) -> float:
        """Of a further run about the mean of these."""
        return self.sd * math.sqrt(1 + 1 / self.n)

    @classmethod
    def of(cls, values: Sequence[float]) -> "Noise":
        return cls(len(values), float(np.mean(values)), float(np.std(values, ddof=1)))


@dataclass(frozen=True, slots=True)
class Evidence:
    """On one arm."""

    name: str
    n: int
    mean: float | None
    effect: float | None
    """Arm less baseline."""
    error: float | None
    """Its standard error."""
    freedom: float
    method: str
    diverged: int
    p_diverged: float | None
    diverges_more: bool
    """At a higher rate than the baseline, by chance or not."""
    spread: float | None
    """Deviation of one block's difference, and the degrees of freedom a block adds: how more seeds would help."""
    freedom_per_block: int
    noise_runs: int = 0
    """Above 0: judged by so many noise runs, for want of runs of its own."""
    own_noise: bool = False
    """It, or the baseline, scatters unlike the other arms, so that its own pairs alone judge it."""
    residual_sd: float | None = None
    residual_freedom: int = 0

    @property
    def t(self) -> float:
        """The effect in standard errors."""
        if self.effect is None or self.error is None:
            return 0.0
        return self.effect / self.error if self.error else math.copysign(math.inf, self.effect) * (self.effect != 0)

    @property
    def p_effect(self) -> float | None:
        """Two-sided, of the survivors' effect."""
        if self.effect is None or self.error is None:
            return None
        if self.error == 0:
            return float(self.effect == 0)
        return float(2 * special.stdtr(self.freedom, -abs(self.t)))

    @property
    def p(self) -> float | None:
        """That the arm is as the baseline. Where runs diverged there are two ways to see it, and each pays half."""
        if self.p_diverged is None:
            return self.p_effect
        return self.p_diverged if self.p_effect is None else min(1.0, 2 * min(self.p_effect, self.p_diverged))

    def interval(self, outside: float) -> tuple[float | None, float | None]:
        """The t interval of the effect that misses it in a share `outside` of cases."""
        if self.effect is None or self.error is None:
            return None, None
        half = float(special.stdtrit(self.freedom, 1 - outside / 2)) * self.error
        return self.effect - half, self.effect + half

    def better(self, higher_is_better: bool) -> bool:
        """Which way a claim points: by divergence where that is the stronger sign, else by the effect."""
        if self.p_diverged is not None and (self.p_effect is None or self.p_diverged <= self.p_effect):
            return not self.diverges_more
        return self.effect is not None and (self.effect > 0) == higher_is_better


def gather(table: Table, noise: Noise | None) -> dict[str, Evidence]:
    """Evidence on every arm but the baseline, in the table's order.

    Each arm by the first of these that applies: `noise` (or the baseline's own runs, where no other arm has a second
    one), if it has one run; its own pairs, if it or the baseline scatters unlike the rest; the fit of all arms.
    """
    values_AB = table.grid()
    fit = fit_blocks(values_AB, _hardware(table))
    noisy_A = noisier_arms(fit.residuals)
    counts_A = np.isfinite(values_AB).sum(1)
    if noise is None and fit.freedom < 1 and counts_A[0] > 1:
        noise = Noise.of(table.finished(table.baseline))
    found: dict[str, Evidence] = {}
    for a, name in enumerate(table.arms[1:], 1):
        if noise is not None and counts_A[a] == 1:
            found[name] = _by_noise(table, name, noise)
        elif noisy_A[a] or (noisy_A[0] and counts_A[a] > 1):
            found[name] = _by_own_pairs(table, name, values_AB[[0, a]], fit)
        else:
            found[name] = _by_fit(table, name, a, fit)
    return found


def _by_fit(table: Table, name: str, a: int, fit: Fit) -> Evidence:
    effect, known = float(fit.effects[a]), fit.freedom > 0
    error = math.sqrt(fit.variance * float(fit.covariance[a, a])) if known else math.nan
    arms = int(np.isfinite(fit.residuals).any(1).sum())
    return _evidence(
        table,
        name,
        effect=None if math.isnan(effect) else effect,
        error=None if math.isnan(error) else error,
        freedom=fit.freedom,
        method=f"least squares, value ~ arm + block, {fit.freedom} degrees of freedom",
        spread=math.sqrt(2 * fit.variance) if known else None,
        freedom_per_block=max(1, arms - 1),
        fit=fit,
    )


def _by_own_pairs(table: Table, name: str, pair_2B: Floats, fit: Fit) -> Evidence:
    differences = (pair_2B[1] - pair_2B[0])[np.isfinite(pair_2B).all(0)]
    n = len(differences)
    sd = float(differences.std(ddof=1)) if n > 1 else None
    return _evidence(
        table,
        name,
        effect=float(differences.mean()) if n else None,
        error=None if sd is None else sd / math.sqrt(n),
        freedom=max(1, n - 1),
        method=f"its own paired t, {n} pairs",
        spread=sd,
        freedom_per_block=1,
        fit=fit,
        own_noise=True,
    )


def _by_noise(table: Table, name: str, noise: Noise) -> Evidence:
    """A prediction interval: a further run of the baseline would fall within t x SD x sqrt(1 + 1/n) of the mean."""
    return _evidence(
        table,
        name,
        effect=table.finished(name)[0] - noise.mean,
        error=noise.error,
        freedom=noise.n - 1,
        method=f"prediction interval from {noise.n} runs of the baseline",
        spread=noise.sd * math.sqrt(2),
        freedom_per_block=2,
        noise_runs=noise.n,
    )


def _evidence(
    table: Table,
    name: str,
    effect: float | None,
    error: float | None,
    freedom: float,
    method: str,
    spread: float | None,
    freedom_per_block: int,
    fit: Fit | None = None,
    own_noise: bool = False,
    noise_runs: int = 0,
) -> Evidence:
    values = table.finished(name)
    arm, baseline = (_rates(table, one) for one in (name, table.baseline))
    known = fit is not None and fit.freedom > 0
    return Evidence(
        name=name,
        n=len(values),
        mean=float(np.mean(values)) if values else None,
        effect=effect,
        error=error,
        freedom=freedom,
        method=method,
        diverged=arm[0],
        p_diverged=_fisher(arm, baseline) if arm[0] or baseline[0] else None,
        diverges_more=arm[0] * sum(baseline) > baseline[0] * sum(arm),
        spread=spread,
        freedom_per_block=freedom_per_block,
        noise_runs=noise_runs,
        own_noise=own_noise,
        residual_sd=math.sqrt(fit.variance) if known and fit else None,
        residual_freedom=fit.freedom if fit else 0,
    )


def _rates(table: Table, arm: str) -> tuple[int, int]:
    """How many of its runs diverged, and finished."""
    values = list(table.values(arm).values())
    diverged = sum(value is None for value in values)
    return diverged, len(values) - diverged


def _fisher(arm: tuple[int, int], baseline: tuple[int, int]) -> float:
    from scipy import stats  # half a second, and runs seldom diverge

    result: Any = stats.fisher_exact([arm, baseline])
    return float(result.pvalue)


def _hardware(table: Table) -> npt.NDArray[np.int_] | None:
    """Codes of what each run ran on, the usual being 0; None unless a table was allowed to mix it."""
    kinds = Counter(cell.hardware or "" for cell in table.replicates)
    if not table.mixed_hardware or len(kinds) < 2:
        return None
    codes = {kind: code for code, (kind, _) in enumerate(kinds.most_common())}
    places = table.by_place
    return np.array(
        [
            [codes[places[arm, block].hardware or ""] if (arm, block) in places else 0 for block in table.blocks]
            for arm in table.arms
        ]
    )
