"""Our tokenizers as llama.cpp knows them: byte-level BPE, of which characters and bytes are special cases.

llama.cpp writes bytes in GPT-2's characters and merges neighbors by a list. Bytes are that with an empty list. A
character of several bytes is what its bytes merge to, one after another: no merge reaches from one character into the
next, for no character's bytes begin within another's.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.corpus.tokenizers.merges import CHARACTER_OF
from scratchlab.corpus.tokenizers.patterns import CL100K_PATTERN, GPT2_PATTERN, O200K_PATTERN
from scratchlab.errors import RunError

# llama.cpp's names of the patterns by which text is cut. Where nothing is merged across words, any will do.
PRE = {GPT2_PATTERN: "gpt-2", CL100K_PATTERN: "llama-bpe", O200K_PATTERN: "gpt-4o", "": "gpt-2"}
NORMAL, CONTROL = 1, 3  # llama.cpp's kinds of symbols: ordinary and special ones
# A list of merges must be there and must not be empty. This one never happens: no byte is written so.
NEVER = "▁ ▁"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`tokenizer.ggml.*`."""

    pre: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    end_of_text: int


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """The tokenizer as llama.cpp has it. `RunError` for what it has no vocabulary for."""
    match tokenizer.kind:
        case "bpe":
            merges = [_merge(pair) for pair in json.loads(tokenizer.to_json())["model"]["merges"]]
        case "byte":
            merges = []
        case "char":
            merges = _merges_of_characters([tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)])
        case "integers" | "bins":
            raise RunError("llama.cpp has no vocabulary of numbers, as this tokenizer's is: it reads text.")
        case "other":
            raise RunError(
                "this tokenizer is none of byte-level BPE, bytes or characters, which alone become a vocabulary of "
                "llama.cpp's here."
            )
    if tokenizer.end_of_text is None:
        raise RunError(
            "this tokenizer has no token that ends a text, and where none is named llama.cpp takes token 11 for it: "
            "the model would stop in the middle of its words. A corpus of several documents has <|endoftext|>, and one "
            "of a single document if it is built with --special '<|endoftext|>'."
        )
    names = {token: name for name, token in tokenizer.specials.items()}
    symbols = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    return Vocabulary(
        pre=PRE[tokenizer.pattern],
        tokens=[names.get(token) or _written(symbol) for token, symbol in enumerate(symbols)],
        kinds=[CONTROL if token in names else NORMAL for token in range(len(symbols))],
        merges=merges or [NEVER],
        end_of_text=tokenizer.end_of_text,
    )


def _written(symbol: bytes) -> str:
    return "".join(map(CHARACTER_OF.__getitem__, symbol))


def _merge(pair: str | Sequence[str]) -> str:
    return pair if isinstance(pair, str) else " ".join(pair)


def _merges_of_characters(symbols: Sequence[bytes]) -> list[str]:
    """What makes every character out of its bytes, each merge once."""
    merges: dict[str, None] = {}
    for written in map(_written, symbols):
        for length in range(1, len(written)):
            merges[f"{written[:length]} {written[length]}"] = None
    return list(merges)


def stored_tokenizer(settings: dict[str, Any]) -> str | None:
    """The text of the tokenizer.json that a file holds, if it holds one."""
    stored = settings.get("tokenizer.huggingface.json")
    return stored if isinstance(stored, str) else None
