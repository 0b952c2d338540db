"""Texts to be scored: ranges of corpora and of others' token files, and the same text in other tokens."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.store import Corpus
from scratchlab.corpus.tokenizer import Tokenizer, train_tokenizer
from scratchlab.errors import CorpusError, UsageError
from scratchlab.evaluation import loss
from scratchlab.evaluation.texts import Text, open_text, text_for

STORY = "Käthe saw 12 ships,\nand 赵 counted them: {} and {}.\n\n  Then\tthe fog came in. "


def story(number: int) -> str:
    return "".join(STORY.format(number * count, "x" * count) for count in range(1, 2 + number % 5)).strip()


def built(folder: Path, documents: int, tokenizer: str = "byte") -> Corpus:
    (folder / "in").mkdir(parents=True)
    for number in range(documents):
        (folder / "in" / f"{number:02d}.txt").write_text(story(number), encoding="utf-8")
    return build_corpus([str(folder / "in")], folder / "out", tokenizer, "contiguous:1,0,0")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return built(tmp_path_factory.mktemp("many"), 12, "bpe:300")


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return built(tmp_path_factory.mktemp("few"), 3, "bpe:300")


@pytest.fixture(autouse=True)
def in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "TOKENS_READ", 37)


def ids(text: Text, start: int = 0, stop: int | None = None) -> list[int]:
    return text.tokens.read(start, len(text.tokens) if stop is None else stop).tolist()


def joined(parts: Iterable[list[Any]]) -> list[Any]:
    return list(itertools.chain.from_iterable(parts))


def unit_bytes(text: Text) -> Iterator[bytes]:
    for start, stop in zip(text.units.starts[:-1], text.units.starts[1:], strict=True):
        yield b"".join(text.encoder.token_bytes(token) for token in ids(text, int(start), int(stop)))


def test_a_split_is_what_the_corpus_has(corpus: Corpus) -> None:
    text, split = open_text(corpus.path, "train"), corpus.split("train")
    assert (ids(text), text.units.kind) == (split.read(0, len(split)).tolist(), "documents")
    assert text.documents.tolist() == text.units.starts.tolist() == split.document_starts.tolist()
    assert text.units.n_bytes.tolist() == split.document_bytes.tolist() == [len(part) for part in unit_bytes(text)]


@pytest.mark.parametrize("start", [0, 1, 60, "document", "before"])
def test_a_range_has_its_documents_and_exactly_their_bytes(corpus: Corpus, start: Any) -> None:
    split = corpus.split("train")
    edges = split.document_starts.tolist()
    start = {"document": edges[1], "before": edges[2] - 1}.get(start, start)
    stop = edges[-1] - 5
    text = open_text(corpus.path, "train", (start, stop))
    assert ids(text) == split.read(start, stop).tolist()
    assert text.documents.tolist() == [0, *(edge - start for edge in edges if start < edge < stop), stop - start]
    assert text.units.n_bytes.tolist() == [len(part) for part in unit_bytes(text)]
    assert text.identity != open_text(corpus.path, "train").identity
    with pytest.raises(UsageError, match=rf"no tokens {stop} to 9,999: it has {len(split):,}"):
        open_text(corpus.path, "train", (stop, 9_999))


def test_few_documents_are_scored_by_stretches_of_known_bytes(few: Corpus) -> None:
    text = open_text(few.path, "train")
    assert (text.units.kind, len(text.units), len(text.documents)) == ("stretches", 32, 4)
    assert text.units.n_bytes.tolist() == [len(part) for part in unit_bytes(text)]


# Files of tokens.


@pytest.fixture
def gpt2_like(tmp_path: Path) -> str:
    path = tmp_path / "tokenizer.json"
    path.write_text(train_tokenizer("bpe:300", [story(number) for number in range(9)]).to_json(), encoding="utf-8")
    return str(path)


def save(path: Path, tokens: Any) -> Path:
    array = np.asarray(tokens, np.uint16)
    match path.suffix:
        case ".bin":
            array.tofile(path)
        case ".npy":
            np.save(path, array.astype(np.uint32))
        case _:
            save_file({"tokens": array}, path)
    return path


@pytest.mark.parametrize("first", ["text", "end of text"])
def test_a_range_of_a_file_is_the_same_in_every_format(tmp_path: Path, gpt2_like: str, first: str) -> None:
    tokenizer = Tokenizer.load(Path(gpt2_like))
    end = [tokenizer.end_of_text]
    parts = [tokenizer.encode(story(number)).tolist() for number in range(15)]
    whole = joined([*end, *part] if first != "text" else [*part, *end] for part in parts)
    start, stop = (3, len(whole) - 3) if first == "text" else (0, len(whole))
    opened = [
        open_text(save(tmp_path / name, whole), tokens=(start, stop), tokenizer=gpt2_like)
        for name in ("a.bin", "a.npy", "a.safetensors")
    ]
    assert len({text.identity for text in opened}) == 1
    for text in opened:
        assert ids(text) == whole[start:stop]
        assert (len(text.units), text.units.kind) == (15, "documents")
        found = [part.decode(errors="replace") for part in unit_bytes(text)]
        assert found[1:14] == [story(number) for number in range(1, 14)]
        assert text.units.n_bytes.tolist() == [len(part) for part in unit_bytes(text)]
    assert open_text(tmp_path / "a.bin", tokens=(start, stop - 1), tokenizer=gpt2_like).identity != opened[0].identity


def test_only_the_range_is_read(tmp_path: Path, gpt2_like: str) -> None:
    """Outside it there may be what is no token of this tokenizer."""
    path = save(tmp_path / "a.bin", [999] * 50 + [65] * 100 + [999])
    assert ids(open_text(path, tokens=(50, 150), tokenizer=gpt2_like)) == [65] * 100
    with pytest.raises(CorpusError, match=r"a.bin has 999 at token 150, which .*300 does not have"):
        open_text(path, tokens=(50, None), tokenizer=gpt2_like)


def test_mistakes_are_named(tmp_path: Path, gpt2_like: str, corpus: Corpus) -> None:
    path = save(tmp_path / "a.bin", [65] * 100)
    with pytest.raises(UsageError, match=r"a.bin: Give the tokenizer that made these tokens \(--made-by\)\. Known are"):
        open_text(path)
    with pytest.raises(UsageError, match=r"'gpt9' is none\."):
        open_text(path, tokenizer="gpt9")
    with pytest.raises(UsageError, match="for a file of tokens"):
        open_text(corpus.path, tokenizer=gpt2_like)
    with pytest.raises(CorpusError, match=r"none.npy does not exist"):
        open_text(tmp_path / "none.npy", tokenizer=gpt2_like)
    with pytest.raises(CorpusError, match="single token"):
        open_text(path, tokens=(4, 5), tokenizer=gpt2_like)


# Other tokens.


def test_tokens_that_mean_the_same_stay_as_they_are(corpus: Corpus, tmp_path: Path) -> None:
    text = open_text(corpus.path, "train")
    assert text_for(text, Tokenizer.from_json(corpus.tokenizer.to_json()), tmp_path) is text


def endless(spec: str, end_of_text: bool = True) -> Tokenizer:
    return train_tokenizer(spec, [story(number) for number in range(12)], end_of_text=end_of_text)


@pytest.mark.parametrize("step", [37, 10_000])
@pytest.mark.parametrize("encoder", [endless("byte"), endless("bpe:280"), endless("char")], ids=lambda e: e.kind)
def test_encoded_again_it_is_each_document_in_the_other_tokens(
    corpus: Corpus, tmp_path: Path, encoder: Tokenizer, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "TOKENS_READ", step)
    text = open_text(corpus.path, "train")
    again = text_for(text, encoder, tmp_path)
    expected = [[*encoder.encode(story(number)).tolist(), encoder.end_of_text] for number in range(12)]
    assert ids(again) == joined(expected)
    assert np.diff(again.documents).tolist() == np.diff(again.units.starts).tolist() == [len(part) for part in expected]
    assert again.units.n_bytes.tolist() == text.units.n_bytes.tolist()
    assert (again.identity, again.reencoded, text.reencoded) == (text.identity, True, False)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_tokenizer_without_an_end_of_text_has_none_between_documents(corpus: Corpus, tmp_path: Path) -> None:
    encoder = endless("char", end_of_text=False)
    again = text_for(open_text(corpus.path, "train"), encoder, tmp_path)
    assert encoder.decode(ids(again)) == "".join(story(number) for number in range(12))
    assert len(again.units) == 12


@pytest.mark.parametrize("encoder", [endless("byte"), endless("bpe:290"), endless("char")], ids=lambda e: e.kind)
def test_stretches_are_the_same_parts_of_the_text(few: Corpus, tmp_path: Path, encoder: Tokenizer) -> None:
    text = open_text(few.path, "train")
    again = text_for(text, encoder, tmp_path)
    assert (again.units.kind, again.units.starts[0], again.units.starts[-1]) == ("stretches", 0, len(again.tokens))
    mine, theirs = (np.cumsum([len(part) for part in unit_bytes(which)]) for which in (text, again))
    assert theirs[-1] == mine[-1]
    longest = max(len(encoder.token_bytes(token)) for token in range(encoder.vocab_size))
    assert ((theirs >= mine) & (theirs < mine + longest)).all(), "to the end of a token at most"


def test_a_range_that_begins_within_a_character_keeps_its_bytes(tmp_path: Path) -> None:
    corpus = built(tmp_path / "c", 12)
    place = int(np.flatnonzero(corpus.split("train").read(0, 3) == "ä".encode()[0])[0])
    text = open_text(corpus.path, "train", (place + 1, len(corpus.split("train"))))
    again = text_for(text, endless("bpe:280"), tmp_path)
    assert again.encoder.token_bytes(ids(again)[0])[:1] == "\N{REPLACEMENT CHARACTER}".encode()[:1]
    assert again.units.n_bytes.tolist() == text.units.n_bytes.tolist()


def test_what_the_other_tokenizer_cannot_say_is_named_with_its_document(corpus: Corpus, tmp_path: Path) -> None:
    encoder = train_tokenizer("char", [story(0)])
    with pytest.raises(CorpusError, match=r"out, train, document 3, in the .*: character '4'"):
        text_for(open_text(corpus.path, "train"), encoder, tmp_path)


def test_a_split_that_is_not_there_is_named(corpus: Corpus) -> None:
    with pytest.raises(CorpusError, match="has no split 'test'"):
        open_text(corpus.path)
