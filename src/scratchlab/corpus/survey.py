"""Sources that are read more than once: first to learn what is there, then again for each pass of a build.

Between readings a name, a hash and two lengths are kept of each document, not its text.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from scratchlab.corpus.manifest import SourceRecord
from scratchlab.corpus.sources import Document, printable, read_documents
from scratchlab.errors import CorpusError

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, the bytes of text done so far, and the bytes there are (None while unknown)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is remembered of a document between two readings."""

    source: str
    digest: bytes
    """SHA-256 of its text as UTF-8."""
    characters: int
    bytes: int
    """Of its text as UTF-8."""
    fate: Literal["kept", "blank", "duplicate"]
    """A duplicate is an exact copy of an earlier document."""


class Survey:
    """What one reading of `sources` found. CorpusError if they hold no text."""

    def __init__(self, sources: Sequence[str], progress: Progress | None = None) -> None:
        self.name = enumerate_names([printable(source) for source in sources])
        """The sources in a few words, for messages."""
        self._paths = tuple(sources)
        self._progress = progress or (lambda stage, done, total: None)
        self._entries: list[Entry] = []  # in reading order
        self.sources = self._survey()
        self.kept = [entry for entry in self._entries if entry.fate == "kept"]
        """The documents of the corpus, in reading order."""
        if not self.kept:
            blank = enumerate_names([entry.source for entry in self._entries])
            raise CorpusError(f"There is no text to learn from: {blank} has no character but white space.")

    def read_again(self, stage: str) -> Iterator[Document]:
        """The kept documents, in the same order; CorpusError if a source is no longer what it was."""
        done, total = 0, sum(entry.bytes for entry in self._entries)
        for document, entry in itertools.zip_longest(read_documents(self._paths), self._entries):
            if not document or not entry or _digest(document.text) != entry.digest:
                found = document or entry
                raise CorpusError(
                    f"The text changed while the corpus was being built: {found.source if found else self.name} is not "
                    "what it was when first read, or a file near it came or went. Nothing was kept; build again."
                )
            if entry.fate == "kept":
                yield document
            done += entry.bytes
            self._progress(stage, done, total)

    def _survey(self) -> tuple[SourceRecord, ...]:
        seen = set[bytes]()
        done = 0
        records: list[SourceRecord] = []
        for source in self._paths:
            counts = Counter[str]()
            for document in read_documents([source]):
                entry = _enter(document, seen)
                self._entries.append(entry)
                counts[entry.fate] += 1
                counts["bytes"] += entry.bytes if entry.fate == "kept" else 0
                done += entry.bytes
                self._progress("reading", done, None)
            records.append(_source_record(source, counts))
        return tuple(records)


def enumerate_names(names: Sequence[str], most: int = 3) -> str:
    """`a, b, c and 4 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _enter(document: Document, seen: set[bytes]) -> Entry:
    digest = _digest(document.text)
    fate = "blank" if not document.text.strip() else "duplicate" if digest in seen else "kept"
    seen.add(digest)
    return Entry(document.source, digest, len(document.text), len(document.text.encode()), fate)


def _source_record(source: str, counts: Counter[str]) -> SourceRecord:
    return SourceRecord(
        source=printable(source),
        documents=counts["kept"],
        bytes=counts["bytes"],
        duplicates=counts["duplicate"],
        blank=counts["blank"],
    )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
