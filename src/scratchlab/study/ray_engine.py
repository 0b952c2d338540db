"""Jobs as Ray Core tasks, on a cluster or on this machine alone.

A task is placed where as many cores are free as its processes have threads, and a GPU for each if it wants them. Ray
begins it again elsewhere when its worker or its machine dies; it then goes on from the run's last checkpoint. Run
folders and corpora must lie where all machines of the cluster see them, which is tried before anything runs.
"""

import importlib.metadata
import logging
import os
import platform
import sys
import uuid
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scratchlab.errors import DeviceError, ScratchlabError, Terminated
from scratchlab.extras import missing
from scratchlab.hardware import prepare_worker, usable_cores
from scratchlab.study.jobs import Job, Outcome, Tell, anchored, elsewhere
from scratchlab.study.places import is_held
from scratchlab.training.signals import StopRequest, stop_on_signals

RETRIES = 3  # after the death of a worker or its machine
POLL_SECONDS = 0.5
SOFTWARE = ("scratchlab", "torch", "numpy")  # what must be of one version for bits to be equal

Answer = Outcome | Literal["stopped"]


@dataclass(frozen=True, slots=True)
class RayEngine:
    """An `Engine` on the Ray cluster at `address` (`auto`: that of this machine).

    None: the cluster that RAY_ADDRESS names, or else one of its own on this machine, which ends with this process. At
    most `workers` jobs at once, if given; else as many as the machines hold.
    """

    address: str | None = None
    workers: int | None = None

    def run(self, jobs: Sequence[Job], tell: Tell) -> None:
        """See `Engine`. `DeviceError` if no machine can do a job, `ScratchlabError` if they do not share the folder."""
        if not jobs:
            return
        ray = import_ray()
        _connect(self.address, max(_cores(job) for job in jobs))
        with stop_on_signals() as stop:  # after Ray has set its own handlers
            _refuse_what_fits_nowhere(jobs, ray.nodes())
            with _shared_file(jobs[0].out.absolute().parent) as probe:
                _refuse_unlike_machines(probe)
                _Tasks(list(jobs), self.workers or len(jobs), probe).run(tell, stop)
        if stop.requested:
            raise Terminated("Stopped, with a checkpoint of every run under way. To go on, run the same again.")


class _Tasks:
    """Jobs that wait, and tasks under way."""

    def __init__(self, jobs: list[Job], at_once: int, probe: Path) -> None:
        self.waiting, self.at_once, self.probe = deque(jobs), at_once, probe
        self.under_way: dict[Any, Job] = {}

    def run(self, tell: Tell, stop: StopRequest) -> None:
        ray = import_ray()
        try:
            while self.waiting or self.under_way:
                if stop.requested:
                    self._stop()
                while self.waiting and len(self.under_way) < self.at_once:
                    self._begin(self.waiting.popleft(), tell)
                if self.under_way:
                    for task in ray.wait(list(self.under_way), timeout=POLL_SECONDS)[0]:
                        self._hear(task, tell, stop)
        except BaseException:
            for task in self.under_way:
                ray.cancel(task, force=True)
            raise

    def _begin(self, job: Job, tell: Tell) -> None:
        if is_held(job.out):
            tell(elsewhere(job))
            return
        remote: Any = import_ray().remote(_do)
        task = remote.options(
            name=job.label,
            num_cpus=_cores(job),
            num_gpus=_gpus(job),
            max_retries=RETRIES,
            retry_exceptions=False,  # what a job itself raised it would raise again
        )
        self.under_way[task.remote(anchored(job), self.probe, sys.argv)] = job

    def _hear(self, task: Any, tell: Tell, stop: StopRequest) -> None:
        job = self.under_way.pop(task)
        answer = _answer(task, job)
        if isinstance(answer, Outcome):
            tell(answer)
        elif not stop.requested:  # its machine is taken away: another takes the job
            self.waiting.appendleft(job)

    def _stop(self) -> None:
        """A task that waits is forgotten; one that runs is interrupted as by Ctrl-C, and saves a checkpoint."""
        self.waiting.clear()
        for task in self.under_way:
            import_ray().cancel(task)


def _do(job: Job, probe: Path, command: list[str]) -> tuple[str, str]:
    """A job in a worker of Ray's: the state and the message of its outcome, or `stopped`."""
    if not probe.exists():  # a machine that joined after all others had been asked
        return "failed", _not_shared(probe.parent, [platform.node()])
    prepare_worker()
    sys.argv = command  # what the run's manifest names
    from scratchlab.study.perform import perform  # loads torch

    try:
        outcome = perform(job)
    except (Terminated, KeyboardInterrupt):
        return "stopped", ""
    return outcome.state, outcome.message


def _answer(task: Any, job: Job) -> Answer:
    ray = import_ray()
    try:
        state, message = ray.get(task)
    except ray.exceptions.TaskCancelledError:
        return "stopped"
    except ray.exceptions.RayTaskError as error:
        return Outcome(job, "failed", f"Its task could not be begun: {error.cause}")
    except ray.exceptions.RayError as error:
        first = str(error).partition("\n")[0]
        return Outcome(
            job, "failed", f"{RETRIES + 1} workers or their machines died at it. Of the last Ray says: {first}"
        )
    return "stopped" if state == "stopped" else Outcome(job, state, message)


# The cluster.


def import_ray() -> Any:
    """Ray, or the command that installs it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
    try:
        import ray
    except ImportError:
        raise missing("Ray", "ray") from None
    return ray


def _connect(address: str | None, cores: int) -> None:
    """Connect to the cluster, or start one of this machine's cores; what a process is connected to it stays with."""
    ray = import_ray()
    if ray.is_initialized():
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    how: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address or os.environ.get("RAY_ADDRESS"):
        how |= {"address": address}
    else:
        how |= {"address": "local", "num_cpus": max(cores, usable_cores()), "include_dashboard": False}
    try:
        ray.init(**how)
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise ScratchlabError(
            f"Ray: no connection to {address or os.environ.get('RAY_ADDRESS') or 'this machine'}: {first} "
            "A cluster is begun with: ray start --head"
        ) from None


def _cores(job: Job) -> int:
    return job.recipe.settled.threads * job.recipe.settled.processes


def _gpus(job: Job) -> int:
    settled = job.recipe.settled
    return settled.devices if settled.device.startswith("cuda") else 0


def _refuse_what_fits_nowhere(jobs: Sequence[Job], nodes: Sequence[dict[str, Any]]) -> None:
    """Ray itself would wait for ever for a machine that is large enough."""
    offers = [node["Resources"] for node in nodes if node["Alive"]]
    for job in jobs:
        wanted = {"CPU": _cores(job), "GPU": _gpus(job)}
        if not any(all(offer.get(what, 0) >= amount for what, amount in wanted.items()) for offer in offers):
            have = "; ".join(f"{offer.get('CPU', 0):g} cores, {offer.get('GPU', 0):g} GPUs" for offer in offers)
            gpus = f" and {wanted['GPU']} GPUs" if wanted["GPU"] else ""
            raise DeviceError(
                f"{job.label}: no machine of the Ray cluster has {wanted['CPU']} cores{gpus} (execution.threads, and a "
                f"GPU, for each of execution.processes). They have: {have}."
            )


@contextmanager
def _shared_file(folder: Path) -> Generator[Path]:
    """A file by which workers know that they see the same folder as this process."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".probe-{uuid.uuid4().hex}"
    path.write_text(path.name, encoding="utf-8")
    try:
        yield path
    finally:
        for left in folder.glob(f"{path.name}*"):
            left.unlink(missing_ok=True)


def _refuse_unlike_machines(probe: Path) -> None:
    """`ScratchlabError` if a machine of the cluster does not share the folder of runs, or has other software."""
    ray = import_ray()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look: Any = ray.remote(_look)
    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    seen = [
        look.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            probe, node
        )
        for node in nodes
    ]
    try:
        software = dict(zip(nodes, ray.get(seen), strict=True))
    except ray.exceptions.RayError as error:
        raise ScratchlabError(f"Ray: a machine of the cluster could not be asked what it has: {error}") from None
    if strangers := [name for node, name in nodes.items() if not Path(f"{probe}-{node}").exists()]:
        raise ScratchlabError(_not_shared(probe.parent, strangers))
    own = _software()
    for node, versions in software.items():
        if versions != own:
            raise ScratchlabError(
                f"{nodes[node]} has {_listed(versions)}, where this machine has {_listed(own)}: runs would not be "
                "alike. Install the same on all machines of the cluster."
            )


def _look(probe: Path, node: str) -> dict[str, str]:
    """On every machine: answer beside the probe, if it is there."""
    if probe.exists() and probe.read_text(encoding="utf-8") == probe.name:
        Path(f"{probe}-{node}").touch()
    return _software()


def _software() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in SOFTWARE}


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _not_shared(folder: Path, machines: Sequence[str]) -> str:
    return (
        f"{folder} on {', '.join(sorted(set(machines)))} is not the {folder} of this machine, and runs would be lost "
        "there. Let the study file and its folder of runs lie on a disk that all machines of the cluster share (NFS)."
    )
