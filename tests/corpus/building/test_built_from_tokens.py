"""Token sets become corpora of the very same tokens, with the splits that their files' names say."""

from pathlib import Path

import numpy as np
import pytest
from letters import story

from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.tokenizer import Tokenizer, train_tokenizer
from scratchlab.errors import CorpusError, UsageError


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Tokenizer, dict[str, list[str]]]:
    """nanoGPT's train.bin and val.bin with <|endoftext|> after each document, the tokenizer, and the documents."""
    texts = [story(number) + "é" for number in range(12)]
    tokenizer = train_tokenizer("bpe:300", texts)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    splits = {"train": texts[:10], "val": texts[10:]}
    for name, documents in splits.items():
        tokens = [np.append(tokenizer.encode(text), tokenizer.end_of_text) for text in documents]
        np.concatenate(tokens).astype("<u2").tofile(tmp_path / f"{name}.bin")
    return tmp_path, tokenizer, splits


def test_the_tokens_are_those_of_the_files(sets):
    folder, _, splits = sets
    sources = [str(folder / "train.bin"), str(folder / "val.bin")]
    corpus = build_corpus(sources, folder / "out", str(folder / "tokenizer.json"))
    assert corpus.manifest.split.rule == "names"
    for name, split_name in {"train": "train", "val": "validation"}.items():
        split, record = corpus.split(split_name), corpus.manifest.splits[split_name]
        assert split.read(0, len(split)).tolist() == np.fromfile(folder / f"{name}.bin", "<u2").tolist()
        assert list(corpus.documents(split_name)) == splits[name]
        assert split.document_bytes.tolist() == [len(text.encode()) for text in splits[name]]
        assert record.characters == sum(map(len, splits[name]))


def test_they_mix_with_text(sets):
    folder, _, splits = sets
    (folder / "more.txt").write_text(story(90))
    sources = [str(folder / "train.bin"), str(folder / "more.txt")]
    corpus = build_corpus(sources, folder / "out", str(folder / "tokenizer.json"), "contiguous:1,0,0")
    assert list(corpus.documents("train")) == [*splits["train"], story(90)]


def test_the_same_tokens_twice_are_one_document(sets):
    folder, _, splits = sets
    (folder / "again.bin").write_bytes((folder / "train.bin").read_bytes())
    sources = [str(folder / "train.bin"), str(folder / "again.bin")]
    corpus = build_corpus(sources, folder / "out", str(folder / "tokenizer.json"), "contiguous:1,0,0")
    assert list(corpus.documents("train")) == splits["train"]
    assert corpus.manifest.sources[1].removed["duplicate"].documents == 10


def test_mistakes_are_named(sets):
    folder, _, _ = sets
    train = str(folder / "train.bin")
    with pytest.raises(UsageError, match=r"train\.bin holds tokens. Name the tokenizer that made them"):
        build_corpus([train], folder / "out")
    small = train_tokenizer("byte", [])
    (folder / "small.json").write_text(small.to_json(), encoding="utf-8")
    with pytest.raises(CorpusError, match=r"train\.bin.* holds token \d+, and the tokenizer has 257 symbols"):
        build_corpus([train], folder / "out", str(folder / "small.json"))
    (folder / "notes.txt").write_text(story(1))
    with pytest.raises(UsageError, match=r"split names: the name of .*notes\.txt says no split"):
        build_corpus([train, str(folder / "notes.txt")], folder / "out", str(folder / "tokenizer.json"), "names")
    assert not (folder / "out").exists()
