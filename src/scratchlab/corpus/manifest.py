"""What manifest.json says: sources, split rule, tokenizer, counts, and the size and SHA-256 of every file.

Nothing in it depends on when or where the corpus was built, so that building twice gives the same bytes.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from scratchlab.corpus.tokenizer import Dtype, Kind
from scratchlab.errors import CorpusError
from scratchlab.files import pretty_json, sha256_of_json

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
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


class SourceRecord(Record):
    """What one source gave. `source` is as the user wrote it."""

    source: str
    documents: int
    """Kept: neither blank nor an exact copy of an earlier one."""
    bytes: int
    """UTF-8 bytes of the kept documents."""
    duplicates: int
    blank: int


class MoveRecord(Record):
    """A document moved so that a wanted split is not empty."""

    document: str
    origin: str
    to: str


class SplitRuleRecord(Record):
    """How documents were assigned to splits: `hash:...` or `contiguous:...` with the three shares."""

    rule: str
    moved: tuple[MoveRecord, ...]


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

    @property
    def files(self) -> tuple[FileRecord, ...]:
        return (*self.shards, self.document_table)


class Manifest(Record):
    """Everything about a corpus. `sha256` identifies its content; `manifest_sha256` guards the manifest itself."""

    format_version: int
    sha256: str
    sources: tuple[SourceRecord, ...]
    split: SplitRuleRecord
    tokenizer: TokenizerRecord
    splits: Mapping[str, SplitRecord]
    manifest_sha256: str

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file of the folder but the manifest."""
        return (self.tokenizer.file, *(file for split in self.splits.values() for file in split.files))


def write_manifest(
    folder: Path,
    sources: Sequence[SourceRecord],
    split: SplitRuleRecord,
    tokenizer: TokenizerRecord,
    splits: Mapping[str, SplitRecord],
) -> None:
    """Write manifest.json, which makes `folder` a corpus: the last step of a build."""
    identity = {name: [file.sha256 for file in record.files] for name, record in splits.items()}
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "sha256": sha256_of_json({"tokenizer": tokenizer.file.sha256, "splits": identity}),
        "sources": [record.model_dump() for record in sources],
        "split": split.model_dump(),
        "tokenizer": tokenizer.model_dump(),
        "splits": {name: record.model_dump() for name, record in splits.items()},
    }
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
        intact = content.pop("manifest_sha256") == sha256_of_json(content)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CorpusError(f"{path / MANIFEST} is damaged: it is not the JSON that a build writes. {REBUILD}") from None
    if version != FORMAT_VERSION:
        raise CorpusError(
            f"{path} has corpus format {version}; this scratchlab reads format {FORMAT_VERSION}. "
            "Open it with the scratchlab that built it, or build the corpus again."
        )
    if not intact:
        raise CorpusError(f"{path / MANIFEST} is damaged or was edited: its SHA-256 does not fit. {REBUILD}")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise CorpusError(
            f"{path / MANIFEST} is not a manifest of format {FORMAT_VERSION}: {error}. {REBUILD}"
        ) from error
