"""The yardsticks against slow computations that share no code with them."""

import math
import random
import shutil
import subprocess
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchlab.evaluation.yardsticks import (
    EM_ROUNDS,
    known_word_share,
    longest_copy,
    trigram_bits_per_byte,
    xz_bits_per_byte,
)
from tiny import modest

TRAIN = "the cat sat on the mat; the dog lay on the log; die Käfer 赵 sangen. " * 3
VALIDATION = "the dog sat on the mat. "
TEST = "the cat lay on the käfer! ü"


class Trigram:
    """Character frequencies given the 0, 1 and 2 characters before, counted with dictionaries."""

    def __init__(self, text: str) -> None:
        padded = "\0\0" + text
        self.counts = [Counter(padded[i - n : i + 1] for i in range(2, len(padded))) for n in range(3)]

    def probabilities(self, before: str, character: str) -> list[float]:
        found = [1 / 0x110000]
        for n, counts in enumerate(self.counts):
            context = ("\0\0" + before)[len(before) + 2 - n :]
            total = sum(count for gram, count in counts.items() if gram[:-1] == context)
            found.append(counts[context + character] / total if total else 0.0)
        return found

    def table(self, text: str) -> list[list[float]]:
        return [self.probabilities(text[:i], character) for i, character in enumerate(text)]


def slow_bits_per_byte(train: str, validation: str, test: str) -> float:
    model = Trigram(train)
    held_out, weights = model.table(validation), [0.25] * 4
    for _ in range(EM_ROUNDS):
        shares = [[w * p for w, p in zip(weights, row, strict=True)] for row in held_out]
        weights = [sum(row[k] / sum(row) for row in shares) / len(shares) for k in range(4)]
    mixed = [sum(w * p for w, p in zip(weights, row, strict=True)) for row in model.table(test)]
    return -sum(math.log2(p) for p in mixed) / len(test.encode())


@pytest.mark.parametrize("test", [TEST, "t", "\U0010ffff", TRAIN[:50]])
def test_trigram_is_the_slow_one(test: str) -> None:
    assert trigram_bits_per_byte(TRAIN, VALIDATION, test) == pytest.approx(
        slow_bits_per_byte(TRAIN, VALIDATION, test), rel=1e-9
    )


@pytest.mark.parametrize("context", ["", "t", "th", "e c", "ät"])
def test_the_slow_one_gives_probabilities_that_sum_to_1(context: str) -> None:
    model = Trigram(TRAIN)
    sums = [sum(column) for column in zip(*(model.probabilities(context, c) for c in set(TRAIN)), strict=True)]
    for order, total in enumerate(sums[1:], start=1):
        known = order == 1 or any(("\0\0" + context)[-(order - 1) :] == gram[:-1] for gram in model.counts[order - 1])
        assert total == pytest.approx(1.0 if known else 0.0)


def test_trigram_without_validation_takes_the_end_of_training() -> None:
    train = TRAIN[:200]
    assert trigram_bits_per_byte(train, "", TEST) == trigram_bits_per_byte(train, train[-10:], TEST)


def test_trigram_learns() -> None:
    assert trigram_bits_per_byte(TRAIN, VALIDATION, TRAIN) < 2 < trigram_bits_per_byte("zzz", VALIDATION, TRAIN)


def test_xz_knows_what_it_has_read() -> None:
    text = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=3000))
    assert xz_bits_per_byte(text, text) < 1 < 3 < xz_bits_per_byte("b" * 3000, text)


@pytest.mark.skipif(not shutil.which("xz"), reason="compares with the xz of this machine")
def test_xz_is_that_of_the_command() -> None:
    def size(text: str) -> int:
        return len(subprocess.run(["xz", "-9", "-c"], input=text.encode(), capture_output=True, check=True).stdout)

    expected = 8 * (size(TRAIN + TEST) - size(TRAIN)) / len(TEST.encode())
    assert xz_bits_per_byte(TRAIN, TEST) == pytest.approx(expected, abs=8 * 4 / len(TEST.encode()))


@modest
@given(sample=st.text("abc", max_size=15), train=st.text("abc", max_size=25))
def test_longest_copy_is_that_of_brute_force(sample: str, train: str) -> None:
    stretches = {sample[a:b] for a in range(len(sample)) for b in range(a + 1, len(sample) + 1)}
    longest = max((len(stretch) for stretch in stretches if stretch in train), default=0)
    found = longest_copy(sample, train)
    assert len(found) == longest
    assert found in sample
    assert found in train


def test_known_words_are_those_of_four_letters_and_more() -> None:
    train = "Every effort moves you; Käfer fliegen."
    assert known_word_share("EVERY mover moves us, käfer!", train) == 3 / 4
    assert known_word_share("a to the end", train) is None
    assert known_word_share("abcd1 efgh_ you effortless", train) == 0.0
    assert known_word_share("every every unknown", train) == pytest.approx(2 / 3)
