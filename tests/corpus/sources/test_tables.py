"""Rows of JSON Lines, CSV and Parquet: each once, named, and whatever is wrong with one named with it."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reads import documents_of, listing, read, refusal, texts

from scratchlab.corpus.sources import tables
from scratchlab.corpus.sources.documents import Reading
from scratchlab.corpus.sources.formats import read_span
from scratchlab.errors import CorpusError

Write = Callable[[str, str | bytes], str]
SERIES = Reading(column="value", series=True)
ANYWHERE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)


def parquet(path: Path, columns: dict[str, Any], rows: int = 2**20, **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=rows, **options)
    return path


# JSON Lines.


def test_json_lines_are_documents_named_by_their_line(write: Write):
    path = write(
        "a.jsonl",
        '\ufeff{"text": "one\\r\\ntwo", "n": 1}\n\n  \r\n{"text": "caf\\u00e9 \\ud83d\\ude00"}\r\n{"text":null}',
    )
    found = read(path)
    assert [document.text for document in found] == ["one\ntwo", "café 😀", ""]
    assert [document.name for document in found] == [f"{path}, line {line}" for line in (1, 4, 5)]
    assert texts(write("b.ndjson", '{"body": "b"}'), Reading(column="body")) == ["b"]
    assert texts(write("empty.jsonl", "")) == []


def test_json_lines_that_are_not_utf8_are_replaced_and_counted(write: Write):
    path = write("a.jsonl", b'{"text": "\xe2\x82 \xff \xef\xbf\xbd", "other": "\xff\xff"}\n{"text": "\\ud800"}')
    assert [(document.text, document.replaced) for document in read(path)] == [
        ("\ufffd \ufffd \ufffd", 2),
        ("\ufffd", 1),
    ]


TEXTS = st.text(max_size=9).map(lambda text: json.dumps({"text": text}, ensure_ascii=False))
LINES = st.lists(TEXTS | st.sampled_from(["", " "]), max_size=8)


@ANYWHERE
@given(LINES, st.integers(1, 60), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_every_line_is_read_once_whatever_the_ranges(tmp_path: Path, lines: list[str], size: int, end: str, last: bool):
    path = tmp_path / "a.jsonl"
    data = (end.join(lines) + end * last).encode()
    path.write_bytes(data)
    expected = [json.loads(line)["text"].replace("\r\n", "\n").replace("\r", "\n") for line in lines if line.strip()]
    expected = [text.removeprefix("\ufeff") for text in expected]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(tables, "RANGE_BYTES", size)
        spans = listing(path).spans
        found = [document.text for span in spans for document in read_span(span)]
    assert found == expected
    assert len(spans) == max(1, -(-len(data) // size))
    assert sum(span.size for span in spans) == len(data)


def test_a_line_in_a_later_range_is_named_by_its_byte(write: Write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tables, "RANGE_BYTES", 20)
    path = write("a.jsonl", '{"text": "first"}\n{"text": "second"}\n{"text": 3}\n')
    assert "a.jsonl, byte 37: the field is not text but 3" in refusal(path)
    names = [document.name for document in read_span(listing(path).spans[0])]
    assert names == [f"{path}, line 1", f"{path}, line 2"]


def test_a_line_longer_than_many_ranges_is_passed_in_small_pieces(write: Write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tables, "RANGE_BYTES", 64)
    path = write("a.jsonl", json.dumps({"text": "x" * 10_000}) + '\n{"text": "y"}\n')
    assert texts(path) == ["x" * 10_000, "y"]
    asked: list[int] = []
    spans = listing(path).spans
    with open(path, "rb") as file:

        class Watched:
            seek = file.seek

            def readline(self, size: int) -> bytes:
                asked.append(size)
                return file.readline(size)

        assert tables._first_line(Watched(), spans[50]) >= spans[50].stop
    assert len(asked) <= 2, "no more of it than the range holds"


def test_compressed_json_lines_are_one_span(write: Write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tables, "RANGE_BYTES", 8)
    path = write("a.jsonl.gz", gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'))
    assert len(listing(path).spans) == 1
    assert [document.name for document in read(path)] == [f"{path}, line 1", f"{path}, line 2"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"text": "a" "b"}', "is not JSON: Expecting ',' delimiter at character 14."),
        ("\0", "is not JSON"),
        ('{"text": "a', "is not JSON: Invalid control character at character 12."),
        ("[" * 100_000, "cannot be read as JSON"),
        ('{"text": ' + "9" * 5000 + "}", "cannot be read as JSON"),
        ('["text"]', "is not a JSON object. JSON Lines has one object a line"),
        (
            '{"body": "b", "ti\\ud800tle": "t"}',
            "has no field 'text'; it has 'body', 'ti\\ud800tle'. Name one with --column",
        ),
        ('{"text": ["a"]}', ": the field is not text but ['a']"),
        ('{"text": 5}', ": the field is not text but 5"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_with_its_number(write: Write, line: str, complaint: str):
    message = refusal(write("a.jsonl", '{"text": "fine"}\n' + line + "\n"))
    assert f"a.jsonl, line 2{' ' if complaint[0] != ':' else ''}{complaint}" in message
    message.encode()


def test_json_lines_in_utf16_are_named_as_such(write: Write):
    assert "iconv -f UTF-16" in refusal(write("a.jsonl", '{"text": "one"}'.encode("utf-16")))


# CSV.


CSV = 'id,text,value\r\n1,"one, ""two""\nthree",1.50\r\n\r\n2,été \u3000, -3\r\n'


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.TSV.gz"])
def test_a_row_of_csv_is_a_document(write: Write, name: str):
    data = ("\ufeff" + (CSV.replace(",", "\t") if "tsv" in name.lower() else CSV)).encode()
    path = write(name, gzip.compress(data) if name.endswith(".gz") else data)
    found = read(path, Reading(column="text"))
    comma = "\t" if "tsv" in name.lower() else ","
    assert [document.text for document in found] == [f'one{comma} "two"\nthree', "été \u3000"]
    assert [document.name for document in found] == [f"{path}, row 1", f"{path}, row 2"]
    assert texts(path, Reading(column="id")) == ["1", "2"]


def test_csv_that_is_not_utf8_is_replaced_and_counted_in_its_column(write: Write):
    [document] = read(write("a.csv", b"a,b\n\xff\xff,x\xe9y\xff\n"), Reading(column="b"))
    assert (document.text, document.replaced) == ("x\ufffdy\ufffd", 2)


def test_a_field_of_csv_may_be_long(write: Write):
    assert texts(write("a.csv", "text\n" + "x" * 200_000), Reading(column="text")) == ["x" * 200_000]


def test_a_csv_wants_its_column_named_before_it_is_read(write: Write):
    path = write("a.csv", CSV)
    with pytest.raises(CorpusError, match=r"a\.csv: .*--column NAME. It has 'id', 'text', 'value'\."):
        listing(path)
    with pytest.raises(CorpusError, match=r"a\.csv has no column 'body'; it has 'id', 'text', 'value'\."):
        listing(path, Reading(column="body"))
    assert "It has none." in refusal(write("empty.csv", ""))


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ("1,one\n2\n", "a.csv, row 2 (line 3) has 1 fields, and the header has 2."),
        ("1,one, two\n", "a.csv, row 1 (line 2) has 3 fields"),
        ('1,one\n2,"two', "a.csv, line 3: unexpected end of data"),
        ('1,"one" two\n', "a.csv, line 2: ',' expected after '\"'"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_with_its_number(write: Write, rows: str, complaint: str):
    assert complaint in refusal(write("a.csv", "id,text\n" + rows), Reading(column="text"))


# Parquet.


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
@pytest.mark.parametrize("rows", [1, 2, 100])
def test_a_row_of_parquet_is_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, rows: int):
    values = ["one\r\n", None, "été", "", "five"]
    path = parquet(tmp_path / "a.parquet", {"n": range(5), "text": pa.array(values, pa.string()).cast(kind)}, rows)
    for size in (1, 2**25):
        monkeypatch.setattr(tables, "RANGE_BYTES", size)
        spans = listing(path).spans
        assert len(spans) == (-(-5 // rows) if size == 1 else 1)
        found = documents_of(spans)
        assert [document.text for document in found] == ["one\n", "", "été", "", "five"]
        assert [document.name for document in found] == [f"{path}, row {row}" for row in range(1, 6)]


def test_row_groups_are_taken_together_by_the_size_of_their_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    long = ["x" * 1000 + str(row) for row in range(40)]
    plain: dict[str, Any] = {"use_dictionary": False, "write_statistics": False}
    path = parquet(tmp_path / "a.parquet", {"text": [str(row) for row in range(40)], "body": long}, 2, **plain)
    monkeypatch.setattr(tables, "RANGE_BYTES", 10_000)
    assert len(listing(path).spans) == 1
    spans = listing(path, Reading(column="body")).spans
    assert [(span.start, span.stop) for span in spans] == [(0, 5), (5, 10), (10, 15), (15, 20)]
    assert all(10_000 <= span.size < 12_000 for span in spans)
    assert [document.text for document in documents_of(spans)] == long


def test_parquet_is_read_in_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = parquet(tmp_path / "a.parquet", {"text": [f"{row} " + "x" * 1000 for row in range(100)]})
    sizes: list[int] = []
    values = tables._values

    def watched(column: Any, series: bool) -> Any:
        sizes.append(len(column))
        return values(column, series)

    monkeypatch.setattr(tables, "_values", watched)
    monkeypatch.setattr(tables, "BATCH_BYTES", 10_000)
    assert len(texts(path)) == 100
    assert 5 <= max(sizes) <= 10


def test_parquet_that_is_not_utf8_is_replaced_and_counted(tmp_path: Path):
    raw = pa.array([b"caf\xe9", b"\xe2\x82"]).view(pa.string())
    found = read(parquet(tmp_path / "a.parquet", {"text": raw}))
    assert [(document.text, document.replaced) for document in found] == [("caf\ufffd", 1), ("\ufffd", 1)]


def test_a_parquet_without_the_column_is_refused_with_those_it_has(tmp_path: Path):
    path = parquet(tmp_path / "a.parquet", {"n": [1], "body": ["b"], "words": [["w"]], "raw": [b"r"]})
    with pytest.raises(CorpusError, match=r"a\.parquet has no column 'text'; it has 'n', 'body', 'words', 'raw'\."):
        listing(path)
    for column, kind in [("n", "int64"), ("words", "list<element: string>"), ("raw", "binary")]:
        with pytest.raises(CorpusError) as caught:
            listing(path, Reading(column=column))
        assert f"column '{column}' is not text but {kind}" in str(caught.value)


def test_a_damaged_parquet_is_named(tmp_path: Path, write: Write):
    path = parquet(tmp_path / "a.parquet", {"text": ["one two three"] * 9}, write_page_checksum=True)
    whole = path.read_bytes()
    for broken in (
        whole[:-10],
        whole[len(whole) // 2 :],
        b"PAR1",
        b"",
        b"not a table",
        whole[:30] + b"?" + whole[31:],
        whole[:4] + bytes(60) + whole[64:],
    ):
        message = refusal(write("broken.parquet", broken))
        assert "broken.parquet is damaged, or no Parquet file: " in message
        assert re.search(r"[^.\s]\. Fetch it again, or leave it out\.$", message), "one sentence after another"
        assert "\n" not in message
    [span] = listing(path).spans
    path.unlink()
    with pytest.raises(CorpusError, match=r"a\.parquet is no longer there"):
        list(read_span(span))


def test_a_parquet_without_rows_has_no_documents(tmp_path: Path):
    path = parquet(tmp_path / "a.parquet", {"text": pa.array([], pa.string()), "value": pa.array([], pa.int64())})
    assert texts(path) == texts(path, SERIES) == []


# Series of numbers.


def test_a_series_is_one_document(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tables, "RANGE_BYTES", 8)
    parts = pa.array([1.5, 0.1, 3], pa.float32())
    csv = write("a.csv", "day,value\n1,1.50\n2, 1e-3 \n3,+3\n")
    assert texts(csv, SERIES) == ["1.50\n1e-3\n+3"]
    assert texts(write("a.jsonl", '{"value": 1}\n\n{"value": 2.50}\n{"value": -3}\n'), SERIES) == ["1\n2.5\n-3"]
    assert texts(parquet(tmp_path / "a.parquet", {"value": [1, -2, 3]}, 1), SERIES) == ["1\n-2\n3"]
    assert texts(parquet(tmp_path / "b.parquet", {"value": [1.5, 0.1, 3]}, 1), SERIES) == ["1.5\n0.1\n3.0"]
    assert texts(parquet(tmp_path / "c.parquet", {"value": parts}), SERIES) == ["1.5\n0.1\n3.0"]
    assert texts(write("a.txt", "1, 2\n3  4"), SERIES) == ["1, 2\n3  4"]
    assert [document.name for document in read(csv, SERIES)] == [csv]


def test_a_long_series_comes_in_parts(write: Write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tables, "SERIES_ROWS", 3)
    numbers = [str(number) for number in range(8)]
    found = read(write("a.csv", "value\n" + "\n".join(numbers)), SERIES)
    assert "".join(document.text for document in found) == "\n".join(numbers)
    assert [document.continues for document in found] == [False, True, True]


def test_a_list_of_numbers_is_a_document_a_row(tmp_path: Path, write: Write):
    path = write("a.jsonl", '{"value": [1, 2]}\n{"value": []}\n{"value": [-1.5]}')
    assert texts(path, SERIES) == ["1 2", "", "-1.5"]
    assert [document.name for document in read(path, SERIES)] == [f"{path}, line {line}" for line in (1, 2, 3)]
    assert texts(parquet(tmp_path / "a.parquet", {"value": [[1, 2], [], [3]]}), SERIES) == ["1 2", "", "3"]
    assert texts(parquet(tmp_path / "b.parquet", {"value": [[1.5], [2.0]]}), SERIES) == ["1.5", "2.0"]


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("a.csv", "value\n1\n \n", "a.csv, row 2 holds nothing"),
        ("a.csv", "value\n1\nn/a\n", "a.csv, row 2 holds 'n/a'"),
        ("a.csv", "value\n1\nNaN\n", "a.csv, row 2 holds 'NaN'"),
        ("a.jsonl", '{"value": 1}\n{"value": null}\n', "a.jsonl, line 2 holds nothing"),
        ("a.jsonl", '{"value": 1}\n{"value": true}\n', "a.jsonl, line 2 holds 'True'"),
        ("a.jsonl", '{"value": 1}\n{"value": Infinity}\n', "a.jsonl, line 2 holds 'inf'"),
        ("a.jsonl", '{"value": 1}\n{"value": [2]}\n', "a.jsonl, line 2 holds '[2]'"),
        ("a.jsonl", '{"value": [1]}\n{"value": 2}\n', "a.jsonl, line 2 holds 2, and the rows before it lists"),
        ("a.jsonl", '{"value": [1]}\n{"value": [2, null]}\n', "a.jsonl, line 2 holds nothing"),
        ("a.jsonl", '{"value": 1}\n{"day": 2}\n', "a.jsonl, line 2 has no field 'value'; it has 'day'"),
    ],
)
def test_a_gap_in_a_series_is_named(write: Write, name: str, data: str, complaint: str):
    assert complaint in refusal(write(name, data), SERIES)


@pytest.mark.parametrize(
    "values", [[1, None], [1.5, None], [1.5, float("nan")], ["1", "x"], [[1], [None]], [[1], None]]
)
def test_a_gap_in_a_parquet_series_is_named(tmp_path: Path, values: list[Any]):
    assert "a.parquet, row 2 holds" in refusal(parquet(tmp_path / "a.parquet", {"value": values}), SERIES)
