"""Text out of tokens: whole characters only, and nothing from a stop string on."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchlab.corpus.tokenizer import Tokenizer, train_tokenizer
from scratchlab.generation.engine import Settings
from scratchlab.generation.text import prompt_tokens, stream_text, write
from tiny import modest, tiny_gpt

TEXTS = st.text(st.sampled_from("abcé赵🙂\n"), max_size=20)


def cut(data: bytes, places: set[int]) -> list[bytes]:
    edges = [0, *sorted(place for place in places if place < len(data)), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def streamed(pieces: list[bytes], stop: tuple[str, ...] = ()) -> list[str]:
    return list(stream_text(iter(range(len(pieces))), pieces.__getitem__, stop))


@modest
@given(text=TEXTS, places=st.sets(st.integers(1, 60)))
def test_characters_split_over_tokens_come_whole(text: str, places: set[int]) -> None:
    pieces = streamed(cut(text.encode(), places))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@modest
@given(text=TEXTS, stop=st.text(st.sampled_from("abcé\n"), min_size=1, max_size=3), places=st.sets(st.integers(1, 60)))
def test_text_ends_before_the_first_stop_wherever_tokens_part(text: str, stop: str, places: set[int]) -> None:
    assert "".join(streamed(cut(text.encode(), places), (stop,))) == text.split(stop)[0]


def test_of_several_stops_the_first_in_the_text_ends_it() -> None:
    assert "".join(streamed([b"one END tw", b"o ST", b"OP"], ("STOP", "END"))) == "one "
    assert "".join(streamed([b"a", b"b", b"c"], ("zzz", "c"))) == "ab"


def test_what_cannot_begin_a_stop_is_not_held_back() -> None:
    pieces = stream_text(iter([0, 1, 2]), [b"hello ", b"world", b"!"].__getitem__, ("XY",))
    assert next(pieces) == "hello"
    assert next(pieces) == " worl"


def test_nothing_is_read_after_a_stop() -> None:
    tokens = iter([0, 1, 2])
    assert "".join(stream_text(tokens, [b"a", b"STOP", b"z"].__getitem__, ("STOP",))) == "a"
    assert list(tokens) == [2]


def test_a_character_that_never_ends_is_marked_once() -> None:
    assert "".join(streamed([b"a", "赵".encode()[:2]])) == "a\ufffd"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer("char", ["abcdefgh\nijklmno"], end_of_text=True)


def test_write_goes_on_from_a_prompt_and_does_not_repeat_it(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 17
    text = "".join(write(tiny_gpt(), tokenizer, "abc", Settings(max_tokens=12)))
    assert 0 < len(text) <= 12
    assert set(text) <= set("abcdefgh\nijklmno")
    assert text == "".join(write(tiny_gpt(), tokenizer, "abc", Settings(max_tokens=12)))


def test_write_stops_at_a_string(tokenizer: Tokenizer) -> None:
    settings = Settings(max_tokens=12)
    text = "".join(write(tiny_gpt(), tokenizer, "abc", settings))
    stopped = "".join(write(tiny_gpt(), tokenizer, "abc", Settings(max_tokens=12, stop=(text[3:5],))))
    assert stopped == text[: text.index(text[3:5])]


def test_an_empty_prompt_is_the_start_of_a_document(tokenizer: Tokenizer) -> None:
    assert prompt_tokens(tokenizer, "") == [tokenizer.end_of_text]
    assert prompt_tokens(tokenizer, "ab") == tokenizer.encode("ab").tolist()
    single = train_tokenizer("char", ["ab\nc"], end_of_text=False)
    assert single.decode(prompt_tokens(single, "")) == "\n"
    assert prompt_tokens(train_tokenizer("char", ["abc"], end_of_text=False), "") == [0]


def test_overlapping_stops_do_not_depend_on_tokens() -> None:
    assert streamed([b"abc"], ("b", "abc")) == ["".join(streamed([b"a", b"b", b"c"], ("b", "abc")))]
