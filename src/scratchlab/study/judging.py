"""Where a study stands, judged by the analysis."""

from collections.abc import Mapping

from scratchlab.study.analysis import Analysis, analyze
from scratchlab.study.definition import Study
from scratchlab.study.design import Judge, Schedule, table_of
from scratchlab.study.table import Table


def judge_of(study: Study) -> Judge:
    """The verdicts of a study at a look, by which the design knows who goes on."""

    def judge(table: Table, blocks: int) -> Mapping[str, str]:
        return {arm.name: arm.verdict for arm in _analyze(study, table, blocks).arms}

    return judge


def analysis_of(study: Study, now: Schedule) -> Analysis | None:
    """What the runs that are there show; None where nothing can be shown yet, and for the noise of a baseline."""
    table = table_of(study, now.counted)
    finished = [cell for cell in table.cells if cell.arm == table.baseline and cell.value is not None]
    if study.design == "noise" or not finished or len(table.arms) < 2:
        return None
    return _analyze(study, table, study.looks[now.look - 1] if now.look else 0)


def _analyze(study: Study, table: Table, blocks: int) -> Analysis:
    return analyze(table, study.file.study.smallest_effect, study.looks, study.declared, reached=blocks)
