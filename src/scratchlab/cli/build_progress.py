"""What a person sees while a corpus is built."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scratchlab.cli.live import live_line
from scratchlab.cli.output import count, duration

if TYPE_CHECKING:
    from scratchlab.corpus.progress import Progress, Report


@contextmanager
def build_progress() -> Generator["Report"]:
    """Shows what a build reports, on standard error."""
    stage_began: dict[str, tuple[float, int]] = {}
    with live_line() as show:

        def report(progress: "Progress") -> None:
            now = time.monotonic()
            start, before = stage_began.setdefault(progress.stage, (now, progress.done))
            show(_line(progress, now - start, progress.done - before))

        yield report


def _line(progress: "Progress", seconds: float, done: int) -> str:
    """`encoding: 1,024 of 5,120 MB, 310,024 documents, 230,112,030 tokens, 21.4 MB/s, 3.2 min left`."""
    parts = [f"{progress.done / 1e6:,.0f} of {progress.total / 1e6:,.0f} MB"] if progress.total else []
    parts += [count(progress.documents, "document")] if progress.documents else []
    parts += [count(progress.tokens, "token")] if progress.tokens else []
    if done and seconds:
        left = (progress.total - progress.done) / done * seconds
        parts += [f"{done / seconds / 1e6:.1f} MB/s", f"{duration(left)} left"]
    return f"{progress.stage}: {', '.join(parts)}"
