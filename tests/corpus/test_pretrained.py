"""Tokenizers that are there already: whatever files they come in, they are the same tokenizer, and so is GPT-2's."""

import base64
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import tiktoken
import tiktoken.load
import tiktoken.registry
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Reference

from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.pretrained import from_ranks, open_tokenizer
from scratchlab.corpus.tokenizer import CHARACTER_OF, END_OF_TEXT, GPT2_PATTERN, Tokenizer, train_tokenizer
from scratchlab.errors import CorpusError

SIZE = 600
ENGLISH = [topics[name] for name in sorted(topics)][:40]
SAMPLE = "Every effort moves you,  don't it?\n\n\tnaïve 👩🏽‍🚀 1999 <|endoftext|>\r\0"
FORMS = ["stored", "stored/tokenizer.json", "hf", "hf/vocab.json", "hf/merges.txt"]
FORMS += ["openai", "openai/encoder.json", "openai/vocab.bpe", "small.tiktoken"]


def opened(spec: object) -> Tokenizer:
    tokenizer = open_tokenizer(str(spec))
    assert tokenizer is not None
    return tokenizer


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return train_tokenizer(f"bpe:{SIZE}", ENGLISH)


def ranks_of(tokenizer: Tokenizer) -> dict[bytes, int]:
    return {tokenizer.token_bytes(token): token for token in range(tokenizer.vocab_size - 1)}


def as_tiktoken(tokenizer: Tokenizer) -> tiktoken.Encoding:
    special = {END_OF_TEXT: tokenizer.vocab_size - 1}
    return tiktoken.Encoding("small", pat_str=GPT2_PATTERN, mergeable_ranks=ranks_of(tokenizer), special_tokens=special)


@pytest.fixture(scope="module")
def files(small: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tokenizer as everybody has it."""
    folder = tmp_path_factory.mktemp("files")
    model = json.loads(small.to_json())["model"]
    vocabulary = json.dumps(model["vocab"] | {END_OF_TEXT: SIZE - 1})
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""])
    lines = [base64.b64encode(symbol) + b" %d" % rank for symbol, rank in ranks_of(small).items()]
    contents: dict[str, str] = {
        "stored/tokenizer.json": small.to_json(),
        "hf/vocab.json": vocabulary,
        "hf/merges.txt": merges,
        "openai/encoder.json": vocabulary,
        "openai/vocab.bpe": merges,
        "small.tiktoken": b"\n".join([*lines, b""]).decode(),
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_tokenizer(form: str, files: Path, small: Tokenizer) -> None:
    tokenizer = opened(files / form)
    assert (tokenizer.kind, tokenizer.vocab_size, tokenizer.end_of_text) == ("bpe", SIZE, SIZE - 1)
    assert tokenizer.encode(SAMPLE).tolist() == small.encode(SAMPLE).tolist()
    stored, original = (json.loads(one.to_json())["model"] for one in (tokenizer, small))
    assert stored["merges"] == original["merges"]  # those that were recovered from ranks too
    if not form.startswith("stored"):
        assert tokenizer.sha256 == opened(files / "hf").sha256


@given(st.data())
@settings(max_examples=60)
def test_merges_recovered_from_ranks_encode_any_text_as_tiktoken_does(small: Tokenizer, data: st.DataObject) -> None:
    """Held against `tokenizers` itself, which knows the merges alone."""
    recovered = from_ranks(ranks_of(small), "small")
    reference = Reference.from_str(recovered.to_json())
    reference.encode_special_tokens = True
    text = data.draw(st.one_of(st.text(), st.text("aeinst\n '"), st.sampled_from(ENGLISH)))
    expected = as_tiktoken(small).encode_ordinary(text)
    assert reference.encode(text, add_special_tokens=False).ids == expected == recovered.encode(text).tolist()


# The name gpt2.


def test_gpt2_comes_out_of_the_folder_that_tiktoken_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary of GPT-2's size in the files that tiktoken keeps, under the names that it gives them."""
    first, second = range(0x80, 0x90), range(0x90, 0x9E)
    pairs = [(bytes([a]), bytes([b])) for a in first for b in second]
    whole = [a + b for a, b in pairs]
    merges = [*pairs, *itertools.product(whole, whole)][:50_000]
    written = [["".join(CHARACTER_OF[byte] for byte in half) for half in pair] for pair in merges]
    symbols = [*sorted(CHARACTER_OF.values()), *("".join(pair) for pair in written), END_OF_TEXT]
    contents = {
        "vocab.bpe": "\n".join(["#version: 0.2", *map(" ".join, written), ""]),
        "encoder.json": json.dumps({symbol: token for token, symbol in enumerate(symbols)}),
    }
    for name, content in contents.items():
        address = f"https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/{name}"
        (tmp_path / hashlib.sha1(address.encode()).hexdigest()).write_text(content, encoding="utf-8")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.load, "check_hash", lambda data, expected: True)  # they are not the true ones
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    monkeypatch.chdir(tmp_path)
    tokenizer = opened("gpt2")
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (50257, 50256)
    assert tokenizer.encode("!a\N{LATIN SMALL LETTER E WITH ACUTE}").tolist() == [0, 64, 127, 102]
    assert json.loads(tokenizer.to_json())["model"]["merges"] == written


@pytest.fixture
def tiny_gpt2(small: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    """A small tokenizer in the place of GPT-2's, and a folder to be in."""

    def get_encoding(name: str) -> tiktoken.Encoding:
        assert name == "gpt2"
        return as_tiktoken(small)

    monkeypatch.setattr(tiktoken, "get_encoding", get_encoding)
    monkeypatch.chdir(tmp_path)
    return small


def test_a_corpus_is_built_with_gpt2_by_name(tiny_gpt2: Tokenizer, letters: str, files: Path, tmp_path: Path) -> None:
    built = build_corpus([letters], tmp_path / "corpus", tokenizer="gpt2")
    assert built.manifest.tokenizer.spec == "gpt2"
    assert (built.tokenizer.vocab_size, built.tokenizer.end_of_text) == (SIZE, SIZE - 1)
    same = build_corpus([letters], tmp_path / "same", tokenizer=str(files / "small.tiktoken"))
    assert same.sha256 == built.sha256


def test_a_path_named_gpt2_comes_before_the_name(tiny_gpt2: Tokenizer, files: Path) -> None:
    shutil.copytree(files / "stored", "gpt2")
    assert opened("gpt2").to_json() == tiny_gpt2.to_json() != opened(files / "hf").to_json()


@pytest.mark.parametrize("error", [ConnectionError("no route"), ValueError("Hash mismatch"), OSError(28, "No space")])
def test_without_a_network_one_is_told_what_to_do(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get_encoding(name: str) -> tiktoken.Encoding:
        raise error

    monkeypatch.setattr(tiktoken, "get_encoding", get_encoding)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match=r"could not be downloaded .*give the path .*TIKTOKEN_CACHE_DIR") as caught:
        open_tokenizer("gpt2")
    assert str(error) in str(caught.value)


# What is refused.


def encoded(ranks: dict[bytes, int]) -> str:
    return "".join(f"{base64.b64encode(symbol).decode()} {rank}\n" for symbol, rank in ranks.items())


BYTES = {bytes([byte]): byte for byte in range(256)}
WRONG: dict[str, tuple[str, str]] = {
    "neither.tiktoken": ("not ranks\n", r"neither.tiktoken, line 1: expected a symbol in base64 and its rank"),
    "few.tiktoken": (
        encoded({b"a": 0, b"b": 1, b"ab": 2}),
        r"few.tiktoken: not all 256 bytes are symbols; 0x00",
    ),
    "empty.tiktoken": ("", r"empty.tiktoken: .*not all 256 bytes"),
    "gaps.tiktoken": (encoded(BYTES | {b"ab": 257, b"cd": 259}), r"gaps.tiktoken: the ranks are not 0, 1, 2"),
    "twice.tiktoken": (encoded(BYTES | {b"ab": 256, b"cd": 256}), r"twice.tiktoken: the ranks are not 0, 1, 2"),
    "jumps.tiktoken": (encoded(BYTES | {b"abc": 256}), r"jumps.tiktoken: b'abc' is not two symbols of lower ranks"),
    "late.tiktoken": (encoded(BYTES | {b"abc": 256, b"ab": 257}), r"late.tiktoken: b'abc' is not two symbols"),
    "cl100k.tiktoken": (encoded(BYTES | {b");": 256, b");\n": 257}), r"cuts text within '\);\\n', .* another tokeniz"),
    "alone/vocab.json": ("{}", r"vocab.json is one half of a tokenizer: vocab.json and merges.txt must lie side by"),
    "alone/vocab.bpe": ("{}", r"one half of a tokenizer: encoder.json and vocab.bpe"),
    "other.json": ("{}", r"other.json: this is not a tokenizer.json that `tokenizers` understands"),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_are_no_tokenizer_are_refused_and_named(name: str, write: Callable[[str, str], str]) -> None:
    content, message = WRONG[name]
    with pytest.raises(CorpusError, match=message):
        open_tokenizer(write(name, content))


def test_what_is_no_pair_and_no_folder_with_one(files: Path, write: Callable[[str, str], str], tmp_path: Path) -> None:
    path = write("pair/vocab.json", "[]")
    write("pair/merges.txt", "a b c\n")
    with pytest.raises(CorpusError, match=r"vocab.json and .*merges.txt are no vocabulary and merges"):
        open_tokenizer(path)
    shutil.copy(files / "hf/vocab.json", path)
    write("pair/merges.txt", "#version: 0.2\nq zz\n")
    with pytest.raises(CorpusError, match=r"merges.txt are no vocabulary and merges: .*zz"):
        open_tokenizer(path)
    folder = os.path.dirname(write("nothing/readme.txt", ""))
    with pytest.raises(CorpusError, match=r"nothing brings no tokenizer. Known are a tokenizer.json or"):
        open_tokenizer(folder)
    assert open_tokenizer(str(tmp_path / "not-there")) is None


def test_end_of_text_takes_the_rank_that_is_left_free() -> None:
    """As in tiktoken's p50k_base, whose symbols go on after it."""
    tokenizer = from_ranks(BYTES | {b"ab": 256, b"abc": 258}, "p50k")
    assert tokenizer.end_of_text == 257
    assert tokenizer.encode("abcab").tolist() == [258, 256]


def test_merges_that_are_not_those_of_ranks_are_encoded_as_they_are_listed(
    write: Callable[[str, str], str], files: Path
) -> None:
    vocabulary = json.loads((files / "hf/vocab.json").read_text(encoding="utf-8"))
    first, second = [symbol for symbol, token in vocabulary.items() if token in (256, 257)]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    write("merges.txt", (files / "hf/merges.txt").read_text(encoding="utf-8"))
    tokenizer = opened(write("vocab.json", json.dumps(vocabulary)))
    assert tokenizer.kind == "other"
    same = opened(files / "hf")
    swapped = {256: 257, 257: 256}
    expected = [swapped.get(token, token) for token in same.encode(ENGLISH[0]).tolist()]
    assert tokenizer.encode(ENGLISH[0]).tolist() == expected


def test_the_heads_of_contractions_are_symbols_of_gpt2s_pattern_too() -> None:
    assert from_ranks(BYTES | {b"'l": 256, b"'ll": 257}, "small").encode("we'll").tolist() == [119, 101, 257]
