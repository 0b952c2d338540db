"""Items: what a row must have, and how an item is asked with examples before it."""

import random

import pytest

from scratchlab.errors import CorpusError
from scratchlab.evaluation.items import Item, Wording, drawn, read_items, worded

CHOICES = {"query": "2 + 2 =", "choices": ["3", "4"], "gold": 1}
SCHEMA = {
    "context_options": ["The cup broke the stone because the cup", "... the stone"],
    "continuation": "was soft.",
    "gold": 0,
}
COMPLETION = {"context": "Once upon a", "continuation": "time"}


def placed(*rows: object) -> list[tuple[str, object]]:
    return [(f"line {number}", row) for number, row in enumerate(rows, 1)]


def test_the_three_layouts():
    assert read_items(placed(CHOICES)) == [Item(1, ("2 + 2 =", "2 + 2 ="), ("3", "4"), 1)]
    contexts = tuple(SCHEMA["context_options"])
    assert read_items(placed(SCHEMA)) == [Item(1, contexts, ("was soft.", "was soft."), 0)]
    more = {**COMPLETION, "category": "tales"}  # other fields are nobody's business
    assert read_items(placed(COMPLETION, more))[1] == Item(2, ("Once upon a",), ("time",), 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "a", "choices": ["b", "c"]}, "gold is missing. Expected the fields choices, gold, query; or"),
        ({"context": "a"}, "continuation is missing"),
        ({**CHOICES, "gold": 2}, "gold: expected a number from 0 to 1, not 2"),
        ({**CHOICES, "gold": True}, "gold: expected a number from 0 to 1, not True"),
        ({**CHOICES, "gold": "1"}, "gold: expected a number"),
        ({**CHOICES, "choices": ["one"]}, "choices: expected a list of two texts or more"),
        ({**CHOICES, "choices": "ab"}, "choices: expected a list of two texts or more"),
        ({**CHOICES, "choices": ["a", " "]}, "choices: expected texts, not ' '"),
        ({**CHOICES, "query": None}, "query: expected a text, not None"),
        ({**COMPLETION, "continuation": ""}, "continuation: expected a text"),
        (ValueError("it is not JSON."), "it is not JSON."),
    ],
)
def test_a_row_that_is_no_item_is_named(row, message):
    with pytest.raises(CorpusError) as caught:
        read_items(placed(CHOICES if "context" not in str(row) else COMPLETION, row))
    assert str(caught.value).startswith(f"line 2 (item 2): {message}")


def test_all_mistakes_are_told_up_to_ten():
    with pytest.raises(CorpusError) as caught:
        read_items(placed(*[{"query": "a"}] * 14))
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert lines[9].startswith("line 10 (item 10): choices, gold is missing")
    assert lines[10] == "and 4 more like these."


def test_a_file_has_items_of_one_kind():
    with pytest.raises(CorpusError, match=r"several kinds \(choices, completion\)"):
        read_items(placed(CHOICES, COMPLETION))
    with pytest.raises(CorpusError, match="there is no item in it"):
        read_items([])


# How an item is asked.


def of_letters(n: int) -> list[Item]:
    return [Item(i + 1, (f"Q{i}",) * 2, (f"wrong{i}", f"right{i}"), 1) for i in range(n)]


def test_without_examples_an_item_stays_as_it_is_written():
    item = Item(7, (" a ", "b\n"), ("c", "d "), 0)
    assert worded([item], 0, Wording()) == Item(7, (" a  ", "b\n "), ("c", "d "), 0)


@pytest.mark.parametrize("place", [0, 3, 11])
def test_examples_have_right_answers_and_are_drawn_as_nanochat_draws_them(place):
    """nanochat draws from random.Random(1234 + place) among a list of all places but the item's own."""
    picked = random.Random(1234 + place).sample([other for other in range(12) if other != place], 3)
    asked = worded(of_letters(12), place, Wording(3, "\nAnswer: "))
    examples = "".join(f"Q{other}\nAnswer: right{other}\n\n" for other in picked)
    assert asked.contexts == (f"{examples}Q{place}\nAnswer: ",) * 2
    assert asked.continuations == (f"wrong{place}", f"right{place}")


@pytest.mark.parametrize("n", [4, 30, 500])
def test_draws_are_those_from_a_list_of_the_others(n):
    for place in (0, n // 2, n - 1):
        others = [other for other in range(n) if other != place]
        assert drawn(n, place, 3) == random.Random(1234 + place).sample(others, 3)


def test_a_schema_shows_the_right_context_of_its_examples():
    items = [Item(i + 1, (f"left{i}", f"right{i}"), (f"end{i}",) * 2, i % 2) for i in range(2)]
    asked = worded(items, 0, Wording(1, prelude="Read.\n"))
    assert asked.contexts == ("Read.\nright1 end1\n\nleft0 ", "Read.\nright1 end1\n\nright0 ")


def test_what_is_completed_loses_the_white_space_around_it():
    items = [Item(1, (" a \n",), ("x",), 0), Item(2, ("\tb ",), (" y",), 0)]
    assert worded(items, 0, Wording(1)).contexts == ("b  y\n\na ",)


def test_too_few_items_for_the_examples():
    assert len(drawn(4, 0, 3)) == 3
    with pytest.raises(CorpusError, match="4 examples cannot be drawn from 3 other items: ask more items"):
        worded(of_letters(4), 0, Wording(4))
