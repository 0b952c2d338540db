"""Rows as sets were published, put into the layouts of items, with the words of lm-evaluation-harness."""

import pytest

from scratchlab.evaluation.items import read_items
from scratchlab.evaluation.layouts import ORIGINALS

HELLASWAG = {
    "activity_label": "Removing ice",
    "ctx": "Then a man writes over the snow. then",
    "ctx_a": "Then a man writes over the snow.",
    "ctx_b": "then",
    "endings": ["the man adds wax.", "a person boards the bus.", "he rides.", "he cuts."],
    "label": "3",
}
WIKIHOW = {
    "activity_label": "Health",
    "ctx": "[header] How to rest [title] Sit down. [step] Breathe  slowly.",
    "ctx_a": "[header] How to rest [title] Sit down. [step] Breathe  slowly.",
    "ctx_b": "",
    "endings": ["[substeps] Lie flat.", " You rest [title] well. ", "c", "d"],
    "label": 1,
}
LETTERED = {"text": ["sun", "moon", "sea"], "label": ["A", "B", "C"]}
CASES = {
    "hellaswag": (
        HELLASWAG,
        {
            "query": "Removing ice: Then a man writes over the snow. Then",
            "choices": HELLASWAG["endings"],
            "gold": 3,
        },
    ),
    "hellaswag of WikiHow": (
        WIKIHOW,
        {
            "query": "Health: How to rest. Sit down. Breathe slowly.",
            "choices": [" Lie flat.", "You rest. well.", "c", "d"],
            "gold": 1,
        },
    ),
    "hellaswag in one piece": (
        {key: value for key, value in HELLASWAG.items() if key not in ("ctx_a", "ctx_b")},
        {
            "query": "Removing ice: Then a man writes over the snow. then",
            "choices": HELLASWAG["endings"],
            "gold": 3,
        },
    ),
    "piqa": (
        {"goal": "Boil water", "sol1": "Freeze it.", "sol2": "Heat it.", "label": 1},
        {"query": "Question: Boil water", "choices": ["Freeze it.", "Heat it."], "gold": 1},
    ),
    "arc": (
        {"question": "What shines by day?", "choices": LETTERED, "answerKey": "A"},
        {"query": "Question: What shines by day?", "choices": ["sun", "moon", "sea"], "gold": 0},
    ),
    "arc by number": (
        {"question": "Tides?", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"},
        {"query": "Question: Tides?", "choices": ["a", "b"], "gold": 1},
    ),
    "openbookqa": (
        {"question_stem": "By night one sees the", "choices": LETTERED, "answerKey": " B"},
        {"query": "By night one sees the", "choices": ["sun", "moon", "sea"], "gold": 1},
    ),
    "commonsense_qa": (
        {"question": " Where do fish live? ", "choices": LETTERED, "answerKey": "C"},
        {
            "query": "Question: Where do fish live?\nA. sun\nB. moon\nC. sea\nAnswer:",
            "choices": ["A", "B", "C"],
            "gold": 2,
        },
    ),
    "boolq": (
        {"passage": "Ice is cold.", "question": "is ice cold", "label": 1},
        {"query": "Ice is cold.\nQuestion: is ice cold?", "choices": ["no", "yes"], "gold": 1},
    ),
    "copa": (
        {
            "premise": "The glass fell. ",
            "question": "effect",
            "choice1": "It broke.",
            "choice2": "I slept.",
            "label": 0,
        },
        {"query": "The glass fell therefore", "choices": ["it broke.", "i slept."], "gold": 0},
    ),
    "copa, cause": (
        {"premise": "It rained.", "question": "cause", "choice1": "Clouds came.", "choice2": "Sun.", "label": 0},
        {"query": "It rained because", "choices": ["clouds came.", "sun."], "gold": 0},
    ),
    "winogrande": (
        {"sentence": "Ann thanked Sue since _ had helped.", "option1": "Ann", "option2": "Sue", "answer": "2"},
        {
            "context_options": ["Ann thanked Sue since Ann", "Ann thanked Sue since Sue"],
            "continuation": "had helped.",
            "gold": 1,
        },
    ),
    "lambada": (
        {"text": "He went home, and it was a long way home"},
        {"context": "He went home, and it was a long way", "continuation": "home"},
    ),
}


def key(case: str) -> str:
    return case.split(",")[0].split()[0]


@pytest.mark.parametrize("case", CASES)
def test_a_row_becomes_an_item(case):
    row, expected = CASES[case]
    assert ORIGINALS[key(case)].convert(row) == expected
    assert len(read_items([("line 1", expected)])) == 1


def test_every_original_is_tried():
    assert {key(case) for case in CASES} == ORIGINALS.keys()


@pytest.mark.parametrize("case", CASES)
def test_a_missing_field_is_named(case):
    row, _ = CASES[case]
    for field in ORIGINALS[key(case)].fields:
        with pytest.raises(ValueError, match=f"^{field}"):
            ORIGINALS[key(case)].convert({name: value for name, value in row.items() if name != field})


@pytest.mark.parametrize("wrong", [None, 3.5, {}, ["one", 2]])
@pytest.mark.parametrize("case", CASES)
def test_a_wrong_value_is_named(case, wrong):
    row, _ = CASES[case]
    for field in ORIGINALS[key(case)].fields:
        with pytest.raises(ValueError, match=f"^({field}|text): expected"):  # `text` is inside `choices`
            ORIGINALS[key(case)].convert({**row, field: wrong})


@pytest.mark.parametrize(
    ("case", "field", "wrong"),
    [
        ("arc", "answerKey", "E"),
        ("copa", "question", "why"),
        ("piqa", "label", ""),
        ("winogrande", "sentence", "No gap."),
    ],
)
def test_a_value_that_means_nothing_is_named(case, field, wrong):
    with pytest.raises(ValueError, match=f"^{field}: expected .*"):
        ORIGINALS[case].convert({**CASES[case][0], field: wrong})
