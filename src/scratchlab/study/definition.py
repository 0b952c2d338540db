"""The study file: what a person declares before anything runs.

    [study]
    baseline = "../recipes/nano-char.toml"      # relative to this file
    metric = "test.bits_per_byte"               # a figure of a run's result.json
    smallest_effect = 0.005                     # less than this makes no difference that matters
    looks = [3, 5, 8]                           # blocks after which the arms are judged
    match = "tokens"                            # what all arms are given alike
    retune = ["training.learning_rate"]         # each arm tunes these first, with as many trials as any other

    [interventions.no-dropout]
    "model.dropout" = 0.0

    [stack]                                     # the members together, and together but for one each
    members = ["no-dropout", "schedule"]

The design follows from the tables that are there: `[interventions]` alone are run in paired blocks; `[stack]` adds its
arms to them; `[screen]` runs a fraction of their combinations instead; `[sweep]` and `[noise]` stand alone.
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from scratchlab.errors import RecipeError, UsageError
from scratchlab.problems import describe_all
from scratchlab.recipe import Recipe
from scratchlab.recipe_files import load_recipe
from scratchlab.study.arms import find_arms, flat_interventions
from scratchlab.study.sections import Arm, Changes, Design, StudyFile, StudySection, design_of

SPLITS = ("test", "validation", "best_validation")
LOSSES = ("bits_per_byte", "nats_per_token", "perplexity")
PREFERENCES = ("loss", "accuracy")
"""Figures of runs that learn which answer of two is better."""
METRICS = (
    *(f"{split}.{figure}" for split in SPLITS for figure in (*LOSSES, *PREFERENCES)),
    "answers.chrf",
    "cost.total_seconds",
    "cost.seconds.training",
    "cost.training_tokens_per_second",
    "health.skipped_steps",
    "peak_memory_bytes",
)
"""What of result.json can be a metric: a number of every run."""


LOOKS: dict[Design, tuple[int, ...]] = {"paired": (3, 5, 8), "stack": (3, 5, 8), "screen": (2,), "sweep": (3,)}


@dataclass(frozen=True, slots=True)
class Study:
    """A study that holds together. Made by `load_study`."""

    path: Path
    file: StudyFile
    baseline: Recipe
    interventions: Mapping[str, Changes]
    arms: tuple[Arm, ...]
    """The baseline first."""

    @property
    def declared(self) -> tuple[str, ...]:
        """The family of claims: the interventions, where each is run alone."""
        return tuple(self.interventions) if self.design in ("paired", "stack") else ()

    @property
    def design(self) -> Design:
        return design_of(self.file)

    @property
    def looks(self) -> tuple[int, ...]:
        """After how many blocks the arms are judged."""
        return self.file.study.looks or LOOKS.get(self.design, (1,))

    @property
    def folder(self) -> Path:
        """What belongs to this study alone."""
        return self.path.with_suffix("")

    @property
    def runs(self) -> Path:
        """Its runs, and those of other studies."""
        return self.path.parent / self.file.study.runs

    @property
    def without(self) -> dict[str, str]:
        """By member of the stack, the arm that is the stack without it: of two, the other one alone."""
        members = () if self.file.stack is None else self.file.stack.members
        by_members = {frozenset(arm.members): arm.name for arm in self.arms}
        return {name: by_members[frozenset(members) - {name}] for name in members}

    @property
    def switches(self) -> dict[str, dict[str, bool]]:
        """By arm, which interventions are on: what a screen is judged by."""
        return {arm.name: {name: name in arm.members for name in self.interventions} for arm in self.arms}

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)


def load_study(path: str | Path) -> Study:
    """Read a study file and check it against its baseline. `UsageError` lists everything that is wrong with it."""
    path = Path(path)
    file = read_study_file(path)
    problems = section_problems(file)
    baseline = None
    try:
        baseline = load_recipe(path.parent / file.study.baseline)
    except RecipeError as error:
        problems.append(f"study.baseline: {error}")
    interventions, ill_shaped = flat_interventions(file.interventions)
    problems += ill_shaped
    if baseline is None:
        raise _complaint(path, problems)
    arms, unfit = find_arms(file, baseline, interventions)
    if file.study.metric.startswith("answers.") and not baseline.evaluation.answers:
        problems.append(
            f"study.metric: {file.study.metric} takes answers: set evaluation.answers in the baseline to how many."
        )
    if problems or unfit:
        raise _complaint(path, [*problems, *unfit])
    return Study(path, file, baseline, interventions, arms)


def read_study_file(path: Path) -> StudyFile:
    """The tables of a study file, each field of the right type."""
    if not path.is_file():
        raise UsageError(f"{path}: there is no such study file{_near_files(path)}. scratchlab study new makes one.")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}.") from None
    try:
        return StudyFile.model_validate(tables)
    except ValidationError as error:
        raise _complaint(path, describe_all([dict(problem) for problem in error.errors()], StudyFile)) from None


def section_problems(file: StudyFile) -> list[str]:
    """What is wrong with `[study]`, and with tables that do not go together."""
    problems: list[str] = []
    study, design = file.study, design_of(file)
    if study.metric not in METRICS:
        near = difflib.get_close_matches(study.metric, METRICS, n=1, cutoff=0.5)
        known = f"did you mean {near[0]}?" if near else f"there are {', '.join(METRICS)}"
        problems.append(f"study.metric: no run has a figure {study.metric!r} ({known}).")
    tables: list[str] = [name for name in ("interventions", "sweep", "noise") if getattr(file, name)]
    if len(tables) > 1:
        problems.append(f"[{tables[0]}] and [{tables[1]}]: a study is of one design; make a file of each.")
    if not tables and file.noise is None and file.sweep is None:
        problems.append('there is nothing to try: add [interventions.NAME] with a line like "model.dropout" = 0.1.')
    if file.stack is not None and file.screen is not None:
        problems.append("[stack] and [screen]: a study has one or the other; make a file of each.")
    problems += _look_problems(study, design)
    if study.retune and design not in ("paired", "stack"):
        problems.append(f"study.retune: only arms of interventions are tuned; this is a {design} study.")
    if study.retune_trials % 2 == 0:
        problems.append(
            f"study.retune_trials: {study.retune_trials} should be odd: the arm's own, and pairs around it."
        )
    return problems


def _look_problems(study: StudySection, design: Design) -> list[str]:
    looks = study.looks
    if looks is None:
        return []
    if design == "noise":
        return ["study.looks: a noise study is as large as its grid; leave them out."]
    if list(looks) != sorted(set(looks)) or not looks:
        return [f"study.looks: should be numbers of blocks, each larger than the one before, not {list(looks)}."]
    if design in ("screen", "sweep") and len(looks) > 1:
        return [f"study.looks: a {design} is judged once, as a whole: give one number of blocks."]
    if min(looks) < 2 and design != "sweep":
        return ["study.looks: one block has no error to judge by; the first look needs 2 blocks or more."]
    return []


def _complaint(path: Path, problems: list[str]) -> UsageError:
    return UsageError("\n  ".join([f"{path}: {len(problems)} problem{'s' * (len(problems) > 1)}", *problems]))


def _near_files(path: Path) -> str:
    names = [str(other) for other in sorted(path.parent.glob("*.toml"))]
    near = difflib.get_close_matches(str(path), names, n=1) or names[:3]
    return f" (there is {', '.join(near)})" if near else ""
