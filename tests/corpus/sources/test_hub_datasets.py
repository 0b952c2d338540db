"""Datasets of a Hub of this machine: which spans there are, what is fetched for them, and what is said if it fails."""

import gzip
import io
import json
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from huggingface_hub import constants
from pyarrow import parquet
from reads import documents_of

from hub_server import Cut, Hub, point_client_at, serve
from scratchlab.corpus.sources import remote, tables
from scratchlab.corpus.sources.documents import Reading
from scratchlab.corpus.sources.find import Source, list_source
from scratchlab.corpus.sources.hub_datasets import list_dataset
from scratchlab.errors import CorpusError, ScratchlabError, UsageError

ROWS = 10
CARD = """---
license: mit
configs:
- config_name: letters
  default: true
  data_files:
  - {split: train, path: letters/train/*.parquet}
  - {split: validation, path: letters/held-out.parquet}
- config_name: lines
  data_files: lines/*
---
# Letters, and lines
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    remote._size.cache_clear()  # pyright: ignore[reportPrivateUsage]
    tables._remote_footer.cache_clear()  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(tables, "RANGE_BYTES", 3000)
    with serve() as hub:
        point_client_at(hub, tmp_path / "home", monkeypatch)
        yield hub


def letters(number: int, first: int = 0) -> list[str]:
    return [f"Letter {n}. " + "Dear reader, this is text. " * 4 for n in range(first, first + number)]


def table(texts: list[str], column: str = "text", rows: int = ROWS) -> bytes:
    """Parquet with small row groups, and wide columns that are not wanted."""
    file, wide = io.BytesIO(), [f"{row} not wanted" * 50 for row in range(len(texts))]
    columns = pa.table({"before": wide, column: texts, "after": wide})
    pages = {"data_page_size": 500, "write_batch_size": 5}
    parquet.write_table(columns, file, rows, compression="none", use_dictionary=False, **pages)
    return file.getvalue()


def lines(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"id": 1, "text": text}).encode() + b"\n" for text in texts)


@pytest.fixture
def somebody(hub: Hub) -> Hub:
    """A Hub with a dataset of two configurations."""
    hub.dataset(
        "some/letters",
        {
            "README.md": CARD,
            "letters/train/0.parquet": table(letters(65)),
            "letters/train/1.parquet": table(letters(20, first=65)),
            "letters/held-out.parquet": table(letters(5, first=900), column="body"),
            "lines/a.jsonl": lines(letters(40, first=100)),
            "lines/b.jsonl": lines(letters(3, first=140)),
        },
    )
    return hub


def texts(location: str, reading: Reading | None = None) -> list[str]:
    """Of every span alone, and a second time, as `documents_of` reads them."""
    return [document.text for document in documents_of(list_dataset(location, reading or Reading()).spans)]


def message_of(location: str, error: type[ScratchlabError] = CorpusError) -> str:
    with pytest.raises(error) as caught:
        texts(location)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def fetched(hub: Hub) -> list[tuple[int, int]]:
    """The ranges of large files that were asked for since it was last looked at."""
    ranges = [re.search(r"bytes=(\d+)-(\d+)", line) for line in hub.answered("GET", "/objects/")]
    hub.asked.clear()
    return [(int(found[1]), int(found[2]) + 1) for found in ranges if found]


# What there is.


def test_a_configuration_is_read_by_spans_of_row_groups(somebody):
    found = list_source(Source("hf:some/letters"))
    assert found.revision == somebody.repositories["datasets/some/letters"].branches["main"]
    *first, last = [(span.format, span.path.rpartition("/")[2], span.start, span.stop) for span in found.spans]
    assert {span[:2] for span in first} == {("hub", "0.parquet")}
    assert [start for *_, start, _ in first] + [7] == [0] + [stop for *_, stop in first]
    assert len(first) > 1
    assert last == ("hub", "1.parquet", 0, 2)
    documents = documents_of(found.spans)
    assert [document.text for document in documents] == letters(85)
    assert documents[40].name == f"hf://datasets/some/letters@{found.revision}/letters/train/0.parquet, row 41"


def test_only_the_column_is_fetched_and_the_end_of_a_file_once(somebody):
    spans = list_dataset("hf:some/letters", Reading()).spans
    size = len(somebody.repositories["datasets/some/letters"].files["letters/train/0.parquet"])
    listed = fetched(somebody)
    assert len(listed) == 4  # of each of two files the size, and the end
    documents_of(spans)
    read = fetched(somebody)
    assert len(read) == 2 * (7 + 2)  # each row group, and all of it twice
    assert sum(stop - start for start, stop in read) / 2 < size / 8


def test_a_large_column_is_fetched_in_pieces(hub, monkeypatch):
    monkeypatch.setattr(tables, "REMOTE_BYTES", 20_000)
    hub.dataset("some/letters", {"0.parquet": table(letters(400), rows=400)})
    spans = list_dataset("hf:some/letters", Reading()).spans
    fetched(hub)
    assert len(documents_of(spans)) == 400
    assert max(stop - start for start, stop in fetched(hub)) <= 20_000


def test_parameters_choose_the_configuration_the_split_the_column_and_how_many_files(somebody):
    assert texts("hf:some/letters?name=letters&split=validation&text=body") == letters(5, first=900)
    assert texts("hf:some/letters?split=validation", Reading(column="body")) == letters(5, first=900)
    assert texts("hf:some/letters?name=lines") == letters(43, first=100)
    assert texts("hf:some/letters?name=lines&files=1") == letters(40, first=100)
    assert texts("hf:some/letters?files=1&name=letters") == letters(65)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".json.gz", ".jsonl.zst", ".csv"])
def test_text_formats_are_read_packed_or_in_ranges(suffix, hub, monkeypatch):
    monkeypatch.setattr(remote, "BUFFER_BYTES", 1000)
    content = lines(letters(50))
    if suffix == ".csv":
        content = b"id,text\n" + b"".join(f'1,"{text}"\n'.encode() for text in letters(50))
    if suffix.endswith(".gz"):
        content = gzip.compress(content)
    if suffix.endswith(".zst"):
        content = pa.compress(content, "zstd", asbytes=True)
    hub.dataset("some/lines", {f"train{suffix}": content})
    spans = list_dataset("hf:some/lines", Reading()).spans
    assert len(spans) == (3 if suffix in (".jsonl", ".json") else 1)
    assert [document.text for document in documents_of(spans)] == letters(50)


def test_a_commit_stays_what_it_was_and_is_read_in_another_process(somebody, tmp_path):
    repository = somebody.repositories["datasets/some/letters"]
    before = list_dataset("hf:some/letters", Reading())
    repository.commit({"letters/train/0.parquet": table(["new"] * 10), "letters/train/1.parquet": None})
    repository.branches["an/old one"] = str(before.revision)
    (tmp_path / "spans").write_bytes(pickle.dumps(before.spans))
    code = (
        "import pickle, sys; from scratchlab.corpus.sources.formats import read_span\n"
        "spans = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print([document.text for span in spans[::-1] for document in read_span(span)])"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "spans")],
        capture_output=True, text=True, env=os.environ | somebody.settings(tmp_path / "home"), check=False, timeout=120,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr
    assert sorted(eval(outcome.stdout)) == sorted(letters(85))
    assert texts("hf:some/letters") == ["new"] * 10
    assert (
        texts("hf:some/letters?revision=an/old%20one")
        == texts(f"hf:some/letters?revision={before.revision}")
        == letters(85)
    )


def test_the_commonest_format_is_read_and_the_others_are_counted(hub, caplog):
    files = {f"data/{n:03d}.jsonl": lines(letters(1, first=n)) for n in range(120)}  # more than one page of the tree
    hub.dataset("some/mix", {**files, "data/all.parquet": table(letters(2)), "empty.jsonl": b"", "LICENSE": "MIT"})
    found = list_dataset("hf:some/mix", Reading())
    assert [document.text for document in documents_of(found.spans)] == letters(120)
    assert found.passed_over == Counter({".parquet": 1, "no extension": 1})
    hub.dataset("some/two", {"a.jsonl": lines(letters(1)), "a.parquet": table(letters(2)), "README.md": "Two"})
    assert texts("hf:some/two") == letters(2)
    assert caplog.messages == []  # the client warns of cards that have no head


# What fails.


def test_a_connection_that_breaks_is_tried_again(somebody):
    spans = list_dataset("hf:some/letters", Reading()).spans
    somebody.cuts.append(Cut("GET", "/objects/", after=100, times=3))
    assert [document.text for document in documents_of(spans)] == letters(85)
    assert somebody.cuts[0].times == 0
    somebody.cuts.append(Cut("GET", "/objects/", after=100, times=99))
    with pytest.raises(CorpusError, match=r"hf://datasets/some/letters@\w+/letters/train/0.parquet could not be reach"):
        documents_of(spans)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?name=none", "has no configuration 'none'; it has letters, lines."),
        ("?split=test", "has no split 'test'; it has train, validation."),
        ("?text=body", "0.parquet has no column 'body'; it has 'before', 'text', 'after'."),
        ("?name=lines&text=body", "line 1 has no field 'body'; it has 'id', 'text'."),
        ("?revision=v2", "has no such revision"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(query, message, somebody):
    assert message in message_of(f"hf:some/letters{query}")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("hf:letters", "names no dataset"),
        ("hf:some/letters?column=body", "a parameter 'column' that means nothing here"),
        ("hf:some/letters?splits=train", "Did you mean split=?"),
        ("hf:some/letters?files=0", "files= takes a number from 1 on"),
        ("hf:some/letters?files=all", "files= takes a number from 1 on"),
        ("hf:some/letters?split=train&split=test", "split= is to be given once"),
    ],
)
def test_a_location_that_cannot_be_is_refused(location, message):
    assert message in message_of(location, UsageError)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README.md": "---\nconfigs: [1]\n---\n", "a.jsonl": "{}"}, "a README.md whose list of files cannot be read"),
        ({"README.md": "---\n{\n---\n", "a.jsonl": "{}"}, "has a README.md whose head is no YAML"),
        ({"README.md": CARD.replace("default: true", ""), "a.jsonl": "{}"}, "Choose one with ?name=: letters, lines"),
        ({"README.md": CARD.replace("train/*", "x"), "a.jsonl": "{}"}, "has no file letters/x.parquet, which its READ"),
        ({"script.py": "import os", "a.tar": "x"}, "found there: .py, .tar. Fetch it (`hf download some/x"),
        ({"train.jsonl": ""}, "found there: no files"),
        ({"a.parquet": b"PAR1 and no more"}, "a.parquet is damaged, or no Parquet file"),
        ({"a.json": '[{"text": "x"}]'}, "a.json, line 1 is not a JSON object"),
    ],
)
def test_a_dataset_that_cannot_be_read_is_named(files, message, hub):
    hub.dataset("some/x", files)
    assert message in (said := message_of("hf:some/x"))
    assert "some/x" in said


def test_what_the_hub_refuses_is_one_sentence_with_a_remedy(somebody, monkeypatch):
    repository = somebody.repositories["datasets/some/letters"]
    assert "There is no dataset hf:some/none" in message_of("hf:some/none")
    repository.private = True
    assert "or it is private: then `hf auth login`, or set HF_TOKEN" in message_of("hf:some/letters")
    monkeypatch.setenv("HF_TOKEN", "writer")
    assert texts("hf:some/letters") == letters(85)  # and the token is shown to no other host, says the server
    monkeypatch.setenv("HF_TOKEN", "")
    repository.private, repository.gated = False, True
    assert "wants its terms accepted first: do so on its page" in message_of("hf:some/letters")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in message_of("hf:some/letters")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "hf:some/letters on http://127.0.0.1:9 could not be reached" in message_of("hf:some/letters")


def test_a_server_that_takes_no_notice_of_ranges_is_named(somebody):
    somebody.ranges = False
    assert "cannot be read in place" in message_of("hf:some/letters")


def test_a_file_that_is_shorter_than_it_should_be_is_named(somebody, monkeypatch):
    spans = list_dataset("hf:some/letters?name=lines", Reading()).spans
    monkeypatch.setattr(remote, "_size", lambda _: 10**6)
    with pytest.raises(CorpusError, match=r"lines/a.jsonl: bytes 0 to 1000000 were asked for, and \d+ came"):
        documents_of(spans)
