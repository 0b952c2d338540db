"""From many small pieces, and from texts in parts, comes what one reading of everything would give."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from letters import story

from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.building import work
from scratchlab.corpus.sources import documents
from scratchlab.corpus.splits import SPLITS
from scratchlab.corpus.store import Corpus
from scratchlab.errors import CorpusError

words = st.text(st.sampled_from("ab cé\n"), min_size=1, max_size=60)


@pytest.fixture(scope="module", autouse=True)
def small_pieces() -> Iterator[None]:
    """Pieces of a few documents, and parts of about 20 bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "SMALLEST_PIECE", 300)
        patch.setattr(documents, "PART_BYTES", 20)
        yield


def built(folder: Path, texts: list[str], split: str, tokenizer: str = "byte") -> Corpus:
    (folder / "texts").mkdir()
    for number, text in enumerate(texts):
        (folder / "texts" / f"{number:03}.txt").write_text(text, encoding="utf-8")
    return build_corpus([str(folder / "texts")], folder / "out", tokenizer, split)


def kept(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text.strip()))


@given(st.lists(words, min_size=3, max_size=25), st.sampled_from(["contiguous:.5,.3,.2", "contiguous:.7,0,.3"]))
@settings(max_examples=15)
def test_regions_are_those_of_all_text_in_order(texts, split):
    texts = ["a b" * 30, *texts, "c d" * 30]
    whole = "".join(kept(texts))
    shares = [float(share) for share in split.partition(":")[2].split(",")]
    edges = [0, int(len(whole) * shares[0]), int(len(whole) * (shares[0] + shares[1])), len(whole)]
    with TemporaryDirectory() as name:
        corpus = built(Path(name), texts, split)
        for place, split_name in enumerate(SPLITS):
            found = "".join(corpus.documents(split_name)) if split_name in corpus.manifest.splits else ""
            assert found == whole[edges[place] : edges[place + 1]]


@given(st.lists(words, min_size=9, max_size=25))
@settings(max_examples=10)
def test_documents_stay_whole_and_in_order(texts):
    texts = ["a b" * 30, *texts, "c d" * 30, texts[0], "a b" * 30]
    with TemporaryDirectory() as name:
        corpus = built(Path(name), texts, "hash:.5,.25,.25")
        found = {split: list(corpus.documents(split)) for split in corpus.manifest.splits}
        assert sorted(text for split in found.values() for text in split) == sorted(kept(texts))
        order = {text: place for place, text in enumerate(kept(texts))}
        for split in found.values():
            assert [order[text] for text in split] == sorted(order[text] for text in split)
        [source] = corpus.manifest.sources
        assert source.documents == len(kept(texts))
        assert source.removed["duplicate"].documents >= 1


def test_a_short_text_goes_where_its_hash_says(tmp_path):
    texts = [f"{number} is short" for number in range(40)]
    corpus = built(tmp_path, texts, "hash:.5,.25,.25")
    for split in SPLITS:
        for text in corpus.documents(split):
            place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
            assert split == SPLITS[(place >= 0.5) + (place >= 0.75)]


@pytest.mark.parametrize("tokenizer", ["byte", "bpe:270"])
def test_a_text_in_parts_is_one_document_of_the_same_tokens(tmp_path, tokenizer, monkeypatch):
    texts = [story(number) for number in range(12)]
    (tmp_path / "parts").mkdir()
    (tmp_path / "whole").mkdir()
    parts = built(tmp_path / "parts", texts, "contiguous:.8,.1,.1", tokenizer)
    monkeypatch.setattr(documents, "PART_BYTES", 2**20)
    whole = built(tmp_path / "whole", texts, "contiguous:.8,.1,.1", str(parts.path))
    for split in SPLITS:
        one, other = parts.split(split), whole.split(split)
        assert one.read(0, len(one)).tolist() == other.read(0, len(other)).tolist()
        assert one.document_starts.tolist() == other.document_starts.tolist()
        assert one.document_bytes.tolist() == other.document_bytes.tolist()


def test_copies_of_a_text_in_parts_are_found_whatever_file_they_are_in(tmp_path):
    long = story(1) * 5
    texts = [story(0), long, story(2), long, long + "and more", story(3)]
    corpus = built(tmp_path, texts, "contiguous:1,0,0")
    assert list(corpus.documents("train")) == kept(texts)
    assert corpus.manifest.sources[0].removed["duplicate"].documents == 1


def test_too_few_documents_for_a_hash_are_said_to_be(tmp_path):
    with pytest.raises(CorpusError, match=r"2 documents are too few for the splits train, validation, test by hash"):
        built(tmp_path, [story(0), story(1)], "hash")


def test_a_series_is_cut_between_its_numbers(tmp_path):
    numbers = [f"{number / 7:.3f}" for number in range(400)]
    (tmp_path / "series.txt").write_text("\n".join(numbers) + "\n")
    corpus = build_corpus([str(tmp_path / "series.txt")], tmp_path / "out", "bins:16", "contiguous:.6,.2,.2")
    counts = [len(corpus.split(split)) for split in SPLITS]
    assert sum(counts) == len(numbers)
    assert counts == pytest.approx([240, 80, 80], abs=5)
