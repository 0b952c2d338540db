"""Who stands where: the order of the answers in every prompt, so that no place favors anybody.

All entries of a question stand in one prompt. Prompts come in squares of as many questions as there are entries: in a
square every entry stands in every place once, and follows every other equally often (Williams 1949, "Experimental
designs balanced for the estimation of residual effects of treatments"; where their number is odd, over two squares).
Who is which letter of the square is drawn at random. The repeats of a question take other rows of its square, so that
an entry is judged in different places there too.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scratchlab.seeds import generator


@dataclass(frozen=True, slots=True)
class Sheet:
    """One prompt."""

    question: int
    """Its place among the questions, from 0."""
    repeat: int
    order: tuple[int, ...]
    """The entries in the order in which they stand; a single one where each is judged alone."""


def together(n_questions: int, n_entries: int, repeats: int, seed: int) -> list[Sheet]:
    """A prompt for each question and repeat, in the order in which they are to be judged.

    Over all of them the times that an entry stands in a place differ by one at most. The sheets of a repeat do not
    depend on how many repeats there are; questions come in another order in each, so that time is no question's.
    """
    orders = dict(_orders(n_questions, n_entries, repeats, seed))
    return [
        Sheet(question, repeat, orders[question, repeat])
        for repeat in range(repeats)
        for question in _shuffled(n_questions, seed, "run", repeat)
    ]


def alone(n_questions: int, n_entries: int, repeats: int, seed: int) -> list[Sheet]:
    """A prompt for each entry of each question and repeat, in the order in which they are to be judged."""
    return [
        Sheet(place // n_entries, repeat, (place % n_entries,))
        for repeat in range(repeats)
        for place in _shuffled(n_questions * n_entries, seed, "run alone", repeat)
    ]


def _orders(
    n_questions: int, n_entries: int, repeats: int, seed: int
) -> Iterator[tuple[tuple[int, int], tuple[int, ...]]]:
    """The order of the entries by question and repeat."""
    questions = _shuffled(n_questions, seed, "squares")
    for number, start in enumerate(range(0, n_questions, n_entries)):
        own = questions[start : start + n_entries]
        step = 1 if len(own) == n_entries else len(own)  # of a last square that is not full: row after row
        for repeat in range(repeats):
            letters = generator(seed, "square", number // (1 + n_entries % 2), repeat // n_entries).permutation(
                n_entries
            )
            rows = _square(n_entries, mirrored=bool(number % 2))
            for place, question in enumerate(own):
                row = rows[(place + repeat * step) % n_entries]
                yield (question, repeat), tuple(int(letters[letter]) for letter in row)


def _square(n: int, mirrored: bool) -> list[list[int]]:
    """Row i + 1 is row i with one added: every letter is in every column once. The first zigzags: 0, n-1, 1, n-2, ...

    so that its steps are all different: of an even number every letter follows every other once. Of an odd one, the
    square and its mirror together have each twice.
    """
    zigzag = [place // 2 if place % 2 == 0 else n - 1 - place // 2 for place in range(n)]
    first = zigzag[::-1] if mirrored else zigzag
    return [[(letter + row) % n for letter in first] for row in range(n)]


def _shuffled(n: int, seed: int, *names: str | int) -> list[int]:
    return np.asarray(generator(seed, *names).permutation(n)).tolist()
