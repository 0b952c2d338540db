"""What a person sees while a corpus is built: a line that changes in a terminal, a line every ten seconds elsewhere."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scratchlab.cli.output import count, duration

if TYPE_CHECKING:
    from scratchlab.corpus.progress import Progress, Report

PATIENCE_SECONDS = 1.0  # a build that is done by then shows nothing
LINE_EVERY_SECONDS = 10.0


@contextmanager
def build_progress() -> Generator["Report"]:
    """Shows what a build reports, on standard error."""
    from rich.console import Console

    console = Console(stderr=True)
    status = console.status("")
    began, shown = time.monotonic(), time.monotonic()
    stage_began: dict[str, tuple[float, int]] = {}

    def report(progress: "Progress") -> None:
        nonlocal shown
        now = time.monotonic()
        start, before = stage_began.setdefault(progress.stage, (now, progress.done))
        if now - began < PATIENCE_SECONDS:
            return
        line = _line(progress, now - start, progress.done - before)
        if console.is_terminal:
            status.update(line)
            status.start()
        elif now - shown > LINE_EVERY_SECONDS:
            shown = now
            console.print(line, highlight=False, markup=False)

    try:
        yield report
    finally:
        status.stop()


def _line(progress: "Progress", seconds: float, done: int) -> str:
    """`encoding: 1,024 of 5,120 MB, 310,024 documents, 230,112,030 tokens, 21.4 MB/s, 3.2 min left`."""
    parts = [f"{progress.done / 1e6:,.0f} of {progress.total / 1e6:,.0f} MB"] if progress.total else []
    parts += [count(progress.documents, "document")] if progress.documents else []
    parts += [count(progress.tokens, "token")] if progress.tokens else []
    if done and seconds:
        left = (progress.total - progress.done) / done * seconds
        parts += [f"{done / seconds / 1e6:.1f} MB/s", f"{duration(left)} left"]
    return f"{progress.stage}: {', '.join(parts)}"
