"""Splits: by content alone, or nanoGPT's regions."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchlab.corpus.splits import SPLITS, SplitRule, parse_split, plan_splits
from scratchlab.errors import CorpusError, UsageError

documents = st.lists(st.text(min_size=1, max_size=30), min_size=3, max_size=40, unique=True)
shares = st.sampled_from([(0.9, 0.05, 0.05), (0.5, 0.25, 0.25), (0.8, 0.2, 0.0), (0.7, 0.0, 0.3), (1.0, 0.0, 0.0)])


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def at(position: float) -> bytes:
    """A digest that lies at `position` of the unit interval."""
    return int(position * 2**64).to_bytes(8, "big") + bytes(24)


def splits_by_hash(digests: list[bytes], three: tuple[float, float, float] = (0.9, 0.05, 0.05)) -> list[str]:
    plan = plan_splits(SplitRule("hash", three), digests, [1] * len(digests))
    return [split for number in range(len(digests)) for split, _ in plan.pieces(number, "x")]


def regions(rule: SplitRule, texts: list[str]) -> dict[str, str]:
    plan = plan_splits(rule, [digest(text) for text in texts], [len(text) for text in texts])
    pieces = [piece for number, text in enumerate(texts) for piece in plan.pieces(number, text)]
    assert all(text for _, text in pieces)
    return {split: "".join(text for name, text in pieces if name == split) for split in SPLITS}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("hash", SplitRule("hash", (0.9, 0.05, 0.05))),
        ("contiguous:.9,.1,0", SplitRule("contiguous", (0.9, 0.1, 0.0))),
        ("hash:0.8,0.1,0.1", SplitRule("hash", (0.8, 0.1, 0.1))),
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
    assert splits_by_hash([at(0), bytes([255]) * 32], (0.9, 0.1, 0.0))[1] == "validation"


@given(documents, shares, st.randoms())
def test_neither_order_nor_neighbors_move_a_document(texts, three, random):
    padding = [at(position / 100) for position in range(100)]  # so that no split is empty and needs filling
    before = dict(zip(texts, splits_by_hash([digest(text) for text in texts] + padding, three), strict=False))
    some = random.sample(texts, len(texts) // 2 + 1)
    after = dict(zip(some, splits_by_hash([digest(text) for text in some] + padding, three), strict=False))
    assert after == {text: before[text] for text in some}


@given(documents, shares)
def test_every_wanted_split_gets_a_document(texts, three):
    found = set(splits_by_hash([digest(text) for text in texts], three))
    assert found == {split for split, share in zip(SPLITS, three, strict=True) if share}


def test_the_nearest_document_fills_an_empty_split_and_the_plan_says_so():
    digests = [at(0.1), at(0.89), at(0.5), at(0.99)]
    plan = plan_splits(SplitRule("hash"), digests, [1] * 4)
    assert splits_by_hash(digests) == ["train", "validation", "train", "test"]
    assert [(move.document, move.origin, move.to) for move in plan.moved] == [(1, "train", "validation")]


def test_the_only_training_document_is_never_moved():
    assert splits_by_hash([at(0.89), at(0.951), at(0.99)]) == ["train", "validation", "test"]
    with pytest.raises(CorpusError, match=r"2 documents are too few .* test would be empty"):
        splits_by_hash([at(0.1), at(0.2)])


@given(st.text(max_size=200))
def test_one_file_is_cut_as_nanogpt_cuts_it(text):
    expected = {"train": text[: int(len(text) * 0.9)], "validation": text[int(len(text) * 0.9) :], "test": ""}
    assert regions(SplitRule("contiguous", (0.9, 0.1, 0.0)), [text]) == expected


@given(documents, shares)
def test_regions_hold_all_text_in_order_and_empty_shares_hold_none(texts, three):
    parts = regions(SplitRule("contiguous", three), texts)
    whole = "".join(texts)
    assert "".join(parts.values()) == whole
    assert len(parts["train"]) == int(len(whole) * three[0])
    assert len(parts["train"] + parts["validation"]) == int(len(whole) * (three[0] + three[1]))
    assert all(not parts[split] for split, share in zip(SPLITS, three, strict=True) if not share)
