"""The journal: every step once, in order, and nothing that is not a function of the recipe among the metrics."""

from pathlib import Path

import pytest
import torch

from scratchlab.errors import RunError
from scratchlab.runfolder import RunFolder
from scratchlab.training import journal as module
from scratchlab.training.journal import HOPELESS, Journal
from tiny import tiny_recipe


class Clock:
    """Time that passes when told."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "matmul_rate", lambda device, precision: 1e6)
    return clock


@pytest.fixture
def journal(tmp_path: Path, clock: Clock) -> Journal:
    recipe = tiny_recipe()
    folder = RunFolder.create(tmp_path / "run", recipe, recipe, {}, "{}")
    return Journal(folder, tokens_per_step=50, flops_per_token=20, settled=recipe.settled)


def add(journal: Journal, *steps: int, skipped: bool = False) -> None:
    for step in steps:
        norm = torch.tensor(float("nan") if skipped else 0.25)
        metrics = {"loss": torch.tensor(step + 0.5), "gradient_norm": norm, "skipped": torch.tensor(skipped)}
        journal.add(step, 0.1 * step, metrics)


def test_records_are_what_the_device_said(journal: Journal) -> None:
    add(journal, 0)
    add(journal, 1, skipped=True)
    expected = [
        {"step": 0, "loss": 0.5, "gradient_norm": 0.25, "skipped": False, "learning_rate": 0.0},
        {"step": 1, "loss": 1.5, "gradient_norm": None, "skipped": True, "learning_rate": 0.1},
    ]
    assert journal.write() == expected
    assert journal.folder.metrics() == expected


def test_the_newest_step_waits_if_told_and_none_is_written_twice(journal: Journal) -> None:
    add(journal, 0, 1, 2)
    assert [record["step"] for record in journal.write(keep_newest=True)] == [0, 1]
    add(journal, 3)
    journal.note({"step": 3, "validation": {}})
    assert [record["step"] for record in journal.write()] == [2, 3]
    assert journal.write() == []
    assert [record["step"] for record in journal.folder.metrics()] == [0, 1, 3, 2, 3]


def test_it_is_due_about_once_a_second_and_not_for_a_single_step(journal: Journal, clock: Clock) -> None:
    add(journal, 0, 1)
    assert not journal.due
    clock.now += 1.0
    assert journal.due
    journal.write(keep_newest=True)
    clock.now += 5.0
    assert not journal.due, "the newest step alone: the device may still be at it"


def test_time_is_charged_to_what_it_went_to(journal: Journal, clock: Clock) -> None:
    add(journal, 0, 1)
    clock.now += 2.0
    with journal.spent_on("evaluation"):
        clock.now += 7.0
    clock.now += 2.0
    journal.write()
    (meters,) = journal.folder.meters()
    assert meters["seconds"] == {"training": 4.0, "evaluation": 7.0}
    assert meters["tokens"] == 100
    assert meters["tokens_per_second"] == journal.tokens_per_second == 25.0
    assert meters["mfu_of_measured_matmul"] == pytest.approx(25.0 * 20 / 1e6)
    assert meters["step"] == 1
    assert (meters["processes"], meters["processes_per_device"]) == (1, 1)
    assert meters["peak_memory_bytes"] > 1e6


def test_all_time_and_all_tokens_are_counted_once(journal: Journal, clock: Clock) -> None:
    for step in range(10):
        add(journal, step)
        clock.now += 0.3
        if step % 3 == 0:
            with journal.spent_on("checkpoints"):
                clock.now += 0.1
        journal.write(keep_newest=True)
    journal.write()
    meters = journal.folder.meters()
    assert sum(record["tokens"] for record in meters) == 500
    assert sum(sum(record["seconds"].values()) for record in meters) == pytest.approx(10 * 0.3 + 4 * 0.1)
    assert "seconds" not in journal.folder.metrics()[0], "times are no function of the recipe"


def test_a_run_without_finite_gradients_is_ended_with_advice(journal: Journal) -> None:
    add(journal, *range(HOPELESS - 1), skipped=True)
    journal.write()
    add(journal, 200)
    journal.write()
    add(journal, *range(HOPELESS), skipped=True)
    with pytest.raises(RunError, match=rf"{HOPELESS} steps in a row had no finite gradient.*lower training.learning"):
        journal.write()
    assert len(journal.folder.metrics()) == 2 * HOPELESS, "what was measured is kept"
