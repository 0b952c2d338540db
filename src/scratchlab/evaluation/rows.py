"""Rows of evaluation sets: of a JSON Lines file, or of a split of a dataset on the Hugging Face Hub."""

import io
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from scratchlab.corpus.sources.documents import Reading, Span, without_mark
from scratchlab.corpus.sources.hub_datasets import list_dataset
from scratchlab.corpus.sources.opened import opened
from scratchlab.corpus.sources.remote import RemoteFile
from scratchlab.errors import CorpusError
from scratchlab.evaluation.items import Row

Rows = Iterator[tuple[str, Row | ValueError]]
"""Each row with its place, for messages; or with why it cannot be read."""


def file_rows(path: Path | str) -> Rows:
    """The rows of a JSON Lines file, perhaps `.gz`, here or on the Hub. CorpusError if it cannot be opened."""
    span = Span(str(path), "jsonl")
    with opened(span) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"line {number:,}", _row(without_mark(line, span.name) if number == 1 else line)


def _row(line: bytes) -> Row | ValueError:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return ValueError(f"it is not UTF-8 at byte {error.start + 1}.")
    except json.JSONDecodeError as error:
        return ValueError(f"it is not JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1}.")
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; lists within lists
        return ValueError(f"it cannot be read as JSON: {error}.")
    if not isinstance(row, dict):
        return ValueError(f"expected a JSON object, as JSON Lines has one a line, not {row!r:.80}.")
    return row


def hub_rows(location: str) -> Rows:
    """The rows of `hf:USER/NAME?name=CONFIGURATION&split=SPLIT&text=COLUMN`, of which COLUMN is one that holds text.

    CorpusError for what is not there or cannot be reached; MissingExtraError without pyarrow where it is Parquet.
    """
    spans = list_dataset(location, Reading()).spans
    for path in dict.fromkeys(span.path for span in spans):
        rows = _parquet_rows(path) if PurePosixPath(path).suffix == ".parquet" else file_rows(path)
        yield from ((f"{PurePosixPath(path).name}, {place}", row) for place, row in rows)


def _parquet_rows(path: str) -> Rows:
    """All columns of a file, which is fetched whole: the sets that are asked have some megabytes."""
    import pyarrow
    from pyarrow import parquet

    file = RemoteFile(path)
    try:
        rows = parquet.read_table(io.BytesIO(file.read(file.size))).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(f"{path} is damaged, or no Parquet file: {error}.") from error
    yield from ((f"row {number:,}", row) for number, row in enumerate(rows, 1))
