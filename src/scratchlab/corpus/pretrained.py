"""Tokenizers that are there already: GPT-2's by its name, and those in files that this or another program left.

Whatever they come in, they become the one stored format, tokenizer.json.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from scratchlab.corpus.manifest import TOKENIZER
from scratchlab.corpus.tokenizer import END_OF_TEXT, Tokenizer
from scratchlab.corpus.tokenizers.merges import CHARACTER_OF, halves
from scratchlab.errors import CorpusError
from scratchlab.files import Find, inside

GPT2 = "gpt2"
RANKS = ".tiktoken"
# GPT-2's older files: the vocabulary and the merges, as Hugging Face and as OpenAI call them.
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
BYTES = frozenset(bytes([byte]) for byte in range(256))
KNOWN_TOKENIZERS = (
    f"a {TOKENIZER} or a folder with one (a corpus, a run), GPT-2's vocab.json beside merges.txt or encoder.json "
    f"beside vocab.bpe, a {RANKS} file, or the name {GPT2}"
)


def open_tokenizer(spec: str) -> Tokenizer | None:
    """The tokenizer at the path `spec`; where there is no such path, GPT-2's own if `spec` is gpt2, else None.

    Raises CorpusError for a file or folder that holds no tokenizer known here, and if GPT-2's cannot be had.
    """
    path = Path(spec)
    if path.is_dir():
        found = find_tokenizer(inside(path))
        if found is None:
            raise CorpusError(f"{path} brings no tokenizer. Known are {KNOWN_TOKENIZERS}.")
        return found
    if path.exists():
        return _open_file(path)
    return gpt2_tokenizer() if spec == GPT2 else None


def find_tokenizer(find: Find) -> Tokenizer | None:
    """The tokenizer among the files that `find` finds; None if there is none. CorpusError if it is unknown here."""
    if path := find(TOKENIZER):
        return Tokenizer.load(path)
    for pair in PAIRS:
        vocabulary, merges = map(find, pair)
        if vocabulary and merges:
            return _read_pair(vocabulary, merges)
    return None


def gpt2_tokenizer() -> Tokenizer:
    """GPT-2's tokenizer as tiktoken has it: downloaded once, then from its cache. CorpusError if it cannot be had."""
    import tiktoken

    try:
        encoding = tiktoken.get_encoding(GPT2)
    except (OSError, ValueError) as error:  # its downloads fail with the former, damaged ones with the latter
        raise CorpusError(
            f"GPT-2's tokenizer is not in tiktoken's cache and could not be downloaded ({type(error).__name__}: "
            f"{_start(str(error))}). Without a network, give the path of its files: vocab.json beside merges.txt, "
            f"encoder.json beside vocab.bpe, a {TOKENIZER}, or a {RANKS} file. Or set TIKTOKEN_CACHE_DIR to a copy of "
            "the folder where tiktoken keeps it on another machine."
        ) from error
    return from_ranks({symbol: encoding.encode_single_token(symbol) for symbol in encoding.token_byte_values()}, GPT2)


def _start(message: str, most: int = 200) -> str:
    return message if len(message) <= most else message[:most] + "..."


def _open_file(path: Path) -> Tokenizer:
    if path.suffix == RANKS:
        return from_ranks(_read_ranks(path), str(path))
    for pair in PAIRS:
        if path.name in pair:
            vocabulary, merges = map(inside(path.parent), pair)
            if not vocabulary or not merges:
                raise CorpusError(f"{path} is one half of a tokenizer: {' and '.join(pair)} must lie side by side.")
            return _read_pair(vocabulary, merges)
    return Tokenizer.load(path)


def _read_pair(vocabulary: Path, merges: Path) -> Tokenizer:
    from tokenizers import models

    origin = f"{vocabulary} and {merges}"
    try:
        read = models.BPE.read_file(str(vocabulary), str(merges))
    except Exception as error:  # tokenizers raises no narrower one
        raise CorpusError(f"{origin} are no vocabulary and merges: {error}.") from None
    return _from_merges(*read, origin)


def _from_merges(vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], origin: str) -> Tokenizer:
    """Byte-level BPE with GPT-2's pattern; all symbols are written in GPT-2's characters for bytes."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Stored

    try:
        stored = Stored(models.BPE(dict(vocabulary), list(merges)))
    except Exception as error:
        raise CorpusError(f"{origin} are no vocabulary and merges: {error}.") from None
    stored.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    stored.decoder = decoders.ByteLevel()
    if END_OF_TEXT in vocabulary:
        stored.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    try:
        return Tokenizer.from_json(stored.to_str())
    except CorpusError as error:
        raise CorpusError(f"{origin}: {error}") from error


# Ranks, of which one can tell the merges (see `tokenizers.merges`).


def from_ranks(ranks: Mapping[bytes, int], origin: str) -> Tokenizer:
    """Byte-level BPE of tiktoken's `ranks`, with `<|endoftext|>` at the first id they leave free (GPT-2's: 50256).

    Raises CorpusError, naming `origin`, for ranks that are not BPE's and for those of another pattern than GPT-2's.
    """
    order = sorted(ranks, key=ranks.__getitem__)
    free = next((rank for rank, symbol in enumerate(order) if ranks[symbol] != rank), len(order))
    if [ranks[symbol] for symbol in order[free:]] != list(range(free + 1, len(order) + 1)):
        raise CorpusError(f"{origin}: the ranks are not 0, 1, 2 and so on, each once, with at most one left out.")
    _check_pattern(order, origin)
    if len(missing := BYTES - ranks.keys()):
        raise CorpusError(f"{origin}: not all 256 bytes are symbols; 0x{min(missing).hex()} is not.")
    merged = [halves(symbol, ranks, origin) for symbol in order if len(symbol) > 1]
    vocabulary = {_characters(symbol): rank for symbol, rank in ranks.items()} | {END_OF_TEXT: free}
    return _from_merges(vocabulary, [(_characters(left), _characters(right)) for left, right in merged], origin)


def _characters(symbol: bytes) -> str:
    return "".join(map(CHARACTER_OF.__getitem__, symbol))


def _check_pattern(symbols: Sequence[bytes], origin: str) -> None:
    """Ranks do not say by which pattern text was cut first; symbols that GPT-2's would have cut show another one."""
    from tokenizers import pre_tokenizers

    pattern = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for symbol in symbols:
        try:
            text = symbol.decode()
        except UnicodeDecodeError:  # a part of a character
            continue
        # Parts of 'll, 're and 've are no words of their own to the pattern.
        if len(pattern.pre_tokenize_str(text)) > 1 and text not in ("'l", "'r", "'v"):
            raise CorpusError(
                f"{origin}: GPT-2's pattern cuts text within {text!r}, which is a symbol here. So these ranks are of "
                "another tokenizer (cl100k_base, o200k_base?); only those with GPT-2's pattern are known here."
            )


def _read_ranks(path: Path) -> dict[bytes, int]:
    """Lines of a symbol in base64 and its rank."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            symbol, rank = line.split()
            ranks[base64.b64decode(symbol, validate=True)] = int(rank)
        except ValueError as error:
            raise CorpusError(f"{path}, line {number}: expected a symbol in base64 and its rank ({error}).") from error
    return ranks
