"""Are the errors, intervals, tests and plans of `scratchlab compare` what they say? Simulated where the truth is known.

    python benchmarks/comparison_simulations.py [--simulations 2000] [--log evaluations/MODEL/LOSS.jsonl ...]

Choices: two models of correlated skill answer items of varying difficulty. Losses: documents of very unequal length,
each with a difficulty that both share. Each is simulated without a difference (how often is one claimed?), with one
(how often does the interval hold it?), and with the number of items that was planned for it (how often is it found?).
Of logs of per-document losses: does the spread over 200 random halves match the standard error?
Writes benchmarks/results/comparison.json.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from scratchlab.evaluation.comparison import Difference, compare_ratios, compare_shares, power, units_needed
from scratchlab.evaluation.loss import ratio_error
from scratchlab.evaluation.paired import read_results
from scratchlab.evaluation.replicates import compare_runs
from scratchlab.seeds import generator

ROOT = Path(__file__).parent.parent
Floats = npt.NDArray[np.float64]
Rng = np.random.Generator


@dataclass(frozen=True)
class Rates:
    """Of many simulations of one kind."""

    simulations: int
    claimed: float
    """How often p was below .05: the type I error where there is no difference, else the power."""
    covered: float
    """How often the 95% interval held the true difference."""
    error_ratio: float
    """The mean printed standard error over the standard deviation of the difference."""
    wrongly_negligible: float | None = None
    """Where the true difference is the smallest effect: how often it was called negligible (5% is meant at most)."""


def rates(
    draw: Callable[[Rng], Difference], truth: float, simulations: int, key: str, smallest_effect: float | None = None
) -> Rates:
    """What `simulations` draws come to, always the same ones for the same `key`."""
    rng = generator(0, "simulation", key)
    found = [draw(rng) for _ in range(simulations)]
    return Rates(
        simulations=simulations,
        claimed=float(np.mean([one.p < 0.05 for one in found])),
        covered=float(np.mean([one.low <= truth <= one.high for one in found])),
        error_ratio=float(np.mean([one.error for one in found]) / np.std([one.difference for one in found])),
        wrongly_negligible=None
        if smallest_effect is None
        else float(np.mean([one.within(smallest_effect) for one in found])),
    )


# Choices.


@dataclass(frozen=True)
class Choices:
    """Two models right on a share of the items each, alike to some degree in which."""

    n: int
    share_a: float
    share_b: float
    correlation: float
    """Of what decides an item's answers, which is normal; an item is right where it is low enough."""

    def draw(self, rng: Rng) -> Difference:
        common = rng.standard_normal(self.n) * math.sqrt(self.correlation)
        own = rng.standard_normal((2, self.n)) * math.sqrt(1 - self.correlation)
        right = common + own < stats.norm.ppf([[self.share_a], [self.share_b]])
        return compare_shares(right[0], right[1])

    def discordant(self) -> float:
        """The share of items that one alone gets right."""
        limits = stats.norm.ppf([self.share_a, self.share_b])
        both = stats.multivariate_normal.cdf(limits, cov=[[1, self.correlation], [self.correlation, 1]])
        return float(self.share_a + self.share_b - 2 * both)


def mcnemar_errors(n: int, share: float) -> dict[str, float]:
    """How often three forms of McNemar's test claim a difference where there is none; exact, by adding up all cases.

    `share` of the `n` items are expected to be right for one model alone.
    """
    found = {"exact": 0.0, "mid-p": 0.0, "asymptotic": 0.0}
    for differ in range(1, n + 1):
        only_a = np.arange(differ + 1)
        weights = stats.binom.pmf(differ, n, share) * stats.binom.pmf(only_a, differ, 0.5)
        fewer = np.minimum(only_a, differ - only_a)
        tail, seen = stats.binom.cdf(fewer, differ, 0.5), stats.binom.pmf(fewer, differ, 0.5)
        score = np.square(2 * only_a - differ) / differ
        claims = {
            "exact": 2 * tail < 0.05,
            "mid-p": 2 * tail - seen < 0.05,
            "asymptotic": stats.chi2.sf(score, 1) < 0.05,
        }
        for name, claimed in claims.items():
            found[name] += float(weights[claimed].sum())
    return found


# Losses.


@dataclass(frozen=True)
class Documents:
    """Documents whose lengths are lognormal, and two models' losses on them."""

    n: int
    spread: float
    """Standard deviation of the logarithm of a length: at 1.5 one document in twenty is 12 times the middle one."""
    effect: float = 0.0
    """A's loss a token less B's."""
    per_document: float = 0.1
    """Standard deviation, over documents, of how much better a model is at one, in nats a token."""

    def draw(self, rng: Rng) -> Difference:
        sizes, a, b = self.losses(rng)
        return compare_ratios(a, b, sizes, "documents")

    def losses(self, rng: Rng) -> tuple[Floats, Floats, Floats]:
        """Tokens of each document, and its loss under A and B."""
        sizes = np.ceil(np.exp(rng.normal(6.0, self.spread, self.n)))
        hard = rng.normal(3.5, 0.6, self.n)
        own = rng.normal(0, self.per_document / math.sqrt(2), (2, self.n))
        noise = rng.standard_normal((2, self.n)) * np.sqrt(sizes)
        a, b = (hard + own) * sizes + noise
        return sizes, a + self.effect * sizes, b

    def variance(self) -> float:
        """Of one document's part in the difference: the squared error of many documents, times their number."""
        mean = math.exp(
            6.0 + self.spread**2 / 2
        )  # of a lognormal length; its mean square is e**spread**2 times the square
        return self.per_document**2 * math.exp(self.spread**2) + 2 / mean


def usual_coverage(documents: Documents, simulations: int) -> float:
    """How often the usual interval holds the truth: the printed error times t with n - 1 degrees of freedom."""
    rng, limit = generator(0, "simulation", "usual"), float(stats.t.isf(0.025, documents.n - 1))
    held = 0
    for _ in range(simulations):
        sizes, a, b = documents.losses(rng)
        error = ratio_error(a - b, sizes)
        assert error is not None
        held += abs((a - b).sum() / sizes.sum()) < limit * error
    return held / simulations


# Runs.


@dataclass(frozen=True)
class Runs:
    """Runs of two sides, with block effects that both sides share."""

    n_a: int
    n_b: int
    paired: bool
    effect: float = 0.0

    def draw(self, rng: Rng) -> Difference:
        blocks = rng.standard_normal(max(self.n_a, self.n_b)) if self.paired else np.zeros(1)
        a, b = rng.standard_normal(self.n_a) + blocks + self.effect, rng.standard_normal(self.n_b) + blocks
        return compare_runs(a, b, self.paired)


# Halves.


def spread_over_halves(sums: Floats, sizes: Floats, halves: int = 200, seed: int = 0) -> tuple[float, float]:
    """The standard deviation of sum(sums) / sum(sizes) over random halves of the items, and the printed error.

    Half of n items, drawn without replacement, scatter as n items drawn afresh do: the two should be the same.
    """
    rng, n = generator(seed, "simulation", "halves"), len(sums)
    places = [rng.permutation(n)[: n // 2] for _ in range(halves)]
    printed = ratio_error(sums, sizes)
    assert printed is not None
    return float(np.std([sums[half].sum() / sizes[half].sum() for half in places], ddof=1)), printed


def halves_of_log(path: Path) -> dict[str, Any]:
    """The same of a log of per-document losses, in bits per byte."""
    results = read_results(path)
    bits = np.array([record["nats"] for record in results.records]) / math.log(2)
    sizes = np.array([record["bytes"] for record in results.records], float)
    spread, printed = spread_over_halves(bits, sizes)
    return {
        "model": results.model,
        "task": results.task,
        "documents": len(sizes),
        "bits_per_byte": float(bits.sum() / sizes.sum()),
        "printed_error": printed,
        "spread_over_200_halves": spread,
        "ratio": spread / printed,
    }


# All of it.


@dataclass(frozen=True)
class Scenario:
    """A draw, the true difference, and what else is looked at."""

    draw: Callable[[Rng], Difference]
    truth: float = 0.0
    smallest_effect: float | None = None
    planned: float | None = None


def choices() -> Iterator[tuple[str, Scenario]]:
    for n in (200, 500, 2000):
        for share, correlation in ((0.3, 0.5), (0.6, 0.9), (0.85, 0.8)):
            name = f"choices, {n} items, accuracy {share}, correlation {correlation}"
            yield f"{name}, no difference", Scenario(Choices(n, share, share, correlation).draw)
            yield f"{name}, difference .05", Scenario(Choices(n, share + 0.05, share, correlation).draw, 0.05, 0.05)
    for share, effect, correlation in ((0.3, 0.05, 0.5), (0.6, 0.03, 0.9), (0.85, 0.03, 0.8)):
        variance = Choices(0, share + effect, share, correlation).discordant()
        n = units_needed(variance, effect)
        name = f"choices, planned: {n} items for {effect}, accuracy {share}, correlation {correlation}"
        draw = Choices(n, share + effect, share, correlation).draw
        yield name, Scenario(draw, effect, planned=power(n, variance, effect))


def documents() -> Iterator[tuple[str, Scenario]]:
    for n in (10, 20, 50, 200, 1000, 3000):
        for spread in (0.5, 1.0, 1.5)[n == 3000 :]:  # bootstraps take long
            yield f"loss, {n} documents, spread {spread}, no difference", Scenario(Documents(n, spread).draw)
    for n in (50, 3000):
        draw = Documents(n, 1.0, 0.03).draw
        yield f"loss, {n} documents, spread 1.0, difference .03", Scenario(draw, 0.03, 0.03)
    for effect, spread in ((0.05, 0.5), (0.02, 1.0), (0.009, 1.0), (0.02, 1.5)):
        variance = Documents(0, spread).variance()
        n = units_needed(variance, effect)
        name = f"loss, planned: {n} documents for {effect}, spread {spread}"
        yield name, Scenario(Documents(n, spread, effect).draw, effect, planned=power(n, variance, effect))


def runs() -> Iterator[tuple[str, Scenario]]:
    for n_a, n_b, paired in ((3, 3, True), (5, 5, True), (3, 3, False), (3, 8, False), (5, 5, False), (1, 5, False)):
        name = f"runs, {n_a} and {n_b}, {'paired' if paired else 'apart'}"
        yield f"{name}, no difference", Scenario(Runs(n_a, n_b, paired).draw)
        yield f"{name}, difference 1", Scenario(Runs(n_a, n_b, paired, 1.0).draw, 1.0, 1.0)
    for effect in (1.5, 3.0):
        for paired, groups in ((True, 1), (False, 2)):
            n = units_needed(2.0, effect, groups)
            name = f"runs, planned: {n} a side for {effect}, {'paired' if paired else 'apart'}"
            yield name, Scenario(Runs(n, n, paired, effect).draw, effect, planned=power(n, 2.0, effect, groups))


KINDS = {"choices": choices, "documents": documents, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--only", nargs="*", choices=list(KINDS), default=list(KINDS), help="others stay as they were")
    parser.add_argument("--log", type=Path, nargs="*", default=[], help="logs of per-document losses")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/comparison.json")
    arguments = parser.parse_args()
    start = time.perf_counter()
    kept = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    simulated: dict[str, Any] = kept.get("simulated", {})
    for kind in arguments.only:
        simulated[kind] = {}
        for name, scenario in KINDS[kind]():
            one = rates(scenario.draw, scenario.truth, arguments.simulations, name, scenario.smallest_effect)
            found = {**vars(one), "planned": scenario.planned}
            simulated[kind][name] = {field: value for field, value in found.items() if value is not None}
            print(f"{name}: {simulated[kind][name]}", flush=True)
    made_up = {}
    for n in (100, 1000, 10_000):
        sizes, a, _ = Documents(n, 1.0).losses(generator(0, "simulation", "made up"))
        spread, printed = spread_over_halves(a, sizes)
        made_up[f"{n} documents"] = {"spread_over_200_halves": spread, "printed_error": printed}
    report = {
        "simulated": simulated,
        "mcnemar_claims_where_there_is_no_difference": {
            f"{n} items, {share:.0%} differ": mcnemar_errors(n, share)
            for n, share in ((200, 0.02), (200, 0.1), (500, 0.05), (2000, 0.1))
        },
        "coverage_of_the_usual_interval": {
            f"{n} documents, spread {spread}": usual_coverage(Documents(n, spread), arguments.simulations)
            for n in (20, 50, 200)
            for spread in (0.5, 1.0, 1.5)
        },
        "halves_of_made_up_documents": made_up,
        "halves_of_logs": [halves_of_log(path) for path in arguments.log],
        "seconds": time.perf_counter() - start,
    }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
