"""What devices can do, with cards that are not here: their capabilities are what PyTorch would say of them."""

import pytest
import torch

from scratchlab import hardware
from scratchlab.errors import DeviceError
from scratchlab.hardware import choose_device, choose_precision, precisions_of, refuse_precision


def with_gpus(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], number: int = 1) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


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
    for name, said in (("cuda:2", "2 CUDA devices"), ("mps", "no Apple GPU"), ("tpu", "no such device")):
        with pytest.raises(DeviceError, match=f"'{name}'.*{said}"):
            choose_device(name)


@pytest.mark.parametrize(
    ("card", "capability", "chosen"),
    [("GTX 1660", (7, 5), "fp16"), ("T4", (7, 5), "fp16"), ("V100", (7, 0), "fp16"), ("H100", (9, 0), "bf16")],
)
def test_a_card_without_bf16_trains_in_fp16(
    monkeypatch: pytest.MonkeyPatch, card: str, capability: tuple[int, int], chosen: str
) -> None:
    with_gpus(monkeypatch, capability)
    assert choose_precision("cuda") == chosen
    if chosen == "fp16":
        for beyond in ("bf16", "tf32"):
            with pytest.raises(DeviceError, match=f"'{beyond}': cuda cannot; it offers float32, fp16"):
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


def test_memory_that_is_resident_is_some_and_not_more_than_there_is() -> None:
    assert 0 < hardware.resident_memory() < hardware.device_memory("cpu")
