"""Slurm, for which submitit's processes of this machine stand in: a run that is warned, and what Slurm is asked for."""

import signal
import threading
from pathlib import Path

import pytest

from scratchlab.errors import UsageError
from scratchlab.study.slurm_engine import SlurmEngine
from tiny_jobs import Told, jobs_of, process_at, reached, steps_trained, tiny_corpus, wait_until

pytest.importorskip("submitit")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("corpus"))


def test_warned_it_goes_back_into_the_queue_and_on_from_a_checkpoint(corpus: Path, tmp_path: Path) -> None:
    (wanted,) = jobs_of(corpus, tmp_path / "runs", 1, {"training.steps": 80})
    told = Told()

    def warn() -> None:
        wait_until(lambda: reached(wanted.out, 8))
        process_at(wanted).send_signal(signal.SIGUSR2)  # as Slurm does before the time is up

    thread = threading.Thread(target=warn)
    thread.start()
    SlurmEngine(options={"timeout": "5"}, cluster="local", poll_seconds=0.05).run([wanted], told)
    thread.join()
    assert told.states == ["finished"]
    assert steps_trained(wanted.out) == 80, "nothing was lost"
    (log,) = (tmp_path / "runs" / "slurm").rglob("*.out")
    assert "Requeued job" in log.read_text(encoding="utf-8")


def test_what_slurm_is_asked_for(corpus: Path, tmp_path: Path) -> None:
    (job,) = jobs_of(corpus, tmp_path, 1, {"execution.threads": 3})
    (on_gpu,) = jobs_of(corpus, tmp_path, 1, {"execution.device": "cuda"})
    asked = SlurmEngine(options={"partition": "long", "timeout": "240", "mem": "8G"}).parameters(job)
    assert asked == {
        "name": f"scratchlab-{job.out.name[:8]}",
        "timeout_min": 240,
        "cpus_per_task": 3,
        "gpus_per_node": 0,
        "slurm_additional_parameters": {"partition": "long", "mem": "8G"},
    }
    assert SlurmEngine().parameters(on_gpu)["gpus_per_node"] == 1
    several = {"execution.processes": 4, "execution.threads": 3}
    (of_four,) = jobs_of(corpus, tmp_path, 1, several)
    (on_four,) = jobs_of(corpus, tmp_path, 1, several | {"execution.device": "cuda"})
    for wanted, gpus in ((of_four, 0), (on_four, 4)):
        asked = SlurmEngine().parameters(wanted)
        assert (asked["cpus_per_task"], asked["gpus_per_node"]) == (12, gpus)
    assert SlurmEngine(options={"gres": "gpu:h100:1"}).parameters(on_gpu)["gpus_per_node"] == 0


@pytest.mark.parametrize("minutes", ["soon", "0", "1.5"])
def test_a_time_that_is_none(corpus: Path, tmp_path: Path, minutes: str) -> None:
    (job,) = jobs_of(corpus, tmp_path, 1)
    with pytest.raises(UsageError, match="whole number of minutes"):
        SlurmEngine(options={"timeout": minutes}).parameters(job)


def test_where_there_is_no_slurm(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    jobs = jobs_of(corpus, tmp_path, 1)
    with pytest.raises(UsageError, match="no command sbatch"):
        SlurmEngine().run(jobs, Told())
