"""Ray: a cluster of this machine alone. What two machines do when one dies is in `ray_cluster.py`.

Ray takes seven seconds to begin, so `make cluster` runs it and `make test` does not.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scratchlab.errors import ScratchlabError, Terminated
from scratchlab.runfolder import RunFolder
from scratchlab.study import ray_engine
from scratchlab.study.perform import perform
from scratchlab.study.places import held
from scratchlab.study.ray_engine import RayEngine
from tiny_jobs import Told, bits, jobs_of, reached, steps_trained, tiny_corpus, wait_until


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """What all tests connect to, begun in another folder than theirs."""
    ray_engine._connect(None, 2)
    yield
    ray_engine.import_ray().shutdown()


def test_jobs_end_as_in_a_process_of_ones_own(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Threads included, and from another folder: Ray's workers are somewhere else."""
    monkeypatch.chdir(tmp_path)
    near = Path(os.path.relpath(corpus))
    changes = {"execution.threads": 2, "training.steps": 8}
    jobs, alone = jobs_of(near, Path("runs"), 3, changes), jobs_of(near, Path("alone"), 3, changes)
    jobs[1].out.mkdir(parents=True)
    told = Told()
    with held(jobs[2].out):
        RayEngine(workers=2).run(jobs, told)
    assert {outcome.job: outcome.state for outcome in told.outcomes} == dict(
        zip(jobs, ["finished", "failed", "elsewhere"], strict=True)
    )
    assert perform(alone[0]).state == "finished"
    assert bits(jobs[0].out) == bits(alone[0].out)
    assert RunFolder(jobs[0].out).manifest()["command"] == sys.argv
    assert list(Path("runs").glob(".probe-*")) == []
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err + printed.out


def test_told_to_stop_it_saves_a_checkpoint(corpus: Path, tmp_path: Path) -> None:
    jobs = jobs_of(corpus, tmp_path / "runs", 4, {"training.steps": 80})

    def interrupt() -> None:
        wait_until(lambda: any(reached(job.out, 4) for job in jobs))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Terminated, match="To go on, run the same again"):
        RayEngine(workers=1).run(jobs, Told())
    thread.join()
    assert perform(jobs[0]).state == "finished"
    assert steps_trained(jobs[0].out) == 80, "nothing was lost"
    assert not jobs[1].out.exists()


def test_a_folder_that_is_not_shared_is_refused(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a machine is made a stranger by giving it a file of another content to look at."""
    shared = ray_engine._shared_file

    def torn(folder: Path) -> Any:
        manager = shared(folder)
        path = manager.__enter__()
        path.write_text("of another disk", encoding="utf-8")

        class Other:
            def __enter__(self) -> Path:
                return path

            def __exit__(self, *error: object) -> None:
                manager.__exit__(None, None, None)

        return Other()

    monkeypatch.setattr(ray_engine, "_shared_file", torn)
    with pytest.raises(ScratchlabError, match=r"is not the .* of this machine, and runs would be lost"):
        RayEngine().run(jobs_of(corpus, tmp_path, 1), Told())


def test_other_software_is_refused(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "_software", lambda: {"torch": "1.0"})
    with pytest.raises(ScratchlabError, match=r"torch .* where this machine has torch 1\.0"):
        RayEngine().run(jobs_of(corpus, tmp_path, 1), Told())
