"""Text to ids, several times faster than `tokenizers`: a table for characters, tiktoken for BPE."""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.tokenizers import patterns
from scratchlab.corpus.tokenizers.blanks import blank, count_runs, cut_at_runs
from scratchlab.errors import CorpusError

if TYPE_CHECKING:
    import tiktoken

Ids = npt.NDArray[np.integer]
Encode = Callable[[str], Ids]

SPECIAL = "<|endoftext|>"
LONG_RUN = 2**16
"""Characters of white space in a row. tiktoken's search for its end fails at a million (a stack of its own is full)."""
ANYTHING = r"[\s\S]+"
BYTES_PER_RUN = 256
"""Where runs of white space are closer, as in code, cutting text at them takes longer than looking ahead does."""


def character_encoder(symbols: Sequence[bytes]) -> Encode:
    """Looks each code point up. CorpusError for a character that is not among `symbols`."""
    token_of = {ord(symbol.decode()): token for token, symbol in enumerate(symbols) if symbol}
    table = np.full(max(token_of) + 2, -1, np.int32)  # the last place stands for all code points beyond
    table[list(token_of)] = list(token_of.values())

    def encode(text: str) -> Ids:
        points = np.frombuffer(text.encode("utf-32-le"), "<u4")
        ids = table[np.minimum(points, len(table) - 1)]
        if (unknown := ids < 0).any():
            position = int(unknown.argmax())
            raise CorpusError(
                f"character {text[position]!r} (U+{ord(text[position]):04X}) at position {position} is not among the "
                f"{len(token_of)} characters of this tokenizer. Take it out, or use byte or bpe, which know all text."
            )
        return ids

    return encode


def byte_encoder(text: str) -> Ids:
    """The bytes themselves."""
    return np.frombuffer(text.encode(), np.uint8)


def bpe_encoder(symbols: Sequence[bytes], pattern: str) -> Encode:
    """tiktoken with the ids of `symbols` as ranks."""
    ranks = {symbol: token for token, symbol in enumerate(symbols) if symbol}

    @functools.cache  # each is built when a text first needs it
    def cut_by(pattern: str) -> "tiktoken.Encoding":
        return _tiktoken(ranks, pattern)

    def merge(run: str) -> Ids:
        return _ids(cut_by(ANYTHING), run)

    long_run = re.compile(_long_run(pattern))

    def encode(text: str) -> Ids:
        text.encode()  # tiktoken would quietly replace what is not Unicode
        if not _may_have_long_run(text):
            return _ids(cut_by(pattern), text)
        parts = _around_runs(long_run, text)
        return np.concatenate([merge(part) if run else _ids(cut_by(pattern), part) for part, run in parts])

    def encode_quickly(text: str) -> Ids:
        data = text.encode()
        blanked = blank(data)
        if not (runs := count_runs(blanked)):
            return _ids(cut_by(patterns.GPT2_WITHOUT_LOOKAHEAD), text)
        if runs * BYTES_PER_RUN > len(data):
            return encode(text)
        parts = cut_at_runs(data, blanked)
        return np.concatenate(
            [merge(part) if run else _ids(cut_by(patterns.GPT2_WITHOUT_LOOKAHEAD), part) for part, run in parts]
        )

    return encode_quickly if pattern == patterns.GPT2_PATTERN else encode


def _ids(encoding: "tiktoken.Encoding", text: str) -> Ids:
    """All of it as ordinary text, without a Python number for every id, which takes a tenth of the time."""
    return encoding.encode_to_numpy(text, disallowed_special=())


def _tiktoken(ranks: dict[bytes, int], pattern: str) -> "tiktoken.Encoding":
    import tiktoken

    # It looks for special tokens that it may not encode. One is needed: where there is none, it stops everywhere.
    special = {SPECIAL: max(ranks.values()) + 1}
    return tiktoken.Encoding("scratchlab", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


# A long run of white space is what `\s+(?!\S)` matches: all of it but, before anything else, its last character, which
# may go with what follows. It is merged as one piece, and the text around it encoded by itself. Of the later patterns
# newlines, and what stands before them, are matched by `\s*[\r\n]+`, which takes runs of any length.


def _long_run(pattern: str) -> str:
    least = f"{{{LONG_RUN},}}+"
    space, blank = r"[^\S\x1c-\x1f]", r"[^\S\r\n\x1c-\x1f]"  # \x1c to \x1f are white space to Python alone
    if pattern == patterns.GPT2_PATTERN:
        return f"(?<!{space}){space}{least}"
    return f"(?<!{blank}){blank}{least}(?![\r\n])"


def _may_have_long_run(text: str) -> bool:
    """Quick to say: a long run has all of one of the blocks that are half as long."""
    half = LONG_RUN // 2
    return len(text) >= LONG_RUN and any(text[i : i + half].isspace() for i in range(0, len(text), half))


def _around_runs(long_run: re.Pattern[str], text: str) -> Iterator[tuple[str, bool]]:
    """The parts of `text`, each with whether it is a long run that is merged as one piece."""
    start = 0
    for found in long_run.finditer(text):
        stop = found.end() - (found.end() < len(text))
        yield text[start : found.start()], False
        yield text[found.start() : stop], True
        start = stop
    yield text[start:], False
