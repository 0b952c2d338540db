"""The bytes of a span: of a plain file, of one that is compressed, or of a file in a zip archive."""

import contextlib
import gzip
import zipfile
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import IO, BinaryIO, cast

from scratchlab.corpus.sources.documents import Span
from scratchlab.errors import CorpusError, MissingExtraError

COMPRESSED = (".gz", ".zst")


def is_plain(span: Span) -> bool:
    """Whether ranges of the span's file can be read without what comes before them."""
    return span.member is None and Path(span.path).suffix.lower() not in COMPRESSED


@contextlib.contextmanager
def opened(span: Span) -> Generator[BinaryIO]:
    """The bytes of the span's whole file, uncompressed. CorpusError, naming it, if they cannot be read to the end."""
    try:
        with _open(span) as stream:
            yield cast(BinaryIO, stream)
    except FileNotFoundError as error:
        raise CorpusError(f"{span.name} is no longer there: it was when the sources were listed.") from error
    except (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile) as error:
        raise CorpusError(f"{span.name} is damaged or was cut off: {error}. Fetch it again, or leave it out.") from error
    except OSError as error:
        raise CorpusError(f"{span.name} could not be read: {error.strerror or error}.") from error


@contextlib.contextmanager
def _open(span: Span) -> Generator[IO[bytes]]:
    if span.member is not None:
        with zipfile.ZipFile(span.path) as archive, archive.open(span.member) as stream:
            yield stream
        return
    match Path(span.path).suffix.lower():
        case ".gz":
            with gzip.open(span.path) as stream:
                yield stream
        case ".zst":
            with open_zstandard(span.path) as stream:
                yield stream
        case _:
            with open(span.path, "rb") as stream:
                yield stream


def open_zstandard(path: str) -> IO[bytes]:
    """A .zst file as bytes; unlike some readers, pyarrow's notices one that was cut off."""
    try:
        import pyarrow
    except ImportError:
        raise MissingExtraError("Reading .zst needs more packages: pip install 'scratchlab[data]'") from None
    return pyarrow.input_stream(path, compression="zstd")
