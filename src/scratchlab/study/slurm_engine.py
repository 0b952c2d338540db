"""Jobs on a Slurm cluster, by submitit: each run is a Slurm job of one task.

Told that its time is up or its place is wanted, a job saves a checkpoint and goes back into the queue, and goes on from
there when it is begun again. Jobs go on in the queue when the coordinator is killed; told to stop, it cancels them.
"""

import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Literal

from scratchlab.errors import Terminated, UsageError
from scratchlab.extras import missing
from scratchlab.hardware import prepare_worker
from scratchlab.study.jobs import Job, Outcome, Tell, anchored, elsewhere
from scratchlab.study.places import is_held
from scratchlab.training.signals import StopRequest, stop_on_signals

DEATHS = 4  # of Slurm jobs at one run: the first, and three tries more
TIMES_UP = 1000  # how often a job may run out of its time: each time it has come further
DEFAULT_MINUTES = 60

Answer = Outcome | Literal["stopped", "died"]


@dataclass
class SlurmEngine:
    """An `Engine` of Slurm jobs, at most `workers` of them in the queue at once, if given.

    `options` are sbatch's, by their long names without the dashes: `partition`, `account`, `mem`, `gres`. One is ours:
    `timeout`, in minutes (60), after which a job that is not finished goes back into the queue. A job asks for as many
    cores as its processes have threads, and for a GPU for each where they want them (unless an option says which).
    """

    workers: int | None = None
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    cluster: Literal["slurm", "local"] = "slurm"
    """`local`: submitit's processes of this machine stand in for Slurm, in tests."""
    poll_seconds: float = 5.0

    def run(self, jobs: Sequence[Job], tell: Tell) -> None:
        """See `Engine`. Scripts, logs and answers of the Slurm jobs lie in the folder `slurm` beside the runs."""
        if not jobs:
            return
        submitit = import_submitit()
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise UsageError("There is no Slurm here (no command sbatch): start the study where jobs are submitted.")
        logs = jobs[0].out.absolute().parent / "slurm"
        executor = submitit.AutoExecutor(
            logs / "%j", cluster=self.cluster, **{f"{self.cluster}_max_num_timeout": TIMES_UP}
        )
        with stop_on_signals() as stop:
            _Queue(executor, self, deque(jobs)).run(tell, stop)
        if stop.requested:
            raise Terminated("Stopped: the Slurm jobs of this study are cancelled. To go on, run the same again.")

    def parameters(self, job: Job) -> dict[str, Any]:
        """What a job asks Slurm for, in submitit's words."""
        asked = dict(self.options)
        minutes = asked.pop("timeout", str(DEFAULT_MINUTES))
        if not minutes.isdigit() or int(minutes) < 1:
            raise UsageError(f"timeout={minutes}: should be a whole number of minutes, such as timeout=240.")
        settled, told = job.recipe.settled, any(name.startswith("gpus") or "gpu" in asked[name] for name in asked)
        return {
            "name": f"scratchlab-{job.out.name[:8]}",
            "timeout_min": int(minutes),
            "cpus_per_task": settled.threads * settled.processes,
            "gpus_per_node": settled.devices if settled.device.startswith("cuda") and not told else 0,
            "slurm_additional_parameters": asked,
        }


@dataclass
class _Queue:
    """Jobs that wait, and those that Slurm has."""

    executor: Any
    engine: SlurmEngine
    waiting: deque[Job]
    submitted: list[tuple[Job, Any]] = field(default_factory=list[tuple[Job, Any]])
    deaths: dict[Job, int] = field(default_factory=dict[Job, int])

    def run(self, tell: Tell, stop: StopRequest) -> None:
        at_once = self.engine.workers or len(self.waiting)
        try:
            while self.waiting or self.submitted:
                if stop.requested:
                    return
                while self.waiting and len(self.submitted) < at_once:
                    self._begin(self.waiting.popleft(), tell)
                for job, slurm_job in [pair for pair in self.submitted if pair[1].done()]:
                    self.submitted.remove((job, slurm_job))
                    self._hear(job, _answer(job, slurm_job), tell)
                if self.submitted:
                    time.sleep(self.engine.poll_seconds)
        finally:
            self._cancel()

    def _begin(self, job: Job, tell: Tell) -> None:
        if is_held(job.out):
            tell(elsewhere(job))
            return
        self.executor.update_parameters(**self.engine.parameters(job))
        self.submitted.append((job, self.executor.submit(Performance(), anchored(job), sys.argv)))

    def _hear(self, job: Job, answer: Answer, tell: Tell) -> None:
        if isinstance(answer, Outcome):
            tell(answer)
            return
        self.deaths[job] = self.deaths.get(job, 0) + 1
        if self.deaths[job] < DEATHS:
            self.waiting.appendleft(job)
        else:
            tell(Outcome(job, "failed", f"{DEATHS} Slurm jobs died at it; their logs are beside {job.out}, in slurm."))

    def _cancel(self) -> None:
        """Slurm tells a job that is cancelled to end, and it saves a checkpoint."""
        for _, slurm_job in self.submitted:
            slurm_job.cancel()
        while self.submitted and not all(slurm_job.done(force_check=True) for _, slurm_job in self.submitted):
            time.sleep(self.engine.poll_seconds)


class Performance:
    """What submitit pickles and calls in the Slurm job."""

    def __call__(self, job: Job, command: list[str]) -> tuple[str, str]:
        """The state and the message of the job's outcome, or `stopped`."""
        prepare_worker()
        sys.argv = command  # what the run's manifest names
        from scratchlab.study.perform import perform  # loads torch

        with stop_on_signals() as stop, _Requeue() as requeue:
            try:
                outcome = perform(job, stop)
            except Terminated:
                requeue.if_asked()
                return "stopped", ""
        return outcome.state, outcome.message

    def checkpoint(self, job: Job, command: list[str]) -> Any:
        """What is to be called when the job is begun again: submitit asks for it before it puts the job back."""
        return import_submitit().helpers.DelayedSubmission(self, job, command)


class _Requeue:
    """Slurm's warning, which submitit's handler answers at once, first stops the run, so that a checkpoint is saved."""

    def __enter__(self) -> "_Requeue":
        self.number: int = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
        self.submitit: Callable[[int, FrameType | None], Any] | int | None = signal.getsignal(self.number)
        self.asked = False
        signal.signal(self.number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(self.number, self.submitit)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.raise_signal(signal.SIGTERM)  # the run listens to it

    def if_asked(self) -> None:
        """Back into the queue, by submitit, which ends this process; if that is what the run was stopped for."""
        if self.asked and callable(self.submitit):
            self.submitit(self.number, None)


def _answer(job: Job, slurm_job: Any) -> Answer:
    submitit = import_submitit()
    try:
        state, message = slurm_job.result()
    except submitit.core.utils.UncompletedJobError:
        return "died"
    except submitit.core.utils.FailedJobError as error:
        last = str(error).rstrip().rpartition("\n")[2]
        return Outcome(job, "failed", f"{last} The log is {slurm_job.paths.stderr}.")
    return "stopped" if state == "stopped" else Outcome(job, state, message)


def import_submitit() -> Any:
    """submitit, or the command that installs it."""
    try:
        import submitit
    except ImportError:
        raise missing("Slurm", "slurm") from None
    return submitit
