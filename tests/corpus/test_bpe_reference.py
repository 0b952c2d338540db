"""docs/bpe.md: its code runs and prints what it says, and is the reference for the tokenizers that train and encode."""

import contextlib
import functools
import io
import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics
from types import SimpleNamespace
from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from scratchlab.corpus.tokenizer import GPT2_PATTERN, Tokenizer, train_tokenizer
from scratchlab.errors import CorpusError

PAGE = Path(__file__).parents[2] / "docs" / "bpe.md"
MERGES = 1000
Pair = tuple[bytes, bytes]


@functools.cache
def page() -> tuple[SimpleNamespace, list[tuple[str, str]]]:
    """What the page's code defines; and what each block that prints did print, beside what the page says."""
    names: dict[str, Any] = {}
    outputs: list[tuple[str, str]] = []
    text = PAGE.read_text(encoding="utf-8")
    for code, said in re.findall(
        r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", text, re.DOTALL | re.MULTILINE
    ):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, names)
        outputs.append((printed.getvalue(), said))
    return SimpleNamespace(**names), outputs


def as_bytes(learned: list[tuple[int, int]]) -> list[Pair]:
    known = page()[0].symbols(learned)
    return [(known[left], known[right]) for left, right in learned]


def learned_by_tokenizers(tokenizer: Tokenizer) -> list[Pair]:
    model = json.loads(tokenizer.to_json())["model"]
    left_and_right = ([tokenizer.token_bytes(model["vocab"][half]) for half in pair] for pair in model["merges"])
    return [(left, right) for left, right in left_and_right]


@functools.cache
def english() -> str:
    """About 300 kB of what every Python carries, and some that is not plain English."""
    foreign = "naïve café Ελλάς 赵夫人 👩🏽‍🚀 don't  we'll\t\tx\r\n\0 1999½ " * 20
    return "\n".join(topics[name] for name in sorted(topics))[:300_000] + foreign


@functools.cache
def trained() -> Tokenizer:
    return train_tokenizer(f"bpe:{257 + MERGES}", [english()])


@functools.cache
def learned() -> list[tuple[int, int]]:
    return page()[0].train(english(), MERGES)


def bare_tiktoken(merges: int = MERGES) -> tiktoken.Encoding:
    """tiktoken with the page's symbols, after so many merges."""
    ranks = {symbol: rank for rank, symbol in enumerate(page()[0].symbols(learned()[:merges]))}
    return tiktoken.Encoding("page", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})


def test_every_example_of_the_page_prints_what_stands_below_it() -> None:
    _, outputs = page()
    assert len(outputs) >= 5
    for printed, said in outputs:
        assert printed == said


def test_the_page_cuts_by_the_pattern_that_the_tokenizers_have() -> None:
    assert page()[0].PATTERN.pattern == GPT2_PATTERN


def test_the_page_learns_the_merges_of_tokenizers_in_their_order() -> None:
    assert 250_000 < len(english().encode()) < 500_000
    assert as_bytes(learned()) == learned_by_tokenizers(trained())
    assert len(learned()) == MERGES
    assert ties(steps=5) > 0  # so the order among equals was put to the test


def ties(steps: int) -> int:
    """How many of the last `steps` merges had an equal in frequency when they were chosen, counted anew."""
    pieces, found = Counter(page()[0].pieces(english())), 0
    for done in range(MERGES - steps, MERGES):
        frequency = Counter[tuple[int, int]]()
        encode = bare_tiktoken(done).encode_ordinary
        for piece, times in pieces.items():
            for pair in pairwise(encode(piece.decode())):
                frequency[pair] += times
        found += sum(count == frequency[learned()[done]] for count in frequency.values()) > 1
    return found


@given(st.text("ab c", min_size=1, max_size=200), st.integers(1, 40))
@settings(max_examples=150)
def test_few_letters_and_many_ties_are_learned_alike(text: str, merges: int) -> None:
    ours = page()[0].train(text, merges)
    theirs = train_tokenizer(f"bpe:{257 + len(ours)}", [text])
    assert as_bytes(ours) == learned_by_tokenizers(theirs)
    if len(ours) < merges:  # it stopped where no pair is there twice, and so must the other
        with pytest.raises(CorpusError, match=f"gives {257 + len(ours)} symbols"):
            train_tokenizer(f"bpe:{257 + merges}", [text])


def test_the_page_encodes_real_text_as_our_tokenizer_and_tiktoken_do() -> None:
    reference, text = page()[0], english()[-30_000:]
    numbers = reference.encode(text, learned())
    assert numbers == trained().encode(text).tolist() == bare_tiktoken().encode_ordinary(text)
    assert reference.decode(numbers, learned()) == text
    assert reference.symbols(learned()) == [trained().token_bytes(token) for token in range(256 + MERGES)]


@given(st.text())
@settings(max_examples=60)
def test_the_page_encodes_any_text_as_our_tokenizer_does(text: str) -> None:
    assert page()[0].encode(text, learned()) == trained().encode(text).tolist()
