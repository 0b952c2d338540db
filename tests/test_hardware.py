"""What devices can do, with cards that are not here: their capabilities are what PyTorch would say of them."""

import re
import sys

import pytest
import torch

from scratchlab import hardware
from scratchlab.errors import DeviceError
from scratchlab.hardware import choose_device, choose_precision, precisions_of, refuse_precision


def with_gpus(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], number: int = 1, name: str = "a card"
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)


def with_mps(monkeypatch: pytest.MonkeyPatch, here: bool) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: here)


def test_auto_takes_the_first_of_cuda_mps_and_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with_mps(monkeypatch, True)
    with_gpus(monkeypatch, (8, 0))
    assert choose_device("auto") == "cuda"
    with_gpus(monkeypatch, (8, 0), number=0)
    assert choose_device("auto") == "mps"
    with_mps(monkeypatch, False)
    assert choose_device("auto") == "cpu"


def test_a_device_that_is_not_here_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with_mps(monkeypatch, False)
    with_gpus(monkeypatch, (8, 0), number=2)
    assert choose_device("cuda:1") == "cuda:1"
    for name, said in (("cuda:2", "has cuda:0, cuda:1. Take one"), ("mps", "no Apple GPU"), ("tpu", "no such device")):
        with pytest.raises(DeviceError, match=f"'{name}'.*{said}"):
            choose_device(name)
    with_gpus(monkeypatch, (8, 0), number=0)
    with pytest.raises(DeviceError, match=r"'cuda' \(execution.device\): PyTorch finds no CUDA device.*cpu, or auto"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("card", "capability", "chosen"),
    [("GTX 1660", (7, 5), "fp16"), ("T4", (7, 5), "fp16"), ("V100", (7, 0), "fp16"), ("H100", (9, 0), "bf16")],
)
def test_a_card_without_bf16_trains_in_fp16(
    monkeypatch: pytest.MonkeyPatch, card: str, capability: tuple[int, int], chosen: str
) -> None:
    with_gpus(monkeypatch, capability, name=card)
    assert choose_precision("cuda") == chosen
    if chosen == "fp16":
        for beyond in ("bf16", "tf32"):
            with pytest.raises(DeviceError, match=rf"'{beyond}': {card} \(cuda\) cannot; it offers float32, fp16"):
                refuse_precision("cuda", beyond)


def test_what_a_cpu_or_an_apple_gpu_cannot_do_is_refused_by_name() -> None:
    assert choose_precision("mps") == "fp16"
    for device, beyond in (("cpu", "tf32"), ("cpu", "fp16"), ("mps", "bf16"), ("mps", "tf32")):
        assert beyond not in precisions_of(device)
        with pytest.raises(DeviceError, match=f"training.precision = '{beyond}': {device} cannot"):
            refuse_precision(device, beyond)


def test_a_cpu_trains_in_bf16_only_where_that_is_measured_to_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    for bf16, chosen in ((2.0, "bf16"), (1.2, "float32"), (0.01, "float32")):
        rates = {"float32": 1.0, "bf16": bf16}
        monkeypatch.setattr(hardware, "matmul_rate", lambda device, precision, size, rates=rates: rates[precision])
        assert choose_precision("cpu") == chosen


def test_memory_that_is_resident_or_to_be_had_is_some_and_not_more_than_there_is() -> None:
    assert 0 < hardware.resident_memory() < hardware.device_memory("cpu")
    assert 0 < hardware.available_memory() < hardware.device_memory("cpu")


def test_an_apple_gpu_is_told_from_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "get_name", lambda: "Apple M2")
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 12_345)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(hardware, "_apple_chip", lambda: "Apple M2")
    assert hardware.device_name("mps") == "Apple M2 GPU"
    assert re.fullmatch(r"Apple M2 \(\d+ cores\)", hardware.device_name("cpu"))
    assert hardware.peak_memory("mps") == 12_345, "not what the process has in main memory"


def test_what_measuring_a_rate_takes_counts_as_no_runs_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(hardware, "_measured_rate", lambda device, precision, size: done.append("measured") or 1.0)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", done.append)
    hardware.matmul_rate.cache_clear()
    rates = [hardware.matmul_rate("cuda:3", "bf16") for _ in range(2)]
    hardware.matmul_rate.cache_clear()
    assert rates == [1.0, 1.0]
    assert done == ["measured", "cuda:3"], "once, or a run under way would forget its own"


def test_a_lack_of_memory_is_known_by_type_or_by_words() -> None:
    with pytest.raises(RuntimeError) as on_cpu:
        torch.empty(2**60)
    apple = RuntimeError("MPS backend out of memory (MPS allocated: 5 GB, other allocations: 1 GB, max allowed: 6 GB).")
    cublas = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    for error in (on_cpu.value, apple, cublas, torch.OutOfMemoryError(), MemoryError()):
        assert hardware.lacks_memory(error)
    for error in (RuntimeError("shapes differ"), ValueError("out of memory"), KeyboardInterrupt()):
        assert not hardware.lacks_memory(error)
