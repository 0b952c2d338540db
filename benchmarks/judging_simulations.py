"""Does judging keep what it promises? A judge with known biases, through the real design and the real analysis.

    python benchmarks/judging_simulations.py [--simulations 2000] [--only PART ...]

order      a judge that favors places: what is left of it in the models' scores, by the order of the answers
alike      models without a difference: how often intervals hold the truth, and how often one is said to be better
better     models with one: the same, and how often it is found
planned    whether as many questions as were said to show a difference do
checks     how often each flag is raised, for judges with and without a fault (of repeats: each question twice)
length     a judge that favors long answers: what no order of answers removes
ways       all answers in one prompt, or each in its own, by a judge of changing mood: which is steadier

Writes benchmarks/results/judging.json.
"""

import argparse
import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scratchlab.judging.agreement import steadiness
from scratchlab.judging.check_words import flags, notes
from scratchlab.judging.checks import check
from scratchlab.judging.contest import BAD, REFERENCE
from scratchlab.judging.design import Sheet, together
from scratchlab.judging.ranking import rank
from scratchlab.judging.scores import Scores, estimate, mean_of
from scratchlab.judging.verdicts import judged_against
from scratchlab.seeds import generator
from scratchlab.study.power import Design, blocks_to_claim

ROOT = Path(__file__).parent.parent
Floats = npt.NDArray[np.float64]
Rng = np.random.Generator
MATTERS = 0.01  # a smallest effect that hardly matters, so that nothing is called negligible
SURE = 1.96


@dataclass(frozen=True)
class World:
    """Models, questions and a judge. All in points of 100."""

    questions: int = 110
    repeats: int = 2
    models: tuple[float, ...] = (50.0, 50.0, 50.0, 50.0)
    """What each is worth on average; the first is the baseline."""
    hard: float = 12.0
    """Deviation between questions, of all models alike."""
    own: float = 14.0
    """Deviation of a model's answers about that."""
    noise: float = 10.0
    """Deviation of the judge when it sees the same answer again."""
    place: float = 0.0
    """What it gives the first place beside the last."""
    per_length: float = 0.0
    """What it gives for a deviation of length more."""
    lengths: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    """By how many deviations a model's answers are longer."""
    drift: float = 0.0
    """What all answers gain from the first prompt to the last."""
    tires: float = 0.0
    """By how many points the anchors come closer together over the run."""
    lazy: float = 0.0
    """Share of prompts in which all get the same."""
    blind: bool = False
    """Whether it gives the anchors any score."""
    stern: float = 0.0
    """Deviation of its mood, which is one throughout a prompt."""
    alone: bool = False
    """Whether each answer has a prompt of its own."""
    anchors: tuple[float, float] = (85.0, 15.0)


def draw(world: World, rng: Rng, order: str = "balanced") -> tuple[Scores, Floats]:
    """What the judge gives, and the lengths of the answers, (questions, entries)."""
    n, m = world.questions, len(world.models)
    sheets = ordered(world, order, int(rng.integers(2**40)))
    worth = np.empty((n, m + 2))
    worth[:, :m] = world.models + world.hard * rng.standard_normal((n, 1)) + world.own * rng.standard_normal((n, m))
    worth[:, m:] = world.anchors + 5.0 * rng.standard_normal((n, 2))
    lengths = np.concatenate([rng.standard_normal((n, m)) + world.lengths[:m], np.zeros((n, 2))], 1)
    shape = (n, world.repeats, m + 2)
    values, places, turns = np.empty(shape), np.empty(shape), np.empty(shape)
    for number, sheet in enumerate(sheets):
        at = sheet.question, sheet.repeat, list(sheet.order)
        places[at], turns[at] = np.arange(m + 2), number / (len(sheets) - 1) - 0.5
    values[:] = worth[:, None] + world.noise * rng.standard_normal(shape) + world.per_length * lengths[:, None]
    values += world.place * (0.5 - places / (m + 1)) + world.drift * turns
    values[:, :, m] -= world.tires * turns[:, :, m] / 2
    values[:, :, m + 1] += world.tires * turns[:, :, m + 1] / 2
    if world.blind:
        values[:, :, m:] = rng.uniform(0, 100, (*shape[:2], 2))
    if world.stern:
        values += world.stern * rng.standard_normal(shape if world.alone else (*shape[:2], 1))
    values = np.clip(np.round(values), 0, 100)
    values[rng.random(shape[:2]) < world.lazy] = 70.0
    names = (*(f"model {place}" for place in range(m)), REFERENCE, BAD)
    return Scores(names, m, values, places, turns), lengths


def ordered(world: World, order: str, seed: int) -> list[Sheet]:
    """The prompts: in the balanced design, or as they are listed, or in any order."""
    entries = len(world.models) + 2
    sheets = together(world.questions, entries, world.repeats, seed)
    if order == "balanced":
        return sheets
    if order == "as listed":
        return [replace(sheet, order=tuple(range(entries))) for sheet in sheets]
    rng = generator(seed, "any order")
    return [replace(sheet, order=tuple(rng.permutation(entries).tolist())) for sheet in sheets]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """A mean with its 95% interval over simulations."""
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, mean - SURE * error, mean + SURE * error


# Order.


def order_part(simulations: int) -> dict[str, Any]:
    """Models without a difference, and a judge that gives the first place 20 points more than the last."""
    found: dict[str, Any] = {}
    for order in ("balanced", "any order", "as listed"):
        rng, effects, claims = generator(0, "judging", "order", order), list[float](), list[bool]()
        for _ in range(simulations):
            world = World(place=20.0)
            scores, _ = draw(world, rng, order)
            versus = judged_against(scores.models, scores.entries[:4], 0, MATTERS)
            effects.append(versus[-1].effect)
            claims.append(any(one.verdict != "undecided" for one in versus))
        mean, low, high = interval(effects)
        found[order] = {
            "bias_of_the_last_model_beside_the_first": mean,
            "interval": [low, high],
            "deviation": float(np.std(effects, ddof=1)),
            "false_claims": float(np.mean(claims)),
        }
    return found


# Intervals.


@dataclass(frozen=True)
class Rates:
    """Of many judgments of one kind."""

    simulations: int
    claims: float
    """Share in which a model without a difference was said to be better or worse than the baseline."""
    covered_scores: float
    covered_differences: float
    covered_strengths: float
    wrong_ranks: float
    """Share in which a model got ranks that leave its true one out."""
    found: float | None
    """Share in which the last model was said to be better, where it is."""
    negligible: float
    """Share in which the last model was called negligible."""


def truth(world: World) -> tuple[Floats, Floats]:
    """The models' mean scores and strengths over very many questions."""
    scores, _ = draw(replace(world, questions=50_000), generator(0, "judging", "truth"))
    ranking = {one.model: one.strength for one in rank(scores.models, scores.entries[: len(world.models)])}
    means = mean_of(scores.models.reshape(-1, len(world.models)), 0)
    return means, np.array([ranking[name] for name in scores.entries[: len(world.models)]])


def rates(world: World, simulations: int, key: str, smallest: float = MATTERS) -> Rates:
    """What so many judgments come to, always the same ones for the same `key`."""
    rng, models = generator(0, "judging", key), len(world.models)
    null = len(set(world.models)) == 1
    means, strengths = (np.full(models, 50.0), np.zeros(models)) if null else truth(world)
    rows = [_row(draw(world, rng)[0], means, strengths, smallest, world) for _ in range(simulations)]
    columns = [float(np.mean(column)) for column in zip(*rows, strict=True)]
    claims, scores, differences, held, ranks, found, negligible = columns
    return Rates(simulations, claims, scores, differences, held, ranks, None if null else found, negligible)


def _row(scores: Scores, means: Floats, strengths: Floats, smallest: float, world: World) -> tuple[float, ...]:
    names = scores.entries[: len(means)]
    versus = judged_against(scores.models, names, 0, smallest)
    own = [estimate(mean_of(scores.models[:, :, place], 1)) for place in range(len(names))]
    ranking = {one.model: one for one in rank(scores.models, names)}
    claimed = [one.verdict in ("helps", "hurts") for one in versus]
    same = [world.models[place] == world.models[0] for place in range(1, len(names))]
    wrong = any(_is_wrong(ranking[name], world.models, at) for at, name in enumerate(names))
    return (
        any(claim and alike for claim, alike in zip(claimed, same, strict=True)),
        float(np.mean([one.low <= value <= one.high for one, value in zip(own, means, strict=True)])),
        float(np.mean([one.low <= means[at] - means[0] <= one.high for at, one in enumerate(versus, 1)])),
        float(np.mean([_holds(ranking[name], strengths[at]) for at, name in enumerate(names)])),
        wrong,
        versus[-1].verdict == "helps",
        versus[-1].verdict == "negligible",
    )


def _is_wrong(one: Any, models: Sequence[float], at: int) -> bool:
    """Whether more models are put above or below it than are better or worse."""
    better, worse = (sum(sign * (other - models[at]) > 0 for other in models) for sign in (1, -1))
    return one.best - 1 > better or len(models) - one.worst > worse


def _holds(one: Any, value: float) -> bool:
    return one.low is None or one.low <= value <= one.high


SIZES = ((20, 1), (50, 1), (110, 1), (110, 3), (400, 2))
"""Questions, and repeats of each."""


def alike_part(simulations: int) -> dict[str, Any]:
    """Four models without a difference."""
    return {
        f"{questions} questions, {repeats} a question": asdict(
            rates(World(questions=questions, repeats=repeats, place=8.0), simulations, f"alike {questions} {repeats}")
        )
        for questions, repeats in SIZES
    }


def better_part(simulations: int) -> dict[str, Any]:
    """The last of four models is 6 points better."""
    found: dict[str, Any] = {}
    for questions, repeats in SIZES[:-1]:
        world = World(questions=questions, repeats=repeats, models=(50.0, 50.0, 50.0, 56.0), place=8.0)
        key = f"{questions} questions, {repeats} a question"
        found[key] = asdict(rates(world, simulations, f"better {key}"))
    return found


def planned_part(simulations: int) -> dict[str, Any]:
    """Two models that differ by exactly the smallest effect, or by what so many questions were said to show."""
    edge = World(models=(50.0, 53.0), own=8.0)
    found = {"a difference of exactly the smallest that matters": asdict(rates(edge, simulations, "edge", 3.0))}
    world, effect = World(models=(50.0, 54.0)), 4.0
    spread = math.sqrt(2 * (world.own**2 + world.noise**2 / world.repeats))
    needed = blocks_to_claim(Design(spread, 1), effect)
    planned = rates(replace(world, questions=needed), simulations, "planned")
    found[f"as many questions as would show a difference of {effect:g}: {needed}"] = asdict(planned)
    return found


# Checks.


FAULTS: dict[str, World] = {
    "a fair judge": World(),
    "it drifts by 10 points": World(drift=10.0),
    "it drifts by 5 points": World(drift=5.0),
    "it tires: the anchors come 15 points closer": World(tires=15.0),
    "the first place is worth 5 points more than the last": World(place=5.0),
    "the first place is worth 15 points more than the last": World(place=15.0),
    "a third of its prompts get one score": World(lazy=1 / 3),
    "it cannot tell the anchors apart": World(blind=True),
    "it hardly can": World(anchors=(60.0, 50.0)),
}


def checks_part(simulations: int, repeats: int = 1) -> dict[str, Any]:
    """How often each flag is raised, over 110 questions."""
    found: dict[str, Any] = {}
    for name, world in FAULTS.items():
        rng, raised = generator(0, "judging", "checks", name, repeats), Counter[str]()
        for _ in range(simulations):
            scores, lengths = draw(replace(world, repeats=repeats), rng)
            raised.update({flag.partition(":")[0] for flag in flags(check(scores, lengths))})
        found[name] = {flag: count / simulations for flag, count in raised.items()}
    return found


def checks_of_repeats_part(simulations: int) -> dict[str, Any]:
    """The same where each question is put twice."""
    return checks_part(simulations, 2)


# Length.


def length_part(simulations: int) -> dict[str, Any]:
    """Models of equal worth, the last a deviation longer, and a judge that gives 6 points for a deviation."""
    found: dict[str, Any] = {}
    for name, per_length in (("no bias", 0.0), ("6 points a deviation of length", 6.0)):
        rng, effects, noted = generator(0, "judging", "length", name), list[float](), list[bool]()
        for _ in range(simulations):
            world = World(per_length=per_length, lengths=(0.0, 0.0, 0.0, 1.0))
            scores, lengths = draw(world, rng)
            effects.append(judged_against(scores.models, scores.entries[:4], 0, MATTERS)[-1].effect)
            noted.append(bool(notes(check(scores, lengths))))
        mean, low, high = interval(effects)
        found[name] = {"bias_of_the_longer_model": mean, "interval": [low, high], "noted": float(np.mean(noted))}
    return found


# All together, or one by one.


def ways_part(simulations: int) -> dict[str, Any]:
    """Four models of equal worth: how often two repeats order two of them alike, and the error of a difference."""
    found: dict[str, Any] = {}
    for stern, alone in itertools.product((0.0, 10.0, 20.0), (False, True)):
        rng = generator(0, "judging", "ways", f"{stern:g}", int(alone))
        steady, effects = list[float](), list[float]()
        for _ in range(simulations):
            scores, _ = draw(World(stern=stern, alone=alone), rng)
            steady.append(float(np.nanmean(steadiness(scores.values, 4))))
            effects.append(judged_against(scores.models, scores.entries[:4], 0, MATTERS)[-1].effect)
        mean, low, high = interval(steady)
        found[f"mood {stern:g}, {'one by one' if alone else 'together'}"] = {
            "ordered_alike": mean,
            "interval": [low, high],
            "error_of_a_difference": float(np.std(effects, ddof=1)),
        }
    return found


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "order": order_part,
    "alike": alike_part,
    "better": better_part,
    "planned": planned_part,
    "checks": checks_part,
    "checks of repeats": checks_of_repeats_part,
    "length": length_part,
    "ways": ways_part,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2_000)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS), help="others stay as they were")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/judging.json")
    arguments = parser.parse_args()
    report: dict[str, Any] = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    for name in arguments.only:
        start = time.perf_counter()
        found = PARTS[name](arguments.simulations)
        report[name] = {"simulations": arguments.simulations, **found, "seconds": round(time.perf_counter() - start)}
        print(f"{name}: {json.dumps(report[name], indent=2)}", flush=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
