"""What manifest.json says: sources, split rule, tokenizer, counts, and the size and SHA-256 of every file.

Nothing in it depends on when or where the corpus was built, so that building twice gives the same bytes.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from scratchlab.corpus.tokenizer import Dtype, Kind
from scratchlab.errors import CorpusError
from scratchlab.files import pretty_json, sha256_of_json

FORMAT_VERSION = 2
WITH_EXAMPLES = 3
"""The format of a corpus of examples; one of text is still of format 2, so that what reads it goes on reading it."""
READABLE = (1, FORMAT_VERSION, WITH_EXAMPLES)
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
CHAT_TEMPLATE = "chat_template.jinja"
REBUILD = "Restore it from a copy, or build the corpus again."


class Record(BaseModel):
    """A part of the manifest: frozen, with exactly these fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class FileRecord(Record):
    """A file of the corpus folder."""

    name: str
    size: int
    """Bytes."""
    sha256: str


class ExampleRecord(Record):
    """An example of what cleaning removed."""

    document: str
    text: str
    """What was there, or its beginning."""
    became: str | None = None
    """What stands there now; None for what is gone."""


class RemovedRecord(Record):
    """What one kind of cleaning removed from a source."""

    documents: int = 0
    """Thrown away whole."""
    pieces: int = 0
    """Taken out of documents that were kept, or documents that were changed."""
    characters: int = 0
    examples: tuple[ExampleRecord, ...] = ()


class DrawnRecord(Record):
    """What a mixture drew of a source for one split."""

    documents: int
    """Each as often as it was drawn; a long text's parts are documents of their own."""
    distinct_documents: int
    tokens: int
    """With `<|endoftext|>`; the splits' tokens are the sums of these."""


class SourceRecord(Record):
    """What one source gave. `source` is its name: as the user wrote it, unless it was given another."""

    source: str
    documents: int
    """Kept."""
    bytes: int
    """UTF-8 bytes of the kept documents."""
    removed: Mapping[str, RemovedRecord] = {}
    """By kind of cleaning; "duplicate" and "blank" are among them."""
    passed_over: Mapping[str, int] = {}
    """By extension, files in a folder that hold no text, or in no known format."""
    location: str = ""
    revision: str | None = None
    """The commit of a dataset on the Hub."""
    weight: float | None = None
    """In a mixture: its share of the training tokens, before all shares are made to sum to 1."""
    repeat: int = 1
    """In a mixture: how often a document may be used at most."""
    drawn: Mapping[str, DrawnRecord] = {}
    """In a mixture: what the corpus holds of it, by split; not there in older ones."""


class MoveRecord(Record):
    """A document moved so that a wanted split is not empty."""

    document: str
    origin: str
    to: str


class SplitRuleRecord(Record):
    """How documents were assigned to splits: `hash:...` or `contiguous:...` with the three shares."""

    rule: str
    moved: tuple[MoveRecord, ...]


class CleaningRecord(Record):
    """What was asked to be removed, besides blank documents and exact copies."""

    filters: tuple[str, ...] = ()
    near_duplicates: float | None = None
    """The likeness from which on a document was left out."""


class TokenizerRecord(Record):
    """The tokenizer, and how tokens are stored."""

    spec: str
    kind: Kind
    vocab_size: int
    end_of_text: int | None
    dtype: Dtype
    file: FileRecord


class SplitRecord(Record):
    """Counts and files of one split. `tokens` counts `<|endoftext|>`, `bytes` and `characters` do not."""

    documents: int
    characters: int
    bytes: int
    tokens: int
    shards: tuple[FileRecord, ...]
    document_table: FileRecord
    marks: FileRecord | None = None
    """Of examples: a byte for each token, which says what is learned from it."""
    ids: FileRecord | None = None
    """Of examples: what each is called where it came from."""

    @property
    def content(self) -> tuple[FileRecord, ...]:
        """The files that decide what a model learns."""
        return (*self.shards, self.document_table, *([self.marks] if self.marks else []))

    @property
    def files(self) -> tuple[FileRecord, ...]:
        return (*self.content, *([self.ids] if self.ids else []))


ExampleKind = Literal["instructions", "labels", "pairs"]


class ExampleSplitRecord(Record):
    """What a split holds of examples."""

    learned: int
    """Tokens that are marked: of instructions those that the assistant writes, of labels the last ones."""
    longest: int
    """Tokens of the longest example."""
    asked_in_training: int = 0
    """Examples whose question the training split has too, perhaps with another answer."""


class ExamplesRecord(Record):
    """Of a corpus of examples: what kind they are, and how they were worded."""

    kind: ExampleKind
    splits: Mapping[str, ExampleSplitRecord]
    template: str | None = None
    """What the chat template is called."""
    template_file: FileRecord | None = None
    labels: tuple[str, ...] = ()
    """The names of the labels, by their numbers."""


class OverlapExampleRecord(Record):
    """A test document of which much was found in the training text."""

    document: str
    ngrams: int
    """Those that were looked for."""
    found: int
    text: str
    """Of the first that was found."""


class OverlapRecord(Record):
    """What of a test text occurs in training text (`corpus.overlap`). Of a long text, a sample is looked for."""

    n: int
    """Words of an n-gram."""
    documents: int
    documents_compared: int
    """Those that were looked for as a whole."""
    documents_copied: int
    """Those of them whose exact text is a training document's."""
    documents_too_short: int
    """Those that have no n-gram."""
    ngrams: int
    ngrams_compared: int
    """Those that were looked for."""
    ngrams_found: int
    documents_with_ngrams: int
    """Those of which n-grams were looked for; of them, those with at least one that was found, ..."""
    documents_with_any: int
    documents_with_half: int
    """... and those with at least half of theirs."""
    examples: tuple[OverlapExampleRecord, ...]
    """The documents with the most that were found."""

    @property
    def share(self) -> float | None:
        """Of the n-grams, those that were found; None where there are none."""
        return self.ngrams_found / self.ngrams_compared if self.ngrams_compared else None


class Manifest(Record):
    """Everything about a corpus. `sha256` identifies its content; `manifest_sha256` guards the manifest itself."""

    format_version: int
    sha256: str
    sources: tuple[SourceRecord, ...]
    split: SplitRuleRecord
    tokenizer: TokenizerRecord
    splits: Mapping[str, SplitRecord]
    cleaning: CleaningRecord = CleaningRecord()
    overlap: OverlapRecord | None = None
    """Of the test split with the training split; not there in a corpus without a test split, and in older ones."""
    examples: ExamplesRecord | None = None
    """Of a corpus whose documents are examples to learn from."""
    manifest_sha256: str

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file of the folder but the manifest."""
        template = self.examples and self.examples.template_file
        own = (self.tokenizer.file, *([template] if template else []))
        return (*own, *(file for split in self.splits.values() for file in split.files))


def write_manifest(
    folder: Path,
    sources: Sequence[SourceRecord],
    split: SplitRuleRecord,
    tokenizer: TokenizerRecord,
    splits: Mapping[str, SplitRecord],
    cleaning: CleaningRecord = CleaningRecord(),  # noqa: B008  frozen
    overlap: OverlapRecord | None = None,
    examples: ExamplesRecord | None = None,
) -> None:
    """Write manifest.json, which makes `folder` a corpus: the last step of a build."""
    identity: dict[str, Any] = {
        "tokenizer": tokenizer.file.sha256,
        "splits": {name: [file.sha256 for file in record.content] for name, record in splits.items()},
    }
    if examples is not None:
        worded = examples.template_file and examples.template_file.sha256
        identity["examples"] = [examples.kind, worded, list(examples.labels)]
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION if examples is None else WITH_EXAMPLES,
        "sha256": sha256_of_json(identity),
        "sources": [record.model_dump(mode="json") for record in sources],
        "cleaning": cleaning.model_dump(mode="json"),
        "split": split.model_dump(mode="json"),
        "tokenizer": tokenizer.model_dump(mode="json"),
        "splits": {name: record.model_dump(mode="json", exclude_none=True) for name, record in splits.items()},
    }
    if overlap is not None:
        content["overlap"] = overlap.model_dump(mode="json")
    if examples is not None:
        content["examples"] = examples.model_dump(mode="json")
    content["manifest_sha256"] = sha256_of_json(content)
    (folder / MANIFEST).write_text(pretty_json(content), encoding="utf-8")


def read_manifest(path: Path) -> Manifest:
    """The manifest of the corpus folder `path`. FileNotFoundError if there is none, CorpusError if it is damaged."""
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path / MANIFEST} could not be read: {error}. {REBUILD}") from error
    try:
        content = json.loads(text)
        version = content["format_version"]
        guard = content.pop("manifest_sha256")
        intact = guard == sha256_of_json(content)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CorpusError(f"{path / MANIFEST} is damaged: it is not the JSON that a build writes. {REBUILD}") from None
    if version not in READABLE:
        raise CorpusError(
            f"{path} has corpus format {version}; this scratchlab reads formats {', '.join(map(str, READABLE))}. "
            "Open it with the scratchlab that built it, or build the corpus again."
        )
    if not intact:
        raise CorpusError(f"{path / MANIFEST} is damaged or was edited: its SHA-256 does not fit. {REBUILD}")
    try:
        return Manifest.model_validate_json(
            json.dumps(_as_format_2(content) | {"manifest_sha256": guard}) if version == 1 else text
        )
    except ValidationError as error:
        raise CorpusError(f"{path / MANIFEST} is not a manifest of format {version}: {error}. {REBUILD}") from error


def _as_format_2(content: dict[str, Any]) -> dict[str, Any]:
    """Format 1 counted duplicates and blank documents, without examples."""
    sources: list[dict[str, Any]] = []
    for source in content["sources"]:
        counts = {"duplicate": source.pop("duplicates"), "blank": source.pop("blank")}
        sources.append({**source, "removed": {kind: {"documents": count} for kind, count in counts.items() if count}})
    return {**content, "sources": sources}
