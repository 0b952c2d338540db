"""What of the Ray engine needs no Ray. With one: `ray_local.py` and `ray_cluster.py`, by `make cluster`."""

import builtins
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from scratchlab.errors import DeviceError, MissingExtraError
from scratchlab.study import ray_engine
from scratchlab.study.jobs import Job
from scratchlab.study.ray_engine import RayEngine
from tiny_jobs import Told, resolved_recipe

NODES = [
    {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}},
    {"Alive": True, "Resources": {"CPU": 16.0}},
    {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
]


def wanting(threads: int, device: str, processes: int = 1) -> Job:
    fields = {"execution.threads": threads, "execution.device": device, "execution.processes": processes}
    return Job(resolved_recipe(Path("corpus"), fields), Path("runs/one"), "one")


@pytest.mark.parametrize(("threads", "device"), [(16, "cpu"), (8, "cuda")])
def test_what_a_machine_can_do_is_taken(threads: int, device: str) -> None:
    ray_engine._refuse_what_fits_nowhere([wanting(threads, device)], NODES)


@pytest.mark.parametrize(("threads", "device"), [(17, "cpu"), (9, "cuda")])
def test_what_no_machine_can_do_is_refused(threads: int, device: str) -> None:
    """Cores and GPU must be of one machine, and it must be alive."""
    with pytest.raises(DeviceError, match=f"no machine of the Ray cluster has {threads} cores.*16 cores, 0 GPUs"):
        ray_engine._refuse_what_fits_nowhere([wanting(threads, device)], NODES)


@pytest.mark.parametrize(("device", "said"), [("cpu", "20 cores"), ("cuda", "20 cores and 5 GPUs")])
def test_each_process_of_a_run_wants_its_own(device: str, said: str) -> None:
    job = wanting(4, device, processes=5)
    with pytest.raises(DeviceError, match=f"has {said} "):
        ray_engine._refuse_what_fits_nowhere([job], NODES)
    enough = {"Alive": True, "Resources": {"CPU": 20.0, "GPU": 5.0}}
    ray_engine._refuse_what_fits_nowhere([job], [*NODES, enough])


def test_without_ray_the_command_that_installs_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "ray":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[ray\]"):
        RayEngine().run([wanting(1, "cpu")], Told())


def test_nothing_to_do_starts_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "_connect", pytest.fail)
    jobs: Sequence[Any] = []
    RayEngine().run(jobs, Told())
