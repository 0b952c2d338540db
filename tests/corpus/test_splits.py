"""Splits: by content alone, or nanoGPT's regions."""

import hashlib

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchlab.corpus.splits import SPLITS, SplitRule, fill_empty, parse_split, regions, split_by_hash
from scratchlab.errors import CorpusError, UsageError

documents = st.lists(st.text(min_size=1, max_size=30), min_size=3, max_size=40, unique=True)
shares = st.sampled_from([(0.9, 0.05, 0.05), (0.5, 0.25, 0.25), (0.8, 0.2, 0.0), (0.7, 0.0, 0.3), (1.0, 0.0, 0.0)])


def key(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def at(position: float) -> int:
    """A key that lies at `position` of the unit interval."""
    return int(position * 2**64)


def splits_by_hash(keys: list[int], three: tuple[float, float, float] = (0.9, 0.05, 0.05)) -> list[str]:
    return [SPLITS[place] for place in _assigned(keys, SplitRule("hash", three))[0].tolist()]


def _assigned(keys: list[int], rule: SplitRule) -> tuple[npt.NDArray[np.uint8], list[tuple[int, int]]]:
    high = np.array(keys, np.uint64)
    splits = split_by_hash(rule, high)
    return splits, fill_empty(rule, splits, high)


def text_of_regions(rule: SplitRule, whole: str) -> dict[str, str]:
    found = dict.fromkeys(SPLITS, "")
    return found | {SPLITS[split]: whole[start:stop] for split, start, stop in regions(rule, len(whole))}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("hash", SplitRule("hash", (0.9, 0.05, 0.05))),
        ("contiguous:.9,.1,0", SplitRule("contiguous", (0.9, 0.1, 0.0))),
        ("hash:0.8,0.1,0.1", SplitRule("hash", (0.8, 0.1, 0.1))),
        ("names", SplitRule("names")),
        ("auto", None),
    ],
)
def test_rules_are_parsed_and_written_alike(text, rule):
    assert parse_split(text) == rule
    assert rule is None or parse_split(str(rule)) == rule


@pytest.mark.parametrize(
    "text",
    [
        "random",
        "hash:",
        "hash:.9,.1",
        "hash:a,b,c",
        "hash:.9,.05,.06",
        "hash:0,.5,.5",
        "contiguous:1.1,-.1,0",
        "hash:nan,0,1",
    ],
)
def test_mistaken_rules_are_refused_by_name(text):
    with pytest.raises(UsageError, match="split '" + text.replace(".", r"\.")):
        parse_split(text)


def test_the_first_eight_bytes_of_the_hash_decide():
    positions = [0.0, 0.5, 0.8999, 0.9, 0.9499, 0.951, 1 - 2**-53]
    expected = ["train"] * 3 + ["validation"] * 2 + ["test"] * 2
    assert splits_by_hash([at(position) for position in positions]) == expected
    assert splits_by_hash([at(0), 2**64 - 1], (0.9, 0.1, 0.0))[1] == "validation"


@given(documents, shares, st.randoms())
def test_neither_order_nor_neighbors_move_a_document(texts, three, random):
    padding = [at(position / 100) for position in range(100)]  # so that no split is empty and needs filling
    before = dict(zip(texts, splits_by_hash([key(text) for text in texts] + padding, three), strict=False))
    some = random.sample(texts, len(texts) // 2 + 1)
    after = dict(zip(some, splits_by_hash([key(text) for text in some] + padding, three), strict=False))
    assert after == {text: before[text] for text in some}


@given(documents, shares)
def test_every_wanted_split_gets_a_document(texts, three):
    found = set(splits_by_hash([key(text) for text in texts], three))
    assert found == {split for split, share in zip(SPLITS, three, strict=True) if share}


def test_the_nearest_document_fills_an_empty_split_and_is_named():
    keys = [at(0.1), at(0.89), at(0.5), at(0.99)]
    assert splits_by_hash(keys) == ["train", "validation", "train", "test"]
    assert _assigned(keys, SplitRule("hash"))[1] == [(1, SPLITS.index("train"))]


def test_the_only_training_document_is_never_moved():
    assert splits_by_hash([at(0.89), at(0.951), at(0.99)]) == ["train", "validation", "test"]
    with pytest.raises(CorpusError, match=r"2 documents are too few .* test would be empty"):
        splits_by_hash([at(0.1), at(0.2)])


@given(st.text(max_size=200))
def test_one_file_is_cut_as_nanogpt_cuts_it(text):
    expected = {"train": text[: int(len(text) * 0.9)], "validation": text[int(len(text) * 0.9) :], "test": ""}
    assert text_of_regions(SplitRule("contiguous", (0.9, 0.1, 0.0)), text) == expected


@given(st.text(min_size=1, max_size=200), shares)
def test_regions_hold_all_text_in_order_and_empty_shares_hold_none(whole, three):
    parts = text_of_regions(SplitRule("contiguous", three), whole)
    assert "".join(parts.values()) == whole
    assert len(parts["train"]) == int(len(whole) * three[0])
    assert len(parts["train"] + parts["validation"]) == int(len(whole) * (three[0] + three[1]))
    assert all(not parts[split] for split, share in zip(SPLITS, three, strict=True) if not share)
