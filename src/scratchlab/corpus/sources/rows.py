"""Rows of data sets: of a JSON file (a list, or a record a line), or of a split of a dataset on the Hub."""

import codecs
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from scratchlab.corpus.hub import parse_location
from scratchlab.corpus.sources.documents import Span, without_mark
from scratchlab.corpus.sources.hub_datasets import WHICH_FILES, DatasetFiles, dataset_files
from scratchlab.corpus.sources.opened import opened
from scratchlab.corpus.sources.remote import RemoteFile
from scratchlab.errors import CorpusError
from scratchlab.extras import require

Row = Mapping[str, Any]
Rows = Iterator[tuple[str, Row | ValueError]]
"""Each row with its place, for messages; or with why it cannot be read."""


def file_rows(path: Path | str) -> Rows:
    """The rows of a file, perhaps `.gz`, here or on the Hub: of a JSON list, or of JSON Lines.

    CorpusError if it cannot be opened, or begins as a list and is none.
    """
    span = Span(str(path), "jsonl")
    with opened(span) as file:
        if file.peek(64).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):  # a row begins with a brace
            yield from _listed(without_mark(file.read(), span.name), span.name)
            return
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"line {number:,}", _row(without_mark(line, span.name) if number == 1 else line)


def _listed(text: bytes, name: str) -> Rows:
    rows = _parsed(text)
    if isinstance(rows, ValueError):
        raise CorpusError(f"{name} begins as a JSON list, and cannot be read: {rows}")
    for number, row in enumerate(rows, 1):
        yield f"item {number:,}", _checked(row)


def _row(line: bytes) -> Row | ValueError:
    row = _parsed(line)
    return row if isinstance(row, ValueError) else _checked(row)


def _checked(row: Any) -> Row | ValueError:
    if not isinstance(row, dict):
        return ValueError(f"expected a JSON object in each row, not {row!r:.80}.")
    return row


def _parsed(text: bytes) -> Any:
    """What the JSON says, or why it cannot be read."""
    try:
        return json.loads(text.decode())
    except UnicodeDecodeError as error:
        return ValueError(f"it is not UTF-8 at byte {error.start + 1}.")
    except json.JSONDecodeError as error:
        return ValueError(f"it is not JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1}.")
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; lists within lists
        return ValueError(f"it cannot be read as JSON: {error}.")


def hub_files(location: str) -> DatasetFiles:
    """The files of `hf:USER/NAME?name=CONFIGURATION&split=SPLIT&revision=BRANCH`. CorpusError as of `dataset_files`."""
    return dataset_files(parse_location(location, WHICH_FILES))


def hub_rows(location: str) -> Rows:
    """The rows of all of them. MissingExtraError without pyarrow where they are Parquet."""
    return rows_of(hub_files(location))


def rows_of(files: DatasetFiles) -> Rows:
    """The rows of a dataset's files, one file after another."""
    for path in files.sizes:
        rows = _parquet_rows(path) if PurePosixPath(path).suffix == ".parquet" else file_rows(path)
        yield from ((f"{PurePosixPath(path).name}, {place}", row) for place, row in rows)


def _parquet_rows(path: str) -> Rows:
    """All columns of a file, which is fetched whole: the sets that are read so have some megabytes."""
    require("Reading Parquet", "data", "pyarrow")
    import pyarrow
    from pyarrow import parquet

    file = RemoteFile(path)
    try:
        rows = parquet.read_table(io.BytesIO(file.read(file.size))).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(f"{path} is damaged, or no Parquet file: {error}.") from error
    yield from ((f"row {number:,}", row) for number, row in enumerate(rows, 1))
