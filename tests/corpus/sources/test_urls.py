"""Sources at URLs: what is read of them is what is read of the same files here."""

import gzip
import sys
from collections import Counter
from pathlib import Path

import fsspec
import pytest

from scratchlab.corpus.sources.find import Source, list_source, read_documents
from scratchlab.errors import CorpusError, MissingExtraError, UsageError


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
    with pytest.raises(MissingExtraError, match=r"scratchlab\[scale\]|s3fs"):
        list_source(Source("s3://bucket/mine"))
