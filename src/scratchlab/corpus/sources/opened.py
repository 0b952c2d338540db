"""The bytes of a span: of a plain file, of one that is compressed, or of a file in a zip archive."""

import contextlib
import functools
import gzip
import io
import os
import zipfile
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

from scratchlab.corpus.sources.documents import Span
from scratchlab.corpus.sources.remote import is_remote, open_remote
from scratchlab.corpus.sources.urls import is_url, open_url
from scratchlab.errors import CorpusError, UnreachableError
from scratchlab.extras import require
from scratchlab.files import failed_outside

COMPRESSED = (".gz", ".zst")
BUFFER_BYTES = 2**18


def is_plain(span: Span) -> bool:
    """Whether ranges of the span's file can be read without what comes before them."""
    return span.member is None and Path(span.path).suffix.lower() not in COMPRESSED


def require_plain(span: Span) -> None:
    """CorpusError for a span of a format that is read from anywhere in its file, if that is compressed."""
    if not is_plain(span):
        raise CorpusError(f"{span.name} is of a format that is read in place. Unpack it first: gunzip or zstd -d.")


@contextlib.contextmanager
def opened(span: Span) -> Generator[io.BufferedReader]:
    """The bytes of the span's whole file, uncompressed. CorpusError, naming it, if they cannot be read to the end.

    It is an UnreachableError where it is the disk that fails, and not the file: what was done by then is kept.
    """
    try:
        with _open(span) as stream:
            yield stream
    except FileNotFoundError as error:
        raise gone(span) from error
    except (EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise CorpusError(_broken(span, error)) from error
    except OSError as error:
        raise _unreadable(span, error) from error


def _unreadable(span: Span, error: OSError) -> CorpusError:
    if not error.errno:  # what gzip and pyarrow say of contents
        return CorpusError(_broken(span, error))
    problem = f"{span.name} could not be read: {os.strerror(error.errno)}."
    if failed_outside(error):
        return UnreachableError(f"{problem} Nothing done earlier was lost: once it can be, run the same command again.")
    return CorpusError(problem)


def gone(span: Span) -> CorpusError:
    """The error for a file that was there when the sources were listed."""
    return CorpusError(f"{span.name} is no longer there: it was when the sources were listed.")


def _broken(span: Span, error: Exception) -> str:
    return f"{span.name} cannot be unpacked: {error}. If it is damaged or was cut off, fetch it again, or leave it out."


def _open(span: Span) -> io.BufferedReader:
    if span.member is not None:
        return _buffered(_open_member(span, span.member))
    suffix = Path(span.path).suffix.lower()
    if is_remote(span.path):
        return _unpacked(open_remote(span.path), suffix)
    if is_url(span.path):
        return _unpacked(_buffered(open_url(span.path)), suffix)
    if suffix in COMPRESSED and os.path.getsize(span.path) == 0:
        raise EOFError("it is empty")  # which the readers take for a text of no bytes
    match suffix:
        case ".gz":
            return _buffered(gzip.open(span.path))
        case ".zst":
            return _buffered(open_zstandard(span.path))
        case _:
            return _buffered(io.FileIO(span.path))


def _unpacked(stream: io.BufferedReader, suffix: str) -> io.BufferedReader:
    match suffix:
        case ".gz":
            return _buffered(gzip.GzipFile(fileobj=stream))
        case ".zst":
            return _buffered(open_zstandard(stream))
        case _:
            return stream


def _buffered(stream: Any) -> io.BufferedReader:
    """Lines come several times faster, and from pyarrow's streams they come at all."""
    return io.BufferedReader(cast(io.RawIOBase, stream), BUFFER_BYTES)


def _open_member(span: Span, member: str) -> Any:
    try:
        return _archive(span.path, span.modified, os.getpid()).open(member)
    except KeyError as error:
        raise gone(span) from error
    except RuntimeError as error:  # encrypted, or compressed by a method that Python lacks
        raise CorpusError(
            f"{span.name} cannot be unpacked: {error}. Unpack the archive and give its folder."
        ) from error


@functools.lru_cache(maxsize=1)
def _archive(path: str, modified: int, process: int) -> zipfile.ZipFile:
    """Stays open, since each opening reads the list of all its files; in each process, as they share no position."""
    return zipfile.ZipFile(path)


def open_zstandard(source: str | io.BufferedReader) -> Any:
    """A .zst file, by its path or opened, as bytes; unlike some readers, pyarrow's notices one that was cut off."""
    require("Reading .zst", "data", "pyarrow")
    import pyarrow

    return pyarrow.input_stream(source, compression="zstd")
