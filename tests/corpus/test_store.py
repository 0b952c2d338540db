"""Opening, reading and verifying: what is damaged is named."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import scratchlab
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.corpus.windows import TokenStream
from scratchlab.errors import CorpusError
from scratchlab.files import sha256_of_json


@pytest.fixture
def corpus(letters: str, tmp_path: Path) -> Corpus:
    return build_corpus([letters], tmp_path / "corpora" / "mine", "byte")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Corpus, list[str]]:
    """A corpus in shards of 100 tokens, and its training documents."""
    folder = tmp_path_factory.mktemp("sharded")
    texts = [f"number {number} " * (number + 1) for number in range(12)]
    for number, text in enumerate(texts):
        (folder / f"{number:02d}.txt").write_text(text)
    return build_corpus([str(folder)], folder / "out", "byte", "contiguous:1,0,0", shard_tokens=100), texts


def rewrite(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Change a manifest and give it a fitting hash."""
    content = json.loads(path.read_text())
    content.pop("manifest_sha256")
    change(content)
    path.write_text(json.dumps({**content, "manifest_sha256": sha256_of_json(content)}))


def refusal(path: Path) -> str:
    with pytest.raises(CorpusError) as caught:
        open_corpus(path)
    return str(caught.value)


def test_opening_takes_milliseconds_and_gives_what_was_built(corpus):
    begun = time.perf_counter()
    opened = scratchlab.open_corpus(str(corpus.path))
    assert time.perf_counter() - begun < 0.1
    assert (opened.sha256, opened.manifest) == (corpus.sha256, corpus.manifest)
    assert opened.vocab_size == opened.tokenizer.vocab_size == 257


def test_a_split_is_the_stream_of_its_documents_each_followed_by_end_of_text(corpus):
    end = corpus.tokenizer.end_of_text
    for name in ("train", "validation", "test"):
        split: TokenStream = corpus.split(name)
        expected = [token for text in corpus.documents(name) for token in [*text.encode(), end]]
        assert split.read(0, len(split)).tolist() == expected


def test_document_tables_agree_with_the_documents(corpus):
    for name in ("train", "validation", "test"):
        split, texts = corpus.split(name), list(corpus.documents(name))
        sizes = [len(text.encode()) for text in texts]
        assert split.document_bytes.tolist() == sizes
        assert split.document_starts.tolist() == [0, *np.cumsum([size + 1 for size in sizes]).tolist()]
        assert split.bytes == sum(sizes) == corpus.manifest.splits[name].bytes
        assert corpus.manifest.splits[name].characters == sum(map(len, texts))


def test_text_joins_documents_by_one_blank_line_and_holds_no_special_symbol(corpus):
    texts = list(corpus.documents("train"))
    assert corpus.text("train") == "\n\n".join(text.strip("\n") for text in texts) + "\n"
    assert len(texts) > 1
    assert "<|endoftext|>" not in corpus.text("train")


@given(st.data())
def test_any_range_is_read_across_shards(sharded, data):
    corpus, texts = sharded
    split = corpus.split("train")
    stream = [token for text in texts for token in [*text.encode(), 256]]
    assert len(corpus.manifest.splits["train"].shards) == -(-len(stream) // 100)
    start = data.draw(st.integers(0, len(stream)))
    stop = data.draw(st.integers(start, len(stream)))
    tokens = split.read(start, stop)
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == stream[start:stop]


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 10**9)])
def test_a_range_outside_the_split_is_refused(sharded, start, stop):
    with pytest.raises(IndexError, match="of split train"):
        sharded[0].split("train").read(start, stop)


def test_tokens_cannot_be_written_through_the_map(corpus):
    with pytest.raises(ValueError, match="read-only"):
        corpus.split("train").read(0, 5)[0] = 1


def test_an_absent_split_lists_those_there_are(sharded):
    with pytest.raises(CorpusError, match="has no split 'dev'; it has train"):
        sharded[0].split("dev")


def test_a_missing_corpus_suggests_its_neighbors(corpus, tmp_path):
    assert "mien does not exist. Corpora there: " in refusal(tmp_path / "corpora" / "mien")
    assert str(corpus.path) in refusal(tmp_path / "corpora" / "mien")
    assert "is not a corpus: it has no manifest.json" in refusal(tmp_path / "letters")
    assert "is not a corpus" in refusal(tmp_path / "letters" / "00.md")
    assert "scratchlab corpus build TEXT... --out nowhere/at/all" in refusal(Path("nowhere/at/all"))


def test_a_truncated_and_a_missing_file_are_both_named(corpus):
    shard, table = corpus.path / "train-00000.bin", corpus.path / "test.documents.bin"
    shard.write_bytes(shard.read_bytes()[:-1])
    table.unlink()
    message = refusal(corpus.path)
    assert str(corpus.path) in message
    assert f"train-00000.bin has {shard.stat().st_size} bytes instead of {shard.stat().st_size + 1}" in message
    assert "test.documents.bin is missing" in message


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "train-00000.bin", "validation-00000.bin", "test-00000.bin", "train.documents.bin"]
)
def test_a_flipped_bit_is_found_by_verify_and_named(corpus, name):
    path = corpus.path / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    opened = open_corpus(corpus.path)
    with pytest.raises(CorpusError, match=f"corpus {corpus.path} is damaged: {name} has changed"):
        opened.verify()


def test_verify_names_all_damaged_files_and_returns_intact_ones(corpus):
    assert {file.name for file in corpus.verify()} == {file.name for file in corpus.path.iterdir()} - {"manifest.json"}
    (corpus.path / "train-00000.bin").unlink()
    (corpus.path / "test-00000.bin").write_bytes(bytes((corpus.path / "test-00000.bin").stat().st_size))
    with pytest.raises(CorpusError, match=r"train-00000.bin is missing; test-00000.bin has changed"):
        corpus.verify()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format_version": 1}', "\0\0\0\0"])
def test_a_manifest_that_is_no_manifest_is_named(corpus, content):
    (corpus.path / "manifest.json").write_text(content)
    assert "manifest.json is damaged: it is not the JSON that a build writes" in refusal(corpus.path)


def test_an_edited_manifest_is_noticed(corpus):
    path = corpus.path / "manifest.json"
    path.write_text(path.read_text().replace('"documents": 30', '"documents": 31'))
    assert "manifest.json is damaged or was edited" in refusal(corpus.path)


def test_a_manifest_of_another_format_says_which(corpus):
    rewrite(corpus.path / "manifest.json", lambda content: content.update(format_version=99))
    assert "has corpus format 99; this scratchlab reads formats 1, 2, 3" in refusal(corpus.path)
    rewrite(corpus.path / "manifest.json", lambda content: content.update(format_version=2, surprise=True))
    assert "is not a manifest of format 2" in refusal(corpus.path)
    assert "surprise" in refusal(corpus.path)


def test_a_foreign_tokenizer_is_noticed_when_it_is_first_used(letters, tmp_path):
    path = build_corpus([letters], tmp_path / "mine", "char").path / "tokenizer.json"
    stored = json.loads(path.read_text())
    vocabulary = stored["model"]["vocab"]
    vocabulary["e"], vocabulary["t"] = vocabulary["t"], vocabulary["e"]
    path.write_text(json.dumps(stored, ensure_ascii=False, separators=(",", ":")))
    with pytest.raises(CorpusError, match=r"tokenizer\.json is not the tokenizer that .* was built with"):
        open_corpus(path.parent).tokenizer  # noqa: B018  reading it is the test


def test_a_shard_that_vanishes_after_opening_is_named(corpus):
    opened = open_corpus(corpus.path)
    (corpus.path / "train-00000.bin").unlink()
    with pytest.raises(CorpusError, match=r"train-00000.bin could not be opened"):
        opened.split("train").read(0, 1)
