"""Files of datasets on the Hugging Face Hub, read in place."""

import functools
import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scratchlab.corpus.hub import hub_errors
from scratchlab.errors import CorpusError, UnreachableError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

REMOTE = "hf://datasets/"
BUFFER_BYTES = 2**22
"""Of a file that is read from its start or from anywhere on: what one request fetches."""


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A file of one commit of a dataset. As text: `hf://datasets/USER/NAME@COMMIT/PATH`, as fsspec has it."""

    repository: str
    commit: str
    file: str

    @classmethod
    def parse(cls, path: str) -> "RemotePath":
        repository, _, rest = path.removeprefix(REMOTE).partition("@")
        commit, _, file = rest.partition("/")
        return cls(repository, commit, file)

    def __str__(self) -> str:
        return f"{REMOTE}{self.repository}@{self.commit}/{self.file}"

    @property
    def url(self) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repository, self.file, repo_type="dataset", revision=self.commit)


def is_remote(path: str) -> bool:
    """Whether a span's path is a file on the Hub."""
    return path.startswith(REMOTE)


def open_remote(path: str) -> io.BufferedReader:
    """The bytes of a file on the Hub, fetched by and by."""
    return io.BufferedReader(RemoteFile(path), BUFFER_BYTES)


class RemoteFile(io.RawIOBase):
    """A file on the Hub. Reading n bytes is one request for those; whatever the network does becomes a CorpusError."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._url = RemotePath.parse(path).url
        self._position = 0

    @property
    def size(self) -> int:
        return _size(self._path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        self._position = (self.size if start is None else start) + offset
        return self._position

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        view = memoryview(buffer)
        stop = min(self._position + len(view), self.size)
        if stop <= self._position:
            return 0
        data = _fetch(self._path, self._url, self._position, stop)
        view[: len(data)] = data
        self._position = stop
        return len(data)


@functools.lru_cache(maxsize=1024)
def _size(path: str) -> int:
    """In bytes; what a commit holds never changes."""
    _, reach = _request(path, RemotePath.parse(path).url, 0, 1)
    return int(reach.rpartition("/")[2])


def _fetch(path: str, url: str, start: int, stop: int) -> bytes:
    data, _ = _request(path, url, start, stop)
    if len(data) != stop - start:
        raise UnreachableError(
            f"{path}: bytes {start} to {stop} were asked for, and {len(data)} came. Try again later."
        )
    return data


def _request(path: str, url: str, start: int, stop: int) -> tuple[bytes, str]:
    """A range of a file, and where in it that is. The client tries a few times if the network fails for a moment."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    with hub_errors(path):
        response = http_backoff("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
        hf_raise_for_status(response)
    if response.status_code != 206:
        raise CorpusError(f"{path} cannot be read in place: {constants.ENDPOINT} takes no notice of ranges.")
    return response.content, response.headers["Content-Range"]
