"""A Ray cluster of two machines (raylets of this one), of which one is killed hard in the middle; and the coordinator.

Half a minute, so `make cluster` runs it and `make test` does not.
"""

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from scratchlab.runfolder import RunFolder
from scratchlab.study.jobs import Job
from scratchlab.study.local import LocalEngine
from scratchlab.study.ray_engine import RayEngine, import_ray
from scratchlab.training.summary import step_records
from tiny_jobs import CHECKPOINT_EVERY, Told, bits, jobs_of, reached, steps_trained, tiny_corpus, wait_until

STEPS = 80
SEEDS = 6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """What the local engine makes of the same recipes."""
    jobs = jobs_of(corpus, tmp_path_factory.mktemp("alone"), SEEDS, {"training.steps": STEPS})
    LocalEngine(2).run(jobs, Told())
    return [bits(job.out) for job in jobs]


@pytest.fixture
def cluster() -> Iterator[tuple[Any, Any]]:
    """Two machines of one core each; gives the cluster and its second machine."""
    import_ray()
    from ray.cluster_utils import Cluster

    # How soon a machine that says nothing is held for dead.
    health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
    head: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False, "_system_config": health}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster, second
    finally:
        import_ray().shutdown()
        cluster.shutdown()


def kill_hard(node: Any) -> int:
    """The raylet and all its workers at once; gives how many workers there were."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    workers = raylet.children(recursive=True)
    for process in (raylet, *workers):
        process.kill()
    return len(workers)


def once(jobs: Sequence[Job]) -> bool:
    """Whether each run was made once and has the record of each step once."""
    steps = [[record["step"] for record in step_records(RunFolder.open(job.out).metrics())] for job in jobs]
    folders = sorted(path.name for path in jobs[0].out.parent.iterdir() if path.is_dir() and path.name != ".locks")
    return folders == sorted(job.out.name for job in jobs) and all(each == list(range(STEPS)) for each in steps)


def test_a_machine_that_dies(
    corpus: Path, tmp_path: Path, alone: list[dict[str, str]], cluster: tuple[Any, Any]
) -> None:
    head, second = cluster
    jobs = jobs_of(corpus, tmp_path / "runs", SEEDS, {"training.steps": STEPS})
    killed: list[int] = []

    def kill() -> None:
        wait_until(lambda: all(reached(job.out, 2 * CHECKPOINT_EVERY) for job in jobs[:2]))
        killed.append(kill_hard(second))

    thread = threading.Thread(target=kill)
    thread.start()
    told = Told()
    RayEngine(head.address).run(jobs, told)
    thread.join()
    assert killed
    assert killed[0] >= 1
    assert told.states == ["finished"] * SEEDS
    assert {outcome.job for outcome in told.outcomes} == set(jobs)
    trained = sorted(steps_trained(job.out) for job in jobs)
    assert trained[:-1] == [STEPS] * (SEEDS - 1)
    assert STEPS <= trained[-1] <= STEPS + 2 * CHECKPOINT_EVERY, "the work since the last checkpoint, no more"
    assert once(jobs)
    assert [bits(job.out) for job in jobs] == alone


COORDINATOR = """
import pickle, sys
from scratchlab.study.ray_engine import RayEngine
RayEngine(sys.argv[2]).run(pickle.load(open(sys.argv[1], "rb")), lambda outcome: None)
"""


def test_a_coordinator_that_dies(
    corpus: Path, tmp_path: Path, alone: list[dict[str, str]], cluster: tuple[Any, Any]
) -> None:
    """A second one, which was there all the time, finishes."""
    head, _ = cluster
    jobs = jobs_of(corpus, tmp_path / "runs", SEEDS, {"training.steps": STEPS})
    (tmp_path / "jobs").write_bytes(pickle.dumps(jobs))
    with subprocess.Popen([sys.executable, "-c", COORDINATOR, str(tmp_path / "jobs"), head.address]) as first:
        wait_until(lambda: all(reached(job.out, 2 * CHECKPOINT_EVERY) for job in jobs[:2]))
        told = Told()
        RayEngine(head.address).run(jobs[:2], told)
        assert told.states == ["elsewhere", "elsewhere"]
        os.kill(first.pid, signal.SIGKILL)
    assert any(RunFolder(job.out).result() is None for job in jobs)
    finished: set[Job] = set()
    while len(finished) < SEEDS:  # workers of the first may still be about to end
        told = Told()
        RayEngine(head.address).run([job for job in jobs if job not in finished], told)
        assert "failed" not in told.states
        finished |= {outcome.job for outcome in told.outcomes if outcome.state == "finished"}
    assert sum(steps_trained(job.out) for job in jobs) <= SEEDS * STEPS + 2 * 2 * CHECKPOINT_EVERY
    assert once(jobs)
    assert [bits(job.out) for job in jobs] == alone
