"""A tokenizer that is a table of symbols and a rule: characters, bytes, byte-level BPE, numbers."""

import functools
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from scratchlab.corpus import numbers
from scratchlab.corpus.tokenizers.encoders import Encode, bpe_encoder, byte_encoder, character_encoder
from scratchlab.corpus.tokenizers.texts import Int64s, byte_positions
from scratchlab.files import sha256_of_json

TableKind = Literal["char", "byte", "bpe", "integers", "bins"]


class Table:
    """`symbols` are the bytes that each id stands for (none, of a special token); `pattern`, by which bpe cuts text."""

    def __init__(
        self, kind: TableKind, symbols: Sequence[bytes], specials: Mapping[str, int], pattern: str = ""
    ) -> None:
        self.kind: TableKind = kind
        self.symbols = symbols
        self.specials = specials
        self.pattern = pattern
        self.vocab_size = len(symbols)

    @functools.cached_property
    def encode(self) -> Encode:
        """Text to ids."""
        match self.kind:
            case "char":
                return character_encoder(self.symbols)
            case "byte":
                return byte_encoder
            case "bpe":
                return bpe_encoder(self.symbols, self.pattern)
            case "integers":
                return numbers.integer_encoder([symbol.decode().strip() for symbol in self.symbols])
            case "bins":
                return numbers.bin_encoder([symbol.decode().strip() for symbol in self.symbols])

    def decode(self, ids: Sequence[int]) -> str:
        """The symbols of `ids`, joined; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(map(self.symbols.__getitem__, ids)).decode(errors="replace")

    def spans(self, text: str) -> Int64s:
        """Where the tokens of `text` begin and end in its UTF-8; shape (tokens, 2)."""
        if self.kind in ("integers", "bins"):
            return byte_positions(text)[numbers.spans(text)]
        ends = np.cumsum(self._sizes[self.encode(text)])
        return np.stack([np.append(0, ends[:-1])[: len(ends)], ends], axis=1)

    @functools.cached_property
    def _sizes(self) -> Int64s:
        return np.array([len(symbol) for symbol in self.symbols], np.int64)

    @functools.cached_property
    def meaning(self) -> str:
        """SHA-256 of what each id stands for and of the rule."""
        symbols = [symbol.hex() for symbol in self.symbols]
        content = {"kind": self.kind, "pattern": self.pattern, "symbols": symbols, "specials": dict(self.specials)}
        return sha256_of_json(content)
