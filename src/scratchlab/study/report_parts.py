"""The parts of a report that only some designs have: noise, stack, screen, sweep, tuning; and what an effect is worth.

Each takes what the study's runs say and gives a plain record, or None where the design has no such part.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from scratchlab.errors import ScratchlabError
from scratchlab.evaluation.loss import UnitLosses, paired_error
from scratchlab.runfolder import RunFolder
from scratchlab.study.analysis import Analysis
from scratchlab.study.arms import value_of
from scratchlab.study.definition import LOSSES, PREFERENCES, Study
from scratchlab.study.design import Figures, Known, PlannedRun, tuning_runs
from scratchlab.study.noise import factor_effects, rerun_floor, split_noise, step_noise
from scratchlab.study.report_curves import Curve, RunCurves
from scratchlab.study.sections import BASELINE, Changes
from scratchlab.study.settle import tokens_per_step
from scratchlab.study.settled import SettledStudy
from scratchlab.study.stacking import Estimate, screen, stacking
from scratchlab.study.table import Cell, Table
from scratchlab.study.trends import Sweep, fit_sweep, steps_equivalent

Record = dict[str, Any]
Counted = Sequence[tuple[PlannedRun, Figures]]
Trials = Sequence[tuple[PlannedRun, Figures | None]]

LAST_EVALUATIONS = 10
"""The end of a run, by which step noise is judged."""
CURVE_POINTS = 81
PAIRED = ("bits_per_byte", "nats_per_token")
"""Losses whose differences have an error by the units of the text."""


def curve_loss(metric: str) -> str:
    """The figure of an evaluation that goes with a metric: its own unit where it is a loss."""
    name = metric.rpartition(".")[2]
    if name in PREFERENCES:
        return "loss"
    return name if name in LOSSES else "nats_per_token"


def _is_loss(metric: str) -> bool:
    return metric.rpartition(".")[2] in LOSSES


# Noise.


def noise_facts(
    study: Study,
    table: Table,
    counted: Counted,
    analysis: Analysis | None,
    runs: Mapping[str, RunCurves],
) -> Record:
    """How far chance alone moves the metric, by where it comes from. What is not known is None."""
    values = table.finished(BASELINE) if study.design != "noise" else _grid_values(table.cells)
    own = [run.name for run, f in counted if run.arm == BASELINE and run.is_replicate and f.value is not None]
    floor, reruns = rerun_floor(table.cells)
    return {
        "runs": len(values),
        "grid": study.file.noise and [study.file.noise.init, study.file.noise.data],
        "between_seeds": statistics.stdev(values) if len(values) > 1 else None,
        "after_blocks": None if analysis is None else analysis.residual_sd,
        "after_blocks_freedom": 0 if analysis is None else analysis.freedom,
        **_evaluation_noise(study, counted),
        "step": _step_noise(study, [runs[name] for name in own]),
        "rerun": floor,
        "reruns": reruns,
        **_split(study, table.cells),
        "factors": [_finite(asdict(one)) for one in factor_effects(table.cells)] if study.design == "noise" else [],
    }


def _grid_values(cells: Sequence[Cell]) -> list[float]:
    return [cell.value for cell in cells if cell.value is not None and not cell.rerun and not cell.factors]


def _split(study: Study, cells: Sequence[Cell]) -> Record:
    """The variances of init and data seeds, where the design tells them apart."""
    if study.design != "noise":
        return {"split": None, "split_problem": None}
    try:
        split = split_noise(cells)
    except ScratchlabError as error:
        return {"split": None, "split_problem": str(error)}
    components = [{**asdict(one), "sd": one.sd} for one in split.components]
    return {"split": {**asdict(split), "components": components}, "split_problem": None}


def _evaluation_noise(study: Study, counted: Counted) -> Record:
    """What another text of the kind would change: in the difference of two runs of a block, or else in one figure."""
    split, _, loss = study.file.study.metric.partition(".")
    own = {
        run.block: run.name for run, f in counted if run.arm == BASELINE and run.is_replicate and f.value is not None
    }
    pairs = _paired_errors(study, counted, own, loss) if split == "test" and loss in PAIRED else []
    if pairs:
        pooled = math.sqrt(statistics.fmean(error**2 for error, _ in pairs))
        return {"evaluation": pooled, "evaluation_pairs": len(pairs), "evaluation_unit": pairs[0][1]}
    results = [RunFolder(study.runs / name).result() or {} for name in own.values()]
    errors = [(result.get(split) or {}).get(f"{loss}_error") for result in results]
    known = [error for error in errors if error is not None]
    return {"evaluation": statistics.fmean(known) if known else None, "evaluation_pairs": 0, "evaluation_unit": None}


def _paired_errors(study: Study, counted: Counted, baselines: Mapping[str, str], loss: str) -> list[tuple[float, str]]:
    """Of each run of an arm beside the baseline's of its block, with what its units are called."""
    base = {block: _test_units(study, name) for block, name in baselines.items()}
    arms = [run for run, figures in counted if run.arm != BASELINE and figures.value is not None]
    pairs = [(own, base.get(run.block)) for run in arms if (own := _test_units(study, run.name)) is not None]
    errors = [(paired_error(own, other, loss), own.unit) for own, other in pairs if other is not None]
    return [(error, unit) for error, unit in errors if error is not None]


def _test_units(study: Study, name: str) -> UnitLosses | None:
    """None for a run that kept none (it is older than that), or whose file is damaged: nothing else rests on it."""
    try:
        content = RunFolder(study.runs / name).test_units()
    except ScratchlabError:
        return None
    return None if content is None else UnitLosses.from_json(content)


def _step_noise(study: Study, runs: Sequence[RunCurves]) -> float | None:
    """From one evaluation to the next at the end of a run; the root of the mean square over runs of the baseline."""
    if not _is_loss(study.file.study.metric):
        return None
    ends = [list(run.validation.values())[-LAST_EVALUATIONS:] for run in runs]
    squares = [step_noise(end) ** 2 for end in ends if len(end) >= 3]
    return math.sqrt(statistics.fmean(squares)) if squares else None


# Worth.


def worth(
    study: Study, settled: SettledStudy, name: str, analysis: Analysis | None, curve: Curve | None
) -> dict[str, float] | None:
    """An arm's effect as steps of the baseline; None where its curve does not say."""
    arm = None if analysis is None else next((one for one in analysis.arms if one.name == name), None)
    if arm is None or arm.effect is None or arm.low is None or arm.high is None or curve is None:
        return None
    section = study.file.study
    points = [(at, loss) for at, loss in zip(curve.tokens, curve.mean, strict=True) if at and loss is not None]
    if len(points) < 3 or not _is_loss(section.metric) or section.higher_is_better:
        return None
    tokens, losses = zip(*points, strict=True)
    found = steps_equivalent(arm.effect, arm.low, arm.high, tokens, losses)
    if found is None:
        return None
    base = settled.arms[BASELINE].recipe
    each, steps = tokens_per_step(base), base.settled.steps
    more = found.more / each
    return {"more": more, "low": found.low / each, "high": found.high / each, "share": more / steps}


# Stack and screen.


def stack_facts(study: Study, table: Table, analysis: Analysis | None) -> Record | None:
    """What the members do together, beside the sum of what each does alone, over the blocks that were judged."""
    stack = study.file.stack
    if stack is None:
        return None
    try:
        found = stacking(_judged(table, analysis), "stack", stack.members, study.without)
    except ScratchlabError as error:
        return {"problem": str(error)}
    judged = _is_judged(analysis)
    members = [
        {"name": name, "alone": _estimate(alone, judged), "inside": inside and _estimate(inside, judged)}
        for name, (alone, inside) in zip(stack.members, found.members, strict=True)
    ]
    totals = {name: _estimate(getattr(found, name), judged) for name in ("predicted", "observed", "difference")}
    return {"problem": None, "judged": judged, "members": members, **totals}


def screen_facts(study: Study, table: Table, analysis: Analysis | None) -> Record | None:
    """What each screened change does on average over the others, and which interactions cannot be told apart."""
    if study.design != "screen":
        return None
    smallest = None if analysis is None else analysis.smallest_effect
    try:
        found = screen(_judged(table, analysis), study.switches, list(study.interventions), smallest)
    except ScratchlabError as error:
        return {"problem": str(error)}
    judged = _is_judged(analysis)
    effects = [
        {
            **_estimate(one.change, judged),
            "p_holm": one.p_holm if judged else None,
            "verdict": one.verdict if judged else "not judged",
        }
        for one in found.effects
    ]
    pairs = [
        {**_estimate(one.together, judged), "p_exploratory": one.p_exploratory if judged else None}
        for one in found.interactions
    ]
    return {
        "problem": None,
        "smallest_effect": smallest,
        "effects": effects,
        "interactions": pairs,
        "aliases": list(found.aliases),
    }


def _is_judged(analysis: Analysis | None) -> bool:
    return analysis is not None and analysis.look is not None


def _judged(table: Table, analysis: Analysis | None) -> Table:
    """Without the runs that came after the last look."""
    return table if analysis is None else table.first(analysis.blocks)


def _estimate(one: Estimate, judged: bool) -> Record:
    return {**asdict(one), "p": one.p if judged else None}


# Sweep.


def sweep_facts(study: Study, counted: Counted) -> Record | None:
    """The curve through the points of a sweep, and where it is best."""
    if study.design != "sweep":
        return None
    fields = sorted({field for arm in study.arms for field in arm.changes})
    places = {
        arm.name: [value_of(study.baseline.replaced(arm.changes), field) for field in fields] for arm in study.arms
    }
    runs = [(run, f.value) for run, f in counted if f.value is not None]
    points: list[Record] = [
        {"arm": run.arm, "at": places[run.arm], "block": run.block, "value": value} for run, value in runs
    ]
    plain: Record = {"fields": fields, "points": points, "problem": None, "fit": None, "curve": None}
    columns = list(zip(*places.values(), strict=True))
    wrong = [
        field
        for field, column in zip(fields, columns, strict=True)
        if any(type(value) not in (int, float) for value in column)
    ]
    if wrong:
        return {**plain, "problem": f"{', '.join(wrong)} has no number for a value, so no curve can be fitted."}
    try:
        fit = fit_sweep(
            fields,
            [places[run.arm] for run, _ in runs],
            [run.block for run, _ in runs],
            [value for _, value in runs],
            study.file.study.higher_is_better,
        )
    except ScratchlabError as error:
        return {**plain, "problem": str(error)}
    for point in points:
        point["of_an_average_block"] = point["value"] - fit.blocks[point["block"]]
    return {**plain, "fit": asdict(fit), "curve": _curve(fit, columns)}


def _curve(fit: Sweep, columns: Sequence[Sequence[float]]) -> Record:
    """The fitted curve over the range that was swept with its 95% band; or the surface, a row for each first value."""
    axes = [_spaced(min(column), max(column), log) for column, log in zip(columns, fit.logs, strict=True)]
    values = [fit.at(*place) for place in itertools.product(*axes)]
    if len(axes) == 1:
        low, high = zip(*(fit.interval(value) for value in axes[0]), strict=True)
        return {"axes": axes, "values": values, "low": low, "high": high}
    return {"axes": axes, "values": [values[i : i + CURVE_POINTS] for i in range(0, len(values), CURVE_POINTS)]}


def _spaced(low: float, high: float, log: bool) -> list[float]:
    steps = [i / (CURVE_POINTS - 1) for i in range(CURVE_POINTS)]
    return [low * (high / low) ** at for at in steps] if log else [low + (high - low) * at for at in steps]


# Tuning.


def tuning_trials(study: Study, settled: SettledStudy, known: Known) -> list[tuple[PlannedRun, Figures | None]]:
    """The trials by which arms are tuned, with the figures of those that are there."""
    if not study.file.study.retune:
        return []
    arms = [arm for arm in study.arms if arm.name in settled.arms]
    return [(run, known(run.name)) for arm in arms for run in tuning_runs(study, settled, arm)]


def retune_facts(study: Study, trials: Trials, tuned: Mapping[str, Changes]) -> Record | None:
    """What each arm tried and what it chose, by its validation loss."""
    if not study.file.study.retune:
        return None
    by_arm: dict[str, list[Record]] = {}
    for run, figures in trials:
        validation = None if figures is None else figures.validation
        trial = {"values": dict(run.changes), "validation": validation, "done": figures is not None}
        by_arm.setdefault(run.arm, []).append(trial)
    arms = [{"arm": arm, "trials": tried, "chosen": tuned.get(arm)} for arm, tried in by_arm.items()]
    return {"fields": list(study.file.study.retune), "trials": study.file.study.retune_trials, "arms": arms}


def _finite(record: Record) -> Record:
    """JSON knows no infinity."""
    return {n: None if isinstance(value, float) and not math.isfinite(value) else value for n, value in record.items()}
