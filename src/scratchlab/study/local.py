"""Jobs in processes of this machine.

Workers are spawned once and do job after job, so that torch is loaded once. The coordinator hands each its next job
when it has ended the last. A worker that dies costs the work since its run's last checkpoint: the job goes to a new
worker.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Literal

from scratchlab.errors import Terminated, UsageError
from scratchlab.hardware import prepare_worker
from scratchlab.processes import end_with_parent
from scratchlab.study.jobs import Job, Outcome, Tell, elsewhere
from scratchlab.study.places import is_held
from scratchlab.training.signals import StopRequest, stop_on_signals

DEATHS = 4  # of workers at one job: the first, and three tries more
POLL_SECONDS = 0.5

Answer = Outcome | Literal["stopped", "died"]


@dataclass
class Attempt:
    """A job, and how many workers died at it."""

    job: Job
    deaths: int = 0


@dataclass
class Worker:
    """A process and what it is at."""

    process: SpawnProcess
    connection: Connection
    attempt: Attempt | None = None

    def begin(self, attempt: Attempt) -> None:
        self.attempt = attempt
        with suppress(OSError):  # it died while it had nothing to do: `answer` says so
            self.connection.send(attempt.job)

    def answer(self) -> Answer:
        """What it says to its job; waits for it."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return "died"


@dataclass
class LocalEngine:
    """An `Engine` of so many processes at once.

    CUDA devices are dealt out to workers in turn, by CUDA_VISIBLE_DEVICES, so that to each its own is `cuda`: recipes
    and fingerprints name no card. Jobs that name one (`cuda:1`) have all cards before them, and so has every job where
    one is of several processes.
    """

    workers: int = 1
    _crew: list[Worker] = field(default_factory=list[Worker])

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UsageError(f"{self.workers} workers: there must be at least one.")

    def run(self, jobs: Sequence[Job], tell: Tell) -> None:
        """See `Engine`. The second Ctrl-C or SIGTERM does not wait for checkpoints."""
        waiting = deque(Attempt(job) for job in jobs)
        cards = _cards(jobs)
        with stop_on_signals() as stop, self._dismissed():
            while waiting or self._busy():
                if stop.requested:
                    waiting.clear()
                    self._ask_to_stop()
                while waiting and len(self._busy()) < self.workers:
                    attempt = waiting.popleft()
                    if is_held(attempt.job.out):
                        tell(elsewhere(attempt.job))
                    else:
                        self._idle_worker(cards).begin(attempt)
                for worker in self._ready():
                    self._hear(worker, waiting, tell, stop)
            if stop.requested:
                raise Terminated("Stopped, with a checkpoint of every run under way. To go on, run the same again.")

    def _busy(self) -> list[Worker]:
        return [worker for worker in self._crew if worker.attempt is not None]

    def _ready(self) -> list[Worker]:
        ready = wait([worker.connection for worker in self._busy()], POLL_SECONDS)
        return [worker for worker in self._busy() if worker.connection in ready]

    def _hear(self, worker: Worker, waiting: deque[Attempt], tell: Tell, stop: StopRequest) -> None:
        """Take a worker's answer; a job that it did not end is the next one to be begun."""
        attempt, answer = worker.attempt, worker.answer()
        assert attempt is not None
        worker.attempt = None
        if not isinstance(answer, Outcome) or answer.state == "failed":  # an error of CUDA stays with the process
            self._crew.remove(worker)
            worker.connection.close()
            worker.process.join()
        if isinstance(answer, Outcome):
            tell(replace(answer, job=attempt.job))
            return
        attempt.deaths += 1
        if stop.requested:
            return
        if attempt.deaths < DEATHS:
            waiting.appendleft(attempt)
        else:
            tell(Outcome(attempt.job, "failed", _many_deaths(worker.process.exitcode)))

    def _idle_worker(self, cards: Sequence[str]) -> Worker:
        for worker in self._crew:
            if worker.attempt is None:
                return worker
        taken = [worker.process.name for worker in self._crew]
        number = next(number for number in range(self.workers) if f"worker {number}" not in taken)
        worker = _hire(f"worker {number}", cards[number % len(cards)] if cards else None)
        self._crew.append(worker)
        return worker

    def _ask_to_stop(self) -> None:
        """Again and again: one that was between two handlers heard it too early to save a checkpoint, and goes on."""
        for worker in self._busy():
            worker.process.terminate()

    @contextmanager
    def _dismissed(self) -> Generator[None]:
        """Afterwards no worker is left: idle ones end when they are told, and one at a job would only be in the way."""
        try:
            yield
        finally:
            for worker in self._crew:
                worker.connection.close()
                if worker.attempt is not None:
                    worker.process.kill()
            for worker in self._crew:
                worker.process.join()
            self._crew.clear()


def _hire(name: str, card: str | None) -> Worker:
    # Spawned: a fork would copy the threads' locks of this process, and CUDA does not live through one.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, card), name=name)
    process.start()
    theirs.close()  # so that the end of the process is the end of the pipe
    return Worker(process, ours)


def _work(connection: Connection, card: str | None) -> None:
    """The life of a worker."""
    with stop_on_signals() as stop:  # while no run listens; and a second signal must not end the one that saves
        end_with_parent()
        if card is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = card
        prepare_worker()
        from scratchlab.study.perform import perform  # loads torch

        while not stop.requested:
            try:
                connection.send(perform(connection.recv(), stop))
            except Terminated:
                connection.send("stopped")
                return
            except EOFError:  # there is nothing left to do
                return


def _cards(jobs: Sequence[Job]) -> list[str]:
    """The CUDA devices to deal out, as CUDA_VISIBLE_DEVICES names them; none where jobs use none, name one, or want
    several each.
    """
    if {(job.recipe.execution.device, job.recipe.execution.processes) for job in jobs} != {("cuda", 1)}:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [card.strip() for card in visible.split(",") if card.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _many_deaths(code: int | None) -> str:
    cause = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    return (
        f"{DEATHS} workers died at it, one after another (the last of {cause}), most likely for want of memory. Try "
        "fewer workers, or a smaller execution.micro_batch_size. (From a script of your own: does the call stand under "
        '`if __name__ == "__main__":`?)'
    )
