"""A line that says how far something is: it changes in a terminal, and comes every ten seconds elsewhere."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from scratchlab.cli.output import duration

PATIENCE_SECONDS = 1.0  # what is done by then shows nothing
LINE_EVERY_SECONDS = 10.0


@contextmanager
def live_line() -> Generator[Callable[[str], None]]:
    """Shows the line that it was last called with, on standard error."""
    from rich.console import Console

    console = Console(stderr=True)
    status = console.status("")
    began, shown = time.monotonic(), time.monotonic()

    def show(line: str) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - began < PATIENCE_SECONDS:
            return
        if console.is_terminal:
            status.update(line)
            status.start()
        elif now - shown > LINE_EVERY_SECONDS:
            shown = now
            console.print(line, highlight=False, markup=False)

    try:
        yield show
    finally:
        status.stop()


def time_left(show: Callable[[str], None], what: str) -> Callable[[int, int], None]:
    """Shows `what: 34%, 2.1 min left` of work that tells how much of it is done, and how much there is."""
    first: tuple[float, int] | None = None

    def progress(done: int, total: int) -> None:
        nonlocal first
        now = time.monotonic()
        first = first or (now, done)
        began, before = first
        left = f", {duration((now - began) / (done - before) * (total - done))} left" if done > before else ""
        show(f"{what}: {done / max(total, 1):.0%}{left}")

    return progress
