"""Tokenizers: characters, bytes and byte-level BPE, all stored as tokenizer.json (Hugging Face `tokenizers`).

One stored format, so that a tokenizer and the weights trained with it cannot drift apart on the way to the Hub. It is
also the trainer. Encoding is our own, because it is several times faster: a table for characters, the bytes themselves,
and `tiktoken` for BPE. Tests hold all three equal to `tokenizers`' own encoding of the same file.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from scratchlab.errors import CorpusError, UsageError
from scratchlab.files import sha256_of_json

Kind = Literal["char", "byte", "bpe"]
Dtype = Literal["uint16", "uint32"]
TokenIds = npt.NDArray[np.uint16 | np.uint32]

END_OF_TEXT = "<|endoftext|>"
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
ANY_CHARACTER = r"[\s\S]"
SMALLEST_BPE = 257  # 256 bytes and <|endoftext|>


class Tokenizer:
    """Text to token ids and back. Made by `load`, `from_json` or `train_tokenizer`.

    `end_of_text` is the id of `<|endoftext|>`, or None where there is none. That symbol separates documents in a token
    stream: it has no bytes, `encode` never yields it (the same letters in a text are ordinary text), `decode` drops it.
    """

    def __init__(self, stored: str, kind: Kind, symbols: Sequence[bytes], end_of_text: int | None) -> None:
        """Not to be called directly: `symbols` are the bytes of each id and must agree with the `stored` JSON."""
        self.kind: Kind = kind
        self.end_of_text = end_of_text
        self.vocab_size = len(symbols)
        self.dtype_name: Dtype = "uint16" if self.vocab_size <= 2**16 else "uint32"
        self.dtype = np.dtype(self.dtype_name)
        self._stored = stored
        self._symbols = symbols

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read a tokenizer.json; CorpusError names the file if it is missing, damaged or of a kind unknown here."""
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
        """Understand the text of a tokenizer.json that scratchlab wrote, or of one built like GPT-2's."""
        try:
            return cls(stored, *_understand(json.loads(stored)))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise CorpusError(
                "this is not a tokenizer.json of a kind known here (characters, bytes, or byte-level BPE with GPT-2's "
                f"pattern): {type(error).__name__}: {error}. Train one with: scratchlab corpus build."
            ) from error

    def to_json(self) -> str:
        """The text of tokenizer.json, exactly as it was read or trained."""
        return self._stored

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of tokenizer.json as hex."""
        return hashlib.sha256(self._stored.encode()).hexdigest()

    @functools.cached_property
    def meaning(self) -> str:
        """SHA-256 of what each id stands for: equal where the same text gets the same ids, whatever the file says else.

        GPT-2's file on the Hub and one that was made of its vocab.json and merges.txt differ in bytes alone.
        """
        symbols = [symbol.hex() for symbol in self._symbols]
        return sha256_of_json({"kind": self.kind, "symbols": symbols, "end_of_text": self.end_of_text})

    def encode(self, text: str) -> TokenIds:
        """The ids of `text`, shape (tokens,), uint16 where the vocabulary allows it, else uint32.

        Raises CorpusError for a character that a character tokenizer lacks, and for text that no UTF-8 can hold.
        """
        try:
            return self._encode(text)
        except UnicodeEncodeError as error:
            raise CorpusError(
                f"the text cannot be encoded: there is half a surrogate pair (U+{ord(text[error.start]):04X}) at "
                f"position {error.start}. It must be valid Unicode."
            ) from error

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD. Raises CorpusError for an id out of range."""
        return b"".join(map(self.token_bytes, np.asarray(ids).tolist())).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes that `token` stands for (none for `<|endoftext|>`); they may be a part of a character."""
        if not 0 <= token < self.vocab_size:
            raise CorpusError(f"token id {token} is outside this tokenizer's vocabulary of {self.vocab_size} symbols.")
        return self._symbols[token]

    @functools.cached_property
    def _encode(self) -> Callable[[str], TokenIds]:
        match self.kind:
            case "char":
                return _character_encoder(self._symbols, self.dtype)
            case "byte":
                return lambda text: np.frombuffer(text.encode(), np.uint8).astype(self.dtype)
            case "bpe":
                return _bpe_encoder(self._symbols, self.dtype)


def _character_encoder(symbols: Sequence[bytes], dtype: np.dtype[Any]) -> Callable[[str], TokenIds]:
    token_of = {ord(symbol.decode()): token for token, symbol in enumerate(symbols) if symbol}
    table = np.full(max(token_of) + 2, -1, np.int32)  # the last place stands for all code points beyond
    table[list(token_of)] = list(token_of.values())

    def encode(text: str) -> TokenIds:
        points = np.frombuffer(text.encode("utf-32-le"), "<u4")
        ids = table[np.minimum(points, len(table) - 1)]
        if (unknown := ids < 0).any():
            position = int(unknown.argmax())
            raise CorpusError(
                f"character {text[position]!r} (U+{ord(text[position]):04X}) at position {position} is not among the "
                f"{len(token_of)} characters of this tokenizer. Take it out, or use byte or bpe, which know all text."
            )
        return ids.astype(dtype)

    return encode


def _bpe_encoder(symbols: Sequence[bytes], dtype: np.dtype[Any]) -> Callable[[str], TokenIds]:
    import tiktoken

    ranks = {symbol: token for token, symbol in enumerate(symbols) if symbol}  # <|endoftext|> is not among them
    encoding = tiktoken.Encoding("scratchlab", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def encode(text: str) -> TokenIds:
        text.encode()  # tiktoken would quietly replace what is not Unicode
        # Measured: building the list and converting it is faster than tiktoken's encode_to_numpy.
        return np.array(encoding.encode_ordinary(text), dtype)

    return encode


def _understand(data: Any) -> tuple[Kind, list[bytes], int | None]:
    """(kind, bytes of each id, id of `<|endoftext|>`) of a parsed tokenizer.json; an error if it is foreign."""
    model, before = data["model"], data["pre_tokenizer"]
    vocab: dict[str, int] = dict(model["vocab"])
    specials = {added["content"]: added["id"] for added in data["added_tokens"]}
    if set(specials) - {END_OF_TEXT} or data["normalizer"] is not None:
        raise ValueError(f"added tokens {sorted(specials)} or a normalizer")
    end_of_text = specials.get(END_OF_TEXT)
    if end_of_text is not None:
        vocab.pop(END_OF_TEXT, None)  # GPT-2's own file lists it in both places
    match model["type"], before["type"], before.get("add_prefix_space"), before.get("use_regex", True):
        case "WordLevel", "Split", _, _ if before["pattern"] == {"Regex": ANY_CHARACTER} and max(map(len, vocab)) == 1:
            kind, symbols = "char", {token: symbol.encode() for symbol, token in vocab.items()}
        case "BPE", "ByteLevel", False, True | False as pattern:
            kind = "bpe" if pattern else "byte"
            symbols = {token: bytes(map(_BYTE_OF.__getitem__, symbol)) for symbol, token in vocab.items()}
            _check_ranks(kind, symbols, [_merged(merge) for merge in model["merges"]], vocab)
        case other:
            raise ValueError(f"model and pre-tokenizer {other}")
    if end_of_text is not None:
        symbols[end_of_text] = b""
    return kind, [symbols[token] for token in range(len(symbols))], end_of_text


def _check_ranks(kind: Kind, symbols: dict[int, bytes], merges: list[str], vocab: dict[str, int]) -> None:
    """Our encoders take ids for bytes or for the order of merges: refuse a vocabulary where they are not."""
    merged = [vocab[merge] for merge in merges]
    if {bytes([byte]) for byte in range(256)} - set(symbols.values()):
        raise ValueError("not all 256 bytes are symbols")
    if kind == "byte" and [symbols[byte] for byte in range(256)] != [bytes([byte]) for byte in range(256)]:
        raise ValueError("ids of bytes are not their values")
    if merged != sorted(set(merged)) or len(merged) != len(symbols) - 256:
        raise ValueError("ids do not follow the order of the merges")


def _merged(merge: str | list[str]) -> str:
    """What a merge makes; files write it as a pair, older ones as two words."""
    return merge.replace(" ", "") if isinstance(merge, str) else "".join(merge)


def _byte_characters() -> dict[int, str]:
    """GPT-2's character for every byte: printable ones stand for themselves, the others from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


CHARACTER_OF = _byte_characters()
_BYTE_OF = {character: byte for byte, character in CHARACTER_OF.items()}


def parse_tokenizer(spec: str) -> tuple[Kind, int]:
    """(kind, size) of `char`, `byte` or `bpe:4096`; size is 0 where the text decides it. Raises UsageError."""
    kind, _, size = spec.partition(":")
    if spec in ("char", "byte"):
        return spec, 0
    if kind == "bpe" and size.isascii() and size.isdigit() and SMALLEST_BPE <= int(size) <= 2**31:
        return "bpe", int(size)
    raise UsageError(
        f"tokenizer {spec!r}: expected char, byte, or bpe:N with N from {SMALLEST_BPE} (256 bytes and {END_OF_TEXT}), "
        "as in bpe:4096, gpt2, or the path of a tokenizer.json or of a folder with one."
    )


def train_tokenizer(
    spec: str, texts: Iterable[str], *, end_of_text: bool = True, origin: str = "the text"
) -> Tokenizer:
    """A tokenizer for `texts`, read once: their characters by code point, 256 bytes, or BPE of exactly N symbols.

    Without `end_of_text`, characters (then with nanoGPT's ids) and bytes get no `<|endoftext|>`; BPE always has it.
    Raises UsageError for a mistaken `spec` and CorpusError for a text too small for N symbols, called `origin`.
    """
    from tokenizers import AddedToken

    kind, size = parse_tokenizer(spec)
    stored = _new_characters(texts, origin) if kind == "char" else _new_bytes(kind)
    if kind == "bpe":
        _learn_merges(stored, texts, size, origin)
    if end_of_text or kind == "bpe":
        stored.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return Tokenizer.from_json(stored.to_str())


def _new_characters(texts: Iterable[str], origin: str) -> Any:
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Stored

    characters = set[str]()
    for text in texts:
        characters.update(text)
    if not characters:
        raise CorpusError(f"{origin} is empty: there are no characters to take.")
    vocabulary = {character: token for token, character in enumerate(sorted(characters))}
    # WordLevel refuses what it does not know; BPE without an unknown symbol would drop it without a word.
    stored = Stored(models.WordLevel(vocabulary, unk_token=""))
    stored.pre_tokenizer = pre_tokenizers.Split(Regex(ANY_CHARACTER), "isolated")
    stored.decoder = decoders.Fuse()
    return stored


def _new_bytes(kind: Kind) -> Any:
    """Byte-level BPE without merges: with its 256 symbols already, or still to be trained."""
    from tokenizers import Tokenizer as Stored
    from tokenizers import decoders, models, pre_tokenizers

    vocabulary = {CHARACTER_OF[byte]: byte for byte in range(256)}
    stored = Stored(models.BPE(vocabulary, []) if kind == "byte" else models.BPE())
    stored.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "bpe")
    stored.decoder = decoders.ByteLevel()
    return stored


def _learn_merges(stored: Any, texts: Iterable[str], size: int, origin: str) -> None:
    from tokenizers.trainers import BpeTrainer

    trainer = BpeTrainer(
        vocab_size=size - 1,
        min_frequency=2,  # a pair seen once teaches nothing: it would be a symbol for one place in the text
        show_progress=False,
        initial_alphabet=sorted(_BYTE_OF),
    )
    stored.train_from_iterator(texts, trainer)
    if (reached := stored.get_vocab_size() + 1) < size:
        raise CorpusError(
            f"{origin} is too small for bpe:{size}: merging every pair of symbols that occurs twice gives "
            f"{reached} symbols. Use bpe:{reached} or fewer, byte, or more text."
        )
