"""Files that are not on this machine: those at a URL (s3://, gs://, https://, ...), by fsspec.

What a service wants to know (keys, regions, endpoints) is said to fsspec and its packages in their own ways, such as
the variables AWS_PROFILE or FSSPEC_S3_ENDPOINT_URL.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, cast

from scratchlab.errors import CorpusError, MissingExtraError, UsageError

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
    """The file at `url`, the files below it, or those that fit it as a glob: sorted by path. CorpusError for none."""
    system, path = file_system(url)
    try:
        found, folder = _find(system, path)
    except Exception as error:  # the package for each service raises its own
        raise CorpusError(f"{url} could not be read: {type(error).__name__}: {error}.") from error
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
    """Files with what is known of them, and what their paths begin with if a folder was asked for."""
    if system.isfile(path):
        return {path: system.info(path)}, None
    if system.isdir(path):
        return system.find(path, detail=True), f"{path}/"
    found = system.glob(path, detail=True)
    return {name: info for name, info in found.items() if info["type"] == "file"}, None


def open_url(url: str) -> BinaryIO:
    """The bytes of a file, from any place in it. FileNotFoundError if there is none."""
    system, path = file_system(url)
    return cast(BinaryIO, system.open(path, "rb", block_size=AHEAD_BYTES))


def file_system(url: str) -> tuple[Any, str]:
    """What speaks to the service of a URL, and the path there.

    MissingExtraError if a package for it is missing, UsageError for a kind of URL that nobody knows.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise MissingExtraError("Reading URLs needs more packages: pip install 'scratchlab[scale]'") from None
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
