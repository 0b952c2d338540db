"""Tasks: items become questions as they are worded, are asked once, and every result is kept."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from scratchlab.architecture import GPTSection
from scratchlab.corpus.tokenizer import train_tokenizer
from scratchlab.errors import CorpusError, RunError, ScratchlabError, UnfinishedError, UsageError
from scratchlab.evaluation import running
from scratchlab.evaluation.items import Item, Wording
from scratchlab.evaluation.results import Log, read_log, share, summarize
from scratchlab.evaluation.running import evaluate_task
from scratchlab.evaluation.scorer import ModelScorer, Question
from scratchlab.evaluation.subjects import Subject
from scratchlab.evaluation.tasks import Task, ask, chosen, chosen_by_character, is_right
from scratchlab.model.build import build_model

TOKENIZER = train_tokenizer("byte", [])
CONTEXT = 96


def subject(seed: int = 1, context: int = CONTEXT) -> Subject:
    config = GPTSection(n_layer=1, n_head=2, d_model=16, context_length=context)
    model = build_model(config, TOKENIZER.vocab_size, seed).eval()
    start = TOKENIZER.end_of_text
    assert start is not None
    return Subject(f"runs/tiny {seed}", str(seed), ModelScorer(model), TOKENIZER, start, context, context)


def items(count: int = 20) -> tuple[Item, ...]:
    return tuple(
        Item(number, (f"What is {number}?",) * 3, (str(number), "a longer text", "none"), number % 3)
        for number in range(1, count + 1)
    )


def task(count: int = 20, **wording: object) -> Task:
    return Task("numbers", items(count), Wording(**wording))  # pyright: ignore[reportArgumentType]


def text_of(question: Question) -> list[str]:
    return [TOKENIZER.decode([*question.prefix, *choice]) for choice in question.continuations]


# Wording and questions.


def test_an_item_is_one_question_where_its_candidates_share_a_context():
    (question,), cut = ask(task(), 4, subject())
    assert TOKENIZER.decode(question.prefix) == "What is 5?"
    assert [TOKENIZER.decode(choice) for choice in question.continuations] == [" 5", " a longer text", " none"]
    assert cut == 0


def test_an_item_whose_contexts_differ_is_a_question_for_each():
    item = Item(1, ("Sarah was", "Maria was"), ("late.",) * 2, 1)
    questions, _ = ask(Task("who", (item,), Wording()), 0, subject())
    assert [text_of(question) for question in questions] == [["Sarah was late."], ["Maria was late."]]
    assert TOKENIZER.decode(questions[0].continuations[0]) == " late."


def test_nothing_before_a_continuation_is_the_start_of_a_document():
    questions, _ = ask(Task("nothing", (Item(1, ("", ""), ("a", "b"), 0),), Wording(delimiter="")), 0, subject())
    assert questions[0].prefix.tolist() == [TOKENIZER.end_of_text]


def test_what_follows_is_cut_off_where_the_text_alone_ends_even_within_a_token():
    tokenizer = train_tokenizer("bpe:258", ["ab ab ab"], end_of_text=True)  # "ab" is a token
    someone = replace(subject(), encoder=tokenizer)
    questions, _ = ask(Task("within", (Item(1, ("xa", "xa"), ("b", "c"), 0),), Wording(delimiter="")), 0, someone)
    assert [[*question.prefix, *question.continuations[0]] for question in questions] == [
        tokenizer.encode(text).tolist() for text in ("xab", "xac")
    ]


def test_a_context_too_long_is_refused_with_the_item_or_cut_off_and_counted(tmp_path):
    small = subject(context=16)
    with pytest.raises(UsageError, match=r"numbers, item 1: it has 23 tokens, and runs/tiny 1 sees 16 at once"):
        evaluate_task(small, task(), tmp_path)
    assert not any(tmp_path.iterdir())
    questions, cut = ask(task(), 0, small, truncate=True)
    assert cut == 7
    assert text_of(questions[0])[1] == " 1? a longer text"
    assert evaluate_task(small, task(), tmp_path, truncate=True).cut == 20


def test_an_answer_that_alone_is_too_long_is_refused_even_so():
    with pytest.raises(UsageError, match=r"numbers, item 1: an answer alone has 14 tokens, and runs/tiny 1 sees 8"):
        ask(task(), 0, subject(context=8), truncate=True)


def test_a_model_whose_losses_are_no_numbers_chooses_nothing(tmp_path):
    someone = subject()
    model = cast(ModelScorer, someone.scorer)._model
    with torch.no_grad():
        model.head_weight.fill_(float("nan"))
    with pytest.raises(RunError, match=r"numbers, item \d+: runs/tiny 1 gives a loss that is not finite"):
        evaluate_task(someone, task(), tmp_path)


def test_a_character_that_a_tokenizer_lacks_is_an_error_with_the_item():
    letters = train_tokenizer("char", ["What is? noe lgrtx 1"])
    with pytest.raises(CorpusError, match=r"numbers, item 2: character '2'"):
        ask(task(), 1, replace(subject(), encoder=letters))


# Figures.


def test_the_likeliest_candidate_is_chosen_by_its_loss_or_its_loss_a_character():
    found = {"nats": [4.0, 6.0, 5.0], "characters": [2, 12, 4], "greedy": [False] * 3, "gold": 1}
    assert (chosen(found), chosen_by_character(found)) == (0, 1)
    assert not is_right(found, "accuracy")
    assert is_right(found, "accuracy_norm")
    assert is_right({**found, "nats": [9.0], "greedy": [True]}, "accuracy")


def test_the_standard_error_of_a_share_is_that_of_a_mean():
    cases = np.random.default_rng(1).random(50) < 0.3
    figure = share(cases.tolist())
    assert figure.value == pytest.approx(cases.mean())
    assert figure.error == pytest.approx(cases.std(ddof=1) / np.sqrt(50))


def test_results_equal_each_item_scored_by_itself(tmp_path):
    someone, whole = subject(), task()
    result = evaluate_task(someone, whole, tmp_path)
    right, bits, size = 0, 0.0, 0
    for place, item in enumerate(whole.items):
        (question,), _ = ask(whole, place, someone)
        nats = [answer.nats.sum() for answer in someone.scorer.answers([question])[0]]
        right += int(np.argmin(nats)) == item.gold
        bits += nats[item.gold] / np.log(2)
        size += len(item.continuations[item.gold])
    assert result.n == 20
    assert result.accuracy.value == pytest.approx(right / 20)
    assert result.bits_per_byte.value == pytest.approx(bits / size, rel=1e-5)


# What is kept.


def test_what_was_answered_is_not_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "TOKENS_KEPT", 100)
    someone, told = subject(), list[tuple[int, int]]()
    expected = evaluate_task(someone, task(), tmp_path / "whole")
    log = Log.of(tmp_path / "parts", someone, task(), {"truncate": False})

    class TiredError(Exception): ...

    def tire(done: int, total: int) -> None:
        told.append((done, total))
        if done > total / 2:
            raise TiredError

    with pytest.raises(TiredError):
        evaluate_task(someone, task(), tmp_path / "parts", progress=tire)
    half = len(log.read())
    assert 0 < half < 20
    with log.path.open("ab") as file:
        file.write(b'{"item": 3, "torn')
    asked = list[Question]()
    counting = _counting(someone, asked)
    assert evaluate_task(counting, task(), tmp_path / "parts") == expected
    assert len(asked) == 20 - half
    assert evaluate_task(counting, task(), tmp_path / "parts") == expected
    assert len(asked) == 20 - half
    assert told[0] == (0, told[0][1])


def _counting(someone: Subject, asked: list[Question]) -> Subject:
    class Counting:
        windows = someone.scorer.windows

        def answers(self, questions):
            asked.extend(questions)
            return someone.scorer.answers(questions)

    return replace(someone, scorer=Counting())


def test_results_of_other_models_items_and_wordings_are_kept_apart(tmp_path):
    for someone in (subject(1), subject(2)):
        for asked in (task(), task(19), task(shots=1)):
            evaluate_task(someone, asked, tmp_path)
    assert len(list(tmp_path.glob("*/numbers-*.jsonl"))) == 6
    heads = [read_log(path)[0] for path in tmp_path.glob("*/*.jsonl")]
    assert {head["model"] for head in heads} == {"runs/tiny 1", "runs/tiny 2"}


def test_a_damaged_log_is_named(tmp_path):
    evaluate_task(subject(), task(), tmp_path)
    (path,) = tmp_path.glob("*/*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"gold"', b"gold", 1))
    with pytest.raises(ScratchlabError, match=rf"{path} is damaged"):
        evaluate_task(subject(), task(), tmp_path)
    path.write_text('{"format": 99}\n')
    with pytest.raises(ScratchlabError, match="that this version of scratchlab can read"):
        read_log(path)


def test_two_processes_do_not_write_one_log(tmp_path):
    log = Log.of(tmp_path, subject(), task(), {"truncate": False})
    with log.held(), pytest.raises(UnfinishedError, match="is being written by another process"):
        evaluate_task(subject(), task(), tmp_path)
    assert evaluate_task(subject(), task(), tmp_path).n == 20


def test_a_task_with_too_few_items_for_its_examples_is_named():
    with pytest.raises(CorpusError, match="numbers, item 1: 10 examples cannot be drawn from 4 other items"):
        ask(task(5, shots=10), 0, subject())


SLOW = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
import test_tasks as t
t.running.TOKENS_KEPT = 60
someone = t.subject()
t.evaluate_task(someone, t.task(60), Path(sys.argv[1]), progress=lambda done, total: time.sleep(0.02))
"""


def test_a_killed_evaluation_goes_on_to_the_same_results(tmp_path):
    program = SLOW.format(tests=str(Path(__file__).parent))
    log = Log.of(tmp_path, subject(), task(60), {"truncate": False})
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    while not (log.path.exists() and log.path.read_bytes().count(b"\n") > 5):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len([line for line in log.path.read_bytes().split(b"\n")[1:-1] if json.loads(line)])
    assert 0 < done < 60
    result = evaluate_task(subject(), task(60), tmp_path)
    assert result == evaluate_task(subject(), task(60), tmp_path / "whole")
    assert summarize(*read_log(log.path)).n == 60
