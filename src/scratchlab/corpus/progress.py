"""How far work on a corpus is, as it is told to whoever asked for it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is. Bytes are those of the sources' files, or of the text that is read."""

    stage: str
    done: int
    total: int
    documents: int = 0
    tokens: int = 0


Report = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """The report of work that nobody watches."""
