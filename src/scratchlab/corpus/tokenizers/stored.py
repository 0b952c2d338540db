"""Understanding a tokenizer.json: whether it is a table of symbols and a rule that are known here."""

from collections.abc import Callable, Mapping
from typing import Any

from scratchlab.corpus import numbers
from scratchlab.corpus.tokenizers import patterns
from scratchlab.corpus.tokenizers.merges import BYTE_OF, CHARACTER_OF, Pair, as_bytes, follow_ranks
from scratchlab.corpus.tokenizers.table import Table, TableKind

Rule = tuple[TableKind, str, Callable[[str], bytes]]
"""The kind, the pattern, and how the bytes of a symbol are written."""


def understand(data: Any) -> Table | None:
    """What a parsed tokenizer.json says; None if it is not of the kinds that are encoded here, or no tokenizer."""
    try:
        return _understand(data)
    except (KeyError, TypeError, AttributeError, ValueError):  # malformed: for `tokenizers` to say how
        return None


def _understand(data: Any) -> Table | None:
    specials = {added["content"]: added["id"] for added in data["added_tokens"] if added["special"] is True}
    listed = dict[str, int](data["model"]["vocab"])
    vocab = {symbol: token for symbol, token in listed.items() if symbol not in specials}  # GPT-2's file has it in both
    ids = sorted([*vocab.values(), *specials.values()])
    ordinary = len(data["added_tokens"]) > len(specials)
    if ordinary or data["normalizer"] is not None or not vocab or ids != list(range(len(ids))):
        return None
    rule = _words(data, vocab) or _byte_level(data, vocab)
    if rule is None or any(listed.get(name, token) != token for name, token in specials.items()):
        return None
    kind, pattern, written = rule
    symbols = {token: written(symbol) for symbol, token in vocab.items()} | dict.fromkeys(specials.values(), b"")
    return Table(kind, [symbols[token] for token in ids], specials, pattern)


def _words(data: Any, vocab: Mapping[str, int]) -> Rule | None:
    """Characters and numbers: a table of words, and a rule by which text is cut into them."""
    cut = data["pre_tokenizer"]
    if data["model"].get("type") != "WordLevel" or cut["type"] != "Split" or cut["invert"]:
        return None
    if data["model"]["unk_token"] in vocab:  # what is unknown is an error here
        return None
    rule = cut["pattern"]["Regex"], cut["behavior"]
    if rule == (patterns.ANY_CHARACTER, "Isolated") and max(map(len, vocab)) == 1:
        return "char", "", str.encode
    if rule == (numbers.SEPARATORS, "Removed"):
        kind = numbers.kind_of(sorted(vocab, key=vocab.__getitem__))
        return (kind, "", lambda word: f"{word} ".encode()) if kind else None
    return None


def _byte_level(data: Any, vocab: Mapping[str, int]) -> Rule | None:
    """Bytes and BPE of them, where ids are the bytes' values or follow the order of the merges as tiktoken's do."""
    model = dict[str, Any](data["model"])
    merges = [_pair(merge) for merge in model.pop("merges")]
    # Dropout is for training. `ignore_merges` takes a symbol for itself, which these merges do too.
    options = [value for name, value in model.items() if name not in ("type", "vocab", "dropout", "ignore_merges")]
    if model.get("type", "BPE") != "BPE" or any(options) or not vocab.keys() >= BYTE_OF.keys():
        return None
    pattern = _pattern(data["pre_tokenizer"])
    if pattern == "":
        in_order = all(vocab[character] == byte for byte, character in CHARACTER_OF.items())
        return ("byte", "", as_bytes) if in_order and len(vocab) == 256 and not merges else None
    made = [vocab[left + right] for left, right in merges]
    if pattern is None or made != sorted(set(made)) or len(made) != len(vocab) - 256:
        return None
    return ("bpe", pattern, as_bytes) if follow_ranks(merges, vocab) else None


def _pair(merge: str | list[str]) -> Pair:
    """The halves of a merge; older files write them as two words."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _pattern(before: Any) -> str | None:
    """The pattern by which text is cut before it is merged; "" if it is not cut at all, None if by another rule."""
    match before:
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return patterns.GPT2_PATTERN if before.get("use_regex", True) else ""
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return pattern if pattern in patterns.KNOWN else None
        case _:
            return None
