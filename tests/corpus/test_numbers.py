"""Numbers as tokens: whole ones as they are, others in the nearest bin, and nothing that is no number."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Reference

from scratchlab.corpus import numbers
from scratchlab.corpus.tokenizer import END_OF_TEXT, Tokenizer, train_tokenizer
from scratchlab.errors import CorpusError

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def centers_of(tokenizer: Tokenizer) -> list[float]:
    words = [tokenizer.token_bytes(token).decode() for token in range(tokenizer.vocab_size)]
    return [float(word) for word in words if word]


def bins(size: int, values: list[float]) -> Tokenizer:
    return train_tokenizer(f"bins:{size}", [" ".join(map(repr, values))], end_of_text=False)


# Integers.


def test_integers_are_numbered_by_size_and_come_back_with_spaces() -> None:
    tokenizer = train_tokenizer("integers", ["10 -2\n7,7, 10", "3"])
    assert (tokenizer.kind, tokenizer.numeric, tokenizer.vocab_size) == ("integers", True, 5)
    assert tokenizer.specials == {END_OF_TEXT: 4}
    assert tokenizer.encode("10,\n3 -2 +7 007").tolist() == [3, 1, 0, 2, 2]
    assert tokenizer.decode([3, 4, 1, 0]) == "10 3 -2 "
    assert tokenizer.encode(" \n").tolist() == []


def test_integers_that_are_all_there_are_their_own_ids() -> None:
    tokenizer = train_tokenizer("integers", [" ".join(map(str, range(300)))], end_of_text=False)
    assert tokenizer.encode("0 17 299").tolist() == [0, 17, 299]


@given(st.lists(st.integers(-(10**20), 10**20), min_size=1), st.sampled_from([" ", "\n", ",", ", ", " ,\t"]))
@settings(max_examples=40)
def test_tokenizers_encodes_integers_to_the_same_ids(values: list[int], between: str) -> None:
    text = between.join(map(str, values))
    tokenizer = train_tokenizer("integers", [text])
    ids = tokenizer.encode(text).tolist()
    stored = Reference.from_str(tokenizer.to_json())
    assert stored.encode(text, add_special_tokens=False).ids == ids
    assert stored.decode(ids) == tokenizer.decode(ids).rstrip(" ") == " ".join(map(str, values))
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == tokenizer.decode(ids)
    assert [values[place] for place in np.argsort(ids, kind="stable")] == sorted(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\n5 1", "'5' at position 4 is not among the 3 whole numbers of this tokenizer.* bins:N"),
        ("1 2.0", r"'2.0' at position 2 is not a whole number. For other numbers use bins:N"),
        ("1 ٢", "'٢' at position 2 is not a whole number"),
        ("1_0", "'1_0' at position 0 is not a whole number"),
        ("1,, 2", "a number is missing between the commas at position 1"),
        ("1 2 three" + "e" * 90, f"'three{'e' * 35}...' at position 4"),
        (f"1 {'9' * 5000}", r"'9{40}...' at position 2 is not a whole number"),
    ],
)
def test_what_is_no_integer_of_the_text_is_named_with_its_position(text: str, message: str) -> None:
    tokenizer = train_tokenizer("integers", ["1 2 3"])
    with pytest.raises(CorpusError, match=message):
        tokenizer.encode(text)
    if "among" not in message:
        with pytest.raises(CorpusError, match=message):
            train_tokenizer("integers", [text])


def test_a_text_without_integers_and_one_with_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CorpusError, match=r"sales.csv is empty: there are no numbers"):
        train_tokenizer("integers", [" \n"], origin="sales.csv")
    monkeypatch.setattr(numbers, "MOST_INTEGERS", 3)
    assert train_tokenizer("integers", ["1 2", "2 3"]).vocab_size == 4
    with pytest.raises(CorpusError, match=r"sales.csv has more than 3 different whole numbers.* Use bins:N"):
        train_tokenizer("integers", ["1 2", "3 4"], origin="sales.csv")


# Bins.


def test_each_number_is_the_center_that_is_nearest() -> None:
    tokenizer = bins(4, [1.0, 2.0, 4.0, 8.0])
    assert centers_of(tokenizer) == [1.0, 2.0, 4.0, 8.0]
    assert tokenizer.encode("-99 1.4 1.5 1.51 3 3.1 6 6.5 1e300 -0.0").tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 0]
    assert tokenizer.decode([3, 0]) == "8.0 1.0 "
    assert (tokenizer.kind, tokenizer.numeric) == ("bins", True)
    assert bins(2, [-0.0, -1.0]).decode([0, 1]) == "-1.0 0.0 "


@given(st.lists(FINITE, min_size=2, unique=True), st.lists(FINITE))
@settings(max_examples=80)
def test_no_center_is_nearer_than_that_of_the_bin(values: list[float], asked: list[float]) -> None:
    size = len({value + 0.0 for value in values})
    tokenizer = bins(max(2, size // 2), values) if size > 1 else bins(2, [0.0, 1.0])
    centers = centers_of(tokenizer)
    with np.errstate(over="ignore"):
        for value, token in zip(asked, tokenizer.encode(" ".join(map(repr, asked))).tolist(), strict=True):
            distances = [abs(value / 4 - center / 4) for center in centers]
            assert distances[token] <= min(distances) * (1 + 1e-9) + 1e-320
    own = tokenizer.encode(" ".join(map(repr, centers)))
    assert own.tolist() == list(range(len(centers)))


@given(st.lists(FINITE, min_size=2, unique=True))
@settings(max_examples=40)
def test_centers_alone_define_it_and_tokenizers_reads_them(values: list[float]) -> None:
    values = sorted({value + 0.0 for value in values})
    tokenizer = bins(len(values), values) if len(values) > 1 else bins(2, [0.0, 1.0])
    text = tokenizer.decode(range(tokenizer.vocab_size))
    assert Tokenizer.from_json(tokenizer.to_json()).encode(text).tolist() == list(range(tokenizer.vocab_size))
    assert Reference.from_str(tokenizer.to_json()).encode(text).ids == list(range(tokenizer.vocab_size))


def test_neighbors_among_floats_are_told_apart() -> None:
    values = list(itertools.accumulate(range(20), lambda value, _: math.nextafter(value, 2.0), initial=1.0))
    tokenizer = bins(len(values), values)
    assert tokenizer.encode(" ".join(map(repr, values))).tolist() == list(range(21))
    assert bins(2, [-1.7e308, 1.7e308]).encode("-1 1 1.7e308 -1.7e308").tolist() == [0, 1, 1, 0]


def test_bins_hold_about_as_many_numbers_each() -> None:
    values = np.random.default_rng(0).lognormal(size=20_000)
    tokenizer = bins(64, values.tolist())
    ids = tokenizer.encode(" ".join(map(repr, values.tolist())))
    counts = np.bincount(ids, minlength=64)
    assert counts.sum() == 20_000
    assert counts.max() < 1.6 * 20_000 / 64


@given(st.lists(st.integers(0, 30), min_size=2, max_size=300), st.integers(2, 40))
@settings(max_examples=100)
def test_there_are_exactly_as_many_bins_as_asked_or_an_error_says_how_many_there_can_be(
    values: list[int], size: int
) -> None:
    distinct, text = len(set(values)), " ".join(map(str, values))
    if distinct >= size:
        tokenizer = train_tokenizer(f"bins:{size}", [text], end_of_text=False)
        assert tokenizer.vocab_size == size
        assert set(centers_of(tokenizer)) <= set(map(float, values))
        frequent = [value for value in set(values) if values.count(value) * size >= len(values)]
        assert set(map(float, frequent)) <= set(centers_of(tokenizer)), "what fills a bin has one to itself"
    else:
        remedy = f"Use bins:{distinct} or fewer" if distinct > 1 else "Use more text"
        with pytest.raises(
            CorpusError, match=f"too small for bins:{size}: it has {distinct} different numbers. {remedy}"
        ):
            train_tokenizer(f"bins:{size}", [text])


def test_of_very_many_numbers_a_fair_sample_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """However they come, and without a preference for any hour of the day."""
    values = [float(place % 24) + place / 1e6 for place in range(48_000)]
    of_all = bins(24, values)
    monkeypatch.setattr(numbers, "MOST_SAMPLED", 4000)
    parts = [" ".join(map(repr, values[start : start + 700])) for start in range(0, len(values), 700)]
    tokenizer = train_tokenizer("bins:24", parts, end_of_text=False)
    assert bins(24, values).meaning == tokenizer.meaning != of_all.meaning
    assert np.abs(np.array(centers_of(tokenizer)) - np.arange(24)).max() < 1.2
    assert np.bincount([round(center) for center in centers_of(tokenizer)], minlength=24).max() <= 2


@pytest.mark.parametrize(
    ("text", "word", "position"),
    [
        ("1 2\nnan", "nan", 4),
        ("1,inf", "inf", 2),
        ("1 -1e999", "-1e999", 2),
        ("1.5 1_0", "1_0", 4),
        ("1 ٢", "٢", 2),
        ("1 2 x3", "x3", 4),
        ("0x10", "0x10", 0),
        ("1\u00a0two", "two", 2),
        ("date,1.5", "date", 0),
    ],
)
def test_what_is_no_number_is_named_with_its_position(text: str, word: str, position: int) -> None:
    message = f"'{word}' at position {position} is not a finite number. Fill it in or leave it out"
    with pytest.raises(CorpusError, match=message):
        bins(2, [1.0, 2.0]).encode(text)
    with pytest.raises(CorpusError, match=message):
        train_tokenizer("bins:2", [text])


def test_numbers_are_written_in_many_ways() -> None:
    tokenizer = bins(5, [-1.5, 0.0, 0.25, 100.0, 3e9])
    text = "-1.5,+.25\n100. 1E2\t3e+9\u00a0-0 00.25"
    assert tokenizer.encode(text).tolist() == [0, 2, 3, 3, 4, 1, 2]
    assert tokenizer.spans(" 7,  12 ").tolist() == [[1, 2], [5, 7]]
    assert tokenizer.spans("1\u00a02").tolist() == [[0, 1], [3, 4]]  # in bytes


def test_parts_of_a_text_are_encoded_as_the_whole() -> None:
    tokenizer = bins(3, [1.0, 2.0, 3.0])
    text = "1 2 3\n1 2 3"
    for cut in (1, 3, 5, 7):
        parts = [tokenizer.encode(text[:cut]), tokenizer.encode(text[cut:])]
        assert np.concatenate(parts).tolist() == tokenizer.encode(text).tolist()


# Files that look like these.


def test_words_that_are_no_numbers_are_not_taken_for_any() -> None:
    data = json.loads(bins(2, [1.0, 2.0]).to_json())
    for words in (["one", "two"], ["2.0", "1.0"], ["1.00", "2.0"], ["1.0", "inf"], ["1.0", "1_0.0"]):
        data["model"]["vocab"] = {word: token for token, word in enumerate(words)}
        assert Tokenizer.from_json(json.dumps(data)).kind == "other"
    data["model"]["vocab"] = {"5": 0, "-7": 1}
    assert Tokenizer.from_json(json.dumps(data)).encode("-7 5").tolist() == [1, 0]
