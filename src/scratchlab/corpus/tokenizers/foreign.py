"""Any other tokenizer.json, encoded by `tokenizers` itself: WordPiece, Unigram, SentencePiece's BPE, normalizers.

Measured on 8 MB of English with GPT-2's vocabulary: 2 MB/s, where tiktoken encodes 11, and 170 bytes of memory for each
byte that is encoded at once.
"""

import functools
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scratchlab.corpus.tokenizers.encoders import Ids
from scratchlab.corpus.tokenizers.merges import BYTE_OF, as_bytes
from scratchlab.corpus.tokenizers.texts import Int64s, byte_positions
from scratchlab.errors import CorpusError
from scratchlab.files import sha256_of_json

if TYPE_CHECKING:
    import tokenizers

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # what byte fallback calls a byte


class Foreign:
    """A tokenizer.json as `tokenizers` understands it.

    What it has no symbol for becomes what the file says: an unknown token, or, in BPE without one, nothing.
    """

    def __init__(self, stored: str) -> None:
        """ValueError for a text that `tokenizers` does not take for a tokenizer, or not for the one it says it is."""
        from tokenizers import Tokenizer as Stored

        self.kind: Literal["other"] = "other"
        try:
            whole = Stored.from_str(stored)
        except Exception as error:  # it raises no narrower one
            raise ValueError(str(error)) from None
        self._stored = whole.to_str()  # with every field, and in today's form
        added = whole.get_added_tokens_decoder()
        said = {token["content"]: token["id"] for token in json.loads(stored).get("added_tokens", [])}
        if moved := {token.content for number, token in added.items() if said.get(token.content) != number}:
            raise ValueError(f"the ids of {sorted(moved)} are not those that `tokenizers` gives them")
        self.specials = {token.content: number for number, token in added.items() if token.special}
        self.vocab = whole.get_vocab(with_added_tokens=True)
        self.vocab_size = max(self.vocab.values(), default=-1) + 1
        if len(set(self.vocab.values())) != len(self.vocab) or not self.vocab:
            raise ValueError("several symbols have one id" if self.vocab else "it has no symbols")
        self._added = set(added)

    @functools.cached_property
    def meaning(self) -> str:
        """SHA-256 of what decides which ids a text gets."""
        parts = ("model", "normalizer", "pre_tokenizer", "added_tokens")
        data = json.loads(self._stored)
        return sha256_of_json({"kind": "other"} | {part: data[part] for part in parts})

    def encode(self, text: str) -> Ids:
        """The ids of `text`, without any that its file would put around it."""
        text.encode()  # half a surrogate pair is an error here
        self._refuse_lost(text)
        return np.array(self._encoding(text).ids, np.uint32)

    def spans(self, text: str) -> Int64s:
        """Where the tokens of `text` begin and end in its UTF-8; shape (tokens, 2).

        The tokens of a character that has several have all of it each.
        """
        return byte_positions(text)[np.array(self._encoding(text).offsets, np.int64).reshape(-1, 2)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` by the file's own decoder, without special tokens."""
        return self._plain.decode(list(ids), skip_special_tokens=True)

    @functools.cached_property
    def symbols(self) -> list[bytes]:
        """What each id stands for.

        Exact for byte-level tokenizers and for the bytes of byte fallback. For others the text that the decoder adds
        for it after another word, so that what follows one another joins to what a person would write: " the" for
        `▁the` of SentencePiece and for `the` of WordPiece, "ing" for `##ing`.
        """
        symbols = [b""] * self.vocab_size
        for symbol, number in self.vocab.items():
            if symbol not in self.specials:
                symbols[number] = self._bytes(symbol, number)
        return symbols

    def _bytes(self, symbol: str, number: int) -> bytes:
        if "ByteLevel" in self._decoders:
            return as_bytes(symbol) if BYTE_OF.keys() >= set(symbol) else symbol.encode()
        if "ByteFallback" in self._decoders and (byte := _BYTE.fullmatch(symbol)):
            return bytes([int(byte[1], 16)])
        if ends := self._decoders.get("BPEDecoder"):
            return symbol.replace(ends["suffix"], " ").encode()
        before, text = self._word
        return self._plain.decode([before, number]).removeprefix(text).encode()

    @functools.cached_property
    def _word(self) -> tuple[int, str]:
        """An ordinary token and its text, for others to follow."""
        for number in sorted(set(self.vocab.values()) - self._added):
            if (text := self._plain.decode([number])).isalnum() and self._plain.decode([number] * 2).startswith(text):
                return number, text
        return min(self.vocab.values()), ""

    @functools.cached_property
    def _decoders(self) -> dict[str, Any]:
        """The steps of the file's decoder by name."""
        decoder = json.loads(self._stored)["decoder"] or {"decoders": []}
        return {step["type"]: step for step in decoder.get("decoders", [decoder])}

    @functools.cached_property
    def _plain(self) -> "tokenizers.Tokenizer":
        from tokenizers import Tokenizer as Stored

        try:
            return Stored.from_str(json.dumps(_for_ordinary_text(json.loads(self._stored), self.specials)))
        except Exception as error:
            raise CorpusError(f"the tokenizer's special tokens cannot be told from ordinary text: {error}.") from None

    def _encoding(self, text: str) -> "tokenizers.Encoding":
        try:
            return self._plain.encode(text, add_special_tokens=False)
        except Exception as error:
            raise CorpusError(f"the tokenizer cannot encode the text: {error}.") from None

    def _refuse_lost(self, text: str) -> None:
        """Byte-level BPE that was trained without some of the bytes would pass over them without a word."""
        if self._known_bytes is not None and (lost := text.encode().translate(None, self._known_bytes)):
            raise CorpusError(
                f"byte 0x{lost[0]:02x} is not among the symbols of this tokenizer: the text would lose it."
            )

    @functools.cached_property
    def _known_bytes(self) -> bytes | None:
        """The bytes that are symbols; None where no text can lose any."""
        data, known = json.loads(self._stored), BYTE_OF.keys() & self.vocab.keys()
        passes_over = data["model"]["type"] == "BPE" and not data["model"]["unk_token"] and not data["normalizer"]
        passes_over = passes_over and len(known) < 256 and "ByteLevel" in self._decoders
        return bytes(BYTE_OF[character] for character in known) if passes_over else None


def _for_ordinary_text(data: Mapping[str, Any], specials: Mapping[str, int]) -> dict[str, Any]:
    """The tokenizer without what is done to a training example, and unable to find its special tokens in a text.

    `encode_special_tokens` of `tokenizers` is not enough: Unigram, and words as they are, find those that are in the
    vocabulary too. So they get names that no text can hold: they are drawn by lot.
    """
    lot = secrets.token_hex(16)
    new = {name: f"{name}{lot}" for name in specials}
    model = dict(data["model"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {new.get(symbol, symbol): number for symbol, number in model["vocab"].items()}
    else:  # Unigram: pairs of a piece and its score
        model["vocab"] = [[new.get(piece, piece), score] for piece, score in model["vocab"]]
    if "unk_token" in model:
        model["unk_token"] = new.get(model["unk_token"], model["unk_token"])
    if "dropout" in model:
        model["dropout"] = None
    added = [{**token, "content": new.get(token["content"], token["content"])} for token in data["added_tokens"]]
    nothing = dict.fromkeys(("truncation", "padding", "post_processor"))
    return {**data, **nothing, "model": model, "added_tokens": added}
