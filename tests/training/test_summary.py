"""What metrics and meters amount to."""

from typing import Any

import numpy as np
import pytest

from scratchlab.training.summary import cost, device_seconds, health, spikes, step_records, validation_records

Record = dict[str, Any]


def steps(losses: list[float | None], norm: float | None = 0.5) -> list[Record]:
    return [
        {"step": step, "loss": loss, "gradient_norm": norm, "skipped": loss is None} for step, loss in enumerate(losses)
    ]


def noisy(n: int) -> list[float | None]:
    return (3 + 0.1 * np.random.default_rng(0).standard_normal(n)).tolist()


def test_records_are_told_apart() -> None:
    records = [*steps([1.0]), {"step": 1, "validation": {}}, *steps([None])]
    assert [len(step_records(records)), len(validation_records(records))] == [2, 1]


def test_noise_is_no_spike_and_a_jump_is_one() -> None:
    losses = noisy(400)
    assert spikes(steps(losses)) == []
    losses[250] = 4.5
    losses[300] = None
    losses[50] = 9.0  # too early to tell: there are no hundred steps before it
    assert spikes(steps(losses)) == [250, 300]


def test_a_falling_loss_has_no_spikes() -> None:
    assert spikes(steps([10 / (1 + step / 20) for step in range(500)])) == []


def test_a_flat_loss_that_moves_a_little_has_no_spikes() -> None:
    assert spikes(steps([1.0] * 150 + [1.004] * 20)) == []


def test_health_counts_skipped_and_clipped_steps() -> None:
    records = steps([3.0, None, 3.0, 3.0])
    for record, norm in zip(records, (0.5, None, 2.0, 1.0), strict=True):
        record["gradient_norm"] = norm
    records.append({"step": 4, "validation": {}})
    assert health(records, clip_norm=1.0) == {"steps": 4, "skipped_steps": 1, "clipped_share": 0.25, "spikes": [1]}
    assert health(records, clip_norm=0.0)["clipped_share"] == 0
    assert health([], 1.0) == {"steps": 0, "skipped_steps": 0, "clipped_share": 0.0, "spikes": []}


def test_cost_adds_up() -> None:
    meters: list[Record] = [
        {"tokens": 600, "seconds": {"training": 2.0, "evaluation": 1.0}},
        {"tokens": 400, "seconds": {"training": 3.0, "checkpoints": 0.5}},
    ]
    bill = cost(meters, flops_per_token=10, measured_rate=8000.0, nominal_rate=20_000.0)
    assert bill["seconds"] == {"training": 5.0, "evaluation": 1.0, "checkpoints": 0.5}
    assert bill["total_seconds"] == 6.5
    assert bill["training_tokens_per_second"] == 200.0
    assert bill["training_flops"] == 10_000
    assert bill["mfu_of_measured_matmul"] == pytest.approx(200 * 10 / 8000)
    assert bill["mfu_of_nominal_peak"] == pytest.approx(0.1)
    assert cost(meters, 10, 8000.0, None)["mfu_of_nominal_peak"] is None
    assert cost([], 10, 8000.0, None)["training_tokens_per_second"] == 0


def test_money_is_that_of_all_devices_with_and_without_evaluation() -> None:
    meters: list[Record] = [{"tokens": 9, "seconds": {"training": 30.0, "evaluation": 4.0, "suites": 2.0}}]
    meters[0]["processes"] = 2
    bill = cost(meters, 10, 8000.0, None, price_per_hour=100.0)
    assert bill["device_seconds"] == 72.0
    assert bill["device_seconds_without_evaluation"] == 60.0
    assert bill["price"] == pytest.approx(2.0)
    assert bill["price_without_evaluation"] == pytest.approx(100 / 60)
    meters[0]["processes_per_device"] = 2
    assert cost(meters, 10, 8000.0, None, 100.0)["device_seconds"] == 36.0, "of one processor"
    assert cost(meters, 10, 8000.0, None)["price"] is None


def test_a_processor_is_one_device_however_many_share_it_before_and_after_a_resume() -> None:
    meters: list[Record] = [
        {"tokens": 9, "seconds": {"training": 10.0}, "processes": shared, "processes_per_device": shared}
        for shared in (4, 2, 1)
    ]
    assert device_seconds(meters) == {"training": 30.0}
    assert cost(meters, 10, 8000.0, None)["device_seconds"] == 30.0
