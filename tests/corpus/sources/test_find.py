"""Finding text: order, what is passed over, and every refusal names what was given."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from reads import listing, refusal, texts

from scratchlab.corpus.sources.documents import Reading
from scratchlab.corpus.sources.find import Source, list_source, read_documents
from scratchlab.errors import CorpusError

Write = Callable[[str, str | bytes], str]


def names(location: str | Path, reading: Reading | None = None) -> list[str]:
    """The files that are found, relative to the folder that `location` is."""
    return [os.path.relpath(span.path, location) for span in listing(location, reading).spans]


def test_a_folder_is_read_in_the_order_of_posix_paths(write: Write, tmp_path: Path):
    for name in ("b.txt", "a/z.md", "a.md", "B.TEXT", "a/deep/er.markdown"):
        write(f"mine/{name}", name)
    found = names(tmp_path / "mine")
    assert found == sorted(found) == ["B.TEXT", "a.md", "a/deep/er.markdown", "a/z.md", "b.txt"]
    assert texts(tmp_path / "mine") == found


def test_what_a_folder_holds_else_is_counted(write: Write, tmp_path: Path):
    known = ["a.txt", "b.html", "c.jsonl", "d.md.gz", "e.jsonl.zst"]
    others = [".hidden.txt", ".git/x.txt", ".git/y.txt", "a.png", "b.PNG", "notes", "t.csv", "z.zip", "train.bin"]
    for name in (*known, *others):
        write(f"mine/{name}", "x")
    Path(tmp_path, "elsewhere").mkdir()
    Path(tmp_path, "mine/link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    found = listing(tmp_path / "mine")
    assert [os.path.basename(span.path) for span in found.spans] == known
    assert [span.format for span in found.spans] == ["text", "html", "jsonl", "text", "jsonl"]
    assert found.passed_over == {
        "hidden": 2,
        ".png": 2,
        "no extension": 1,
        ".csv": 1,
        ".zip": 1,
        ".bin": 1,
        "link to a folder": 1,
    }


def test_csv_is_looked_for_only_with_a_column(write: Write, tmp_path: Path):
    write("mine/a.csv", "body\nrow\n")
    write("mine/b.txt", "text")
    assert names(tmp_path / "mine") == ["b.txt"]
    assert names(tmp_path / "mine", Reading(column="body")) == ["a.csv", "b.txt"]


def test_a_single_file_may_have_any_extension(write: Write):
    assert texts(write("code.py", "print()")) == ["print()"]
    assert texts(write("notes", "hello")) == ["hello"]
    assert texts(write("notes.gz.old", "hello")) == ["hello"]


def test_a_glob_is_read_in_order(write: Write, tmp_path: Path):
    for name in ("b/2.txt", "b/1.txt", "a/3.txt", "a/deep/4.txt", "a/x.md", "a/.5.txt"):
        write(f"mine/{name}", name)
    assert texts(f"{tmp_path}/mine/*/*.txt") == ["a/3.txt", "b/1.txt", "b/2.txt"]
    assert texts(f"{tmp_path}/mine/**/*.txt") == ["a/3.txt", "a/deep/4.txt", "b/1.txt", "b/2.txt"]
    assert texts(f"{tmp_path}/mine/[a]/*") == ["a/3.txt", "a/x.md"]
    assert refusal(f"{tmp_path}/mine/*.jsonl") == f"No file fits {tmp_path}/mine/*.jsonl."


def test_a_file_whose_name_looks_like_a_glob_is_that_file(write: Write):
    write("1.txt", "not this")
    assert texts(write("[1].txt", "this")) == ["this"]
    assert texts(write("*.txt", "a star")) == ["a star"]


def test_spans_carry_the_reading_and_can_be_pickled(write: Write):
    reading = Reading(column="body", series=True, separator=3)
    [span] = listing(write("a.txt", "x"), reading).spans
    assert span.reading == reading
    assert pickle.loads(pickle.dumps(span)) == span
    assert (span.size, span.modified) == (1, os.stat(span.path).st_mtime_ns)


def test_a_blog_is_its_posts(write: Write, tmp_path: Path):
    write("site/_posts/2024-01-31-hello.md", "---\ntitle: Hello\n---\nSome *words*, [here](https://example.org).\n")
    write("site/_posts/2024-02-01-later.md", "---\npublished: false\n---\nNot yet.\n")
    write("site/_posts/notes.md", "Not a post.")
    found = list_source(Source(str(tmp_path / "site"), blog=True))
    assert found.passed_over == {"not named like 2024-01-31-title.md": 1}
    from scratchlab.corpus.sources.formats import read_span

    first, second = [document for span in found.spans for document in read_span(span)]
    assert first.text == "Hello\n\nSome words, here."
    assert first.removed["link"] == ("https://example.org",)
    assert (second.text, second.removed) == ("", {"unpublished": ("Later\n\nNot yet.",)})


# Refusals.


def test_a_missing_path_suggests_near_names(write: Write):
    path = write("novel.txt", "x")
    message = refusal(path.replace("novel", "novle"))
    assert "novle.txt does not exist" in message
    assert "Did you mean novel.txt?" in message
    assert "python-docs" in refusal("python_docs")


def test_a_folder_without_text_lists_what_it_holds(write: Write, tmp_path: Path):
    write("pictures/a.png", b"x")
    write("pictures/deep/b.PNG", b"x")
    write("pictures/c.pdf", b"x")
    message = refusal(f"{tmp_path}/pictures")
    assert f"{tmp_path}/pictures holds no text files" in message
    assert "found there: 2 .png, 1 .pdf." in message
    assert "glob" in message
    (tmp_path / "empty").mkdir()
    assert "no files at all" in refusal(f"{tmp_path}/empty")


def test_a_pipe_is_refused_because_it_cannot_be_read_twice(write: Write, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in refusal(f"{tmp_path}/pipe")
    write("mine/a.txt", "x")
    os.mkfifo(tmp_path / "mine/b.txt")
    with pytest.raises(CorpusError, match=r"mine/b\.txt is neither a file nor a folder"):
        listing(tmp_path / "mine")


def test_a_link_to_nothing_is_named(write: Write, tmp_path: Path):
    write("mine/a.txt", "x")
    Path(tmp_path, "mine/b.txt").symlink_to("nowhere.txt")
    with pytest.raises(CorpusError, match=r"mine/b\.txt could not be read: No such file"):
        listing(tmp_path / "mine")


def test_a_folder_that_cannot_be_looked_into_is_named(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write("mine/deep/a.txt", "x")
    scan = os.scandir

    def denied(path: str) -> object:
        if os.fspath(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr("os.scandir", denied)  # a test that runs as root may look anywhere
    with pytest.raises(CorpusError, match="mine/deep could not be read: Permission denied"):
        listing(tmp_path / "mine")


def test_a_file_name_that_is_not_utf8_still_gives_a_printable_name(tmp_path: Path):
    path = os.fsencode(tmp_path) + b"/na\xefve.txt"
    try:
        Path(os.fsdecode(path)).write_text("hello")
    except OSError:
        pytest.skip("this file system allows only UTF-8 names")
    [document] = read_documents(os.fsdecode(path))
    assert document.name.endswith("na\ufffdve.txt")
    assert texts(tmp_path) == ["hello"]


def test_a_path_named_python_docs_comes_before_the_built_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("python-docs").write_text("my own")
    assert texts("python-docs") == ["my own"]
