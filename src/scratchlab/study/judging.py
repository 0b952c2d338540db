"""Where a study stands, judged by the analysis."""

from collections.abc import Mapping

from scratchlab.study.analysis import Analysis, analyze
from scratchlab.study.definition import Study
from scratchlab.study.design import Judge, Schedule, table_of
from scratchlab.study.settled import SettledStudy
from scratchlab.study.table import Table


def judge_of(study: Study, settled: SettledStudy) -> Judge:
    """The verdicts of a study at a look, by which the design knows who goes on."""

    def judge(table: Table, blocks: int) -> Mapping[str, str]:
        return {arm.name: arm.verdict for arm in _analyze(study, settled, table, blocks).arms}

    return judge


def analysis_of(study: Study, settled: SettledStudy, now: Schedule) -> Analysis | None:
    """What the runs that are there show; None where nothing can be shown yet, and for the noise of a baseline."""
    table = table_of(study, now.counted)
    finished = [cell for cell in table.cells if cell.arm == table.baseline and cell.value is not None]
    if study.design == "noise" or not finished or len(table.arms) < 2:
        return None
    return _analyze(study, settled, table, study.looks[now.look - 1] if now.look else 0)


def withdrawn(study: Study, settled: SettledStudy) -> list[str]:
    """Interventions that were tried, and are not in the study file any more as they were."""
    return [name for name in settled.family if name not in study.declared]


def _analyze(study: Study, settled: SettledStudy, table: Table, blocks: int) -> Analysis:
    family = [*study.declared, *withdrawn(study, settled)]
    return analyze(table, study.file.study.smallest_effect, study.looks, family, reached=blocks)
