"""Reading spans: text and HTML, compressed or in an archive, long or damaged."""

import gzip
import itertools
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reads import listing, read, refusal, texts

from scratchlab.corpus.sources import documents, tables
from scratchlab.corpus.sources.documents import Span
from scratchlab.corpus.sources.formats import format_of, read_span
from scratchlab.errors import CorpusError, MissingExtraError

Write = Callable[[str, str | bytes], str]


def zstd(data: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKERS = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_the_name_says_the_format():
    names = {
        "a.txt": "text",
        "a.MD.gz": "text",
        "b/a.jsonl.zst": "jsonl",
        "a.tsv": "csv",
        "a.parquet": "parquet",
        "train.bin": "tokens",
        "a.HTM": "html",
        "a.gz": None,
        "txt": None,
        ".txt": None,
        "notes 1.5": None,
    }
    assert {name: format_of(name) for name in names} == names


# Text.


@pytest.mark.parametrize("suffix", PACKERS)
def test_text_is_read_packed_or_not(write: Write, suffix: str):
    path = write(f"a.txt{suffix}", PACKERS[suffix](b"\xef\xbb\xbfone\r\ntwo \xff three"))
    [document] = read(path)
    assert (document.text, document.name, document.replaced) == ("one\ntwo \ufffd three", path, 1)


@pytest.mark.parametrize("suffix", PACKERS)
def test_an_empty_text_is_one_empty_document(write: Write, suffix: str):
    assert texts(write(f"a.txt{suffix}", PACKERS[suffix](b""))) == [""]


WORDS = st.sampled_from(["a", "word", "été", "語語", "😀", " ", "\n", "\r\n", "\u3000", "\xa0", "\ufeff", "\ufffd"])
BROKEN = st.sampled_from([b"\xe2\x82", b"\xff", b"\x80\x80", b"\xf0\x9f", b"\xc3"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(WORDS.map(str.encode) | BROKEN).map(b"".join), st.integers(4, 20))
def test_a_long_text_has_the_same_parts_packed_or_not(tmp_path: Path, data: bytes, size: int):
    found: dict[str, list[tuple[str, bool, int]]] = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(documents, "PART_BYTES", size)
        monkeypatch.setattr(documents, "MOST_REPLACED", 1)
        for suffix, pack in PACKERS.items():
            path = tmp_path / f"a.txt{suffix}"
            path.write_bytes(pack(data))
            found[suffix] = [(part.text, part.continues, part.replaced) for part in read(path)]
            assert all(part.replaced >= 0 for part in read(path))
        whole = data.removeprefix("\ufeff".encode()).decode(errors="replace").replace("\r\n", "\n")
    assert found[""] == found[".gz"] == found[".zst"]
    parts, continues, replaced = zip(*found[""], strict=True)
    assert "".join(parts).removeprefix("\ufeff") == whole.removeprefix("\ufeff")
    assert continues == (False, *[True] * (len(parts) - 1))
    assert sum(replaced) == whole.count("\ufffd") - data.count("\ufffd".encode())


def test_a_long_field_and_a_text_in_an_archive_have_the_same_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents, "PART_BYTES", 16)
    monkeypatch.setattr(tables, "RANGE_BYTES", 16)
    text = "It was the best of times,\nit was 語 the worst of times, it was the age of wisdom " * 3
    members = {"a.txt": text.encode(), "b.jsonl": json.dumps({"text": text}).encode()}
    (tmp_path / "a.txt").write_bytes(members["a.txt"])
    plain = [(part.text, part.continues) for part in read(tmp_path / "a.txt")]
    assert len(plain) > 8
    assert [(part.text, part.continues) for part in read(zipped(tmp_path / "a.zip", members))] == plain * 2


def test_a_long_plain_text_is_a_span_a_part(write: Write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents, "PART_BYTES", 16)
    spans = listing(write("a.txt", "one two three four " * 10)).spans
    assert (spans[0].start, spans[-1].stop) == (0, 190)
    assert all(first.stop == then.start for first, then in itertools.pairwise(spans))
    assert [span.continues for span in spans] == [False, *[True] * (len(spans) - 1)]
    assert sum(span.size for span in spans) == 190
    assert spans[0].modified > 0
    assert len(listing(write("b.txt.gz", gzip.compress(b"one two three four " * 10))).spans) == 1


def test_a_place_within_a_long_text_counts_from_the_start_of_the_file(write: Write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents, "PART_BYTES", 16)
    data = b"\xef\xbb\xbf" + b"four " * 20 + b"\0"
    for suffix, pack in PACKERS.items():
        assert "NUL byte at position 103." in refusal(write(f"a.txt{suffix}", pack(data)))


# Compressed files and archives that cannot be read.


DAMAGED = {
    "cut.gz": gzip.compress(bytes(range(1, 256)) * 99)[:-9],
    "cut.zst": zstd(bytes(range(1, 256)) * 99)[:-9],
    "other.gz": b"no gzip at all",
    "other.zst": b"no zstd at all",
    "empty.gz": b"",
    "empty.zst": b"",
    "sum.gz": gzip.compress(b"one two")[:-8] + b"12345678",
    "more.gz": gzip.compress(b"one two") + b"three",
}


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv", "html"])
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_named(write: Write, kind: str, name: str):
    stem, suffix = name.split(".")
    path = write(f"{stem}.{kind}.{suffix}", DAMAGED[name])
    message = refusal(path, documents.Reading(column="text"))
    assert message.startswith(f"{path} cannot be unpacked: ")
    assert "fetch it again" in message


def test_what_comes_before_the_damage_is_read_first(write: Write):
    """Which only streaming does."""
    lines = b"".join(b'{"text": "%d"}\n' % number for number in range(200_000))
    [span] = listing(write("cut.jsonl.gz", gzip.compress(lines, 1)[:-9])).spans
    assert [document.text for document in itertools.islice(read_span(span), 3)] == ["0", "1", "2"]


def test_zstd_frames_one_after_another_are_one_file(write: Write):
    assert texts(write("a.txt.zst", zstd(b"one ") + zstd(b"two"))) == ["one two"]
    assert texts(write("a.txt.gz", gzip.compress(b"one ") + gzip.compress(b"two"))) == ["one two"]


def test_an_unreadable_or_missing_file_is_named(write: Write, monkeypatch: pytest.MonkeyPatch):
    path = write("secret.txt", "x")
    [span] = listing(path).spans

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as patched:
        patched.setattr("io.FileIO", denied)  # a test that runs as root may read anything
        with pytest.raises(CorpusError, match=r"secret\.txt could not be read: Permission denied"):
            list(read_span(span))
    Path(path).unlink()
    with pytest.raises(CorpusError, match=r"secret\.txt is no longer there"):
        list(read_span(span))


def test_a_missing_package_is_named_with_the_line_that_installs_it(write: Write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, extra in [("a.txt.zst", "data"), ("a.parquet", "data"), ("a.html", "blog")]:
        with pytest.raises(MissingExtraError, match=rf"pip install .*\[{extra}\]"):
            read(write(name, b"x"))


def test_formats_wait_with_their_packages():
    code = "import sys, scratchlab.corpus.sources.find; print({'pyarrow', 'selectolax', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"set()\n"


# Zip archives.


def test_an_archive_gives_its_texts_by_name(tmp_path: Path):
    path = zipped(
        tmp_path / "a.ZIP",
        {
            "b/two.txt": b"two",
            "b/one.md": b"one",
            "a.jsonl": b'{"text": "zero"}\n{"text": "half"}',
            "page.html": b"<p>page",
            "x.jsonl.gz": b"nested",
            "x.parquet": b"in place",
            "x.csv": b"text\nrow",
            "__MACOSX/._one.md": b"\0",
            "b/.hidden.txt": b"\0",
            "picture.png": b"\0",
        },
    )
    assert texts(path) == ["zero", "half", "one", "two", "page"]
    assert [document.name for document in read(path)][1:3] == [f"{path}, a.jsonl, line 2", f"{path}, b/one.md"]
    assert listing(path).passed_over == {"hidden": 2, ".gz": 1, ".parquet": 1, ".csv": 1, ".png": 1}
    assert texts(path, documents.Reading(column="text")) == ["zero", "half", "one", "two", "page", "row"]


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def test_archives_that_cannot_be_read_are_named(tmp_path: Path, write: Write):
    path = zipped(tmp_path / "a.zip", {"one.txt": b"some text", "two.txt": b"more text"})
    whole = path.read_bytes()
    header = whole.index(b"PK\x01\x02")
    encrypted = whole[:6] + b"\1" + whole[7 : header + 8] + b"\1" + whole[header + 9 :]
    method = whole[:8] + b"\x63" + whole[9 : header + 10] + b"\x63" + whole[header + 11 :]
    assert "one.txt cannot be unpacked" in refusal(write("locked.zip", encrypted))
    assert "encrypted" in refusal(write("locked.zip", encrypted))
    assert "compression" in refusal(write("method.zip", method))
    assert "two.txt cannot be unpacked" in refusal(write("sum.zip", flipped(whole, header - 3)))
    assert "no whole .zip archive" in refusal(write("cut.zip", whole[:-30]))
    assert "no whole .zip archive" in refusal(write("other.zip", b"no archive"))
    assert "holds no text files; found there: 1 .png." in refusal(zipped(tmp_path / "b.zip", {"a.png": b""}))


def test_a_changed_archive_is_read_anew(tmp_path: Path):
    assert texts(zipped(tmp_path / "a.zip", {"a.txt": b"first"})) == ["first"]
    [span] = listing(zipped(tmp_path / "a.zip", {"b.txt": b"second, longer"})).spans
    assert [document.text for document in read_span(span)] == ["second, longer"]
    with pytest.raises(CorpusError, match=r"a\.zip, c\.txt is no longer there"):
        list(read_span(Span(span.path, "text", member="c.txt", modified=span.modified)))


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar", "a.txt.bz2", "a.txt.xz", "a.7z", "a.zip.gz"])
def test_other_archives_are_refused(write: Write, name: str):
    assert "Unpack it" in refusal(write(name, gzip.compress(b"x")))


@pytest.mark.parametrize("name", ["a.parquet.gz", "train.bin.gz", "a.npy.zst", "a.safetensors.gz"])
def test_what_is_read_in_place_is_refused_compressed(write: Write, name: str):
    assert "read in place" in refusal(write(name, gzip.compress(b"x")))


# HTML.


PAGE = """<!doctype html><html><head><meta charset="iso-8859-1"><title>Not prose</title>
<style>p { color: red }</style><script>alert("no")</script></head><body><!-- a note -->
<h1>Caf&eacute; &amp; bar</h1><p>It   is
<a href="https://example.org/">open</a> &mdash; from 9&nbsp;to&nbsp;5, &#8364;2.</p>
<pre>for x in y:
    print(x &lt; 3)
</pre><ul><li>one<li>two</ul><script>track()</script><p>Caf\xe9 na\xefve</body></html>"""


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_page_is_what_a_reader_sees(write: Write, suffix: str):
    [document] = read(write(f"page.html{suffix}", PACKERS[suffix](PAGE.encode())))
    assert document.text == (
        "Café & bar\n\nIt is open — from 9 to 5, €2.\n\nfor x in y:\n    print(x < 3)\n\n- one\n- two\n\nCafé naïve"
    )
    assert {kind: len(pieces) for kind, pieces in document.removed.items()} == {"comment": 1, "embed": 1, "link": 1}
    assert document.removed["link"] == ("https://example.org/",)


def test_what_a_page_does_not_hold_is_not_listed(write: Write):
    assert read(write("page.html", "<p>Words."))[0].removed == {}


def test_a_page_that_is_not_utf8_is_replaced_and_counted(write: Write):
    [document] = read(write("page.html", PAGE.encode("latin-1", "xmlcharrefreplace")))
    assert document.text.endswith("Caf\ufffd na\ufffdve")
    assert document.replaced == 2


def test_a_page_of_tags_without_end_is_named(write: Write):
    assert "too deep" in refusal(write("deep.html", "<div>" * 3_000 + "x"))
