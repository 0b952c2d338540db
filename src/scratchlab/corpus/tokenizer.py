"""Tokenizers: text to token ids and back, all stored as tokenizer.json (Hugging Face `tokenizers`).

One stored format, so that a tokenizer and the weights trained with it cannot drift apart on the way to the Hub. It is
also the trainer. Encoding is our own where that is several times faster: a table for characters, the bytes themselves,
`tiktoken` for byte-level BPE. Tests hold all of them equal to `tokenizers`' own encoding of the same file. Numbers are
parsed here too. Whatever else there is, `tokenizers` encodes.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from scratchlab.corpus import numbers
from scratchlab.corpus.tokenizers import training
from scratchlab.corpus.tokenizers.foreign import Foreign
from scratchlab.corpus.tokenizers.merges import CHARACTER_OF as CHARACTER_OF
from scratchlab.corpus.tokenizers.patterns import GPT2_PATTERN as GPT2_PATTERN
from scratchlab.corpus.tokenizers.stored import understand
from scratchlab.corpus.tokenizers.table import Table, TableKind
from scratchlab.errors import CorpusError, UsageError

Kind = TableKind | Literal["other"]
Dtype = Literal["uint16", "uint32"]
TokenIds = npt.NDArray[np.uint16 | np.uint32]

END_OF_TEXT = "<|endoftext|>"
ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "<|im_end|>", "[SEP]")
"""Names of the special token that ends a text, as others have it too; the first that is there is taken."""


class Tokenizer:
    """Text to token ids and back. Made by `load`, `from_json` or `train_tokenizer`.

    `specials` are the ids of special tokens by name. They have no bytes, `encode` never yields one (the same letters in
    a text are ordinary text), `decode` drops them. `end_of_text` is the id of the one that separates documents in a
    token stream, mostly `<|endoftext|>`, or None where there is none.

    `decode` gives back the very text that `encode` was given for characters, bytes and BPE (kind bpe). Numbers come
    back with a space after each, in bins as the centers; for what is encoded by `tokenizers` itself (kind other), see
    `Foreign`. Their ids may have holes: `vocab_size` is the highest and one.
    """

    def __init__(self, stored: str, coder: Table | Foreign) -> None:
        """Not to be called directly: the `coder` must do what the `stored` JSON says."""
        self.kind: Kind = coder.kind
        self.specials: Mapping[str, int] = dict(coder.specials)
        self.end_of_text = next((self.specials[name] for name in ENDS if name in self.specials), None)
        self.vocab_size = coder.vocab_size
        self.dtype_name: Dtype = "uint16" if self.vocab_size <= 2**16 else "uint32"
        self.dtype = np.dtype(self.dtype_name)
        self._stored = stored
        self._coder = coder

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read a tokenizer.json; CorpusError names the file if it is missing, damaged or none."""
        try:
            stored = path.read_bytes().decode()
        except (OSError, UnicodeDecodeError) as error:
            raise CorpusError(f"{path} could not be read: {error}.") from error
        try:
            return cls.from_json(stored)
        except CorpusError as error:
            raise CorpusError(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, stored: str) -> "Tokenizer":
        """Understand the text of a tokenizer.json, whoever wrote it. CorpusError if it is none."""
        try:
            return cls(stored, understand(json.loads(stored)) or Foreign(stored))
        except ValueError as error:
            raise CorpusError(
                f"this is not a tokenizer.json that `tokenizers` understands: {error}. Train one with: scratchlab "
                "corpus build."
            ) from error

    def to_json(self) -> str:
        """The text of tokenizer.json, exactly as it was read or trained."""
        return self._stored

    def with_specials(self, names: Sequence[str]) -> "Tokenizer":
        """This tokenizer with more special tokens, at the ids after its last, in this order.

        UsageError for a name that is blank, there already, or an ordinary symbol, and where ids have holes: there
        `tokenizers` would give them ids that others have.
        """
        from tokenizers import AddedToken
        from tokenizers import Tokenizer as Stored

        _check_names(names)
        stored = Stored.from_str(self._stored)
        if names and stored.get_vocab_size() != self.vocab_size:
            raise UsageError("this tokenizer can have no more special tokens: its ids have holes.")
        for name in names:
            if stored.token_to_id(name) is not None or (self.kind != "other" and name.encode() in self._coder.symbols):
                what = "a special token" if name in self.specials else "an ordinary symbol"
                raise UsageError(f"special token {name!r} is {what} of this tokenizer already. Choose another name.")
        stored.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
        return Tokenizer.from_json(stored.to_str()) if names else self

    @property
    def numeric(self) -> bool:
        """Whether its texts are numbers, and may be cut between any two."""
        return self.kind in ("integers", "bins")

    @property
    def pattern(self) -> str:
        """The regular expression by which BPE cuts text before it merges; "" where nothing is cut by one."""
        return self._coder.pattern if isinstance(self._coder, Table) else ""

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of tokenizer.json as hex."""
        return hashlib.sha256(self._stored.encode()).hexdigest()

    @property
    def meaning(self) -> str:
        """SHA-256 of what decides the ids of a text: equal where they are, whatever else the file says.

        GPT-2's file on the Hub and one that was made of its vocab.json and merges.txt differ in bytes alone.
        """
        return self._coder.meaning

    def encode(self, text: str) -> TokenIds:
        """The ids of `text`, shape (tokens,), uint16 where the vocabulary allows it, else uint32.

        Raises CorpusError for what the tokenizer has no symbol for (a character, a number, what is no number), and for
        text that no UTF-8 can hold.
        """
        try:
            return self._coder.encode(text).astype(self.dtype, copy=False)
        except UnicodeEncodeError as error:
            raise CorpusError(
                f"the text cannot be encoded: there is half a surrogate pair (U+{ord(text[error.start]):04X}) at "
                f"position {error.start}. It must be valid Unicode."
            ) from error

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD. Raises CorpusError for an id out of range."""
        tokens = np.asarray(ids, np.int64)
        if len(outside := tokens[(tokens < 0) | (tokens >= self.vocab_size)]):
            raise self._outside(int(outside[0]))
        return self._coder.decode(tokens.tolist())

    def spans(self, text: str) -> npt.NDArray[np.int64]:
        """Where each token of `text` begins and ends in its UTF-8, in bytes; shape (tokens, 2)."""
        return self._coder.spans(text)

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that `token` stands for (none for a special token); they may be a part of a character.

        What one after another stands for, joined, is what `decode` gives; of kind other it may differ from it in the
        white space at the start.
        """
        if not 0 <= token < self.vocab_size:
            raise self._outside(token)
        return self._coder.symbols[token]

    def _outside(self, token: int) -> CorpusError:
        return CorpusError(f"token id {token} is outside this tokenizer's vocabulary of {self.vocab_size} symbols.")


def parse_tokenizer(spec: str) -> tuple[TableKind, int]:
    """(kind, size) of `char`, `byte`, `bpe:4096`, `integers` or `bins:256`; size is 0 where the text decides it.

    Raises UsageError.
    """
    kind, colon, size = spec.partition(":")
    number = int(size) if size.isascii() and size.isdigit() and len(size) < 10 else 0
    match kind, colon:
        case (("char" | "byte" | "integers"), ""):
            return kind, 0
        case "bpe", ":" if number > training.SMALLEST_BPE:
            return "bpe", number
        case "bins", ":" if number >= numbers.FEWEST_BINS:
            return "bins", number
        case _:
            raise UsageError(
                f"tokenizer {spec!r}: expected char, byte, bpe:N with N from {training.SMALLEST_BPE + 1} (256 bytes "
                f"and {END_OF_TEXT}), as in bpe:4096, for numbers integers or bins:N, as in bins:256, or gpt2, or the "
                "path of a tokenizer.json or of a folder with one."
            )


def learns_from_all_splits(kind: Kind) -> bool:
    """Whether a new tokenizer takes its symbols from every split: those without which text could not be encoded at all.

    What BPE and bins learn, they must not learn from the text that a model will be judged on.
    """
    return kind in ("char", "integers")


def train_tokenizer(
    spec: str,
    texts: Iterable[str],
    *,
    end_of_text: bool = True,
    specials: Sequence[str] = (),
    origin: str = "the text",
) -> Tokenizer:
    """A tokenizer for `texts`, read once: their characters by code point, 256 bytes, BPE of exactly N symbols, the
    whole numbers in them by size, or N bins for the numbers in them.

    Without `end_of_text` there is no `<|endoftext|>` (characters then have nanoGPT's ids); BPE always has it. Special
    tokens come last, `<|endoftext|>` before `specials`, and count as symbols of BPE. Raises UsageError for a mistaken
    `spec` or name and CorpusError for a text that does not have so many symbols, called `origin`.
    """
    kind, size = parse_tokenizer(spec)
    names = [END_OF_TEXT] * (end_of_text or kind == "bpe") + [*specials]
    _check_names(names)
    if kind == "bpe" and size < training.SMALLEST_BPE + len(names):
        raise UsageError(f"tokenizer {spec!r}: {len(names)} special tokens and 256 bytes are more. Use a larger N.")
    match kind:
        case "char":
            stored = training.new_characters(texts, origin)
        case "byte":
            stored = training.new_bytes()
        case "bpe":
            stored = training.new_bpe(texts, size, len(names), origin)
        case "integers":
            stored = training.new_integers(texts, origin)
        case "bins":
            stored = training.new_bins(texts, size, origin)
    return Tokenizer.from_json(stored.to_str()).with_specials(names)


def _check_names(names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"special tokens {', '.join(twice)}: each can be named once only, {END_OF_TEXT} included.")
    if blank := [name for name in names if not name.strip() or not name.isprintable()]:
        raise UsageError(f"special token {blank[0]!r}: expected a name that can be seen, as in <|user|>.")
