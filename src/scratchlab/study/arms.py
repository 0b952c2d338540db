"""The arms of a study: what each changes in the baseline, and whether that makes sense.

Pure functions from a study's tables to its arms and to sentences about what is wrong with them.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from scratchlab.errors import RecipeError
from scratchlab.recipe import LENGTHS, Recipe, fingerprint
from scratchlab.study.sections import BASELINE, Arm, Changes, NoiseSection, StudyFile, SweepSection, design_of
from scratchlab.study.stacking import screen_design

MOST_ARMS = 500
STACK = "stack"
LEAST_SCREENED = 4
SURFACE_POINTS = 6  # as many as it has coefficients


def flat_interventions(tables: Mapping[str, Any]) -> tuple[dict[str, Changes], list[str]]:
    """Each intervention as dotted fields and values, however its table was nested; and what is no intervention."""
    found: dict[str, Changes] = {}
    problems: list[str] = []
    for name, table in tables.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=-]*", name) or name in (BASELINE, STACK):
            problems.append(
                f"interventions.{name}: a name is of letters, digits, '-', '_', '.' and '=', and not {BASELINE!r} or "
                f"{STACK!r}."
            )
        if not isinstance(table, Mapping) or not table:
            problems.append(f"interventions.{name}: should be a table of fields and values, not {table!r}.")
            continue
        found[name] = dict(flat(table, ""))
    return found, problems


def flat(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def find_arms(
    file: StudyFile, baseline: Recipe, interventions: Mapping[str, Changes]
) -> tuple[tuple[Arm, ...], list[str]]:
    """The arms of a study, the baseline first, and what is wrong with them."""
    changes = interventions
    problems: list[str] = []
    match design_of(file):
        case "sweep":
            assert file.sweep is not None
            changes, problems = _sweep_points(file.sweep)
            problems += [] if problems else _curve_problems(list(changes.values()), baseline)
        case "noise":
            assert file.noise is not None
            problems = _factor_problems(file.noise, baseline)
        case "stack":
            problems = _stack_problems(file, interventions)
        case "screen":
            problems = _screen_problems(interventions)
        case "paired":
            pass
    single = [Arm(name, fields, (name,)) for name, fields in changes.items()]
    problems += _arm_problems(single, baseline, design_of(file))
    problems += [] if problems else _retune_problems(file, [Arm(BASELINE, {}), *single], baseline)
    if problems:
        return (), problems
    return (Arm(BASELINE, {}), *_combined(file, single, baseline)), []


def _combined(file: StudyFile, single: list[Arm], baseline: Recipe) -> list[Arm]:
    """The arms that the design makes of the interventions."""
    match design_of(file):
        case "stack":
            assert file.stack is not None
            return [*single, *_stack_arms([arm for arm in single if arm.name in file.stack.members])]
        case "screen":
            return _screen_arms(single)
        case "sweep":
            own = _identity(baseline)
            return [arm for arm in single if _identity(baseline.replaced(arm.changes)) != own]
        case "paired" | "noise":
            return single


# Stack and screen.


def together(name: str, members: list[Arm]) -> Arm:
    """One arm with all that its members change."""
    return Arm(name, {field: value for arm in members for field, value in arm.changes.items()},
               tuple(arm.name for arm in members))  # fmt: skip


def _stack_arms(members: list[Arm]) -> list[Arm]:
    """All members together; and, of three and more, all but each (of two, that is the other one alone)."""
    without = [
        together(f"{STACK} without {left_out.name}", [arm for arm in members if arm is not left_out])
        for left_out in members
    ]
    return [together(STACK, members), *(without if len(members) > 2 else [])]


def _screen_arms(factors: list[Arm]) -> list[Arm]:
    """The rows of a resolution IV fraction, but for the one in which everything is off: that is the baseline."""
    rows = screen_design([arm.name for arm in factors])
    switched = [[arm for arm in factors if row[arm.name]] for row in rows]
    return [together("+".join(arm.name for arm in members), members) for members in switched if members]


def _stack_problems(file: StudyFile, interventions: Mapping[str, Changes]) -> list[str]:
    assert file.stack is not None
    members = file.stack.members
    unknown = [name for name in members if name not in interventions]
    if unknown:
        there = ", ".join(interventions) or "none"
        return [f"stack.members: {name!r} is no intervention of this file (there is {there})." for name in unknown]
    if len(set(members)) < 2 or len(set(members)) < len(members):
        return ["stack.members: should be two interventions or more, each once."]
    return _overlaps("stack.members", {name: interventions[name] for name in members})


def _screen_problems(interventions: Mapping[str, Changes]) -> list[str]:
    if len(interventions) < LEAST_SCREENED:
        return [
            f"[screen]: {len(interventions)} interventions are too few to screen (it takes {LEAST_SCREENED}). Leave "
            "[screen] out to run each alone."
        ]
    return _overlaps("screen", interventions)


def _overlaps(place: str, members: Mapping[str, Changes]) -> list[str]:
    """Members that change one field cannot both have their way."""
    return [
        f"{place}: {a} and {b} both set {field}, so they cannot be combined."
        for a, b in itertools.combinations(members, 2)
        for field in members[a]
        if field in members[b]
    ]


# Sweep and noise.


def _sweep_points(sweep: SweepSection) -> tuple[Mapping[str, Changes], list[str]]:
    """The points of a sweep by name, `learning_rate=0.001, global_batch_size=32`."""
    if (sweep.grid is None) == (sweep.points is None):
        return {}, ["sweep: give either grid (fields and their values) or points (a list of tables)."]
    if sweep.grid is not None:
        grid = dict(flat(sweep.grid, ""))
        points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    else:
        points = [dict(flat(point, "")) for point in sweep.points or []]
    fields = {tuple(sorted(point)) for point in points}
    if len(fields) != 1 or not 1 <= len(next(iter(fields))) <= 2:
        return {}, ["sweep: should be values of one field or of two, the same for every point."]
    if len(points) < 3:
        return {}, [f"sweep: {len(points)} points show no curve; give 3 or more."]
    if len(points) > MOST_ARMS:
        return {}, [f"sweep: {len(points):,} points are more than {MOST_ARMS}; give fewer values."]
    named = {", ".join(f"{field.rpartition('.')[2]}={value}" for field, value in p.items()): p for p in points}
    twice = len(points) - len(named)
    return named, [f"sweep: {twice} of its points are there twice."] if twice else []


def _curve_problems(points: list[Changes], baseline: Recipe) -> list[str]:
    """What a curve takes, where all values are numbers; the baseline is a point of every sweep."""
    fields = list(points[0])
    places = {tuple(point[field] for field in fields) for point in points}
    places.add(tuple(value_of(baseline, field) for field in fields))
    if any(type(value) not in (int, float) for place in places for value in place):
        return []  # words are compared, each with the baseline
    problems = [
        f"sweep: a curve over {field} takes three different values at least, the baseline's counted."
        for field, values in zip(fields, zip(*places, strict=True), strict=True)
        if len(set(values)) < 3
    ]
    if len(fields) == 2 and len(places) < SURFACE_POINTS and not problems:
        problems = [f"sweep: a surface over {' and '.join(fields)} takes {SURFACE_POINTS} points at least."]
    return problems


def _factor_problems(noise: NoiseSection, baseline: Recipe) -> list[str]:
    problems: list[str] = []
    for field, values in flat(noise.factors, ""):
        if not field.startswith("execution."):
            problems.append(
                f"noise.factors: {field} is not outside the mathematics; a factor is a field of [execution], such as "
                '"execution.threads". To see what another value does, make it an intervention.'
            )
            continue
        if not isinstance(values, list) or len(values) < 2:
            problems.append(f"noise.factors.{field}: should be a list of two values or more to compare.")
            continue
        for value in values:
            problems += _recipe_problems(f"noise.factors.{field} = {value!r}", baseline, {field: value})
    return problems


def factor_settings(noise: NoiseSection) -> list[Changes]:
    """Every combination of the factors' values; none where there are no factors."""
    factors = dict(flat(noise.factors, ""))
    return [dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values())] * bool(factors)


# What holds for every arm.


def _arm_problems(arms: list[Arm], baseline: Recipe, design: str) -> list[str]:
    problems: list[str] = []
    same: dict[str, str] = {_identity(baseline): BASELINE}
    for arm in arms:
        place = "sweep" if design == "sweep" else f"interventions.{arm.name}"
        if forbidden := list(_forbidden(arm.changes, baseline)):
            problems += [f"{place}: {sentence}" for sentence in forbidden]
            continue
        if wrong := _recipe_problems(place, baseline, arm.changes):
            problems += wrong
            continue
        twin = same.setdefault(_identity(baseline.replaced(arm.changes)), arm.name)
        if twin == BASELINE and design != "sweep":
            problems.append(f"{place}: changes nothing: the baseline has these values already.")
        elif twin not in (arm.name, BASELINE):
            problems.append(f"{place}: is the same as {twin}. Leave one of them out.")
    return problems


def _forbidden(changes: Changes, baseline: Recipe) -> Iterator[str]:
    """Fields that the study itself must hold still."""
    for field in changes:
        section, _, name = field.partition(".")
        if section == "seeds":
            yield f"{field}: the seeds of every arm are its block's; leave it out."
        if section == "evaluation":
            yield f"{field}: all arms are measured alike; set it in the baseline."
        if section == "training" and name in LENGTHS:
            yield f"{field}: the length of every arm follows from study.match; to try another, change the baseline's."
    if "corpus" in changes and baseline.evaluation.corpus is None:
        yield (
            "corpus: arms that train on different text must be scored on the same: set evaluation.corpus in the "
            f"baseline, for example to {baseline.corpus!r}."
        )


def _recipe_problems(place: str, baseline: Recipe, changes: Changes) -> list[str]:
    try:
        baseline.replaced(changes)
    except RecipeError as error:
        _, *lines = str(error).splitlines()
        return [f"{place}: {line.strip()}" for line in lines or [str(error)]]
    return []


def _retune_problems(file: StudyFile, arms: list[Arm], baseline: Recipe) -> list[str]:
    """What is tuned must be a positive number that can be multiplied, in every arm."""
    problems: list[str] = []
    for field, arm in itertools.product(file.study.retune, arms):
        place = "study.retune" if arm.name == BASELINE else f"study.retune, interventions.{arm.name}"
        value = value_of(baseline.replaced(arm.changes), field)
        if field.partition(".")[0] not in ("training", "model") or not isinstance(value, float) or value <= 0:
            problems.append(
                f"{place}: {field} is {value!r}; only a positive decimal number of [training] or [model] can be tuned, "
                "such as training.learning_rate."
            )
            continue
        for farthest in (value / file.study.retune_span, value * file.study.retune_span):
            problems += _recipe_problems(place, baseline, {**arm.changes, field: farthest})
    return problems


def value_of(recipe: Recipe, field: str) -> Any:
    """The value of a dotted field, or None if there is none."""
    value: Any = recipe
    for part in field.split("."):
        value = getattr(value, part, None)
    return value


def _identity(recipe: Recipe) -> str:
    """What two recipes share if they say the same, before anything is settled; corpora count by their path."""
    return fingerprint(recipe, recipe.corpus, recipe.evaluation.corpus, recipe.start.weights)
