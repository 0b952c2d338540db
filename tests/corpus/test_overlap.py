"""Overlap of texts: held equal to words, tuples and sets of plain Python, whatever the tokenizers."""

import csv
import itertools
import json
import re
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scratchlab.cli.main import cli
from scratchlab.corpus import wanted, words
from scratchlab.corpus.manifest import (
    TOKENIZER,
    FileRecord,
    OverlapRecord,
    SourceRecord,
    SplitRecord,
    SplitRuleRecord,
    TokenizerRecord,
    read_manifest,
    write_manifest,
)
from scratchlab.corpus.ngrams import Filter
from scratchlab.corpus.overlap import overlap, overlap_of
from scratchlab.corpus.progress import Progress
from scratchlab.corpus.sources.documents import Document
from scratchlab.corpus.store import open_corpus
from scratchlab.corpus.texts import Texts, evaluation_text, read_texts
from scratchlab.corpus.tokenizer import Tokenizer, train_tokenizer
from scratchlab.corpus.words import LONGEST, WordReader, read_words
from scratchlab.files import sha256_of_file
from tiny import Stream

WORD = re.compile(rb"[0-9A-Za-z\x80-\xff]+")
LONG = "x" * 31 + "YZ" + "w" * 40  # a word of which only the beginning counts
TELLING = [*"aB9é—字😀 \n.'-_\x00", " the", "'s ", "…”, ", LONG, LONG[:-1], LONG[:-41], LONG[:-42]]
texts = st.lists(st.lists(st.sampled_from(TELLING), max_size=12).map("".join), min_size=1, max_size=6)


def words_of(text: str) -> list[bytes]:
    """The words of a text, by the definition."""
    return [word[:LONGEST].lower() for word in WORD.findall(text.encode())]


# Reading words.


@dataclass(frozen=True)
class Symbols:
    """Any bytes as symbols."""

    symbols: Sequence[bytes]

    @property
    def vocab_size(self) -> int:
        return len(self.symbols)

    def token_bytes(self, token: int) -> bytes:
        return self.symbols[token]


def stream_of(tokens: Sequence[Sequence[int] | npt.NDArray[np.integer]], documents: Sequence[str]) -> Stream:
    """The documents' tokens one after the other."""
    joined = np.concatenate([np.asarray(part, np.int64) for part in tokens])
    return Stream(joined, tuple(map(len, tokens)), tuple(len(text.encode()) for text in documents))


def encoded(documents: Sequence[str], tokenizer: Tokenizer) -> Stream:
    """As in a corpus: `<|endoftext|>` after every document."""
    assert tokenizer.end_of_text is not None
    return stream_of([np.append(tokenizer.encode(text), tokenizer.end_of_text) for text in documents], documents)


def numbers_of(stream: Stream, symbols: words.Symbols) -> list[list[int]]:
    """The numbers of the words of each document."""
    found = list(read_words(stream, WordReader(symbols), 0, len(stream)))
    numbers = np.concatenate([chunk.numbers for _, chunk in found])
    places = np.concatenate([chunk.places for _, chunk in found])
    edges = np.searchsorted(places, stream.document_starts)
    return [numbers[start:stop].tolist() for start, stop in itertools.pairwise(edges)]


def cut(text: str, widths: Sequence[int]) -> list[bytes]:
    """The bytes of a text in parts of these widths, again and again."""
    data, parts = text.encode(), list[bytes]()
    while data:
        width = widths[len(parts) % len(widths)]
        parts.append(data[:width])
        data = data[width:]
    return parts


@settings(max_examples=50)
@given(texts, st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(8, 80))
@example([LONG + "a", "a b"], [1], 33)
@example(["", "a", "", "b c", ""], [5], 1)
def test_a_words_number_is_the_same_however_its_bytes_are_cut_into_symbols(documents, widths, chunk):
    """Documents lie side by side with nothing between: no word may reach across."""
    parts = [cut(text, widths) for text in documents]
    symbols = sorted({part for found in parts for part in found}) or [b"."]
    stream = stream_of([[symbols.index(part) for part in found] for found in parts], documents)
    single = [list(text.encode()) for text in documents]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "CHUNK", chunk)
        numbers = numbers_of(stream, Symbols(symbols))
        assert numbers == numbers_of(stream_of(single, documents), Symbols([bytes([byte]) for byte in range(256)]))
    pairs = {
        pair for text, found in zip(documents, numbers, strict=True) for pair in zip(words_of(text), found, strict=True)
    }
    assert len(pairs) == len({word for word, _ in pairs}) == len({number for _, number in pairs})


SENTENCES = [
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a "
    "wife.",
    "You don't know about me without you have read a book by the name of The Adventures of Tom Sawyer; but that ain't "
    "no matter.",
    "Ceci n\u2019est pas une pipe \u2014 \u00e9t\u00e9, na\u00efve fa\u00e7ade!",
    "x = 1; y = [2, 3]; z = x + y[0]  # it goes on and on and on and on and on and on",
    f"short {LONG} words",
]
TOKENIZERS = {
    spec: train_tokenizer(spec, SENTENCES + [text.upper() for text in SENTENCES] + TELLING)
    for spec in ("char", "byte", "bpe:320")
}
kinds = st.sampled_from(list(TOKENIZERS))


@settings(max_examples=25)
@given(st.lists(st.lists(st.sampled_from([*SENTENCES, *TELLING]), max_size=12).map("".join), min_size=1, max_size=4))
def test_bytes_characters_and_subwords_give_the_same_numbers(documents):
    per_tokenizer = [numbers_of(encoded(documents, tokenizer), tokenizer) for tokenizer in TOKENIZERS.values()]
    assert per_tokenizer[0] == per_tokenizer[1] == per_tokenizer[2]
    assert list(map(len, per_tokenizer[0])) == [len(words_of(text)) for text in documents]


# Overlap.


def ngrams_of(text: str) -> list[tuple[bytes, ...]]:
    found = words_of(text)
    return [tuple(found[at : at + 13]) for at in range(len(found) - 12)]


def expected(train: Sequence[str], test: Sequence[str]) -> dict[str, int]:
    """What the record must say, by tuples and sets."""
    there = {ngram for text in train for ngram in ngrams_of(text)}
    counts = [(len(ngrams_of(text)), sum(ngram in there for ngram in ngrams_of(text))) for text in test]
    return {
        "n": 13,
        "documents": len(test),
        "documents_compared": len(test),
        "documents_copied": sum(text in set(train) for text in test),
        "documents_too_short": sum(not all_of for all_of, _ in counts),
        "ngrams": sum(all_of for all_of, _ in counts),
        "ngrams_compared": sum(all_of for all_of, _ in counts),
        "ngrams_found": sum(found for _, found in counts),
        "documents_with_ngrams": sum(all_of > 0 for all_of, _ in counts),
        "documents_with_any": sum(found > 0 for _, found in counts),
        "documents_with_half": sum(0 < all_of <= 2 * found for all_of, found in counts),
    }


def record_of(train: Sequence[str], test: Sequence[str], kind: str = "byte", other: str = "byte", threads: int = 1):
    tokenizers = TOKENIZERS[kind], TOKENIZERS[other]
    streams = encoded(train, tokenizers[0]), encoded(test, tokenizers[1])
    return overlap(streams[0], tokenizers[0], streams[1], tokenizers[1], threads=threads)


def counts_of(record: OverlapRecord) -> dict[str, int]:
    return record.model_dump(exclude={"examples"})


passages = st.lists(
    st.tuples(st.sampled_from(SENTENCES), st.sampled_from(["lower", "upper", "title", "swapcase"])).map(
        lambda told: getattr(told[0], told[1])()
    ),
    max_size=4,
)
corpora = st.lists(
    st.tuples(passages, st.sampled_from([" ", "\n\n", " -- ", ""])).map(lambda told: told[1].join(told[0])),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25)
@given(corpora, corpora, kinds, kinds, st.sampled_from([16, 100, 2**17]), st.integers(1, 2))
def test_the_figures_are_those_of_plain_python(train, test, kind, other, chunk, threads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "CHUNK", chunk)
        patch.setattr(wanted, "_RANGE", 300)
        record = record_of(train, test, kind, other, threads)
    assert counts_of(record) == expected(train, test)
    found = sorted((expected(train, [text])["ngrams_found"] for text in test), reverse=True)
    assert [example.found for example in record.examples] == [count for count in found[:3] if count]


def test_real_text_with_passages_copied_into_it():
    """The language reference that every Python has, half of it to train on, with 60 words of every other page."""
    pages = [topics[name] for name in sorted(topics) if len(topics[name]) > 2000][:60]
    train, test = pages[::2], pages[1::2]
    train = [page + " ".join(other.split()[100:160]).upper() for page, other in zip(train, test, strict=True)]
    tokenizer = train_tokenizer("bpe:1000", pages[::6])
    want = expected([*train, test[0]], test)
    trained, tested = encoded([*train, test[0]], tokenizer), encoded(test, TOKENIZERS["byte"])
    record = overlap(trained, tokenizer, tested, TOKENIZERS["byte"])
    assert counts_of(record) == want
    assert want["documents_copied"] == 1
    assert want["documents_with_any"] == len(test) > 15
    assert 48 * len(test) < want["ngrams_found"] < want["ngrams"] / 2
    shown = [tuple(words_of(example.text)) for example in record.examples]
    documents = [int(example.document.removeprefix("document ")) - 1 for example in record.examples]
    for ngram, document in zip(shown, documents, strict=True):
        assert ngram in ngrams_of(test[document])
        assert any(ngram in ngrams_of(page) for page in [*train, test[0]])


def test_an_exact_copy_is_the_same_text_and_not_the_same_words(monkeypatch):
    same_words = ["One, two; three.", "One, two; three!"]  # and the same length
    monkeypatch.setattr(wanted, "CHUNK", 10)
    assert record_of(same_words, same_words[:1]).documents_copied == 1
    assert record_of(["a b", same_words[0], ""], same_words).documents_copied == 1
    assert record_of(["a b", same_words[1]], [*same_words, same_words[1]]).documents_copied == 2
    assert record_of(["one three, two."], ["one two, three."]).documents_copied == 0
    assert record_of(["", "x"], [""]).documents_copied == 1


@pytest.mark.parametrize("chunk", [16, 100])
def test_a_copy_is_found_wherever_it_lies(monkeypatch, chunk):
    monkeypatch.setattr(words, "CHUNK", chunk)
    long = " ".join(SENTENCES)
    assert record_of([SENTENCES[1], long, ""], [long]).documents_copied == 1


def test_examples_are_the_documents_with_most_and_of_equal_ones_the_first():
    test = [SENTENCES[0]] * 30 + [SENTENCES[0] + SENTENCES[3]]
    shown = record_of([SENTENCES[0], SENTENCES[3]], test).examples
    assert [example.document for example in shown] == ["document 31", "document 1", "document 2"]


def test_words_after_one_another_in_two_documents_are_no_ngram():
    told = SENTENCES[0].split()
    whole, halves = [" ".join(told)], [" ".join(told[:12]), " ".join(told[12:])]
    assert record_of(halves, whole).ngrams_found == 0
    assert record_of(whole, halves).ngrams == 0


def test_of_a_long_text_whole_documents_are_a_sample_and_say_so(monkeypatch):
    documents = [f"{number} " + " ".join(f"w{number}x{place}" for place in range(60)) for number in range(400)]
    monkeypatch.setattr(wanted, "MOST_NGRAMS", 4000)
    monkeypatch.setattr(wanted, "MOST_DOCUMENTS", 100)
    record = record_of(documents[::2], documents)
    assert (record.documents, record.ngrams) == (400, 400 * 49)
    assert record.ngrams_compared == 49 * record.documents_with_ngrams, "whole documents"
    assert 2000 < record.ngrams_compared < 6000
    assert 60 < record.documents_compared < 140
    assert record.share == pytest.approx(0.5, abs=0.15)
    assert record.documents_copied / record.documents_compared == pytest.approx(0.5, abs=0.15)
    monkeypatch.setattr(wanted, "_PIECE", 64)  # bytes: as if the documents were long ones
    assert record_of(documents[::2], documents).ngrams_compared % 49


@settings(max_examples=25)
@given(st.lists(st.integers(0, 2**64 - 1)), st.integers(0, 10**6))
def test_a_filter_passes_all_that_were_added(numbers, expected_numbers):
    either = Filter(expected_numbers)
    either.add(np.array(numbers, np.uint64))
    assert either.passing(np.array(numbers, np.uint64)).tolist() == list(range(len(numbers)))


def test_a_filter_stops_nearly_all_others():
    numbers = np.random.default_rng(0).integers(0, 2**64, 200_000, np.uint64)
    either = Filter(100_000)
    either.add(numbers[:100_000])
    assert len(either.passing(numbers[100_000:])) < 2000


@dataclass(frozen=True)
class Endless:
    """Documents of 1000 tokens, drawn when they are read."""

    documents: int

    def __len__(self) -> int:
        return 1000 * self.documents

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint16]:
        return np.random.default_rng(start).integers(0, 320, stop - start).astype(np.uint16)

    @property
    def document_starts(self) -> npt.NDArray[np.int64]:
        return np.arange(0, len(self) + 1, 1000)

    @property
    def document_bytes(self) -> npt.NDArray[np.int64]:
        return np.full(self.documents, 1500)


def test_memory_does_not_grow_with_the_training_text():
    tokenizer = TOKENIZERS["bpe:320"]
    test = encoded(SENTENCES, tokenizer)

    def peak(documents: int) -> int:
        tracemalloc.start()
        overlap(Endless(documents), tokenizer, test, tokenizer)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1)
    assert peak(1600) < 1.1 * peak(400) < 100e6


def test_progress_is_told_in_bytes_of_training_text(monkeypatch):
    monkeypatch.setattr(words, "CHUNK", 50)
    tokenizer, told = TOKENIZERS["bpe:320"], list[Progress]()
    train = encoded(SENTENCES, tokenizer)
    overlap(train, tokenizer, train, tokenizer, report=told.append)
    size = len("".join(SENTENCES).encode())
    done = [progress.done for progress in told]
    assert done == sorted(done)
    assert (len(done) > 5, told[-1]) == (True, Progress("comparing with the test text", size, size))


# Texts and the command.


def test_texts_are_documents_of_bytes_that_can_be_named():
    parts = [("a\u00e9", "one", False), ("b", "one", True), ("", "two", False), ("c", "three", False)]
    found = Texts(lambda: (Document(text, name, continues) for text, name, continues in parts))
    starts = found.document_starts.tolist()
    read = [b"".join(map(found.token_bytes, found.read(*edge).tolist())) for edge in itertools.pairwise(starts)]
    assert read == ["a\u00e9b".encode(), b"", b"c"]
    assert found.document_bytes.tolist() == [4, 0, 1]
    assert [found.name(document) for document in range(3)] == ["one", "two", "three"]
    assert len(found) == starts[-1]


def write_file(path: Path, data: bytes) -> FileRecord:
    path.write_bytes(data)
    return FileRecord(name=path.name, size=len(data), sha256=sha256_of_file(path))


def write_corpus(folder: Path, splits: dict[str, Sequence[str]], kind: str = "bpe:320") -> Path:
    """A corpus of these documents."""
    tokenizer, records = TOKENIZERS[kind], {}
    folder.mkdir()
    for name, documents in splits.items():
        encoded = [np.append(tokenizer.encode(text), np.uint16(tokenizer.end_of_text or 0)) for text in documents]
        sizes = [len(text.encode()) for text in documents]
        table = np.concatenate([[0], np.cumsum([len(tokens) for tokens in encoded]), sizes]).astype("<i8")
        records[name] = SplitRecord(
            documents=len(documents),
            characters=sum(map(len, documents)),
            bytes=sum(sizes),
            tokens=int(table[len(documents)]),
            shards=(write_file(folder / f"{name}-00000.bin", np.concatenate(encoded).astype("<u2").tobytes()),),
            document_table=write_file(folder / f"{name}.documents.bin", table.tobytes()),
        )
    stored = tokenizer.to_json().encode()
    (folder / TOKENIZER).write_bytes(stored)
    described = TokenizerRecord(
        spec=kind,
        kind=tokenizer.kind,
        vocab_size=tokenizer.vocab_size,
        end_of_text=tokenizer.end_of_text,
        dtype=tokenizer.dtype_name,
        file=FileRecord(name=TOKENIZER, size=len(stored), sha256=tokenizer.sha256),
    )
    source = SourceRecord(source="memory", documents=1, bytes=1)
    write_manifest(folder, [source], SplitRuleRecord(rule="hash:.9,.05,.05", moved=()), described, records)
    return folder


def command(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli, ["corpus", "overlap", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_command_compares_corpora_and_evaluation_sets(tmp_path):
    mine = write_corpus(tmp_path / "mine", {"train": SENTENCES, "test": ["new", SENTENCES[1]]})
    report = json.loads(command(mine, mine, "--json"))
    assert (report["train"], report["test"], report["share"]) == (str(mine), f"{mine}, test", 1.0)
    assert (report["documents_copied"], report["examples"][0]["found"]) == (1, 15)
    told = command(mine, mine)
    assert "documents  2: 1 (50.00%) there as a whole; 1 shorter than 13 words" in told
    assert "most in    document 2: 15 of 15, \"You don't know about me" in told
    other = write_corpus(tmp_path / "other", {"train": ["x"], "validation": SENTENCES[:1]}, "char")
    assert json.loads(command(mine, other, "--split", "validation", "--json"))["documents_copied"] == 1

    record = {"choices": [{"text": SENTENCES[0]}, "no"], "label": 1}
    (tmp_path / "set.jsonl").write_text(f"{json.dumps({'question': 'what?'})}\n\n{json.dumps(record)}\n")
    found = json.loads(command(mine, tmp_path / "set.jsonl", "--json"))
    assert [found[key] for key in ("documents", "documents_too_short", "documents_with_half")] == [2, 1, 1]
    assert found["examples"][0]["document"] == f"{tmp_path / 'set.jsonl'}, line 3"
    (tmp_path / "plain.txt").write_text(SENTENCES[3])
    assert json.loads(command(mine, tmp_path / "plain.txt", "--json"))["documents_copied"] == 1


def test_the_library_says_what_the_command_says(tmp_path):
    mine = write_corpus(tmp_path / "mine", {"train": SENTENCES, "test": ["new", SENTENCES[1]]})
    other = write_corpus(tmp_path / "other", {"train": ["x"], "validation": SENTENCES[:1]}, "char")
    (tmp_path / "set.jsonl").write_text("".join(json.dumps({"a": "no", "b": text}) + "\n" for text in SENTENCES))
    told = list[Progress]()
    for test, options in [
        (evaluation_text(mine), [mine]),
        (evaluation_text(other, split="validation"), [other, "--split", "validation"]),
        (evaluation_text(tmp_path / "set.jsonl", column="b"), [tmp_path / "set.jsonl", "--column", "b"]),
    ]:
        record = overlap_of(open_corpus(mine), test, report=told.append)
        printed = json.loads(command(mine, *options, "--json"))
        assert record.documents_copied > 0
        assert {
            "train": str(mine),
            "test": test.name,
            "share": record.share,
            **record.model_dump(mode="json"),
        } == printed
        assert record == overlap_of(open_corpus(mine), test, threads=1)
    assert told[-1].done == told[-1].total > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine", "--column", "text"], "mine is a corpus, which has splits and no columns"),
        (["mine", "--split", "tset"], "has no split 'tset'; it has train"),
        (["set.jsonl", "--split", "test"], "set.jsonl is no corpus"),
        (["set.jsonl", "--column", "b"], "set.jsonl, line 1 has no field 'b': a"),
        (["bad.jsonl"], "bad.jsonl, line 2 is no JSON"),
        (["plain.txt", "--column", "b"], "plain.txt has no columns"),
        (["nothing.jsonl"], "nothing.jsonl does not exist"),
        (["empty.jsonl"], "empty.jsonl holds no text"),
    ],
)
def test_mistakes_are_told(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_corpus(Path("mine"), {"train": SENTENCES})
    Path("set.jsonl").write_text('{"a": "b"}\n')
    Path("bad.jsonl").write_text('{"a": "b"}\n{"a": \n')
    Path("plain.txt").write_text("text")
    Path("empty.jsonl").write_text("")
    result = CliRunner().invoke(cli, ["corpus", "overlap", "mine", *arguments])
    assert message in str(result.exception)


def test_a_manifest_keeps_the_record_and_does_without(tmp_path):
    folder = write_corpus(tmp_path / "mine", {"train": SENTENCES, "test": SENTENCES[:1]})
    without = read_manifest(folder)
    assert without.overlap is None
    record = record_of(SENTENCES, SENTENCES[:1])
    write_manifest(folder, without.sources, without.split, without.tokenizer, without.splits, overlap=record)
    assert read_manifest(folder).overlap == record
    assert read_manifest(folder).sha256 == without.sha256


def test_evaluation_sets_may_be_tables_and_folders(tmp_path):
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "sets").mkdir()
    rows = [{"question": text, "answer": "no"} for text in SENTENCES]
    (tmp_path / "sets" / "one.jsonl").write_text("\n".join(map(json.dumps, rows[:2])))
    (tmp_path / "sets" / "two.jsonl").write_text("\n".join(map(json.dumps, rows[2:])))
    parquet.write_table(pyarrow.table({"question": SENTENCES}), tmp_path / "set.parquet")
    with (tmp_path / "set.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["question"], *([text] for text in SENTENCES)])
    folder = [document.text for document in read_texts(str(tmp_path / "sets"))]
    assert [text.split("\n")[0] for text in folder] == list(SENTENCES)
    for name in ("sets", "set.parquet", "set.csv"):
        found = [document.text for document in read_texts(str(tmp_path / name), "question")]
        assert found == list(SENTENCES)
