"""What cleaning took out of a corpus, counted by kind, with a few examples that people can look at."""

import bisect
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

EXAMPLES = 3
"""So many are kept of each kind: the first."""
EXCERPT = 200
"""Characters of an example, at most."""
AROUND = 20
"""Characters shown before and after a place that changed."""


@dataclass(frozen=True, slots=True)
class Example:
    """Something that was removed, cut to EXCERPT characters."""

    document: str
    """The name of the document it was in."""
    text: str
    """What was there; where a document only changed, the first place that did, with some of the text around it."""
    became: str | None = None
    """What stands at that place now. None for what is gone."""


@dataclass(slots=True)
class Removal:
    """What one kind of cleaning removed."""

    documents: int = 0
    """Thrown away whole."""
    pieces: int = 0
    """Documents that were changed by a filter, or pieces that a reader took out."""
    characters: int = 0
    """In all, less those that came instead; below 0 where changes made texts longer."""
    examples: list[Example] = field(default_factory=list[Example])


@dataclass(slots=True)
class Tally:
    """By kind, what was removed. A kind is a filter's name, a kind of a reader, or a reason such as "duplicate"."""

    kinds: dict[str, Removal] = field(default_factory=dict[str, Removal])

    def drop(self, kind: str, name: str, text: str, whole: bool = True) -> None:
        """Count a document that was thrown away whole, or a further part of one that was counted already."""
        removal = self._removal(kind)
        removal.documents += whole
        removal.characters += len(text)
        if whole and len(removal.examples) < EXAMPLES:
            removal.examples.append(Example(name, excerpt(text)))

    def change(self, kind: str, name: str, old: str, new: str) -> None:
        """Count a document whose text `old` became `new`, which is another."""
        removal = self._removal(kind)
        removal.pieces += 1
        removal.characters += len(old) - len(new)
        if len(removal.examples) < EXAMPLES:
            removal.examples.append(Example(name, *first_change(old, new)))

    def take(self, kind: str, name: str, pieces: Sequence[str]) -> None:
        """Count pieces that a reader took out of one document; the first may become an example."""
        removal = self._removal(kind)
        removal.pieces += len(pieces)
        removal.characters += sum(map(len, pieces))
        if pieces and len(removal.examples) < EXAMPLES:
            removal.examples.append(Example(name, excerpt(pieces[0])))

    def replace(self, kind: str, name: str, text: str, count: int) -> None:
        """Count `count` places that were not Unicode and are U+FFFD in `text`."""
        removal = self._removal(kind)
        removal.pieces += count
        if len(removal.examples) < EXAMPLES:
            first = max(0, text.find("\ufffd") - AROUND)
            removal.examples.append(Example(name, excerpt(text[first:])))

    def merge(self, later: "Tally") -> None:
        """Add what was counted in the documents that follow."""
        for kind, other in later.kinds.items():
            removal = self._removal(kind)
            removal.documents += other.documents
            removal.pieces += other.pieces
            removal.characters += other.characters
            removal.examples.extend(other.examples[: EXAMPLES - len(removal.examples)])

    def to_json(self) -> dict[str, Any]:
        """By kind, in the order in which they were met: documents, pieces, characters, examples."""
        return {kind: asdict(removal) for kind, removal in self.kinds.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The tally that `to_json` gave."""
        return cls({kind: _removal_from_json(removal) for kind, removal in value.items()})

    def _removal(self, kind: str) -> Removal:
        return self.kinds.setdefault(kind, Removal())


def _removal_from_json(value: Mapping[str, Any]) -> Removal:
    examples = [Example(**example) for example in value["examples"]]
    return Removal(value["documents"], value["pieces"], value["characters"], examples)


def excerpt(text: str) -> str:
    """The beginning of `text`: at most EXCERPT characters, with an ellipsis if there was more."""
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


def first_change(old: str, new: str) -> tuple[str, str]:
    """The first place where two texts differ, as it is in each, with AROUND characters on either side."""
    lengths = range(1, min(len(old), len(new)) + 1)
    start = bisect.bisect_left(lengths, True, key=lambda length: old[:length] != new[:length])
    # Only the texts' next characters are aligned: what is longer than an excerpt is cut in any case.
    window = slice(start, start + EXCERPT)
    aligned = difflib.SequenceMatcher(None, old[window], new[window], autojunk=False)
    _, _, old_stop, _, new_stop = aligned.get_opcodes()[0]  # never "equal": the first characters differ
    before = max(0, start - AROUND)
    return (
        excerpt(old[before : start + old_stop + AROUND]),
        excerpt(new[before : start + new_stop + AROUND]),
    )
