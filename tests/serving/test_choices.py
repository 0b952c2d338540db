"""What is said of a row as it comes: whole characters, tokens with their text, nothing of a stop string."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from scratchlab.corpus.tokenizer import train_tokenizer
from scratchlab.generation.batching import Row, Token, Wish
from scratchlab.generation.engine import Seen, Settings
from scratchlab.serving.choices import Choice, Piece
from tiny import modest, tiny_gpt

TOKENIZER = train_tokenizer("byte", ["é"], end_of_text=True)


def choice_of(stop: tuple[str, ...] = (), echo: bool = False, prompt: str = "é") -> Choice:
    wish = Wish(prompt=TOKENIZER.encode(prompt).tolist(), settings=Settings(max_tokens=99, stop=stop))
    row = Row(wish, Seen(tiny_gpt(), [1]), torch.Generator())
    return Choice(0, row, TOKENIZER, echo)


def pieces_of(choice: Choice, text: str) -> list[Piece]:
    """What is said after each token, and at the end."""
    said = list[Piece]()
    for token in TOKENIZER.encode(text).tolist():
        choice.row.written.append(Token(token))
        choice.come_on()
        said.append(choice.news())
        if choice.over:
            return said
    choice.row.finish = "length"
    choice.come_on()
    return [*said, choice.news()]


@modest
@given(text=st.text(st.sampled_from("abé赵🙂"), max_size=15), stop=st.text(st.sampled_from("abé"), max_size=2))
def test_pieces_are_the_text_up_to_the_stop_and_the_tokens_that_it_was_made_of(text: str, stop: str) -> None:
    choice = choice_of((stop,) if stop else ())
    said = pieces_of(choice, text)
    expected = text.split(stop)[0] if stop else text
    assert "".join(piece.text for piece in said) == expected
    assert not any("\ufffd" in piece.text for piece in said)
    tokens = [placed.token.token for piece in said for placed in piece.tokens]
    assert tokens == TOKENIZER.encode(expected).tolist()
    assert choice.finish == ("stop" if stop and stop in text else "length")
    assert choice.row.gone == (choice.finish == "stop"), "its place is free"


def test_an_offset_counts_the_characters_before() -> None:
    choice = choice_of(echo=True, prompt="é ")
    placed = [placed for piece in pieces_of(choice, "aéb") for placed in piece.tokens]
    assert [one.offset for one in placed] == [0, 0, 1, 2, 3, 3, 4]


def test_a_character_that_never_ends_is_marked_at_the_end() -> None:
    choice = choice_of()
    choice.row.written.append(Token(TOKENIZER.encode("赵").tolist()[0]))
    choice.come_on()
    assert choice.news() == Piece("", [])
    choice.row.finish = "stop"
    choice.come_on()
    last = choice.news()
    assert (last.text, len(last.tokens)) == ("\ufffd", 1)
