"""Reading text: order, newlines, and every refusal names the file."""

import os
from pathlib import Path

import pytest

from scratchlab.corpus import pythondocs
from scratchlab.corpus.sources import read_documents
from scratchlab.errors import CorpusError


def refusal(*sources: str) -> str:
    with pytest.raises(CorpusError) as caught:
        list(read_documents(sources))
    return str(caught.value)


def test_a_folder_is_read_in_the_order_of_posix_paths(write, tmp_path):
    for name in ("b.txt", "a/z.md", "a.md", "B.TEXT", "a/deep/er.markdown"):
        write(f"mine/{name}", name)
    write("mine/.hidden.txt", "no")
    write("mine/.git/x.txt", "no")
    write("mine/picture.png", b"\x89PNG\0")
    names = [
        Path(document.source).relative_to(tmp_path / "mine").as_posix()
        for document in read_documents([f"{tmp_path}/mine"])
    ]
    assert names == sorted(names) == ["B.TEXT", "a.md", "a/deep/er.markdown", "a/z.md", "b.txt"]


def test_sources_come_in_the_order_given_and_a_file_may_have_any_extension(write):
    code, notes = write("code.py", "print()"), write("notes", "hello")
    assert [document.text for document in read_documents([notes, code, notes])] == ["hello", "print()", "hello"]


def test_byte_order_mark_and_foreign_newlines_go(write):
    path = write("dos.txt", b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert [document.text for document in read_documents([path])] == ["one\ntwo\nthree\n"]


def test_binary_names_the_file_and_the_position(write):
    path = write("image.txt", b"abc\0def")
    assert path in refusal(path)
    assert "NUL byte at position 3" in refusal(path)


@pytest.mark.parametrize(("before", "position"), [(b"", 4), (b"\xef\xbb\xbf", 7)])
def test_undecodable_names_the_file_the_byte_and_its_position_in_the_file(write, before, position):
    path = write("latin.txt", before + "caf\xe9 noir".encode("latin-1").replace(b"caf", b"cafe"))
    assert path in refusal(path)
    assert f"byte 0xe9 at position {position}" in refusal(path)


def test_utf16_is_named_as_such(write):
    path = write("word.txt", "hello".encode("utf-16"))
    assert path in refusal(path)
    assert "iconv -f UTF-16" in refusal(path)


def test_a_missing_path_suggests_near_names(write):
    path = write("novel.txt", "x")
    message = refusal(path.replace("novel", "novle"))
    assert "novle.txt does not exist" in message
    assert "Did you mean novel.txt?" in message
    assert "python-docs" in refusal("python_docs")


def test_a_folder_without_text_lists_what_it_holds(write, tmp_path):
    write("pictures/a.png", b"x")
    write("pictures/deep/b.PNG", b"x")
    write("pictures/c.pdf", b"x")
    message = refusal(f"{tmp_path}/pictures")
    assert f"{tmp_path}/pictures holds no text files" in message
    assert "2 .png, 1 .pdf" in message
    (tmp_path / "empty").mkdir()
    assert "no files at all" in refusal(f"{tmp_path}/empty")


def test_a_pipe_is_refused_because_it_cannot_be_read_twice(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in refusal(f"{tmp_path}/pipe")


def test_an_unreadable_file_is_named(write, monkeypatch):
    path = write("secret.txt", "x")

    def denied(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)  # a test that runs as root may read anything
    assert refusal(path) == f"{path} could not be read: Permission denied."


def test_a_file_name_that_is_not_utf8_still_gives_a_printable_source(tmp_path):
    path = os.fsencode(tmp_path) + b"/na\xefve.txt"
    try:
        Path(os.fsdecode(path)).write_text("hello")
    except OSError:
        pytest.skip("this file system allows only UTF-8 names")
    [document] = read_documents([os.fsdecode(path)])
    assert document.source.endswith("na\ufffdve.txt")


def test_a_path_named_python_docs_comes_before_the_built_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("python-docs").write_text("my own")
    assert [document.text for document in read_documents(["python-docs"])] == ["my own"]


def test_python_docs_are_a_few_megabytes_of_text_in_a_fixed_order():
    documents = list(read_documents(["python-docs"]))
    names = [document.source for document in documents]
    topics = [name for name in names if name.startswith("python-docs/topics/")]
    modules = [name for name in names if name.startswith("python-docs/modules/")]
    assert names == sorted(topics) + sorted(modules)
    assert {"python-docs/topics/assert", "python-docs/modules/json", "python-docs/modules/json.decoder"} < set(names)
    assert not any(".test" in name or "idlelib" in name or "encodings" in name for name in names)
    assert 1e6 < sum(len(document.text) for document in documents) < 1e7


def test_module_docs_read_like_help():
    source = b'''"""A module."""
if True:
    class Lamp(Light):
        """Gives light."""
        def __init__(self, watts: int = 40) -> None:
            """Not lit at first.

                More."""
            def inner():
                """Not part of the interface."""
        @property
        def lit(self): "Whether it shines."
        def undocumented(self): pass
async def fetch(*urls, timeout=1.5): "Get them."
'''
    assert pythondocs.module_docs("lamps", source) == (
        "lamps\n=====\n\nA module.\n\n"
        "class lamps.Lamp(Light)\n    Gives light.\n\n"
        "lamps.Lamp.__init__(self, watts: int=40) -> None\n    Not lit at first.\n\n    More.\n\n"
        "lamps.Lamp.lit\n    Whether it shines.\n\n"
        "async lamps.fetch(*urls, timeout=1.5)\n    Get them.\n"
    )
    assert pythondocs.module_docs("bare", b"x = 1\n") == ""
