"""What a tokenizer's symbols are, how far they go on a text, and how a text falls apart into them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.corpus.tokenizers.texts import Int64s, byte_positions, pieces
from scratchlab.errors import CorpusError

SPACE, NEWLINE, TAB = "·", "↵", "→"
LONGEST = 10
PIECE = 2**20
"""Characters that are encoded at once: a longer document is cut, so that memory does not grow with it. Of tokenizers of
kind other a token or two may change at each cut."""

WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class Token:
    """One symbol."""

    id: int
    shown: str
    """Its text for people, see `visible`."""
    bytes: int


@dataclass(frozen=True, slots=True)
class Yield:
    """How far a tokenizer's symbols go on a text. Counts of all documents together."""

    documents: int
    bytes: int
    """Of the text as UTF-8."""
    characters: int
    tokens: int
    words: int
    """Runs of letters."""
    whole_words: int
    """Those that lie in a single token, which may hold more than the word: mostly the space before it."""
    bytes_per_token: float
    characters_per_token: float
    whole_word_share: float | None
    """None for a text without words."""


def visible(text: bytes) -> str:
    """Text in which spaces, newlines and tabs show; bytes that are no UTF-8, and what has no shape, as escapes."""
    shown = {" ": SPACE, "\n": NEWLINE, "\t": TAB}
    characters = text.decode(errors="backslashreplace")
    return "".join(shown.get(c) or (c if c.isprintable() else c.encode("unicode_escape").decode()) for c in characters)


def longest_tokens(tokenizer: Tokenizer, most: int = LONGEST) -> list[Token]:
    """The symbols with the most bytes, the longest first, equal ones by their ids."""
    sizes = [len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)]
    order = sorted(range(len(sizes)), key=lambda token: (-sizes[token], token))
    return [_token(tokenizer, token) for token in order[:most]]


def split_text(tokenizer: Tokenizer, text: str) -> list[Token]:
    """The tokens of `text` in their order."""
    return [_token(tokenizer, token) for token in tokenizer.encode(text).tolist()]


def _token(tokenizer: Tokenizer, token: int) -> Token:
    text = tokenizer.token_bytes(token)
    return Token(token, visible(text), len(text))


def measure(tokenizer: Tokenizer, documents: Iterable[str]) -> Yield:
    """How far `tokenizer` goes on `documents`, each encoded by itself. CorpusError if they hold no text."""
    count = dict.fromkeys(("documents", "bytes", "characters", "tokens", "words", "whole_words"), 0)
    for document in documents:
        count["documents"] += 1
        for text in pieces(document, PIECE):
            spans = tokenizer.spans(text)
            whole = _whole_words(text, spans)
            count["bytes"] += len(text.encode())
            count["characters"] += len(text)
            count["tokens"] += len(spans)
            count["words"] += len(whole)
            count["whole_words"] += int(whole.sum())
    if not count["tokens"]:
        raise CorpusError("there is no text to measure on.")
    return Yield(
        **count,
        bytes_per_token=count["bytes"] / count["tokens"],
        characters_per_token=count["characters"] / count["tokens"],
        whole_word_share=count["whole_words"] / count["words"] if count["words"] else None,
    )


def _whole_words(text: str, spans: Int64s) -> npt.NDArray[np.bool_]:
    """For every word of `text`, whether a single token has a part in it. `spans` are the tokens' in bytes."""
    words = np.array([word.span() for word in WORD.finditer(text)], np.int64).reshape(-1, 2)
    starts, stops = byte_positions(text)[words].T
    begun_by_the_end = np.searchsorted(spans[:, 0], stops, "left")
    over_by_the_start = np.searchsorted(spans[:, 1], starts, "right")
    return begun_by_the_end - over_by_the_start == 1
