"""What a model's bits per byte can be compared with, and what its text gives away.

Two yardsticks that need no network: a classical character model, and a general compressor that has seen the training
text. A language model worth its electricity beats both.
"""

import lzma
import re

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

ORDER = 3
EM_ROUNDS = 30


def trigram_bits_per_byte(train: str, validation: str, test: str) -> float:
    """Bits per byte of `test` under an interpolated character 3-gram.

    The estimates of orders 0 to 3 from `train`, mixed with weights that maximize the likelihood of `validation` by
    expectation maximization (Jelinek and Mercer 1980). Order 0 is uniform over all of Unicode, so that a character
    never seen costs 20 bits and not infinitely many.
    """
    held_out = _order_probabilities(train, validation or train[-len(train) // 20 :])
    weights = np.full(ORDER + 1, 1 / (ORDER + 1))
    for _ in range(EM_ROUNDS):
        shares = held_out * weights
        weights = (shares / shares.sum(1, keepdims=True)).mean(0)
    bits = -np.log2(_order_probabilities(train, test) @ weights).sum()
    return float(bits) / len(test.encode())


def _order_probabilities(train: str, text: str) -> npt.NDArray[np.float64]:
    """The maximum-likelihood probability of each character of `text` by order: (characters, 4)."""
    columns = [np.full(len(text), 1 / 0x110000)]
    for order in range(1, ORDER + 1):
        grams = _counts(_grams(train, order), _grams(text, order))
        # What came before a character: for order 1 nothing, so every character of the training text.
        contexts = _counts(_grams(train, order) // 0x110000, _grams(text, order) // 0x110000)
        columns.append(np.divide(grams, contexts, out=np.zeros(len(text)), where=contexts > 0))
    return np.stack(columns, axis=1)


def _grams(text: str, order: int) -> Ints:
    """One number for each character with the order - 1 before it (the text is padded at its start)."""
    characters = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.int64)
    padded = np.append(np.zeros(order - 1, np.int64), characters)
    grams = np.zeros(len(characters), np.int64)
    for place in range(order):
        grams = grams * 0x110000 + padded[place : place + len(characters)]
    return grams


def _counts(known: Ints, asked: Ints) -> npt.NDArray[np.float64]:
    """How often each of `asked` occurs in `known`."""
    values, counts = np.unique(known, return_counts=True)
    places = np.minimum(np.searchsorted(values, asked), len(values) - 1)
    return np.where(values[places] == asked, counts[places], 0).astype(np.float64)


def xz_bits_per_byte(train: str, test: str) -> float:
    """Bits per byte that `xz -9` needs for `test` once it has read `train`: what the two take less what one takes."""
    known, new = train.encode(), test.encode()
    extra = len(lzma.compress(known + new, preset=9)) - len(lzma.compress(known, preset=9))
    return 8 * extra / len(new)


def known_word_share(sample: str, train: str) -> float | None:
    """The share of the sample's words of four letters and more that occur in the training text; None without words."""
    found = words(sample)
    known = set(words(train))
    return sum(word in known for word in found) / len(found) if found else None


def words(text: str) -> list[str]:
    """The words of four letters and more in a text, in lower case."""
    return re.findall(r"[^\W\d_]{4,}", text.casefold())


def longest_copy(sample: str, train: str) -> str:
    """The longest stretch of the sample that stands in the training text letter by letter."""
    longest = ""
    for start in range(len(sample)):
        while sample[start : start + len(longest) + 1] in train and start + len(longest) < len(sample):
            longest = sample[start : start + len(longest) + 1]
    return longest
