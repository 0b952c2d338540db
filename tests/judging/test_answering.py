"""Answers: of runs, of models of Hugging Face, of endpoints; kept as they come, and known by all they depend on."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contests import Server, question, serving

from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.chat import TEMPLATES, ChatTemplate
from scratchlab.corpus.examples.rows import Conversation, read_conversations
from scratchlab.corpus.tokenizer import train_tokenizer
from scratchlab.errors import CorpusError, RunError, ScratchlabError, UnfinishedError, UsageError
from scratchlab.evaluation.scorer import Question as Scored
from scratchlab.evaluation.subjects import run_subject
from scratchlab.generation.engine import Settings, generate
from scratchlab.generation.text import run_tokenizer
from scratchlab.judging import client
from scratchlab.judging.answering import answer_questions
from scratchlab.judging.answers import Question, Written, open_answers, questions_of, read_lines
from scratchlab.judging.author import Author, seed_of
from scratchlab.judging.authors import open_author
from scratchlab.model.load import load_model
from scratchlab.recipe import recipe_from
from scratchlab.runfolder import RunFolder
from scratchlab.training.loop import train

QUESTIONS = [question(number) for number in range(1, 6)]
SHORT = Settings(max_tokens=5, temperature=0.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base run on bytes that sees 256 of them."""
    folder = tmp_path_factory.mktemp("answers")
    (folder / "writing").mkdir()
    for number in range(30):
        (folder / f"writing/{number}.txt").write_text("Every effort moves you. " * 9 + f"{number}\n", encoding="utf-8")
    build_corpus([str(folder / "writing")], folder / "corpus", tokenizer="byte")
    tables: dict[str, Any] = {
        "corpus": str(folder / "corpus"),
        "model": {"n_layer": 1, "n_head": 2, "d_model": 16, "context_length": 256},
        "training": {"steps": 3, "global_batch_size": 2, "learning_rate": 1e-2, "precision": "float32"},
        "evaluation": {"every": 3, "sample_tokens": 0, "max_tokens": 300},
        "execution": {"device": "cpu", "threads": 1, "compile": False, "micro_batch_size": 2},
    }
    train(recipe_from(tables, where="test"), folder / "run")
    return folder / "run"


def answers_of(author: Author, folder: Path, settings: Settings = SHORT, asked: Sequence[Question] = QUESTIONS) -> Any:
    path = answer_questions(author, asked, "made up", settings, folder)
    return open_answers([path])[0]


def test_a_run_answers_as_it_writes_after_the_prompt(run: Path, tmp_path: Path) -> None:
    found = answers_of(open_author(str(run), template="alpaca", device="cpu"), tmp_path)
    folder = RunFolder(run)
    model, tokenizer = load_model(folder, device="cpu"), run_tokenizer(folder)
    template = ChatTemplate(TEMPLATES["alpaca"])
    for one in found.answers:
        prompt = template.prompt(tokenizer, one.question.messages)
        tokens = list(generate(model, prompt, SHORT, tokenizer.end_of_text))
        assert one.written == Written(tokenizer.decode(tokens), len(tokens), ended=len(tokens) < 5)
    assert found.questions == tuple(QUESTIONS)
    assert found.head["template"] == "alpaca"


def test_drawn_answers_have_a_seed_for_each_question(run: Path, tmp_path: Path) -> None:
    author, drawn = open_author(str(run), template="alpaca", device="cpu"), Settings(max_tokens=40, temperature=1.5)
    found = answers_of(author, tmp_path, drawn)
    assert [one.seed for one in found.answers] == [seed_of(1, one) for one in QUESTIONS]
    few = answers_of(author, tmp_path, drawn, QUESTIONS[2:4])
    assert few.texts == found.texts[2:4]  # whatever else is asked
    other = answers_of(author, tmp_path, replace(drawn, seed=2))
    assert other.texts != found.texts
    assert len(list(tmp_path.glob("*.jsonl"))) == 3


def test_answers_end_where_the_model_ends_its_turn(run: Path, tmp_path: Path) -> None:
    author, drawn = open_author(str(run), template="alpaca", device="cpu"), Settings(max_tokens=60, temperature=3.0)
    found = answers_of(author, tmp_path, drawn, [question(number) for number in range(20)])
    ends = {one.written.ended for one in found.answers}
    assert ends == {True, False}
    assert all((one.written.tokens == 60) != one.written.ended for one in found.answers)


def test_reference_answers_are_scored_as_evaluation_does(run: Path, tmp_path: Path) -> None:
    asked = [*QUESTIONS, Question(6, "long", QUESTIONS[0].messages, "x" * 200), question(7, referenced=False)]
    found = answers_of(open_author(str(run), template="alpaca", device="cpu"), tmp_path, SHORT, asked)
    subject, tokenizer, template = run_subject(run, device="cpu"), run_tokenizer(RunFolder(run)), TEMPLATES["alpaca"]
    for one in found.answers[:5]:
        prompt = ChatTemplate(template).prompt(tokenizer, one.question.messages)
        reference = [*tokenizer.encode(one.question.reference).tolist(), tokenizer.end_of_text]
        ((right,),) = subject.scorer.answers([Scored(np.array(prompt), (np.array(reference),))])
        assert one.likelihood is not None
        assert one.likelihood.nats == pytest.approx(float(right.nats.sum()), rel=1e-5)
        assert (one.likelihood.tokens, one.likelihood.bytes) == (len(reference), len(reference) - 1)
    assert [one.likelihood for one in found.answers[5:]] == [None, None]  # does not fit; is not there


def test_a_question_that_does_not_fit_is_cut_and_counted(run: Path, tmp_path: Path) -> None:
    long: Question = Question(1, "1", ({"role": "user", "content": "why? " * 100},), None)
    (one,) = answers_of(open_author(str(run), template="alpaca", device="cpu"), tmp_path, SHORT, [long]).answers
    assert one.written.cut > 300
    assert one.written.tokens == 5


def test_a_run_with_a_template_of_its_own_is_spoken_to_by_it(run: Path, tmp_path: Path) -> None:
    own = RunFolder(run).chat_template_path
    own.write_text(TEMPLATES["alpaca"].replace("### Response", "### Answer"), encoding="utf-8")
    try:
        author = open_author(str(run), device="cpu")
        assert len(author.template) == 64
        assert len(answers_of(author, tmp_path).answers) == 5
        with pytest.raises(UsageError, match=r"has a chat template of its own. Leave --template out"):
            open_author(str(run), template="alpaca", device="cpu")
    finally:
        own.unlink()


def test_what_cannot_be_asked_is_said(run: Path) -> None:
    with pytest.raises(UsageError, match="has no chat template: nobody taught it to answer"):
        open_author(str(run), device="cpu")
    with pytest.raises(UsageError, match=r"lacks <\|im_start\|>, <\|im_end\|>, which template chatml needs"):
        open_author(str(run), template="chatml", device="cpu")
    with pytest.raises(UsageError, match="expected alpaca, chatml, or a file"):
        open_author(str(run), template="nowhere.jinja", device="cpu")
    with pytest.raises(RunError, match="A model is a run folder"):
        open_author(str(run / "checkpoints"), template="alpaca")


# What is kept.


class StoppedError(Exception):
    pass


def test_a_model_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    written: list[str] = []

    def write(questions: Sequence[Question], settings: Settings) -> Iterator[tuple[int, Written]]:
        for place in reversed(range(len(questions))):
            if len(written) == 3:
                raise StoppedError
            written.append(questions[place].id)
            yield place, Written(f"about {questions[place].id}", 2, ended=True)

    author = Author("somebody", "hash", "alpaca", write, lambda questions: [None] * len(questions))
    with pytest.raises(StoppedError):
        answer_questions(author, QUESTIONS, "made up", SHORT, tmp_path)
    (path,) = tmp_path.glob("*.jsonl")
    with pytest.raises(ScratchlabError, match=r"somebody has answered 3 of 5 questions. Let it answer again"):
        open_answers([path])
    path.write_bytes(path.read_bytes()[:-5])  # and the last one was torn
    written[:] = ["", ""]
    with pytest.raises(StoppedError):
        answer_questions(author, QUESTIONS, "made up", SHORT, tmp_path)
    written.clear()
    answer_questions(author, QUESTIONS, "made up", SHORT, tmp_path)
    assert written == ["2", "1"]
    assert open_answers([path])[0].texts == tuple(f"about {number}" for number in range(1, 6))
    from scratchlab import lines

    with lines.held(path, "it"), pytest.raises(UnfinishedError, match="another process"):
        answer_questions(author, QUESTIONS, "made up", SHORT, tmp_path)


def test_answers_to_other_questions_are_not_compared(tmp_path: Path) -> None:
    author = Author(
        "somebody",
        "hash",
        "alpaca",
        lambda q, s: ((i, Written("", 0, ended=True)) for i in range(len(q))),
        lambda q: [None] * len(q),
    )
    paths = [answer_questions(author, asked, "made up", SHORT, tmp_path / name) for name, asked in
             (("a", QUESTIONS), ("b", QUESTIONS[:4]), ("c", QUESTIONS))]  # fmt: skip
    with pytest.raises(UsageError, match="answers other questions"):
        open_answers(paths[:2])
    again = answer_questions(author, QUESTIONS, "made up", replace(SHORT, seed=5), tmp_path / "a")
    both = open_answers([tmp_path / "a"])
    assert {one.model for one in both} == {f"somebody ({paths[0].stem})", f"somebody ({again.stem})"}
    with pytest.raises(UsageError, match=r"nowhere is not there: scratchlab answer MODEL\.\.\. --data FILE --out"):
        open_answers([tmp_path / "nowhere"])


@pytest.mark.parametrize("text", ["", "{}\n", "hello\n", '{"kind": "replies", "format": 1}\n'])
def test_what_is_no_file_of_answers_is_said(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScratchlabError, match="is no file of answers"):
        read_lines(path)


# Others.


def test_a_model_of_hugging_face_answers_by_its_own_template(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(5)
    tokenizer = train_tokenizer("byte", [])
    config = GPT2Config(
        n_layer=1, n_head=2, n_embd=16, n_positions=200, vocab_size=257, bos_token_id=256, eos_token_id=256
    )
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs/tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (tmp_path / "theirs/tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(RunError, match="has no chat template"):
        open_author(str(tmp_path / "theirs"), device="cpu")
    template = (
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}> {% endif %}"
    )
    (tmp_path / "theirs/chat_template.jinja").write_text(template, encoding="utf-8")
    author = open_author(str(tmp_path / "theirs"), device="cpu")
    found = answers_of(author, tmp_path / "answers")
    for one in found.answers:
        prompt = tokenizer.encode(f"[user] {one.question.messages[0]['content']}\n> ").tolist()
        seen = list(prompt)
        for _ in range(5):
            seen.append(int(model(torch.tensor([seen])).logits[0, -1].argmax()))
        assert one.written.tokens == 5
        assert one.written.text == tokenizer.decode(seen[len(prompt) :])
        assert one.likelihood is not None
        assert one.likelihood.tokens == one.likelihood.bytes + 1
    drawn = Settings(max_tokens=9, temperature=1.0)
    state = torch.random.get_rng_state()
    assert answers_of(author, tmp_path / "a", drawn).texts == answers_of(author, tmp_path / "b", drawn).texts
    assert (torch.random.get_rng_state() == state).all()
    with pytest.raises(UsageError, match="spoken to by its own template"):
        open_author(str(tmp_path / "theirs"), template="alpaca", device="cpu")


def test_an_endpoint_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "WAITS", (0.01, 0.01))
    server = Server(
        judge=lambda messages: {}, change=lambda text, wish: f"about {wish['messages'][-1]['content'][-3:-1]}"
    )
    server.instead = [(500, {}, "oh")]
    with serving(server):
        found = answers_of(open_author(server.url), tmp_path, replace(SHORT, top_p=0.9))
        with pytest.raises(UsageError, match="its protocol has no top-k"):
            answers_of(open_author(server.url), tmp_path, replace(SHORT, top_k=5))
        with pytest.raises(UsageError, match="words conversations itself"):
            open_author(server.url, template="alpaca")
    assert [one.written for one in found.answers] == [Written(f"about  {n}", 10, ended=True) for n in range(1, 6)]
    assert [one.likelihood for one in found.answers] == [None] * 5
    wish = server.asked[-1]
    assert (wish["max_tokens"], wish["temperature"], wish["top_p"]) == (5, 0.0, 0.9)
    assert {wish["seed"] for wish in server.asked} == {seed_of(1, one) for one in QUESTIONS}


# Questions out of files.


def test_questions_are_read_from_alpaca_and_from_messages(tmp_path: Path) -> None:
    alpaca = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Say hi.", "input": "", "output": "Hi."},
        {"instruction": "Say no."},
    ]
    (tmp_path / "a.json").write_text(json.dumps(alpaca), encoding="utf-8")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in alpaca), encoding="utf-8")
    found = questions_of(read_conversations(tmp_path / "a.json"))
    assert found == questions_of(read_conversations(tmp_path / "b.jsonl"))
    assert [one.messages[0]["content"] for one in found] == ["Add.\n\n### Input:\n1 2", "Say hi.", "Say no."]
    assert [one.reference for one in found] == ["3", "Hi.", None]
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    (tmp_path / "c.jsonl").write_text(json.dumps({"messages": talk, "id": "x"}) + "\n", encoding="utf-8")
    (one,) = read_conversations(tmp_path / "c.jsonl")
    assert isinstance(one, Conversation)
    assert (one.id, len(one.prompt), one.reference) == ("x", 3, None)


def test_all_that_is_wrong_in_a_file_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"instruction": ""}\n{"hello": 1}\n\n[1]\n{oh\n{"instruction": 3}\n', encoding="utf-8")
    with pytest.raises(CorpusError, match="5 problems") as found:
        read_conversations(path)
    for place in ("line 1: its instruction is empty", "line 2: expected instruction", "line 4:", "line 5:", "line 6:"):
        assert place in str(found.value)
    with pytest.raises(CorpusError, match="there is no such file"):
        read_conversations(tmp_path / "nowhere.json")
