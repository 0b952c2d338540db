"""What a run's metrics and meters amount to: pure functions from records to records."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

Record = dict[str, Any]

EVALUATING = ("evaluation", "suites")  # parts of a run's time that train nothing

SPIKE_WINDOW = 100  # steps that a loss is compared with
SPIKE_DEVIATIONS = 6.0  # robust standard deviations above their median


def step_records(metrics: Sequence[Record]) -> list[Record]:
    """The records of training steps, without those of evaluations."""
    return [record for record in metrics if "loss" in record]


def validation_records(metrics: Sequence[Record]) -> list[Record]:
    """The records of evaluations on the validation split."""
    return [record for record in metrics if "validation" in record]


def validation_loss(figures: Record) -> float:
    """What the best evaluation is told by: nats per pair, where answers are compared, or nats per token. Infinite where
    it is not finite."""
    loss = figures["loss"] if "loss" in figures else figures["nats_per_token"]
    return math.inf if loss is None else loss


def out_of_patience(losses: Sequence[float], patience: int | None) -> bool:
    """Whether the last `patience` evaluations, of these losses in order, brought no new best: the run is to stop."""
    best = min(losses, default=math.inf)
    since = len(losses) - (losses.index(best) + 1 if best < math.inf else 0)
    return patience is not None and since >= patience


def health(metrics: Sequence[Record], clip_norm: float) -> Record:
    """Steps skipped for a gradient that was not finite, the share of steps clipped, and the steps where loss jumped."""
    steps = step_records(metrics)
    clipped = [r for r in steps if clip_norm and r["gradient_norm"] is not None and r["gradient_norm"] > clip_norm]
    return {
        "steps": len(steps),
        "skipped_steps": sum(record["skipped"] for record in steps),
        "clipped_share": len(clipped) / len(steps) if steps else 0.0,
        "spikes": spikes(steps),
    }


def spikes(steps: Sequence[Record]) -> list[int]:
    """Steps whose loss lies far above the hundred before: by six robust standard deviations (1.4826 x MAD)."""
    found: list[int] = []
    window: list[float] = []
    for record in steps:
        loss = record["loss"]
        if loss is None:
            found.append(record["step"])
            continue
        if len(window) == SPIKE_WINDOW:
            median = statistics.median(window)
            spread = 1.4826 * statistics.median(abs(value - median) for value in window)
            if loss > median + SPIKE_DEVIATIONS * max(spread, 1e-3):
                found.append(record["step"])
            window.pop(0)
        window.append(loss)
    return found


def seconds_spent(meters: Sequence[Record], times: Callable[[Record], float] = lambda record: 1.0) -> dict[str, float]:
    """Seconds by what they went to, those of each record so many `times`."""
    spent: dict[str, float] = {}
    for record in meters:
        for part, amount in record["seconds"].items():
            spent[part] = spent.get(part, 0.0) + amount * times(record)
    return spent


def device_seconds(meters: Sequence[Record]) -> dict[str, float]:
    """The same of all devices added up: each process had one, or, on a CPU, shared it with the others there."""
    return seconds_spent(meters, lambda record: _processes(record) / record.get("processes_per_device", 1))


def _processes(record: Record) -> int:
    return record.get("processes", 1)


def cost(
    meters: Sequence[Record],
    flops_per_token: int,
    measured_rate: float,
    nominal_rate: float | None,
    price_per_hour: float | None = None,
) -> Record:
    """Seconds by what they went to, tokens/s while training, FLOPs and MFU (each with the peak it is a share of).

    FLOPs are counted by `scratchlab.model.count`; steps repeated after a kill are counted each time. Tokens/s are those
    of all processes together; device-seconds, money and MFU are of as many devices as there were, which a resume may
    have changed.
    """
    seconds, busy, of_devices = seconds_spent(meters), seconds_spent(meters, _processes), device_seconds(meters)
    tokens = sum(record["tokens"] for record in meters)
    rate = tokens / seconds["training"] if seconds.get("training") else 0.0
    flops_per_process_second = tokens * flops_per_token / busy["training"] if busy.get("training") else 0.0
    total = sum(of_devices.values())
    without = total - sum(of_devices.get(part, 0.0) for part in EVALUATING)
    return {
        "seconds": {part: round(amount, 3) for part, amount in seconds.items()},
        "total_seconds": round(sum(seconds.values()), 3),
        "tokens": tokens,
        "training_tokens_per_second": rate,
        "training_flops": tokens * flops_per_token,
        "mfu_of_measured_matmul": flops_per_process_second / measured_rate,
        "measured_matmul_flops_per_second": measured_rate,
        "mfu_of_nominal_peak": flops_per_process_second / nominal_rate if nominal_rate else None,
        "nominal_peak_flops_per_second": nominal_rate,
        "device_seconds": round(total, 3),
        "device_seconds_without_evaluation": round(without, 3),
        "price_per_hour": price_per_hour,
        "price": None if price_per_hour is None else price_per_hour * total / 3600,
        "price_without_evaluation": None if price_per_hour is None else price_per_hour * without / 3600,
    }
