"""What a model card tells of the runs that a run began from, the oldest first, and what each of them learned from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scratchlab.errors import RunError
from scratchlab.interop.told import told
from scratchlab.runfolder import Record, RunFolder


@dataclass(frozen=True, slots=True)
class Chapter:
    """A run, as far as its weights went on into another one."""

    name: str
    step: int
    tokens: int
    fingerprint: str
    learned_from: str | None
    """text, instructions, pairs or labels; None where that is not known."""
    corpus: Record | None
    """Path and hash; None where they are not known."""
    imported: Record | None
    """Of weights that another program trained: where they came from."""

    @property
    def holds(self) -> str:
        """What its corpus holds, in words."""
        if self.imported:
            return f"the weights of {origin(self.imported)}"
        return "what it learned from is not recorded" if self.learned_from is None else HOLDS[self.learned_from]


HOLDS = {
    "text": "text",
    "instructions": "instructions with their answers",
    "pairs": "pairs of answers",
    "labels": "texts with labels",
}


def earlier(folder: RunFolder) -> list[Chapter]:
    """The runs that this one's weights came through."""
    return [_chapter(record) for record in folder.manifest().get("lineage", [])]


def _chapter(record: Record) -> Chapter:
    known = record if "corpus" in record else _still_there(record)
    imported = record.get("imported")
    return Chapter(
        name=told(record["run"]),
        step=record["step"],
        tokens=record["tokens"],
        fingerprint=record["fingerprint"],
        learned_from=None if imported else known.get("learned_from"),
        corpus=None if imported else known.get("corpus"),
        imported=imported,
    )


def _still_there(record: Record) -> dict[str, Any]:
    """What the run itself says, if it is where it was: older runs wrote down no corpus of those they began from."""
    try:
        folder = RunFolder.open(record["run"])
        same = folder.manifest().get("fingerprint") == record["fingerprint"]
    except RunError:
        return {}
    return folder.learned() if same else {}


def origin(imported: Record) -> str:
    """Of an imported model: its name on the Hub, or that of its file."""
    source, revision = imported["source"], imported.get("revision")
    return f"{source} at revision {revision[:12]}" if revision else f"{told(source)} ({imported['format']})"


def in_short(folder: RunFolder) -> str:
    """How it came about, for the sentence that a card opens with."""
    before = earlier(folder)
    if not before:
        return "trained from scratch with scratchlab"
    first, own = before[0].imported, HOLDS[folder.learned()["learned_from"]]
    start = f"from the weights of {origin(first)}" if first else "from scratch"
    runs = [f"{one.name} ({one.holds})" for one in before if not one.imported]
    return f"trained with scratchlab {start}: " + ", then ".join([*runs, f"this run ({own})"])


def in_order(folder: RunFolder, steps: int, tokens: int) -> list[str]:
    """The runs as a list, this one last; no paragraph for a run that began from fresh weights."""
    before = earlier(folder)
    if not before:
        return []
    own = f"This run began from these and learned from {HOLDS[folder.learned()['learned_from']]}"
    lines = [_line(one, number == 0) for number, one in enumerate(before)]
    lines.append(f"{own}, to step {steps:,} ({tokens:,} tokens).")
    return ["Its weights came about in this order:", numbered(lines)]


def _line(one: Chapter, first: bool) -> str:
    known_by = f"fingerprint `{one.fingerprint}`"
    if one.imported:
        return f"{one.name} holds {one.holds}, as they were ({known_by})."
    began = "began from fresh weights" if first else "began from these"
    learned = one.holds if one.learned_from is None else f"it learned from {one.holds}"
    return f"{one.name} {began}; {learned}, to step {one.step:,} ({one.tokens:,} tokens; {known_by})."


def numbered(lines: Sequence[str]) -> str:
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))
