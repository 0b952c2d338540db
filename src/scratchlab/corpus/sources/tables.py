"""Rows of text or of numbers: JSON Lines, CSV and Parquet."""

import contextlib
import csv
import functools
import io
import itertools
import json
import math
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import orjson

from scratchlab.corpus.sources.documents import Document, Span, without_mark
from scratchlab.corpus.sources.opened import gone, is_plain, opened, require_plain
from scratchlab.corpus.sources.remote import RemoteFile, is_remote
from scratchlab.corpus.sources.urls import is_url, open_url
from scratchlab.errors import CorpusError
from scratchlab.extras import require

RANGE_BYTES = 2**22
"""Of a file that can be read in ranges: about how much of it, or of its column, is one span."""

REMOTE_BYTES = 2**24
"""Of a Parquet column on the Hub: the most that is fetched at once."""

BATCH_BYTES, BATCH_ROWS = 2**20, 2**10
"""Of a Parquet column: about how much is decoded at once, and how many rows at most (equal ones are stored once)."""

SERIES_ROWS = 2**16
"""A series of numbers comes in parts of so many."""

DEFAULT_COLUMN = "text"

Rows = Iterator[tuple[str, Any]]
"""Where each row is, for people, and what is in its field."""


# JSON Lines.


def cut_lines(span: Span) -> list[Span]:
    """Ranges of bytes, if the file is plain; a range has the lines that start in it."""
    if span.reading.series or not is_plain(span) or span.size <= RANGE_BYTES:
        return [span]
    edges = [*range(0, span.size, RANGE_BYTES), span.size]
    return [replace(span, start=start, stop=stop, size=stop - start) for start, stop in itertools.pairwise(edges)]


def read_json_lines(span: Span) -> Iterator[Document]:
    """A document a line, or a series; blank lines hold nothing."""
    return _documents(_json_fields(span), span)


def _json_fields(span: Span) -> Rows:
    column, name = span.reading.column or DEFAULT_COLUMN, span.name
    for number, (position, line) in enumerate(_lines(span), 1):
        if not line.isspace():
            where = f"{name}, line {number}" if span.start == 0 else f"{name}, byte {position}"
            yield where, _json_field(without_mark(line, name) if position == 0 else line, where, column)


def _lines(span: Span) -> Iterator[tuple[int, bytes]]:
    """The lines that start in the span's range, and the position of each."""
    with opened(span) as file:
        position = _first_line(file, span)
        while (span.stop is None or position < span.stop) and (line := file.readline()):
            yield position, line
            position += len(line)


def _first_line(file: io.BufferedReader, span: Span) -> int:
    """Goes to the first line that starts in the range, or beyond the range, and says where that is."""
    if span.start == 0:
        return 0
    position = file.seek(span.start - 1)
    while (span.stop is None or position < span.stop) and (piece := file.readline(RANGE_BYTES)):
        position += len(piece)
        if piece.endswith(b"\n"):
            break
    return position


def _json_field(line: bytes, where: str, column: str) -> Any:
    try:
        row = orjson.loads(line)  # three times as fast; what it is too strict for, the standard library may know
    except orjson.JSONDecodeError:
        row = _lenient_json(line, where)
    if not isinstance(row, dict):
        raise CorpusError(f"{where} is not a JSON object. {_ONE_A_LINE}")
    if column not in row:
        raise CorpusError(f"{where} has no field {_quoted([column])}; it has {_quoted(row)}. Name one with --column.")
    return row[column]


def _lenient_json(line: bytes, where: str) -> Any:
    """Also with bytes that are not UTF-8, halves of surrogate pairs and numbers of any length."""
    try:
        return json.loads(line.decode("utf-8", "surrogateescape"))
    except json.JSONDecodeError as error:
        what = f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"
        raise CorpusError(f"{where} is not JSON: {what}. {_ONE_A_LINE}") from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; lists within lists
        raise CorpusError(f"{where} cannot be read as JSON: {error}. Leave it out.") from error


_ONE_A_LINE = "JSON Lines has one object a line (from a file that is one list, make them: jq -c '.[]' OLD > NEW)."


# CSV.


def check_csv(span: Span) -> list[Span]:
    """The span, as it is; CorpusError, with the columns there are, if the one to read is not among them."""
    with opened(span) as file:
        _header(csv_rows(file, span), span)
    return [span]


def read_csv(span: Span) -> Iterator[Document]:
    """A document a row below the header, or a series."""
    return _documents(_csv_fields(span), span)


def _csv_fields(span: Span) -> Rows:
    with opened(span) as file:
        rows = csv_rows(file, span)
        header, place = _header(rows, span)
        for number, (line, row) in enumerate(rows, 1):
            where = f"{span.name}, row {number}"
            if len(row) != len(header):
                raise CorpusError(
                    f"{where} (line {line}) has {len(row)} fields, and the header has {len(header)}. A field with a "
                    "comma, a quote or a newline in it wants quotes around it."
                )
            yield where, row[place]


def _header(rows: Iterator[tuple[int, list[str]]], span: Span) -> tuple[list[str], int]:
    """The names of the columns, and the place of the one to read."""
    _, header = next(rows, (0, list[str]()))
    if span.reading.column is None:
        raise CorpusError(f"{span.name}: say which column to read, with --column NAME. It has {_quoted(header)}.")
    if span.reading.column not in header:
        raise _no_column(span, span.reading.column, header)
    return header, header.index(span.reading.column)


def csv_rows(file: io.BufferedReader, span: Span) -> Iterator[tuple[int, list[str]]]:
    """Each row of a CSV or TSV file that is not blank, and the number of its last line. CorpusError for bad quotes."""
    csv.field_size_limit(2**31 - 1)  # of the whole process, and 131,072 characters otherwise
    suffix = (span.member or span.path).lower().removesuffix(".gz").removesuffix(".zst")
    dialect = "excel-tab" if suffix.endswith(".tsv") else "excel"
    rows = csv.reader(_text_lines(file, span.name), dialect, strict=True)  # strict: a quote never closed is an error
    try:
        yield from ((rows.line_num, row) for row in rows if row)
    except csv.Error as error:
        raise CorpusError(
            f"{span.name}, line {rows.line_num}: {error}. A field with a quote in it wants quotes around it, and two "
            "for each inside."
        ) from error


def _text_lines(file: io.BufferedReader, name: str) -> Iterator[str]:
    for number, line in enumerate(file):
        yield (line if number else without_mark(line, name)).decode("utf-8", "surrogateescape")


# Parquet.


def cut_row_groups(span: Span) -> list[Span]:
    """Ranges of row groups; CorpusError, with the columns there are, if the one to read is none of them or no text."""
    require_plain(span)
    with _parquet(span) as file:
        _check_column(file, span)
        groups = file.metadata.num_row_groups
        if span.reading.series:
            return [replace(span, stop=groups)]
        sizes = [_column_bytes(file, group, span) for group in range(groups)]
    spans: list[Span] = []
    start = 0
    for stop in range(1, groups + 1):
        size = sum(sizes[start:stop])
        if size >= RANGE_BYTES or stop == groups:
            spans.append(replace(span, start=start, stop=stop, size=size))
            start = stop
    return spans


def read_parquet(span: Span) -> Iterator[Document]:
    """A document a row, or a series."""
    return _documents(_parquet_fields(span), span)


def _parquet_fields(span: Span) -> Rows:
    with _parquet(span) as file:
        rows = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        groups = range(span.start, len(rows) if span.stop is None else span.stop)
        size = sum(_column_bytes(file, group, span) for group in groups)
        batches = file.iter_batches(
            max(1, min(BATCH_ROWS, BATCH_BYTES * sum(rows[group] for group in groups) // max(1, size))),
            row_groups=list(groups),
            columns=[span.reading.column or DEFAULT_COLUMN],
            use_threads=False,
        )
        values = itertools.chain.from_iterable(_values(batch.column(0), span.reading.series) for batch in batches)
        for number, value in enumerate(values, sum(rows[: span.start]) + 1):
            yield f"{span.name}, row {number}", value


def _values(column: Any, series: bool) -> Iterable[Any]:
    """A column's values in Python: texts as bytes, since Parquet does not see to it that they are UTF-8."""
    import pyarrow

    return column.to_numpy(zero_copy_only=False) if series else column.cast(pyarrow.large_binary()).to_pylist()


def _check_column(file: Any, span: Span) -> None:
    import pyarrow

    column, schema = span.reading.column or DEFAULT_COLUMN, file.schema_arrow
    if column not in schema.names:
        raise _no_column(span, column, schema.names)
    kind = schema.field(column).type
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    if not span.reading.series and kind not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
        raise CorpusError(
            f"{span.name}: column {_quoted([column])} is not text but {kind}. Name another with --column."
        )


def _column_bytes(file: Any, group: int, span: Span) -> int:
    """The size of the column in a row group, uncompressed; of all that it is made of, where it holds lists."""
    found = file.metadata.row_group(group)
    columns = (found.column(place) for place in range(found.num_columns))
    column = span.reading.column or DEFAULT_COLUMN
    return sum(part.total_uncompressed_size for part in columns if f"{part.path_in_schema}.".startswith(f"{column}."))


@contextlib.contextmanager
def _parquet(span: Span) -> Generator[Any]:
    """The opened file, of which little is held in memory. CorpusError, naming it, if it is damaged."""
    require("Reading Parquet", "data", "pyarrow")
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        place = _remote(span.path) if is_url(span.path) else _local(span.path)
        with ParquetFile(**place, pre_buffer=False, page_checksum_verification=True) as file:
            yield file
    except FileNotFoundError as error:
        raise gone(span) from error
    except (pyarrow.ArrowException, OSError) as error:
        problem = " ".join(str(error).split()).rstrip(".")  # of several lines, some with a full stop
        raise CorpusError(
            f"{span.name} is damaged, or no Parquet file: {problem}. Fetch it again, or leave it out."
        ) from error


def _local(path: str) -> dict[str, Any]:
    return {"source": path, "memory_map": True}


def _remote(path: str) -> dict[str, Any]:
    """How a file elsewhere is opened: then each request is for a column of a row group, or REMOTE_BYTES of it."""
    if not is_remote(path):
        return {"source": open_url(path), "buffer_size": REMOTE_BYTES}
    return {"source": RemoteFile(path), "metadata": _remote_footer(path), "buffer_size": REMOTE_BYTES}


@functools.lru_cache(maxsize=8)
def _remote_footer(path: str) -> Any:
    """What a Parquet file on the Hub says of its row groups: up to megabytes, and wanted for each span of it."""
    from pyarrow.parquet import read_metadata

    return read_metadata(RemoteFile(path))


# Of all three.


def _documents(rows: Rows, span: Span) -> Iterator[Document]:
    if not span.reading.series:
        return (Document(_text(value, where), where) for where, value in rows)
    first = list(itertools.islice(rows, 1))
    rows = itertools.chain(first, rows)
    if first and isinstance(first[0][1], list | np.ndarray):
        return (Document(" ".join(_numbers(values, where)), where) for where, values in rows)
    return _series((_number(value, where) for where, value in rows), span.name)


def _text(value: Any, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if not isinstance(value, str):
        raise CorpusError(f"{where}: the field is not text but {value!r:.60}. Name another with --column.")
    return value


def _series(numbers: Iterator[str], name: str) -> Iterator[Document]:
    """One document with a number a line, in parts."""
    continues = False
    while part := list(itertools.islice(numbers, SERIES_ROWS)):
        yield Document("\n" * continues + "\n".join(part), name, continues)
        continues = True


def _numbers(values: Any, where: str) -> Iterator[str]:
    if not isinstance(values, list | np.ndarray):
        raise CorpusError(f"{where} holds {values!r:.60}, and the rows before it lists of numbers.")
    return (_number(value, where) for value in values)


def _number(value: Any, where: str) -> str:
    """As written in a CSV; the shortest that reads as the same number otherwise."""
    text = str(value).strip()
    if not _is_finite(text):
        found = "nothing" if value is None or not text else repr(text[:60])
        raise CorpusError(
            f"{where} holds {found}, and a series takes a number in each. Fill the gap, or leave the row out."
        )
    return text


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _no_column(span: Span, column: str, columns: Iterable[str]) -> CorpusError:
    return CorpusError(
        f"{span.name} has no column {_quoted([column])}; it has {_quoted(columns)}. Name one with --column."
    )


def _quoted(names: Iterable[Any]) -> str:
    """The first names, as a list for people."""
    listed = [repr(name) for name in itertools.islice(names, 21)]
    return ", ".join([*listed[:20], *["..."][: len(listed) > 20]]) or "none"
