"""Jobs in processes of this machine: what dies, what is stopped, and what is shared."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from scratchlab.errors import UsageError
from scratchlab.runfolder import RunFolder
from scratchlab.study import local
from scratchlab.study.jobs import Job
from scratchlab.study.local import LocalEngine
from scratchlab.study.perform import perform
from scratchlab.study.places import held, is_held
from tiny_jobs import (
    CHECKPOINT_EVERY,
    Told,
    bits,
    jobs_of,
    reached,
    resolved_recipe,
    steps_trained,
    tiny_corpus,
    wait_until,
)

LONG = {"training.steps": 80}  # long enough to be caught alive


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("corpus"))


@contextmanager
def running(engine: LocalEngine, jobs: Sequence[Job], told: Told) -> Iterator[None]:
    """The engine at work in another thread; afterwards it has ended."""
    thread = threading.Thread(target=engine.run, args=(jobs, told))
    thread.start()
    try:
        yield
    finally:
        thread.join(300)
    assert not thread.is_alive()


def test_a_killed_worker_costs_a_retry_and_what_fails_holds_nobody_up(corpus: Path, tmp_path: Path) -> None:
    (wanted,) = jobs_of(corpus, tmp_path / "runs", 1, LONG)
    failing, other, last = jobs_of(corpus, tmp_path / "runs", 3, {"training.steps": 4})
    failing.out.mkdir(parents=True)
    told = Told()
    with held(other.out), running(LocalEngine(1), [wanted, failing, other, last], told):
        wait_until(lambda: reached(wanted.out, 8))
        (worker,) = multiprocessing.active_children()
        worker.kill()
    assert told.states == ["finished", "failed", "elsewhere", "finished"]
    assert [outcome.job for outcome in told.outcomes] == [wanted, failing, other, last], "in the order given"
    assert 80 <= steps_trained(wanted.out) <= 80 + 2 * CHECKPOINT_EVERY
    assert multiprocessing.active_children() == []
    (alone,) = jobs_of(corpus, tmp_path / "alone", 1, LONG)
    perform(alone)
    assert bits(wanted.out) == bits(alone.out)


def test_a_job_at_which_every_worker_dies_fails(corpus: Path, tmp_path: Path) -> None:
    wanted = jobs_of(corpus, tmp_path, 1, LONG)
    told, killed = Told(), set[int | None]()
    with running(LocalEngine(1), wanted, told):
        while not told.outcomes:
            time.sleep(0.002)
            for worker in multiprocessing.active_children():
                if worker.pid not in killed:
                    worker.kill()
                    killed.add(worker.pid)
    assert told.states == ["failed"]
    assert len(killed) == local.DEATHS
    assert "4 workers died at it" in told.outcomes[0].message
    assert "SIGKILL" in told.outcomes[0].message


COORDINATOR = """
import pickle, sys
from scratchlab.cli.main import run_command
from scratchlab.study.local import LocalEngine
import click

@click.command()
def study():
    LocalEngine(2).run(pickle.load(open({path!r}, "rb")), lambda outcome: None)

if __name__ == "__main__":
    run_command(study)
"""


@contextmanager
def coordinator(jobs: Sequence[Job], folder: Path) -> "Iterator[subprocess.Popen[str]]":
    (folder / "jobs").write_bytes(pickle.dumps(jobs))
    script = folder / "coordinator.py"
    script.write_text(COORDINATOR.format(path=str(folder / "jobs")), encoding="utf-8")
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_told_to_stop_all_save_a_checkpoint(corpus: Path, tmp_path: Path) -> None:
    """As Ctrl-C does it: the signal goes to every process of the terminal."""
    jobs = jobs_of(corpus, tmp_path / "runs", 3, LONG)
    with coordinator(jobs, tmp_path) as process:
        wait_until(lambda: all(reached(job.out, CHECKPOINT_EVERY) for job in jobs[:2]))
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 143, errors
    assert "To go on, run the same again" in errors
    assert "Traceback" not in errors
    for begun in jobs[:2]:
        assert perform(begun).state == "finished"
        assert steps_trained(begun.out) == 80, "nothing was lost"
    assert not jobs[2].out.exists()


def test_a_killed_coordinator_takes_its_worker_along_and_the_next_goes_on(corpus: Path, tmp_path: Path) -> None:
    (wanted,) = jobs_of(corpus, tmp_path / "runs", 1, LONG)
    with coordinator([wanted], tmp_path) as process:
        wait_until(lambda: reached(wanted.out, CHECKPOINT_EVERY))
        process.kill()
    wait_until(lambda: not is_held(wanted.out), seconds=30)
    assert RunFolder(wanted.out).result() is None
    assert perform(wanted).state == "finished"
    assert 80 <= steps_trained(wanted.out) <= 80 + 2 * CHECKPOINT_EVERY


def test_cards_are_dealt_out_unless_a_recipe_names_one(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cards(*devices: str) -> list[str]:
        recipes = [resolved_recipe(corpus, {"execution.device": device}) for device in devices]
        return local._cards([Job(recipe, Path("out"), "") for recipe in recipes])

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert cards("cuda", "cuda") == ["3", "5"]
    assert cards("cuda", "cuda:1") == []
    assert cards("cpu") == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert cards("cuda") == ["0", "1"]


def test_no_workers_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        LocalEngine(0)
