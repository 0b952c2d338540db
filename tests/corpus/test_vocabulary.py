"""`scratchlab tokenizer`: what is counted, what is shown, and how it ends."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchlab.cli import main as command_line
from scratchlab.corpus import vocabulary
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.tokenizer import Tokenizer, train_tokenizer
from scratchlab.corpus.vocabulary import longest_tokens, measure, split_text, visible
from scratchlab.errors import CorpusError

TEXT = "the cat and the hat, the naïve bat\n" * 20
BPE = train_tokenizer("bpe:270", [TEXT])
BYTE = train_tokenizer("byte", [])
CHAR = train_tokenizer("char", [TEXT])


def test_spaces_newlines_and_broken_characters_are_seen() -> None:
    assert visible(b" a\n\tb\xc3\xa9\xc3\x00\x7f\xe2\x80\x8d") == "·a↵→bé\\xc3\\x00\\x7f\\u200d"


def test_the_longest_come_first_and_text_splits_into_its_tokens() -> None:
    sizes = [len(BPE.token_bytes(token)) for token in range(BPE.vocab_size)]
    found = longest_tokens(BPE, 5)
    assert [token.bytes for token in found] == sorted(sizes, reverse=True)[:5]
    assert [token.shown for token in found] == [visible(BPE.token_bytes(token.id)) for token in found]
    tokens = split_text(BPE, " the cat\n")
    assert "".join(token.shown for token in tokens) == "·the·cat↵"
    assert [token.id for token in tokens] == BPE.encode(" the cat\n").tolist()


def test_counts_are_those_one_makes_by_hand() -> None:
    found = measure(BYTE, ["a né b1\n", "", "cc"])
    assert (found.documents, found.tokens, found.bytes, found.characters) == (3, 11, 11, 10)
    assert (found.words, found.whole_words) == (4, 2)  # a, b; not né and cc
    assert (found.bytes_per_token, found.characters_per_token, found.whole_word_share) == (1.0, 10 / 11, 0.5)
    assert measure(CHAR, ["a na\n"]).whole_words == 1
    assert measure(BYTE, ["1 2"]).whole_word_share is None
    with pytest.raises(CorpusError, match="no text to measure on"):
        measure(BYTE, ["", ""])


def whole_words(tokenizer: Tokenizer, text: str) -> int:
    """The plain way: a word is whole where one token holds all of its bytes."""
    owner: list[int] = []  # of each byte, the token that holds it
    for number, token in enumerate(tokenizer.encode(text).tolist()):
        owner += [number] * len(tokenizer.token_bytes(token))
    spans = [(len(text[: w.start()].encode()), len(text[: w.end()].encode())) for w in vocabulary.WORD.finditer(text)]
    return sum(owner[start] == owner[stop - 1] for start, stop in spans)


texts = st.one_of(st.text(), st.text(" \n\tthecanï'1"), st.just(TEXT))


@given(texts)
def test_whole_words_are_counted_as_the_plain_way_counts_them(text: str) -> None:
    if text:
        assert measure(BPE, [text]).whole_words == whole_words(BPE, text)
        assert measure(BPE, [text]).bytes == len(text.encode())


@given(texts, st.integers(1, 40))
def test_cutting_a_long_document_changes_nothing(text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if text:
            expected = measure(BPE, [text])
            patch.setattr(vocabulary, "PIECE", size)
            assert measure(BPE, [text]) == expected


# The commands.

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The exit code, standard output and standard error of `scratchlab tokenizer ARGUMENTS`."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["scratchlab", "tokenizer", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            command_line.main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def corpus(letters: str, tmp_path: Path) -> Path:
    build_corpus([letters], tmp_path / "corpus", tokenizer="bpe:300")
    return tmp_path / "corpus"


def read_json(command: Command, *arguments: object) -> dict[str, Any]:
    code, text, errors = command(*arguments, "--json")
    assert (code, errors) == (0, "")
    return json.loads(text)


def test_show_in_words_and_in_json(command: Command, corpus: Path) -> None:
    code, text, errors = command("show", corpus, "--text", "the cat\nsat", "--corpus", corpus)
    assert (code, errors) == (0, "")
    assert "byte-level BPE, 300 symbols, <|endoftext|> is 299, stored as uint16" in text
    assert f"on {corpus}, validation: " in text
    assert "on the text given: 1 document, 11 bytes, 11 characters, 3 words" in text
    shown = read_json(command, "show", corpus / "tokenizer.json", "--text", "the cat\nsat")
    assert "".join(token["shown"] for token in shown["split"]) == "the·cat↵sat"
    first, second, ids = text.splitlines()[-3:]
    assert (first.replace("│", "").strip(), second.replace("│", "").strip()) == ("the·cat↵", "sat")
    assert ids.split() == [str(token["id"]) for token in shown["split"]]
    assert shown["longest"][0]["bytes"] >= shown["longest"][-1]["bytes"]
    assert read_json(command, "show", corpus)["measured"] == []


def test_what_is_measured_on_a_corpus_is_what_its_manifest_says(command: Command, corpus: Path) -> None:
    (found,) = read_json(command, "show", corpus, "--corpus", corpus)["measured"]
    split = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))["splits"]["validation"]
    separators = split["documents"]
    assert (found["documents"], found["bytes"]) == (split["documents"], split["bytes"])
    assert found["tokens"] == split["tokens"] - separators


def test_compare_in_words_and_in_json(command: Command, corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "byte.json"
    path.write_text(BYTE.to_json(), encoding="utf-8")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    report = read_json(command, "compare", path, corpus, "--text", tmp_path / "text.txt")
    byte, bpe = report["tokenizers"]
    assert (byte["tokens"], byte["bytes_per_token"]) == (byte["bytes"], 1.0)
    assert bpe["tokens"] < byte["tokens"]
    assert (byte["words"], byte["bytes"]) == (bpe["words"], bpe["bytes"])
    code, text, _ = command("compare", path, corpus, "--text", tmp_path / "text.txt")
    assert code == 0
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["tokenizer", str(path), str(corpus)]
    assert f"{bpe['bytes_per_token']:.3f}" in text.splitlines()[-1]
    assert read_json(command, "compare", corpus, "--corpus", corpus)["on"] == f"{corpus}, validation"


def test_a_tokenizer_that_cannot_encode_the_text_does_not_stop_the_others(
    command: Command, corpus: Path, tmp_path: Path
) -> None:
    path = tmp_path / "char.json"
    path.write_text(CHAR.to_json(), encoding="utf-8")
    (tmp_path / "text.txt").write_text("the cat ~ sat", encoding="utf-8")
    report = read_json(command, "compare", path, corpus, "--text", tmp_path / "text.txt")
    failed, measured = report["tokenizers"]
    assert "character '~' (U+007E) at position 8 is not among" in failed["failed"]
    assert "tokens" not in failed
    assert (measured["failed"], measured["characters"]) == (None, 13)
    code, text, errors = command("compare", path, corpus, "--text", tmp_path / "text.txt")
    assert (code, errors) == (0, "")
    assert "13 characters" in text.splitlines()[0]
    assert "failed: character '~'" in text.splitlines()[2]


def test_documents_that_are_read_in_parts_are_counted_once(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scratchlab.corpus.sources.documents.PART_BYTES", 100)
    path = tmp_path / "byte.json"
    path.write_text(BYTE.to_json(), encoding="utf-8")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    (found,) = read_json(command, "show", path, "--text", tmp_path / "text.txt")["measured"]
    assert (found["documents"], found["characters"]) == (1, len(TEXT))


def test_special_tokens_are_shown(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text(BYTE.with_specials([f"<|{place}|>" for place in range(9)]).to_json(), encoding="utf-8")
    assert read_json(command, "show", path)["specials"]["<|8|>"] == 265
    _, text, _ = command("show", path)
    assert "bytes, 266 symbols, <|endoftext|> is 256, <|0|> is 257" in text
    assert "<|6|> is 263, 2 more special tokens, stored as uint16" in text


def test_numbers_are_measured_as_they_are_written(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "bins.json"
    path.write_text(train_tokenizer("bins:2", ["1e3, 2.5 7"]).to_json(), encoding="utf-8")
    (tmp_path / "text.txt").write_text("1000, 2.50\n", encoding="utf-8")
    (found,) = read_json(command, "show", path, "--text", tmp_path / "text.txt")["measured"]
    assert (found["bytes"], found["tokens"], found["words"]) == (11, 2, 0)
    assert "numbers in bins, 3 symbols" in command("show", path)[1]


def test_a_file_is_measured_whole_and_its_beginning_shown(command: Command, corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    shown = read_json(command, "show", corpus, "--text", path)
    assert shown["measured"][0]["characters"] == len(TEXT)
    assert sum(token["bytes"] for token in shown["split"]) == len(TEXT[:300].encode())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["show", "nowhere"], 1, "nowhere is no tokenizer: there is no such path. Known are a tokenizer.json"),
        (["show", "char.json", "--text", "a~"], 1, "char.json on the text given: character '~' (U+007E) at position 1"),
        (["show", "char.json", "--text", ""], 1, "char.json on the text given: there is no text to measure on"),
        (["show", "char.json", "--corpus", "nowhere"], 1, "nowhere does not exist"),
        (["compare", "char.json", "--corpus", "nowhere"], 1, "measured on nowhere, validation: nowhere does not exist"),
        (["compare", "char.json"], 2, "either --text FILE or --corpus DIR"),
        (["compare", "char.json", "--text", "a", "--corpus", "b"], 2, "either --text FILE or --corpus DIR"),
        (["compare", "char.json", "--text", "nowhere.txt"], 2, "nowhere.txt: there is no such file"),
        (["compare", "--text", "a"], 2, "Missing argument 'TOKENIZER...'"),
    ],
)
def test_mistakes_end_with_a_message(
    arguments: list[str], code: int, message: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "char.json").write_text(CHAR.to_json(), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    ended, text, errors = command(*arguments)
    assert (ended, text) == (code, "")
    assert message in errors
