"""The short answer of a study that asks about more than its arms: the same in the terminal and on every page."""

from dataclasses import dataclass
from typing import Any

from scratchlab.runfolder import RunFolder
from scratchlab.study import report_parts as parts
from scratchlab.study.analysis import Analysis
from scratchlab.study.definition import Study
from scratchlab.study.design import Schedule, table_of
from scratchlab.study.report_curves import read_curves


@dataclass(frozen=True, slots=True)
class Answer:
    """What the design is for, as plain records; None for parts of other designs."""

    design: str
    metric: str
    higher_is_better: bool
    noise: dict[str, Any]
    """Of a noise study; else empty."""
    stack: dict[str, Any] | None
    screen: dict[str, Any] | None
    sweep: dict[str, Any] | None


def answer_of(study: Study, now: Schedule, analysis: Analysis | None) -> Answer:
    """What the runs that are there answer."""
    table = table_of(study, now.counted)
    noise: dict[str, Any] = {}
    if study.design == "noise" and now.counted:
        loss = parts.curve_loss(study.file.study.metric)
        curves = {run.name: read_curves(RunFolder(study.runs / run.name), loss) for run, _ in now.runs}
        noise = parts.noise_facts(study, table, now.runs, None, curves)
    return Answer(
        design=study.design,
        metric=study.file.study.metric,
        higher_is_better=study.file.study.higher_is_better,
        noise=noise,
        stack=parts.stack_facts(study, table, analysis),
        screen=parts.screen_facts(study, table, analysis),
        sweep=parts.sweep_facts(study, now.counted),
    )
