"""What a tokenizer's symbols are, how far they go on a text, and how a text falls apart into them."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import CorpusError

SPACE, NEWLINE, TAB = "·", "↵", "→"
LONGEST = 10
PIECE = 2**22
"""Characters that are encoded at once: a longer document is cut, so that memory does not grow with it."""

WORD = re.compile(r"[^\W\d_]+")
# Whatever comes before it is no white space, so no token of GPT-2's pattern reaches across: cutting changes no token.
CUT = re.compile(r"(?<=\S)[ \n]")


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
    sizes = np.array([len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)])
    for document in documents:
        count["documents"] += 1
        for text in _pieces(document):
            ends = np.cumsum(sizes[tokenizer.encode(text)])
            whole = _whole_words(text, ends)
            count["bytes"] += int(ends[-1]) if len(ends) else 0
            count["characters"] += len(text)
            count["tokens"] += len(ends)
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


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while cut := CUT.search(text, start + PIECE):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def _whole_words(text: str, ends: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """For every word of `text`, whether no token ends within it. `ends` are the tokens' ends in bytes."""
    words = np.array([word.span() for word in WORD.finditer(text)], np.int64).reshape(-1, 2)
    starts, stops = _byte_positions(text)[words].T
    return np.searchsorted(ends, starts, "right") == np.searchsorted(ends, stops, "left")


def _byte_positions(text: str) -> npt.NDArray[np.int64]:
    """Where each character begins in the UTF-8 of `text`, and where the last one ends."""
    points = np.frombuffer(text.encode("utf-32-le"), "<u4")
    widths = 1 + sum((points >= least).astype(np.int64) for least in (0x80, 0x800, 0x10000))
    return np.concatenate([[0], np.cumsum(widths)])
