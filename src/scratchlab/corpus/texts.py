"""Text that a model is judged by: a split of a corpus, or an evaluation set that is in no corpus.

The latter is read as a stream of documents in which each token is a byte.
"""

import itertools
import json
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.manifest import MANIFEST
from scratchlab.corpus.sources.documents import Document, Reading, Span, printable, sound
from scratchlab.corpus.sources.find import Source, list_source
from scratchlab.corpus.sources.formats import read_span
from scratchlab.corpus.sources.opened import is_plain, opened
from scratchlab.corpus.store import open_corpus
from scratchlab.corpus.words import Documents, Ints, Symbols
from scratchlab.errors import CorpusError, UsageError

WITH_COLUMNS = ("jsonl", "csv", "parquet", "hub")


def by_number(document: int) -> str:
    """What a document is called that has no other name."""
    return f"document {document + 1}"


@dataclass(frozen=True, slots=True)
class EvaluationText:
    """Documents that a model is to be judged by."""

    name: str
    """For people."""
    documents: Documents
    symbols: Symbols
    """What their tokens stand for."""
    document_name: Callable[[int], str] = by_number


def evaluation_text(location: str | Path, split: str | None = None, column: str | None = None) -> EvaluationText:
    """The split `split` (test, unless given) of the corpus at `location`, or the texts there (see `read_texts`).

    Raises UsageError for a column of a corpus or a split of what is none, CorpusError for what is not there.
    """
    if (Path(location) / MANIFEST).exists():
        return _split_of_corpus(str(location), split or "test", column)
    if split is not None:
        raise UsageError(f"--split {split}: {location} is no corpus, only a corpus has splits.")
    texts = Texts(lambda: read_texts(str(location), column))
    if not len(texts.document_bytes):
        raise CorpusError(f"{location} holds no text.")
    return EvaluationText(str(location), texts, texts, texts.name)


def _split_of_corpus(path: str, split: str, column: str | None) -> EvaluationText:
    if column is not None:
        raise UsageError(f"--column {column}: {path} is a corpus, which has splits and no columns.")
    corpus = open_corpus(path)
    return EvaluationText(f"{path}, {split}", corpus.split(split), corpus.tokenizer)


class Texts:
    """The documents that `read` gives, in a temporary file: a token stream and the tokenizer of its tokens in one."""

    vocab_size = 256

    def __init__(self, read: Callable[[], Iterable[Document]]) -> None:
        """Reads them once, and once more for each name that is asked for."""
        self._read = read
        sizes = array("q")
        with tempfile.TemporaryFile() as file:
            for document in read():
                if not document.continues or not sizes:
                    sizes.append(0)
                sizes[-1] += file.write(sound(document).text.encode())
            file.write(b"\0")  # nothing cannot be mapped
            file.flush()
            self._bytes = np.asarray(np.memmap(file, np.uint8, mode="r"))  # stays when the file is closed
        self._sizes = np.array(sizes, np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return self._bytes[start:stop]

    @property
    def document_starts(self) -> Ints:
        return self._starts

    @property
    def document_bytes(self) -> Ints:
        return self._sizes

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])

    def name(self, document: int) -> str:
        """Where a document came from."""
        firsts = (found for found in self._read() if not found.continues)
        return next(itertools.islice(firsts, document, None)).name


def read_texts(location: str, column: str | None = None) -> Iterator[Document]:
    """The documents of a source; of JSON Lines each record, as all its strings or as those in the field `column`.

    Raises UsageError for a column of what has none, CorpusError for what cannot be read.
    """
    spans = list_source(Source(location, reading=Reading(column=column))).spans
    if column is not None and not any(span.format in WITH_COLUMNS for span in spans):
        raise UsageError(f"--column {column}: {printable(location)} has no columns. It is for JSON Lines and tables.")
    for (path, _), group in itertools.groupby(spans, key=lambda span: (span.path, span.member)):
        parts = list(group)
        if parts[0].format == "jsonl" and is_plain(parts[0]):
            yield from _read_records(path, column)
        else:
            yield from itertools.chain.from_iterable(map(read_span, parts))


def _read_records(path: str, column: str | None) -> Iterator[Document]:
    span = Span(path, "jsonl")
    with opened(span) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                name = f"{span.name}, line {number}"
                record = _parse(line, name)
                yield Document("\n".join(_strings(record if column is None else _field(record, column, name))), name)


def _parse(line: bytes, name: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{name} is no JSON: {error}. Expected JSON Lines: one record a line.") from None


def _field(record: Any, column: str, name: str) -> Any:
    if not isinstance(record, dict) or column not in record:
        there = ", ".join(map(str, record)) if isinstance(record, dict) else f"a {type(record).__name__}"
        raise CorpusError(f"{name} has no field {column!r}: {there}. Leave --column out to take all strings.")
    return record[column]


def _strings(value: Any) -> Iterator[str]:
    """All strings in a value of JSON, in their order; keys are none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
