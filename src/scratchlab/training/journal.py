"""What a run writes down as it goes: the metrics of every step, and what they cost.

Metrics stay on the device until they are written, about once a second, and the newest step is left for the next time:
the loop never waits for the device. The learning rate and the rest of a record are functions of the recipe alone;
times and rates go to another file.
"""

import math
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from scratchlab.errors import DivergedError
from scratchlab.hardware import matmul_rate, peak_memory
from scratchlab.recipe import Settled
from scratchlab.runfolder import RunFolder
from scratchlab.training.world import ALONE, World

WRITE_EVERY_SECONDS = 1.0
HOPELESS = 100  # steps in a row without a finite gradient: the run has diverged


class Journal:
    """Keeps a run's metrics and meters until they are due, then appends them to its folder.

    Of several processes the first alone has something to write: the metrics are of all of them.
    """

    def __init__(
        self,
        folder: RunFolder,
        tokens_per_step: int,
        flops_per_token: int,
        settled: Settled,
        world: World = ALONE,
    ) -> None:
        self.folder, self.tokens_per_step, self.world = folder, tokens_per_step, world
        self.device = self.world.device(settled.device)
        rate = self.world.size * matmul_rate(self.device, settled.precision)
        self._mfu_of_one_token_per_second = flops_per_token / rate
        self._pending: list[tuple[int, float, Mapping[str, Any]]] = []
        self._skipped_in_a_row = 0
        self._seconds: dict[str, float] = {}
        self._since = self._written = time.perf_counter()
        self._step = 0
        self.tokens_per_second = 0.0

    def add(self, step: int, learning_rate: float, metrics: Mapping[str, Any]) -> None:
        self._pending.append((step, learning_rate, metrics))

    @property
    def due(self) -> bool:
        return time.perf_counter() - self._written >= WRITE_EVERY_SECONDS and len(self._pending) > 1

    def write(self, keep_newest: bool = False) -> list[dict[str, Any]]:
        """Append what is pending (but for the newest step, if told) and its meters; gives the records written."""
        if not self.world.first:
            self._pending = []
            return []
        ready = self._pending[: len(self._pending) - keep_newest]
        self._pending = self._pending[len(ready) :]
        records = _records(ready)
        self.folder.append_metrics(records)
        self._charge("training")
        self._written = time.perf_counter()
        self._write_meters(records)
        self._watch_for_divergence(records)
        return records

    def note(self, record: Mapping[str, Any]) -> None:
        """Append one record that is ready, such as a validation loss."""
        if self.world.first:
            self.folder.append_metrics([record])

    @contextmanager
    def spent_on(self, what: str) -> Generator[None]:
        """Charge the time inside to `what` instead of to training."""
        self._charge("training")
        try:
            yield
        finally:
            self._charge(what)

    def _charge(self, what: str) -> None:
        now = time.perf_counter()
        self._seconds[what] = self._seconds.get(what, 0.0) + now - self._since
        self._since = now

    def _write_meters(self, records: list[dict[str, Any]]) -> None:
        if records:
            self._step = records[-1]["step"]
        if self._seconds["training"] >= WRITE_EVERY_SECONDS / 2:  # over less, the step that was held back distorts it
            self.tokens_per_second = len(records) * self.tokens_per_step / self._seconds["training"]
        meters = {
            "step": self._step,
            "tokens": len(records) * self.tokens_per_step,
            "seconds": self._seconds,
            "tokens_per_second": self.tokens_per_second,
            "mfu_of_measured_matmul": self.tokens_per_second * self._mfu_of_one_token_per_second,
            "peak_memory_bytes": peak_memory(self.device),
            "processes": self.world.size,
            "processes_per_device": self.world.local_size if self.device == "cpu" else 1,
        }
        if records or len(self._seconds) > 1:  # something was done besides waiting for the next write
            self.folder.append_meters(meters)
            self._seconds = {}

    def _watch_for_divergence(self, records: list[dict[str, Any]]) -> None:
        for record in records:
            self._skipped_in_a_row = self._skipped_in_a_row + 1 if record["skipped"] else 0
        if self._skipped_in_a_row >= HOPELESS:
            raise DivergedError(
                f"{self.folder.path}: {self._skipped_in_a_row} steps in a row had no finite gradient; the run has "
                "diverged. Try a lower training.learning_rate, a warm-up, or training.precision=float32."
            )


def _records(pending: list[tuple[int, float, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One transfer from the device for all of them. What is not finite becomes null, for JSON knows no NaN."""
    if not pending:
        return []
    names = list(pending[0][2])
    values = torch.stack([torch.as_tensor(metrics[name]).float() for _, _, metrics in pending for name in names])
    rows = values.view(len(pending), len(names)).tolist()
    records: list[dict[str, Any]] = []
    for (step, rate, _), row in zip(pending, rows, strict=True):
        record = {name: value if math.isfinite(value) else None for name, value in zip(names, row, strict=True)}
        records.append({"step": step, **record, "learning_rate": rate, "skipped": bool(record["skipped"])})
    return records
