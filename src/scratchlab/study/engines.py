"""Engines by name."""

from collections.abc import Mapping
from typing import Literal, get_args

from scratchlab.errors import UsageError
from scratchlab.hardware import choose_device, usable_cores
from scratchlab.study.jobs import Engine

EngineName = Literal["local", "ray", "slurm"]
ENGINES: tuple[str, ...] = get_args(EngineName)


def engine(
    on: str, workers: int | None = None, address: str | None = None, options: Mapping[str, str] | None = None
) -> Engine:
    """The engine `on` this name, with at most `workers` runs at a time.

    None: as many as the cluster holds; of this machine's processes, one. `address` is a Ray cluster's, `options` are
    sbatch's; `UsageError` for what an engine has no use for. The package that it needs is asked for when it runs.
    """
    if address is not None and on != "ray":
        raise UsageError(f"An address is that of a Ray cluster; the engine {on!r} has none.")
    if options and on != "slurm":
        raise UsageError(f"{', '.join(options)}: options are sbatch's; the engine {on!r} has none.")
    match on:
        case "local":
            from scratchlab.study.local import LocalEngine

            return LocalEngine(1 if workers is None else workers)
        case "ray":
            from scratchlab.study.ray_engine import RayEngine

            return RayEngine(address, workers)
        case "slurm":
            from scratchlab.study.slurm_engine import SlurmEngine

            return SlurmEngine(workers, options or {})
        case _:
            raise UsageError(f"{on!r}: there is no such engine; it is one of {', '.join(ENGINES)}.")


def default_workers(device: str) -> int:
    """As many runs at a time as there are devices of the kind that a recipe asks for: GPUs, or the cores of a CPU."""
    device = choose_device(device)
    if device == "cuda":
        import torch

        return torch.cuda.device_count()
    return usable_cores() if device == "cpu" else 1
