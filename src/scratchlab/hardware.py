"""What this machine can do: devices, precisions, measured rates, memory. torch is imported when asked."""

import contextlib
import ctypes
import functools
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Literal

from scratchlab.errors import DeviceError

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "tf32", "bf16", "fp16"]

DEVICES = r"auto|cpu|mps|cuda|cuda:\d+"


def choose_device(name: str) -> str:
    """Settle `auto`, or check that a named device is here. `DeviceError` if it is not."""
    import torch

    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    if not re.fullmatch(DEVICES, name):
        raise DeviceError(f"device {name!r}: there is no such device; it is one of auto, cpu, mps, cuda, cuda:N.")
    if name.startswith("cuda") and int(name.partition(":")[2] or 0) >= cuda_devices():
        cuda = ", ".join(f"cuda:{number}" for number in range(cuda_devices()))
        there = f"this machine has {cuda}" if cuda else "PyTorch finds no CUDA device on this machine"
        raise DeviceError(f"device {name!r} (execution.device): {there}. {INSTEAD}")
    if name == "mps" and not has_mps:
        raise DeviceError(
            f"device 'mps' (execution.device): this machine has no Apple GPU that PyTorch can use. {INSTEAD}"
        )
    return name


INSTEAD = "Take one that is there, cpu, or auto."


def cuda_devices() -> int:
    """How many CUDA devices this machine has, as far as PyTorch can use them."""
    import torch

    return torch.cuda.device_count()


def refuse_precision(device: str, precision: Precision, asked: str = "training.precision") -> None:
    """`DeviceError` if the device cannot compute in this precision, with what it can; `asked` is where it was said."""
    able = precisions_of(device)
    if precision not in able:
        name = f"{device_name(device)} ({device})" if device.startswith("cuda") else device
        raise DeviceError(
            f"{asked} = {precision!r}: {name} cannot; it offers {', '.join(able)}, of which auto chooses."
        )


def precisions_of(device: str) -> list[Precision]:
    """The precisions a device offers, the most exact first."""
    if device == "cpu":
        return ["float32", "bf16"]
    if device == "mps":
        return ["float32", "fp16"]
    return ["float32", "tf32", "bf16", "fp16"] if compute_capability(device) >= (8, 0) else ["float32", "fp16"]


def compute_capability(device: str) -> tuple[int, int]:
    """Of a CUDA device: what its maker counts generations by."""
    import torch

    return torch.cuda.get_device_capability(device)


def choose_precision(device: str) -> Precision:
    """Settle `auto`: the fastest precision that trains like float32. On a CPU that is found by measuring."""
    if device == "cpu":
        # A processor without bf16 instructions emulates them, a hundred times slower than float32: ask a small product.
        rates = {precision: matmul_rate("cpu", precision, size=256) for precision in precisions_of("cpu")}
        return "bf16" if rates["bf16"] > 1.3 * rates["float32"] else "float32"
    able = precisions_of(device)
    return "bf16" if "bf16" in able else "fp16"


def compute_dtype(precision: Precision) -> "torch.dtype":
    """The type of the products inside linear layers and attention."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)


def allow_tf32(precision: Precision) -> None:
    """Let float32 products on a GPU run in TF32, or forbid it, for the whole process."""
    import torch

    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


@functools.lru_cache
def matmul_rate(device: str, precision: Precision, size: int | None = None) -> float:
    """FLOP/s that a large square product reaches here: the median of several, measured once a process.

    On CUDA `peak_memory` is counted anew from then on: what the product took is no run's.
    """
    rate = _measured_rate(device, precision, size or (8192 if device.startswith("cuda") else 1024))
    if device.startswith("cuda"):
        forget_peak_memory(device)
    return rate


def _measured_rate(device: str, precision: Precision, size: int) -> float:
    import torch

    a, b = (torch.randn(size, size, device=device).to(compute_dtype(precision)) for _ in range(2))
    seconds: list[float] = []
    deadline = time.perf_counter() + 0.3
    while len(seconds) < 3 or (time.perf_counter() < deadline and len(seconds) < 50):
        start = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds)


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()


def device_name(device: str) -> str:
    """The device as its maker calls it."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    if device == "mps":
        return f"{torch.backends.mps.get_name()} GPU"
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        if names:
            return f"{names[0]} ({len(names)} cores)"
    if sys.platform == "darwin":
        return f"{_apple_chip()} ({os.cpu_count()} cores)"
    return platform.processor() or platform.machine()


def _apple_chip() -> str:
    """What Python calls "arm", be it an M1 or an M5 Max."""
    asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def usable_cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int:
    """Bytes of main memory, used or not."""
    import psutil

    return psutil.virtual_memory().total


def available_memory() -> int:
    """Bytes of main memory that a program can have now, without taking them from another."""
    import psutil

    return psutil.virtual_memory().available


def device_memory(device: str) -> int:
    """Bytes that a device has, used or not."""
    import torch

    return torch.cuda.get_device_properties(device).total_memory if device.startswith("cuda") else memory()


def resident_memory() -> int:
    """Bytes that this process has in main memory now."""
    import psutil

    return psutil.Process().memory_info().rss


def busy_cores() -> int:
    """How many cores other programs keep busy, watched for half a second (this process sleeps meanwhile)."""
    import psutil

    return round(sum(psutil.cpu_percent(interval=0.5, percpu=True)) / 100)


def prepare_process() -> None:
    """Settings that only work before torch is loaded; the commands call it first. What a user has set stays.

    OpenMP's threads wait for one another in a busy loop. Beside another program that loop takes the processor away
    from the very thread it waits for, and a step takes twenty times as long; so they give up soon, and sleep.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def prepare_worker() -> None:
    """The same in a process that will do one run after another, of which any may ask for deterministic kernels.

    cuBLAS reads its setting once a process. torch must not be loaded yet.
    """
    prepare_process()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)


CUBLAS_WORKSPACE = ":4096:8"
SPIN_COUNT = "20000"  # measured: fewer cost speed on a quiet machine, more cost it beside a busy one


def keep_freed_memory() -> None:
    """Tell the C library to keep the memory of freed tensors instead of handing it back to the system.

    A training step frees and takes the same gigabytes again and again; each time, the system would clear every page
    anew (measured: an eighth of the time of a step on a CPU). Linux with glibc only.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, 2**31 - 1)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h


def peak_memory(device: str) -> int:
    """Bytes: the most this process has allocated on the device (on a CPU: its largest resident size).

    On an Apple GPU: what Metal holds for it now, which grows to the most that was needed and stays there.
    """
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    if device == "mps":
        return torch.mps.driver_allocated_memory()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak_memory(device: str) -> None:
    """Count `peak_memory` anew from here on (on a CPU: where it is Linux's)."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        return
    if device == "mps":
        torch.mps.empty_cache()
        return
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write(RESET_PEAK)


RESET_PEAK = "5"  # from proc(5)


def lacks_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out: PyTorch has a type for it on CUDA, and elsewhere words alone."""
    import torch

    if not isinstance(error, RuntimeError):
        return isinstance(error, MemoryError)
    return isinstance(error, torch.OutOfMemoryError) or any(said in str(error) for said in OUT_OF_MEMORY)


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "ALLOC_FAILED")  # a GPU; a CPU; cuBLAS and its like


def environment(device: str) -> dict[str, str]:
    """What a result may depend on besides the recipe; recorded with every run."""
    import numpy
    import torch

    from scratchlab import __version__

    return {
        "scratchlab": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "device": device_name(device),
        "platform": platform.platform(),
    }
