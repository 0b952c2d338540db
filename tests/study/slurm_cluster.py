"""Slurm, for which submitit's processes of this machine stand in: jobs that are killed, and jobs that are cancelled.

Half a minute, so `make cluster` runs it and `make test` does not.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scratchlab.errors import Terminated
from scratchlab.study.perform import perform
from scratchlab.study.places import held
from scratchlab.study.slurm_engine import SlurmEngine
from tiny_jobs import CHECKPOINT_EVERY, Told, bits, jobs_of, process_at, reached, steps_trained, tiny_corpus, wait_until

STEPS = 80


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("corpus"))


def engine(workers: int) -> SlurmEngine:
    return SlurmEngine(workers, {"timeout": "5"}, cluster="local", poll_seconds=0.05)


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()


def test_killed_hard_it_is_submitted_again(corpus: Path, tmp_path: Path) -> None:
    jobs = jobs_of(corpus, tmp_path / "runs", 2, {"training.steps": STEPS})
    alone = jobs_of(corpus, tmp_path / "alone", 2, {"training.steps": STEPS})
    told = Told()

    def kill() -> None:
        wait_until(lambda: all(reached(job.out, 2 * CHECKPOINT_EVERY) for job in jobs))
        process_at(jobs[1]).kill()

    with meanwhile(kill):
        engine(workers=2).run(jobs, told)
    assert told.states == ["finished", "finished"]
    assert steps_trained(jobs[0].out) == STEPS
    assert STEPS <= steps_trained(jobs[1].out) <= STEPS + 2 * CHECKPOINT_EVERY
    assert [perform(job).state for job in alone] == ["finished", "finished"]
    assert [bits(job.out) for job in jobs] == [bits(job.out) for job in alone]


def test_cancelled_with_the_coordinator(corpus: Path, tmp_path: Path) -> None:
    jobs = jobs_of(corpus, tmp_path, 3, {"training.steps": STEPS})
    jobs[0].out.mkdir()
    told = Told()

    def stop() -> None:
        wait_until(lambda: reached(jobs[2].out, CHECKPOINT_EVERY))
        os.kill(os.getpid(), signal.SIGTERM)

    with meanwhile(stop), held(jobs[1].out), pytest.raises(Terminated, match="cancelled"):
        engine(workers=1).run(jobs, told)
    assert told.states == ["failed", "elsewhere"]
    assert "exists already" in told.outcomes[0].message
    assert perform(jobs[2]).state == "finished"
    assert steps_trained(jobs[2].out) == STEPS, "nothing was lost"
