"""Files that are not on this machine: those at a URL (s3://, gs://, https://, ...), by fsspec.

What a service wants to know (keys, regions, endpoints) is said to fsspec and its packages in their own ways, such as
the variables AWS_PROFILE or FSSPEC_S3_ENDPOINT_URL.
"""

import contextlib
import glob
import io
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from scratchlab.corpus.hub import in_words
from scratchlab.errors import CorpusError, MissingExtraError, ScratchlabError, UnreachableError, UsageError
from scratchlab.extras import missing

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

AHEAD_BYTES = 2**22
"""So much is asked for at once of a file that is read on and on: a request takes as long as many kilobytes do."""


@dataclass(frozen=True, slots=True)
class UrlFile:
    """A file at a URL."""

    url: str
    below: str | None
    """Its path below the folder that was asked for; None if the file itself was, or a glob."""
    size: int
    modified: int
    """When it was last changed, in nanoseconds; 0 where the service does not say."""


def is_url(path: str) -> bool:
    return "://" in path


def files_at(url: str) -> list[UrlFile]:
    """The file at `url`, the files below it, or those that fit it as a glob: sorted by path.

    CorpusError for none, UnreachableError if its service cannot be asked.
    """
    system, path = file_system(url)
    try:
        with _service_errors(url):
            found, folder = _find(system, path)
    except FileNotFoundError:
        found, folder = {}, None
    if not found:
        raise CorpusError(f"There is no file at {url}.")
    return [
        UrlFile(
            system.unstrip_protocol(name),
            None if folder is None else name.removeprefix(folder),
            info["size"] or 0,
            _modified(info),
        )
        for name, info in sorted(found.items())
    ]


def _find(system: Any, path: str) -> tuple[Mapping[str, Mapping[str, Any]], str | None]:
    """Files with what is known of them, and what their paths begin with if a folder was asked for.

    Not by `isfile` and `isdir`: to them what cannot be reached is neither.
    """
    try:
        info = system.info(path)
    except FileNotFoundError as error:
        if not glob.has_magic(path) or _may_pass(error):
            raise
        found = system.glob(path, detail=True)
        return {name: info for name, info in found.items() if info["type"] == "file"}, None
    if info["type"] == "file":
        return {path: info}, None
    return system.find(path, detail=True), f"{path}/"


def open_url(url: str) -> io.RawIOBase:
    """The bytes of a file, from any place in it. Here and in reading it, FileNotFoundError if there is none.

    UnreachableError for what may work another time, CorpusError for what else the service says.
    """
    system, path = file_system(url)
    with _service_errors(url):
        return _Stream(url, system.open(path, "rb", block_size=AHEAD_BYTES))


class _Stream(io.RawIOBase):
    """A file that was opened by fsspec. The package for each service raises errors of its own; this one does not."""

    def __init__(self, url: str, file: Any) -> None:
        self._url = url
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _service_errors(self._url):
            return self._file.seek(offset, whence)

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        with _service_errors(self._url):
            data = self._file.read(len(view))
        size = self._file.size  # None where the service does not say
        if len(data) < len(view) and size is not None and self.tell() < size:
            raise UnreachableError(f"{self._url}: of its {size:,} bytes, {self.tell():,} came. {_AGAIN}")
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


_AGAIN = "Check the network, and run the same command again: it goes on where it stopped."


@contextlib.contextmanager
def _service_errors(url: str) -> Generator[None]:
    """Turn what a service's package raises about `url` into one of our errors, or into a plain FileNotFoundError."""
    try:
        yield
    except ScratchlabError:
        raise
    except Exception as error:
        if _may_pass(error):
            raise UnreachableError(f"{url} could not be reached: {in_words(_cause(error))}. {_AGAIN}") from error
        if isinstance(error, FileNotFoundError) or _status(error) in (404, 410):
            raise FileNotFoundError(url) from error
        raise CorpusError(f"{url} could not be read: {type(error).__name__}: {in_words(error)}.") from error


def _may_pass(error: Exception) -> bool:
    """Whether what failed may work the next time, without anybody's doing: all but what is known not to."""
    cause = _cause(error)
    if status := _status(cause):
        return status in (408, 429) or status >= 500
    return not isinstance(cause, FileNotFoundError | PermissionError | ValueError | NotImplementedError)


def _cause(error: Exception) -> BaseException:
    """What kept fsspec from knowing a file: to its HTTP, all there is not is "not found"."""
    return error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error


def _status(error: BaseException) -> int | None:
    """The HTTP status that a service answered with, as aiohttp says it, or botocore."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None


def file_system(url: str) -> tuple[Any, str]:
    """What speaks to the service of a URL, and the path there.

    MissingExtraError if a package for it is missing, UsageError for a kind of URL that nobody knows.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise missing("Reading URLs", "scale") from None
    try:
        return url_to_fs(url)
    except ImportError as error:  # fsspec's own message names the package
        raise MissingExtraError(f"{url} needs more packages: {error}.") from None
    except ValueError as error:
        raise UsageError(f"{url}: {error}. Known are s3://, gs://, https:// and others: see fsspec.") from None


def _modified(info: Mapping[str, Any]) -> int:
    """Services say it under different names."""
    for name in ("mtime", "LastModified", "last_modified", "created"):
        match info.get(name):
            case datetime() as moment:
                return int(moment.timestamp() * 1e9)
            case int() | float() as seconds:
                return int(seconds * 1e9)
            case _:
                pass
    return 0
