"""Does the analysis of a study keep what it promises? Simulated where the truth is known, through `analyze` itself.

    python benchmarks/study_simulations.py [--studies 2000] [--out benchmarks/results/study_simulations.json]

A study has a baseline and 8 interventions in paired blocks; runs scatter with deviation 1 about arm + block. Without a
true effect: how often is anything claimed (family-wise error; 5% is meant at most), and how often does a 95% interval
hold the truth? With one of 3: how often is it claimed (power)? Also with arms of unlike noise, lost runs, early looks,
arms of a single run, an effect at the edge of "negligible", and as many seeds as were said to settle it.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scratchlab.seeds import generator
from scratchlab.study.analysis import Analysis, analyze
from scratchlab.study.power import Design, blocks_to_claim, pooled, power
from scratchlab.study.table import Cell, Table

ROOT = Path(__file__).parent.parent
Floats = npt.NDArray[np.float64]
Rng = np.random.Generator
ARMS = 9
LOOKS = (3, 5, 8)
MATTERS = 0.01  # a smallest effect that hardly matters, so that nothing is called negligible


@dataclass(frozen=True)
class Rates:
    """Of many studies of one kind."""

    studies: int
    claims: float
    """Share of studies in which an arm without an effect was claimed to have one."""
    covered: float
    """Share of 95% intervals that hold the true effect, over all arms."""
    covered_lowest: float
    """The same of the arm that fares worst."""
    power: float | None
    """Share of studies in which the first arm was claimed, where it has an effect."""
    own_pairs: float
    """Share of arms that were judged by their own pairs."""
    seeds: float
    """Mean number of blocks at the verdict."""
    negligible: float
    """Share of studies in which the first arm was found negligible."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2_000)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/study_simulations.json")
    arguments = parser.parse_args()
    start = time.perf_counter()
    report: dict[str, Any] = {"studies": arguments.studies}
    for name, part in PARTS.items():
        report[name] = part(arguments.studies)
        print(f"{name}: {json.dumps(report[name], indent=2)}", flush=True)
    report["seconds"] = round(time.perf_counter() - start)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


# A study that is made up.


def figures(rng: Rng, blocks: int, effect: float = 0.0, sds: Sequence[float] = (1.0,) * ARMS) -> Floats:
    """(arms, blocks): the first intervention has the effect; blocks differ by twice the noise."""
    values = rng.normal(size=(len(sds), blocks)) * np.array(sds)[:, None] + 2 * rng.normal(size=blocks)
    values[1] += effect
    return values


def table(values: Floats) -> Table:
    """Of the figures that are there; NaN is a run that is missing."""
    names = ["baseline", *(f"arm {a}" for a in range(1, len(values)))]
    return Table(
        tuple(
            Cell(names[a], str(block), float(value))
            for (a, block), value in np.ndenumerate(values)
            if not math.isnan(value)
        ),
        "baseline",
    )


def simulate(studies: int, key: str, draw: Callable[[Rng], Analysis], effect: float = 0.0) -> Rates:
    """What `studies` studies come to, always the same ones for the same `key`."""
    rng = generator(0, "study simulation", key)
    found = [draw(rng) for _ in range(studies)]
    truth = [effect] + [0.0] * (len(found[0].arms) - 1)
    claimed = np.array([[arm.verdict in ("helps", "hurts") for arm in one.arms] for one in found])
    held = np.array(
        [[a.low is not None and a.low <= t <= (a.high or 0) for a, t in zip(o.arms, truth, strict=True)] for o in found]
    )
    return Rates(
        studies=studies,
        claims=float(claimed[:, np.array(truth) == 0].any(1).mean()),
        covered=float(held.mean()),
        covered_lowest=float(held.mean(0).min()),
        power=float(claimed[:, 0].mean()) if effect else None,
        own_pairs=float(np.mean([["own" in arm.method for arm in one.arms] for one in found])),
        seeds=float(np.mean([one.blocks for one in found])),
        negligible=float(np.mean([one.arms[0].verdict == "negligible" for one in found])),
    )


# The parts.


UNLIKE = {
    "one noise": (1.0,) * ARMS,
    "4 of 8 arms 2.5 times as noisy": (1.0, 2.5, 2.5, 2.5, 2.5, 1.0, 1.0, 1.0, 1.0),
    "one arm 5 times as noisy": (1.0, 5.0, *(1.0,) * 7),
    "the baseline 3 times as noisy": (3.0, *(1.0,) * 8),
}


def null(studies: int) -> dict[str, Any]:
    """No effect anywhere."""
    return {
        f"{name}, {blocks} seeds": asdict(
            simulate(
                studies,
                f"null {name} {blocks}",
                lambda rng, n=blocks, s=sds: analyze(table(figures(rng, n, sds=s)), MATTERS),
            )
        )
        for name, sds in UNLIKE.items()
        for blocks in LOOKS
    }


def with_effect(studies: int) -> dict[str, Any]:
    """One intervention has an effect of 3 deviations, 7 have none; beside it what `power` plans for."""
    found: dict[str, Any] = {}
    for blocks in LOOKS:
        rates = simulate(
            studies, f"power {blocks}", lambda rng, n=blocks: analyze(table(figures(rng, n, 3.0)), MATTERS), 3.0
        )
        found[f"{blocks} seeds"] = {**asdict(rates), "planned": power(pooled(1.0, ARMS), 3.0, blocks)}
    return found


def missing(studies: int) -> dict[str, Any]:
    """A tenth of the runs is lost."""

    def draw(rng: Rng) -> Analysis:
        values = figures(rng, 5)
        lost = rng.random(values.shape) < 0.1
        lost[:, 0] = False  # every arm has a run
        values[lost] = np.nan
        return analyze(table(values), MATTERS)

    return asdict(simulate(studies, "missing", draw))


def looks(studies: int) -> dict[str, Any]:
    """Looks at 3, 5 and 8 seeds, each study ending when all is settled; decided arms run on, or stop."""

    def draw(rng: Rng, arms: int, effect: float, stop: bool) -> Analysis:
        values, seen = figures(rng, LOOKS[-1], effect, (1.0,) * arms), np.full((arms, LOOKS[-1]), np.nan)
        found: Analysis | None = None
        for start, blocks in zip((0, *LOOKS), LOOKS, strict=False):
            open_rows = [a for a in range(arms) if found is None or a == 0 or not stop or _open(found, a)]
            seen[open_rows, start:blocks] = values[open_rows, start:blocks]
            found = analyze(table(seen), MATTERS, looks=LOOKS)
            if found.settled:
                return found
        assert found is not None
        return found

    two = math.sqrt(2) * 2  # two deviations of a difference
    kinds = {
        "1 intervention, no effect": (2, 0.0, False),
        "1 intervention, an effect of 2 deviations of a difference": (2, two, False),
        "8 interventions, no effect": (ARMS, 0.0, False),
        "8 interventions, no effect, decided arms stop": (ARMS, 0.0, True),
        "8 interventions, an effect of 3 in one": (ARMS, 3.0, False),
        "8 interventions, an effect of 3 in one, decided arms stop": (ARMS, 3.0, True),
    }
    return {
        name: asdict(simulate(studies, f"looks {name}", lambda rng, k=kind: draw(rng, *k), kind[1]))
        for name, kind in kinds.items()
    }


def _open(found: Analysis, row: int) -> bool:
    return found.arms[row - 1].verdict == "undecided"


def single_runs(studies: int) -> dict[str, Any]:
    """8 arms with a run each, judged by a few runs of the baseline."""

    def draw(rng: Rng, runs: int) -> Analysis:
        cells = [Cell("baseline", "0", float(rng.normal()))]
        cells += [Cell(f"arm {a}", "0", float(rng.normal())) for a in range(1, ARMS)]
        return analyze(Table(tuple(cells), "baseline"), MATTERS, noise=[float(x) for x in rng.normal(size=runs)])

    return {
        f"{runs} noise runs": asdict(simulate(studies, f"single {runs}", lambda rng, n=runs: draw(rng, n)))
        for runs in (3, 5, 8)
    }


def negligible(studies: int) -> dict[str, Any]:
    """An effect of exactly the smallest that matters (5% negligible at most), and one of nothing."""
    return {
        f"smallest effect 1.5, true effect {effect:g}, {blocks} seeds": asdict(
            simulate(
                studies,
                f"negligible {effect} {blocks}",
                lambda rng, n=blocks, e=effect: analyze(table(figures(rng, n, e)), 1.5),
                effect,
            )
        )
        for effect in (1.5, 0.0)
        for blocks in (5, 8)
    }


def planned(studies: int) -> dict[str, Any]:
    """With as many seeds as were said to show an effect four times in five."""
    found: dict[str, Any] = {}
    for effect in (1.0, 2.0):
        design: Design = pooled(1.0, ARMS)
        blocks = blocks_to_claim(design, effect)
        rates = simulate(
            studies,
            f"planned {effect}",
            lambda rng, n=blocks, e=effect: analyze(table(figures(rng, n, e)), MATTERS),
            effect,
        )
        found[f"effect {effect:g}: {blocks} seeds"] = {**asdict(rates), "planned": power(design, effect, blocks)}
    return found


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "null": null,
    "power": with_effect,
    "looks": looks,
    "missing": missing,
    "single_runs": single_runs,
    "negligible": negligible,
    "planned": planned,
}


if __name__ == "__main__":
    main()
