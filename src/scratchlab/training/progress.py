"""What a person sees while a run goes on: a bar in a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_SECONDS = 10.0


class Reporter(Protocol):
    """Told what happens; shows it or not."""

    def say(self, text: str) -> None:
        """A line that stays."""
        ...

    def at(self, step: int, steps: int, loss: float | None, tokens_per_second: float) -> None:
        """How far the run is."""
        ...


class Silent:
    """Shows nothing."""

    def say(self, text: str) -> None: ...

    def at(self, step: int, steps: int, loss: float | None, tokens_per_second: float) -> None: ...


class Lines:
    """A line every ten seconds, for logs and pipes."""

    def __init__(self) -> None:
        self._next = 0.0
        self._began: tuple[float, int] | None = None

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def at(self, step: int, steps: int, loss: float | None, tokens_per_second: float) -> None:
        now = time.monotonic()
        if self._began is None:  # nothing is known of the speed yet
            self._began, self._next = (now, step), now + LINE_EVERY_SECONDS
        began, first = self._began
        if now < self._next:
            return
        self._next = now + LINE_EVERY_SECONDS
        left = (now - began) / max(1, step - first) * (steps - step)
        shown = "not finite" if loss is None else f"{loss:.4f}"
        self.say(f"step {step}/{steps}  loss {shown}  {tokens_per_second:,.0f} tok/s  {left:.0f} s left")


class Bar:
    """A progress bar with loss, tokens/s and time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("[bold]training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[rate]:,.0f} tok/s"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("training", total=None, loss="-", rate=0.0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def at(self, step: int, steps: int, loss: float | None, tokens_per_second: float) -> None:
        shown = "not finite" if loss is None else f"{loss:.4f}"
        self._progress.update(self._task, completed=step, total=steps, loss=shown, rate=tokens_per_second)
