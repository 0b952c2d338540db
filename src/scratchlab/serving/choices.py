"""The text of a row as it comes: what may be said of it, and the tokens that it was made of."""

from collections.abc import Sequence
from dataclasses import dataclass

from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.generation.batching import Finish, Row, Token
from scratchlab.generation.text import TextStream


@dataclass(frozen=True, slots=True)
class Placed:
    """A token, and the number of characters before it."""

    token: Token
    offset: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What was not yet said of a text."""

    text: str
    tokens: Sequence[Placed]


class Choice:
    """One of the texts that a request asked for."""

    def __init__(self, index: int, row: Row, tokenizer: Tokenizer, echo: bool) -> None:
        """With `echo` its text begins with the prompt."""
        self.index, self.row = index, row
        self.finish: Finish | None = None
        self._stream = TextStream(tokenizer.token_bytes, row.wish.settings.stop)
        self._text, self._tokens = "", list[Placed]()
        self._said, self._tokens_said, self._read = 0, 0, 0
        self._before = 0
        """Characters of the prompt, where they belong to the text."""
        self._echo = TextStream(tokenizer.token_bytes) if echo else None

    @property
    def over(self) -> bool:
        return self.finish is not None or self.row.error is not None

    def come_on(self) -> None:
        """Take what the row has written. A stop string ends both."""
        if self._echo is not None and (self.row.written or self.row.finish):
            self._repeat_prompt(self._echo)
        for token in self.row.written[self._read :]:
            self._read += 1
            self._tokens.append(Placed(token, self._before + self._stream.length))
            self._text += self._stream.add(token.token)
            if self._stream.stopped:
                self.finish, self.row.gone = "stop", True
                return
        if self.row.finish is not None and self.finish is None:
            self._text += self._stream.end()
            self.finish = self.row.finish

    def _repeat_prompt(self, stream: TextStream) -> None:
        for token in self.row.prompt or map(Token, self.row.wish.prompt):
            self._tokens.append(Placed(token, stream.length))
            self._text += stream.add(token.token)
        self._text += stream.end()
        self._before, self._echo = len(self._text), None

    def news(self) -> Piece:
        """What came since it was asked last. Tokens come with their text; those of a stop string never."""
        text, ends = self._text[self._said :], len(self._text)
        if self.finish is not None and not self._stream.stopped:
            last = len(self._tokens)
        else:
            last = next((n for n, placed in enumerate(self._tokens) if placed.offset >= ends), len(self._tokens))
        tokens = self._tokens[self._tokens_said : last]
        self._said, self._tokens_said = ends, max(last, self._tokens_said)
        return Piece(text, tokens)
