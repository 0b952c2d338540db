"""Settling a study: every `auto` once for all arms, and the length of every arm, so that each is given as much.

A study file may gain or change arms later: what was settled for the others stays, so that their runs stay the same.
What was declared before anything ran cannot change once there are results.
"""

import itertools
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import filelock

from scratchlab import hardware
from scratchlab.architecture import RNNSection
from scratchlab.corpus.store import Corpus
from scratchlab.errors import RecipeError, RunError, UsageError
from scratchlab.files import disk_errors
from scratchlab.model.count import training_flops_per_token
from scratchlab.recipe import Recipe, fingerprint
from scratchlab.study.arms import value_of
from scratchlab.study.definition import PREFERENCES, SPLITS, Study
from scratchlab.study.folder import arms_with_runs, price_of
from scratchlab.study.sections import BASELINE, Arm
from scratchlab.study.settled import SettledArm, SettledStudy, read_settled, write_settled
from scratchlab.training.data import check_data, holds_pairs, training_sequences
from scratchlab.training.memory import divisors
from scratchlab.training.resolve import resolve
from scratchlab.training.source import find_source
from scratchlab.training.start import open_corpora
from scratchlab.training.timing import seconds_per_step

TIMING_ROUNDS = 3  # arms are timed in turn, so that a machine that slows down slows all of them
CHOICES = (
    "training.precision",
    "execution.device",
    "execution.compile",
    "execution.micro_batch_size",
    "execution.threads",
)
"""What may be `auto` in a recipe: settled for the baseline, and the same for every arm that leaves it open."""

Say = Callable[[str], None]


def settle_study(study: Study, workers: int, say: Say) -> SettledStudy:
    """Settle what is open in a study and keep it in the study's folder; what was settled before stays."""
    with disk_errors(study.folder, "the study's folder"):
        study.folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(study.folder / ".lock"):
            before = read_settled(study)
            settled = settle(study, before, workers, say)
            if before is None or settled.to_json() != before.to_json():
                write_settled(study, settled)
    return settled


def settle(study: Study, before: SettledStudy | None, workers: int, say: Say) -> SettledStudy:
    """The study with nothing left open. `before` is what was settled earlier; `say` is told what changed since."""
    opened = {arm.name: _open(study, arm) for arm in study.arms}
    kept = _what_holds(study, before, opened, say) if before else {}
    arms = dict(kept)
    if BASELINE not in arms:
        arms[BASELINE] = _settle_baseline(study, opened[BASELINE], workers, say)
    base = arms[BASELINE]
    fresh = [arm for arm in study.arms if arm.name not in arms]
    arms |= {arm.name: _settle_arm(arm, opened[arm.name], base.recipe, say) for arm in fresh}
    environment = dict(before.environment) if before and kept else hardware.environment(base.recipe.settled.device)
    if study.file.study.match in ("seconds", "money"):
        _refuse_other_machine(study, environment, base)
        arms |= _timed({name: arm for name, arm in arms.items() if name not in kept}, opened)
    for arm in fresh:
        arms[arm.name] = _matched(study, arms[arm.name], arms[BASELINE], opened)
    family = family_of(study, before if kept else None, {name: one.given for name, one in opened.items()}, say)
    settled = SettledStudy(declaration(study), environment, {arm.name: arms[arm.name] for arm in study.arms}, family)
    _refuse_twins(study, settled)
    _refuse_unpriced(study, settled)
    return settled


def declaration(study: Study) -> dict[str, Any]:
    """What is declared before anything runs, as JSON."""
    section = study.file.study
    names = ("metric", "higher_is_better", "smallest_effect", "match", "retune_trials", "retune_span")
    lists = {"looks": list(study.looks), "retune": list(section.retune)}
    return {"design": study.design, **{name: getattr(section, name) for name in names}, **lists}


# What the study file gives.


@dataclass(frozen=True, slots=True)
class Opened:
    """An arm as the study file gives it, with what lies where it points."""

    name: str
    recipe: Recipe
    corpus: Corpus
    evaluation: str
    weights: str | None

    @property
    def given(self) -> str:
        return fingerprint(self.recipe, self.corpus.sha256, self.evaluation, self.weights)

    def resolved(self, recipe: Recipe, say: Say) -> SettledArm:
        """The arm, its recipe with nothing left open."""
        source = find_source(recipe, self.corpus)
        sequences = training_sequences(recipe, self.corpus)
        try:
            recipe = resolve(recipe, self.corpus.vocab_size, sequences, source, say)
        except RecipeError as error:
            raise UsageError(f"{self.name}: {error}") from None
        return SettledArm(self.given, recipe, self.corpus.sha256, self.evaluation, self.weights)


def given_recipe(study: Study, arm: Arm) -> Recipe:
    """An arm as the study file gives it. Runs keep no snapshots, unless the baseline asks for them."""
    asked = "snapshots" in study.baseline.evaluation.model_fields_set
    quiet = study.baseline if asked else study.baseline.replaced({"evaluation.snapshots": 0})
    return quiet.replaced(arm.changes)


def _open(study: Study, arm: Arm) -> Opened:
    recipe = given_recipe(study, arm)
    corpus, yardstick = open_corpora(recipe)
    check_data(recipe, corpus, yardstick)
    source = find_source(recipe, corpus)
    _need_splits(study, yardstick)
    return Opened(arm.name, recipe, corpus, yardstick.sha256, source and source.sha256)


def _need_splits(study: Study, yardstick: Corpus) -> None:
    """`UsageError` if the corpus that scores lacks the split that the metric, or tuning, is of, or has no pairs where
    the metric is of pairs."""
    of, _, figure = study.file.study.metric.partition(".")
    if of in SPLITS and figure in PREFERENCES and not holds_pairs(yardstick):
        raise UsageError(f"{study.path}: study.metric: {of}.{figure} is of pairs, and {yardstick.path} has none.")
    needed = {of.removeprefix("best_"): "study.metric"}
    if study.file.study.retune:
        needed["validation"] = "study.retune"
    for split, place in needed.items():
        if split in ("test", "validation") and split not in yardstick.manifest.splits:
            raise UsageError(
                f"{study.path}: {place}: {yardstick.path} has no {split} split (it has "
                f"{', '.join(yardstick.manifest.splits)}). Build it with one, or name a figure of another split."
            )


# Settling.


def _settle_baseline(study: Study, opened: Opened, workers: int, say: Say) -> SettledArm:
    recipe = opened.recipe
    if recipe.execution.threads == "auto":  # the workers share the cores
        sharing = workers * recipe.execution.processes
        recipe = recipe.replaced({"execution.threads": max(1, hardware.usable_cores() // sharing)})
    arm = opened.resolved(recipe, say)
    if not arm.recipe.settled.steps:
        raise UsageError(f"{study.path}: study.baseline: training.steps is 0, so there is nothing to compare.")
    return arm


def _settle_arm(arm: Arm, opened: Opened, base: Recipe, say: Say) -> SettledArm:
    """An arm with the baseline's choices where it makes none of its own, as many steps long."""
    recipe = opened.recipe
    choices = {field: value_of(base, field) for field in CHOICES if value_of(recipe, field) == "auto"}
    open_size = choices.pop("execution.micro_batch_size", None) is not None
    if isinstance(recipe.model, RNNSection) and choices.get("training.precision") in ("bf16", "fp16"):
        del choices["training.precision"]  # no recurrent network trains in it
    try:
        recipe = recipe.replaced({**choices, "training.steps": base.settled.steps})
    except RecipeError as error:
        raise UsageError(f"{arm.name}: {error}") from None
    settled = opened.resolved(recipe, say)
    if not open_size:
        return settled
    own, largest = settled.recipe.settled.micro_batch_size, base.settled.micro_batch_size
    size = max(size for size in divisors(recipe.training.global_batch_size) if size <= min(own, largest))
    return replace(settled, recipe=settled.recipe.replaced({"execution.micro_batch_size": size}))


def _timed(arms: Mapping[str, SettledArm], opened: Mapping[str, Opened]) -> dict[str, SettledArm]:
    """The arms with the seconds that a step of each takes."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _, (name, arm) in itertools.product(range(TIMING_ROUNDS), arms.items()):
        seconds[name].append(seconds_per_step(arm.recipe, opened[name].corpus))
    return {name: replace(arm, seconds_per_step=statistics.median(seconds[name])) for name, arm in arms.items()}


def _matched(study: Study, arm: SettledArm, base: SettledArm, opened: Mapping[str, Opened]) -> SettledArm:
    """The arm as long as gives it what the baseline is given, to the nearest step."""
    vocab_size = opened[BASELINE].corpus.vocab_size
    match study.file.study.match:
        case "tokens":
            ratio = tokens_per_step(base.recipe) / tokens_per_step(arm.recipe)
        case "flops":
            ratio = flops_per_step(base.recipe, vocab_size) / flops_per_step(arm.recipe, vocab_size)
        case "seconds" | "money":  # money: a study has one device, so its hours cost the same
            assert base.seconds_per_step is not None
            assert arm.seconds_per_step is not None
            ratio = base.seconds_per_step / arm.seconds_per_step
    steps = max(1, round(base.recipe.settled.steps * ratio))
    try:
        return replace(arm, recipe=arm.recipe.replaced({"training.steps": steps}))
    except RecipeError as error:
        name = next(name for name, other in opened.items() if other.given == arm.given)
        raise UsageError(f"{name}, given the baseline's {study.file.study.match}, has {steps} steps. {error}") from None


def tokens_per_step(recipe: Recipe) -> int:
    return recipe.training.global_batch_size * recipe.model.context_length


def flops_per_step(recipe: Recipe, vocab_size: int) -> int:
    return tokens_per_step(recipe) * training_flops_per_token(recipe.model, vocab_size, recipe.finetuning)


def _refuse_unpriced(study: Study, settled: SettledStudy) -> None:
    """`UsageError` if arms are given equal money, and the study file has no price for the device they run on."""
    device = settled.environment["device"]
    if study.file.study.match == "money" and price_of(study, device, 1.0) is None:
        raise UsageError(
            f'{study.path}: study.price: match = "money", and there is no price for {device}. Give a part of that name '
            "and what an hour of it costs."
        )


def _refuse_twins(study: Study, settled: SettledStudy) -> None:
    """`UsageError` for arms that come to the same once every `auto` is settled."""
    seen: dict[str, str] = {}
    for name, arm in settled.arms.items():
        twin = seen.setdefault(arm.identity, name)
        if twin != name:
            remedy = "it changes nothing" if twin == BASELINE else "leave one of them out"
            raise UsageError(f"{study.path}: once every auto is settled, {name} is the same as {twin}: {remedy}.")


# What was settled before.


def _what_holds(study: Study, before: SettledStudy, opened: Mapping[str, Opened], say: Say) -> dict[str, SettledArm]:
    """The arms whose settling holds. `say` is told of the others; `UsageError` for what must not change any more."""
    refuse_changed_declaration(study, before)
    _refuse_other_software(study, before)
    same = {name for name, arm in opened.items() if name in before.arms and before.arms[name].given == arm.given}
    if BASELINE not in same:
        say("The baseline has changed: every arm is settled anew. Finished runs stay, and no longer count.")
        return {}
    if before.declared["match"] != study.file.study.match:
        return {BASELINE: before.arms[BASELINE]} if before.arms[BASELINE].seconds_per_step else {}
    for name in opened.keys() - before.arms.keys():
        say(f"New since the study was settled: {name}.")
    for name in (opened.keys() & before.arms.keys()) - same:
        say(f"Changed since the study was settled: {name}. Its runs so far stay, and no longer count.")
    for name in before.arms.keys() - opened.keys():
        say(f"No longer in the study file: {name}. Its runs stay, and no longer count.")
    return {name: before.arms[name] for name in opened if name in same}


def family_of(study: Study, before: SettledStudy | None, given: Mapping[str, str], say: Say) -> dict[str, str]:
    """The interventions of the study file, and those that had runs when they were taken out of it or changed.

    `given` are the hashes of all arms, by name.
    """
    family = {name: given[name] for name in study.declared}
    if before is None:
        return family
    tried = arms_with_runs(study)
    for name, hashed in before.family.items():
        withdrawn = name not in before.arms  # at an earlier time
        if hashed in family.values() or not (withdrawn or name in tried):
            continue
        family[name if name not in family else f"{name} ({hashed[:8]})"] = hashed
        if not withdrawn:
            say(f"{name} was tried: it still counts among the changes that a claim is picked from.")
    return family


def refuse_changed_declaration(study: Study, before: SettledStudy) -> None:
    """`UsageError` if what counts was changed since there were results: then anybody can find anything."""
    if not (study.folder / "table.csv").exists():
        return
    now = declaration(study)
    changed = [
        f"{name} was {before.declared.get(name)!r} and is {now[name]!r} now"
        for name in now
        if now[name] != before.declared.get(name)
    ]
    if changed:
        raise UsageError(
            f"{study.path}: {'; '.join(changed)}. There are results already, and what counts is declared before. Put "
            "it back, or copy the file to a new name: a study of its own, for which the finished runs count where they "
            "are the same."
        )


def _refuse_other_software(study: Study, before: SettledStudy) -> None:
    """A study pins what computes it."""
    here = hardware.environment("cpu")
    other = [
        f"{name} {before.environment[name]} (here {here[name]})"
        for name in PINNED
        if before.environment[name] != here[name]
    ]
    if other:
        raise RunError(
            f"{study.path} was settled with {', '.join(other)}. Runs of unlike software are not compared: install what "
            f"it was settled with, or give the study a fresh folder of runs and remove {study.folder}."
        )


PINNED = ("scratchlab", "torch")


def _refuse_other_machine(study: Study, environment: Mapping[str, str], base: SettledArm) -> None:
    """Seconds of one machine are not those of another."""
    here = hardware.environment(base.recipe.settled.device)["device"]
    if here != environment["device"]:
        raise RunError(
            f"{study.path}: match = {study.file.study.match!r}, and the arms so far were timed on "
            f"{environment['device']}; this is {here}. Settle the new arms on such a machine."
        )
