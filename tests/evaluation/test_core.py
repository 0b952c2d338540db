"""CORE: the definitions, centered accuracy, its error, and what a part of it may be called."""

import math

import pytest

from scratchlab.errors import UsageError
from scratchlab.evaluation.core import core_score
from scratchlab.evaluation.results import Figure, TaskResult, summarize
from scratchlab.evaluation.suites import definitions, suites

# As DCLM has them, by its own names: shots, items, chance now and before September 2025, "c" for "Answer: ".
DCLM = """
hellaswag_zeroshot 0 10042 25 25 -
jeopardy 10 2117 0 0 c
bigbench_qa_wikidata 10 20321 0 0 -
arc_easy 10 2376 25 25 c
arc_challenge 10 1172 25 25 c
copa 0 100 50 50 -
commonsense_qa 10 1221 40.3 20 -
piqa 10 1838 50 50 c
openbook_qa 0 500 25 25 -
lambada_openai 0 5153 0 0 -
hellaswag 10 10042 25 25 -
winograd 0 273 50 50 -
winogrande 0 1267 50 50 -
bigbench_dyck_languages 10 1000 0 0 -
agi_eval_lsat_ar 3 230 25 20 -
bigbench_cs_algorithms 10 1320 0 0 -
bigbench_operators 10 210 0 0 -
bigbench_repeat_copy_logic 10 32 0 0 -
squad 10 10570 0 0 -
coqa 0 7983 0 0 -
boolq 10 3270 62 62 c
bigbench_language_identification 10 10000 25 9.1 -
"""
NAMES = suites()["core"]


def result(name: str, accuracy: float, error: float | None = 0.01, n: int | None = None, cut: int = 0) -> TaskResult:
    """Whose main figure is `accuracy`, and whose others are wrong everywhere."""
    definition = definitions()[name]
    n = definition.items if n is None else n
    assert n
    figures = dict.fromkeys(
        ["accuracy", "accuracy_norm", "accuracy_token", "nats", "bits_per_byte"], Figure(9.0, 9.0, n)
    )
    figures[definition.metric] = Figure(accuracy, error, n)
    return TaskResult("m", name, definition.metric, definition.chance or 0.0, n, cut, **figures)


def test_the_tasks_are_those_of_dclm():
    rows = [line.split() for line in DCLM.split("\n") if line]
    assert [f"core_{row[0]}" for row in rows] == list(NAMES)
    for name, (_, shots, items, chance, chance_v1, mark) in zip(NAMES, rows, strict=True):
        found = definitions()[name]
        assert (found.wording.shots, found.items) == (int(shots), int(items)), name
        assert found.chance == pytest.approx(float(chance) / 100)
        assert found.chance_v1 == pytest.approx(float(chance_v1) / 100)
        assert found.wording.delimiter == {"c": "\nAnswer: ", "-": " "}[mark]
        assert (found.wording.separator, found.wording.prelude) == ("\n\n", "")
        assert found.metric == ("accuracy" if chance == "0" else "accuracy_token")


def test_chance_is_0_and_knowing_everything_is_1():
    assert core_score([result(name, definitions()[name].chance or 0.0) for name in NAMES]).value == pytest.approx(0)
    assert core_score([result(name, 1.0) for name in NAMES]).value == pytest.approx(1)
    by_v1 = core_score([result(name, definitions()[name].chance_v1 or 0.0) for name in NAMES])
    assert by_v1.value_v1 == pytest.approx(0)
    assert by_v1.value == pytest.approx((-0.203 / 0.597 - 0.05 / 0.75 - 0.159 / 0.75) / 22)


def test_core_is_the_mean_of_the_22():
    accuracies = {name: 0.3 + 0.02 * place for place, name in enumerate(NAMES)}
    score = core_score([result(name, accuracy) for name, accuracy in reversed(accuracies.items())])
    centered = [
        (a - (definitions()[n].chance or 0)) / (1 - (definitions()[n].chance or 0)) for n, a in accuracies.items()
    ]
    assert score.title == "CORE"
    assert score.value == pytest.approx(math.fsum(centered) / 22)
    errors = [0.01 / (1 - (definitions()[name].chance or 0)) for name in NAMES]
    assert score.error == pytest.approx(math.sqrt(math.fsum(error**2 for error in errors)) / 22)
    assert score.missing == ()


def test_a_part_is_never_called_core():
    present = [result("core_copa", 0.75, cut=2), result("core_squad", 0.1, cut=3)]
    score = core_score([*present, TaskResult("m", "piqa", "accuracy", 0.5, 1, 1, *[Figure(1.0, 0.1, 1)] * 5)])
    assert score.title == "CORE over 2 of 22 tasks (not comparable)"
    assert score.value == pytest.approx((0.5 + 0.1) / 2)
    assert score.cut == 5
    assert [task.task for task in score.tasks] == ["core_copa", "core_squad"]
    assert [missing.task for missing in score.missing] == [
        name for name in NAMES if name not in ("core_copa", "core_squad")
    ]
    assert score.missing[0].file == "language_understanding/hellaswag.jsonl"


def test_nor_is_a_part_of_the_items():
    results = [result(name, 0.5, n=100 if name == "core_squad" else None) for name in NAMES]
    score = core_score(results)
    assert score.title == "CORE over 22 of 22 tasks, 1 of them in part (not comparable)"
    assert [task.task for task in score.tasks if not task.whole] == ["core_squad"]


def test_an_error_that_is_not_known_is_not_made_up():
    assert core_score([result("core_copa", 0.5), result("core_squad", 1.0, error=None, n=1)]).error is None


def test_without_any_of_its_tasks_there_is_no_core():
    with pytest.raises(UsageError, match="none of its tasks was asked"):
        core_score([])
    assert core_score([result("core_copa", 0.5)]).to_json()["tasks"][0]["centered"] == 0.0


def test_the_candidate_is_chosen_by_its_loss_a_token():
    """Of 6 nats in 2 tokens or 7 in 3 the second is the cheaper a token, and the dearer whole and a character."""
    sizes = {"characters": [6, 6], "bytes": [6, 6], "greedy": [False, False], "cut": 0}
    records = [{"item": n, "gold": 1, "nats": [6.0, 7.0 + n], "tokens": [2, 3], **sizes} for n in range(4)]
    head = {"model": "m", "task": "core_piqa", "metric": "accuracy_token", "chance": 0.5}
    found = summarize(head, records)  # a token: 3 against 2.33, 2.67, 3 and 3.33
    assert (found.accuracy.value, found.accuracy_norm.value, found.main.value) == (0, 0, 0.5)
    assert found.main.error == pytest.approx(math.sqrt(0.25 / 3))
    assert found.nats.value == 8.5
    assert found.nats.error == pytest.approx(math.sqrt(5 / 3) / 2)
