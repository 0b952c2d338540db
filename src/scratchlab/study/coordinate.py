"""The coordinator: what is missing goes to an engine, until nothing is.

It keeps no state of its own. After each phase it asks the design anew what comes next, from what lies on disk; so it
may be killed at any moment, and several may work on one study.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from scratchlab.errors import RunError
from scratchlab.study.definition import Study
from scratchlab.study.design import Figures, Judge, Known, PlannedRun, Schedule, schedule
from scratchlab.study.folder import job_of, known_runs, write_results
from scratchlab.study.jobs import Engine, Outcome
from scratchlab.study.sections import BASELINE
from scratchlab.study.settled import SettledStudy

WAIT_SECONDS = 5.0  # while other coordinators are at all that is missing
STANDING_SHARE = (
    0.05  # of its time, at most, that a coordinator asks where the study stands: thousands of runs take long
)


class Watcher(Protocol):
    """Told how a study goes; shows it or not."""

    def phase(self, before: Schedule) -> None:
        """Runs are about to begin: those that are missing."""
        ...

    def ended(self, run: PlannedRun, figures: Figures | None, message: str) -> None:
        """A run is finished, with its figures; or could not be, and why."""
        ...

    def waiting(self, runs: int) -> None:
        """Only runs that others are at are missing."""
        ...

    def damaged(self, message: str) -> None:
        """The files of a run cannot be read."""
        ...


@dataclass
class Progress:
    """What a coordinator has seen happen."""

    failed: dict[str, str] = field(default_factory=dict[str, str])
    """Why runs could not be done, by the names of their folders."""
    ran: int = 0
    """Runs that this coordinator brought to their end."""


def coordinate(
    study: Study, settled: SettledStudy, engine: Engine, judge: Judge, watch: Watcher
) -> tuple[Schedule, Progress]:
    """Run what is missing in a study; gives where it stands in the end, and what happened on the way.

    `RunError` if the baseline diverges whatever its seeds: then there is nothing to compare with. A run that fails is
    left out, and the others go on.
    """
    known, progress = known_runs(study, settled, watch.damaged), Progress()
    while True:
        now = schedule(study, settled, known, judge)
        write_results(study, now)
        check_baseline(study, now)
        todo = [run for run in now.missing if run.name not in progress.failed]
        if not todo:
            return now, progress
        watch.phase(now)
        elsewhere = _run_phase(
            study, todo, engine, known, progress, watch, lambda: schedule(study, settled, known, judge)
        )
        if elsewhere == len({run.name for run in todo}):
            watch.waiting(elsewhere)
            time.sleep(WAIT_SECONDS)


def _run_phase(
    study: Study,
    todo: list[PlannedRun],
    engine: Engine,
    known: Known,
    progress: Progress,
    watch: Watcher,
    standing: Callable[[], Schedule],
) -> int:
    """Give all runs to the engine; gives how many others are at."""
    runs = {run.name: run for run in todo}
    elsewhere, due = 0, 0.0

    def hear(outcome: Outcome) -> None:
        nonlocal elsewhere, due
        run = runs[outcome.job.out.name]
        if outcome.state == "elsewhere":
            elsewhere += 1
            return
        figures = known(run.name)
        if figures is None:
            progress.failed[run.name] = f"{run.label}: {outcome.message or f'{outcome.job.out} has no result.'}"
        progress.ran += figures is not None
        watch.ended(run, figures, outcome.message)
        if (began := time.monotonic()) < due:
            return
        now = standing()
        write_results(study, now)
        due = began + (time.monotonic() - began) / STANDING_SHARE
        check_baseline(study, now)

    engine.run([job_of(study, run) for run in runs.values()], hear)
    return elsewhere


def check_baseline(study: Study, now: Schedule) -> None:
    """`RunError` if every run of the baseline so far diverged, and there are no figures to compare with."""
    own = [(run, figures) for run, figures in now.counted if run.arm == BASELINE]
    if own and all(figures.value is None for _, figures in own):
        run = own[0][0]
        raise RunError(
            f"The baseline diverged ({len(own)} of {len(own)} runs, such as {study.runs / run.name}): its "
            f"{study.file.study.metric} is not finite, so there is nothing to compare the other arms with. Lower "
            f"training.learning_rate in {study.file.study.baseline}, give it a longer training.warmup_steps, or set "
            "training.clip_norm; then run the study again: finished runs of recipes that stay the same are kept."
        )
