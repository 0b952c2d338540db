"""Sources at URLs: what is read of them is what is read of the same files here."""

import gzip
import io
import sys
from collections import Counter
from pathlib import Path

import fsspec
import pyarrow
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import parquet

from scratchlab.corpus.sources.find import Source, list_source, read_documents
from scratchlab.errors import CorpusError, MissingExtraError, UnreachableError, UsageError


@pytest.fixture
def put(tmp_path):
    """Puts the files below `tmp_path` where URLs of memory lead; gives the URL of the folder."""

    def put_files() -> str:
        fsspec.filesystem("memory").put(str(tmp_path), f"/{tmp_path.name}", recursive=True)
        return f"memory://{tmp_path.name}"

    yield put_files
    memory = fsspec.filesystem("memory")
    if memory.exists(f"/{tmp_path.name}"):
        memory.rm(f"/{tmp_path.name}", recursive=True)


def read(location: str) -> list[tuple[str, bool, str]]:
    """Texts, whether they go on from those before, and the names of their files."""
    return [(found.text, found.continues, Path(found.name).name) for found in read_documents(location)]


def test_a_folder_its_files_and_a_glob(write, tmp_path, put):
    write("mine/a.txt", "one\r\n")
    write("mine/deeper/b.txt.gz", gzip.compress("zwei ä".encode()))
    write("mine/c.md", "three")
    write("mine/photo.jpg", b"...")
    write("mine/.hidden/d.txt", "no")
    url = put()
    assert read(f"{url}/mine") == read(f"{tmp_path}/mine")
    assert len(read(f"{url}/mine")) == 3
    assert list_source(Source(f"{url}/mine")).passed_over == Counter({".jpg": 1, ".txt": 1})
    for location in ("mine/.hidden", "mine/c.md", "mine/photo.jpg", "mine/*.md", "mine/**/*.gz"):
        assert read(f"{url}/{location}") == read(f"{tmp_path}/{location}")


def test_a_long_text_comes_in_the_same_parts(write, tmp_path, put):
    write("long.txt", "".join(f"{number} lines of a long text\n" for number in range(900_000)))
    url = put()
    assert read(f"{url}/long.txt") == read(f"{tmp_path}/long.txt")
    assert len(read(f"{url}/long.txt")) > 1
    file = fsspec.filesystem("memory").store[f"/{tmp_path.name}/long.txt"]
    next(read_documents(f"{url}/long.txt"))
    assert file.tell() < file.size, "it is not held in memory as a whole"


def test_tables_are_read_as_they_are_here(write, tmp_path, put):
    table = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": ["one", "two", "three"]}), table, row_group_size=2)
    write("a.parquet", table.getvalue())
    write("a.jsonl", '{"text": "one"}\n{"text": "two"}\n')
    url = put()
    for name in ("a.parquet", "a.jsonl"):
        assert [text for text, *_ in read(f"{url}/{name}")] == [text for text, *_ in read(f"{tmp_path}/{name}")]
    assert len(read(f"{url}/a.parquet")) == 3


def test_a_file_that_changed_is_another(write, tmp_path, put):
    write("a.txt", "one")
    url = put()
    [before] = list_source(Source(f"{url}/a.txt")).spans
    fsspec.filesystem("memory").pipe(f"/{tmp_path.name}/a.txt", b"two")
    [after] = list_source(Source(f"{url}/a.txt")).spans
    assert before != after


def test_what_is_not_there_is_said(write, put):
    write("photo.jpg", b"...")
    url = put()
    with pytest.raises(CorpusError, match=f"There is no file at {url}/nothing"):
        list_source(Source(f"{url}/nothing"))
    with pytest.raises(CorpusError, match=r"holds no text files; found there: 1 .jpg"):
        list_source(Source(url))
    with pytest.raises(UsageError, match="Protocol not known: s4"):
        list_source(Source("s4://bucket/mine"))


def test_what_is_read_in_place_must_be_fetched(write, put):
    write("train.npy", b"...")
    write("all.zip", b"...")
    url = put()
    for name in ("train.npy", "all.zip"):
        with pytest.raises(CorpusError, match=f"{name} is of a format that is read in place. Fetch it"):
            list_source(Source(f"{url}/{name}"))


def test_a_text_that_went_away_is_named(write, tmp_path, put):
    write("a.txt", "one")
    url = put()
    documents = read_documents(f"{url}/a.txt")
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}/a.txt")
    with pytest.raises(CorpusError, match=r"a\.txt"):
        list(documents)


@pytest.mark.parametrize("package", ["fsspec.core", "s3fs"])
def test_a_package_that_is_missing_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"\[scale\]|s3fs"):
        list_source(Source("s3://bucket/mine"))


# Services that fail.


class _Answer(Exception):  # noqa: N818
    """What a package raises for an answer of its service: aiohttp's has a status, botocore's a response."""

    def __init__(self, status: int, aws: bool = False) -> None:
        super().__init__(f"the service said {status}")
        if aws:
            self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}
        else:
            self.status = status


def not_found(cause: Exception) -> FileNotFoundError:
    error = FileNotFoundError("a.txt")
    error.__cause__ = cause
    return error


class _Failing(MemoryFileSystem):
    """Memory whose files fail, or end after 100 bytes, and which is down if it is told so."""

    protocol = "failing"
    error: Exception | None = None
    down: Exception | None = None

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("failing://", "memory://"))

    def info(self, path, **kwargs):
        if self.down:
            raise self.down
        return super().info(path, **kwargs)

    def _open(self, path, mode="rb", **kwargs):
        file = super()._open(path, mode, **kwargs)
        return _FailingFile(file, self.error) if mode == "rb" else file


class _FailingFile(io.BytesIO):
    def __init__(self, file: io.BytesIO, error: Exception | None) -> None:
        super().__init__(file.getvalue())
        self.size, self._error = len(file.getvalue()), error

    def read(self, size: int | None = -1) -> bytes:
        if self._error:
            raise self._error
        return super().read(100 if size is None or size < 0 else min(size, 100))


@pytest.fixture
def failing(monkeypatch):
    fsspec.register_implementation("failing", _Failing, clobber=True)
    memory = fsspec.filesystem("memory")
    memory.pipe("/failing/a.txt", b"words " * 100)
    memory.pipe("/failing/a.txt.gz", gzip.compress(bytes(range(256)) * 100))
    table = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": ["words"] * 100}), table)
    memory.pipe("/failing/a.parquet", table.getvalue())
    yield lambda **errors: [monkeypatch.setattr(_Failing, name, error) for name, error in errors.items()]
    memory.rm("/failing", recursive=True)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ConnectionResetError(104, "reset by peer"), UnreachableError, r"could not be reached: \[Errno 104\] reset"),
        (TimeoutError(), UnreachableError, "could not be reached: TimeoutError. Check the network, and run the same"),
        (RuntimeError("Session is\nclosed"), UnreachableError, "could not be reached: Session is closed. Check"),
        (_Answer(503), UnreachableError, "could not be reached: the service said 503. Check"),
        (_Answer(500, aws=True), UnreachableError, "could not be reached: the service said 500. Check"),
        (not_found(TimeoutError()), UnreachableError, "could not be reached: TimeoutError. Check"),
        (_Answer(403), CorpusError, "could not be read: _Answer: the service said 403."),
        (PermissionError("Forbidden"), CorpusError, "could not be read: PermissionError: Forbidden."),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.parquet"])
def test_what_a_service_raises_is_said_and_whether_it_may_pass(name, error, kind, message, failing):
    failing(error=error)
    with pytest.raises(kind, match=f"failing:/+failing/{name} {message}") as caught:
        list(read_documents(f"failing://failing/{name}"))
    assert isinstance(caught.value, UnreachableError) == (kind is UnreachableError)
    failing(down=error)
    with pytest.raises(kind, match=f"failing://failing/{name} {message}") as caught:
        list_source(Source(f"failing://failing/{name}"))
    assert isinstance(caught.value, UnreachableError) == (kind is UnreachableError)


@pytest.mark.parametrize("error", [FileNotFoundError("x"), _Answer(404), not_found(_Answer(404, aws=True))])
def test_a_file_that_went_away_is_not_an_outage(error, failing):
    failing(error=error)
    with pytest.raises(CorpusError, match=r"a\.txt is no longer there") as caught:
        list(read_documents("failing://failing/a.txt"))
    assert not isinstance(caught.value, UnreachableError)
    failing(down=error)
    with pytest.raises(CorpusError, match=r"There is no file at failing://failing/a\.txt"):
        list_source(Source("failing://failing/a.txt"))


def test_text_that_ends_too_soon_is_not_taken_for_the_whole(failing):
    for name, came in [("a.txt", "of its 600 bytes, 100 came"), ("a.parquet", "of its [0-9,]+ bytes, [0-9,]+ came")]:
        with pytest.raises(UnreachableError, match=f"{name}: {came}"):
            list(read_documents(f"failing://failing/{name}"))
