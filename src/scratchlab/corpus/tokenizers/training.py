"""New tokenizers, learned from text, as `tokenizers` has them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from scratchlab.corpus import numbers
from scratchlab.corpus.tokenizers.merges import BYTE_OF, CHARACTER_OF
from scratchlab.corpus.tokenizers.patterns import ANY_CHARACTER
from scratchlab.corpus.tokenizers.texts import pieces
from scratchlab.errors import CorpusError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Stored
    from tokenizers.models import Model

SMALLEST_BPE = 256
"""Symbols of byte-level BPE before special tokens."""
PIECE = 2**16
"""Characters that are handed to the trainer at once: it holds 256 such pieces, and shares them among the cores."""


def new_characters(texts: Iterable[str], origin: str) -> "Stored":
    """The characters of `texts` by code point. CorpusError, naming `origin`, if there are none."""
    characters = set[str]()
    for text in texts:
        characters.update(text)
    if not characters:
        raise CorpusError(f"{origin} is empty: there are no characters to take.")
    return _words(sorted(characters), ANY_CHARACTER, "isolated")


def new_integers(texts: Iterable[str], origin: str) -> "Stored":
    """The whole numbers of `texts`, see `numbers.learn_integers`."""
    return _words(numbers.learn_integers(texts, origin), numbers.SEPARATORS, "removed")


def new_bins(texts: Iterable[str], size: int, origin: str) -> "Stored":
    """`size` bins for the numbers of `texts`, see `numbers.learn_bins`."""
    return _words(numbers.learn_bins(texts, size, origin), numbers.SEPARATORS, "removed")


def _words(words: Sequence[str], pattern: str, behavior: str) -> "Stored":
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Stored

    # WordLevel refuses what it does not know; BPE without an unknown symbol would drop it without a word.
    stored = Stored(models.WordLevel({word: token for token, word in enumerate(words)}, unk_token=""))
    stored.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior)
    if behavior == "isolated":  # otherwise words come back with spaces between them
        stored.decoder = decoders.Fuse()
    return stored


def new_bytes() -> "Stored":
    """The 256 bytes, each its own id."""
    from tokenizers import models

    return _byte_level(models.BPE({character: byte for byte, character in CHARACTER_OF.items()}, []), cut=False)


def new_bpe(texts: Iterable[str], size: int, specials: int, origin: str) -> "Stored":
    """Byte-level BPE of `size` symbols less those that are left for `specials`, its text cut by GPT-2's pattern.

    CorpusError, naming `origin`, if there are not so many pairs to merge.
    """
    from tokenizers import models
    from tokenizers.trainers import BpeTrainer

    trainer = BpeTrainer(
        vocab_size=size - specials,
        min_frequency=2,  # a pair seen once teaches nothing: it would be a symbol for one place in the text
        show_progress=False,
        initial_alphabet=sorted(BYTE_OF),
    )
    stored = _byte_level(models.BPE(), cut=True)
    stored.train_from_iterator(_small(texts), trainer)
    if (reached := stored.get_vocab_size() + specials) < size:
        raise CorpusError(
            f"{origin} is too small for bpe:{size}: merging every pair of symbols that occurs twice gives "
            f"{reached} symbols. Use bpe:{reached} or fewer, byte, or more text."
        )
    return stored


def _small(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from pieces(text, PIECE)


def _byte_level(model: "Model", cut: bool) -> "Stored":
    from tokenizers import Tokenizer as Stored
    from tokenizers import decoders, pre_tokenizers

    stored = Stored(model)
    stored.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut)
    stored.decoder = decoders.ByteLevel()
    return stored
