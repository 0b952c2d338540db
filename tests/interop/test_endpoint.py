"""Endpoints: what one says of a text is what its model computes, and whatever it does otherwise is never a score."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import others
import pytest
import torch
from others import SYMBOLS, TEXT

from listening import Replying, listening
from scratchlab.architecture import GPTSection
from scratchlab.corpus.tokenizer import Tokenizer, train_tokenizer
from scratchlab.errors import ScratchlabError, UnreachableError, UsageError
from scratchlab.evaluation.items import Item, Wording
from scratchlab.evaluation.loss import evaluate_loss
from scratchlab.evaluation.running import evaluate_task
from scratchlab.evaluation.scorer import ModelScorer, Question
from scratchlab.evaluation.subjects import Subject
from scratchlab.evaluation.tasks import Task
from scratchlab.interop import endpoint
from scratchlab.interop.subjects import open_subject
from scratchlab.model.build import Model, build_model
from tiny import random_stream

CONTEXT = 32
Answer = tuple[int, dict[str, str], Any]
"""Status, headers and content; text is sent as it is."""


@dataclass
class Server:
    """An endpoint of this machine with a tiny model."""

    model: Model
    tokenizer: Tokenizer
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
    """What it makes of the answer that would be right."""
    instead: list[Answer | None] = field(default_factory=list)
    """What the next requests get; None is a connection that is closed without a word."""
    models: tuple[str, ...] = ("tiny",)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @torch.no_grad()
    def complete(self, wish: dict[str, Any]) -> dict[str, Any]:
        """As vLLM does, with `echo` and `logprobs`: of the text, and of the token that is written."""
        tokens = torch.tensor([wish["prompt"]])
        logprobs = self.model(tokens)[0][0].log_softmax(-1)
        best, written = logprobs.max(-1).values.tolist(), int(logprobs[-1].argmax())
        following = [*wish["prompt"][1:], written]
        given = logprobs[torch.arange(len(following)), following].tolist()
        top = [{"given": a, "best": b} for a, b in zip(given, best, strict=True)]
        text = self.tokenizer.decode([*wish["prompt"], written])
        logprobs_field = {"token_logprobs": [None, *given], "top_logprobs": [None, *top]}
        return {"choices": [{"index": 0, "text": text, "logprobs": logprobs_field}]}

    def answer(self, method: str, path: str, content: bytes) -> Answer | None:
        with self.lock:
            if self.instead:
                return self.instead.pop(0)
        if method == "GET" and path == "/v1/models":
            return 200, {}, {"data": [{"id": name, "max_model_len": CONTEXT} for name in self.models]}
        wish = json.loads(content)
        assert (path, wish["model"], wish["echo"], wish["max_tokens"]) == ("/v1/completions", "tiny", True, 1)
        with self.lock:
            self.asked.append(wish)
            return 200, {}, self.change(self.complete(wish))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(others.make_tokenizer().to_json(), encoding="utf-8")
    return path


@pytest.fixture
def server(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(endpoint, "WAITS", (0.01, 0.01))
    config = GPTSection(n_layer=1, n_head=2, d_model=16, context_length=CONTEXT)
    model = build_model(config, SYMBOLS, seed=3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0)
    server = Server(model, Tokenizer.load(tokenizer))

    class Handler(Replying, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply()

        def do_POST(self) -> None:
            self.reply()

        def reply(self) -> None:
            server.keys.add(self.headers.get("Authorization"))
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer = server.answer(self.command, self.path, content)
            if answer is None:
                self.close_connection = True
                return
            status, headers, body = answer
            self.send(status, headers, body if isinstance(body, str) else json.dumps(body))

    with listening(Handler) as address:
        server.url = f"{address}/v1"
        yield server


def opened(server: Server, tokenizer: Path) -> Subject:
    subject = open_subject(f"{server.url}#tiny", tokenizer=str(tokenizer))
    server.asked.clear()
    return subject


def questions(count: int) -> list[Question]:
    rng = np.random.default_rng(0)
    draw = lambda most: rng.integers(0, SYMBOLS, rng.integers(1, most))  # noqa: E731
    return [Question(draw(15), tuple(draw(12) for _ in range(3))) for _ in range(count)]


def test_scores_are_those_of_the_model(server: Server, tokenizer: Path) -> None:
    subject, ours = opened(server, tokenizer), ModelScorer(server.model)
    asked = questions(9)
    for question in (first := asked[0], asked[1]):
        prefix = torch.from_numpy(question.prefix)[None]
        likeliest = int(server.model(prefix)[0][0, -1].argmax())
        asked.append(Question(question.prefix, (np.array([likeliest]), first.continuations[0])))
    decided: set[bool] = set()
    for mine, theirs in zip(ours.answers(asked), subject.scorer.answers(asked), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a.nats, b.nats, rtol=1e-4, atol=1e-4)
            assert a.greedy == b.greedy
            decided.add(b.greedy)
    assert decided == {True, False}
    assert len(server.asked) == sum(len(question.continuations) for question in asked)


def test_the_loss_of_a_long_text_is_that_of_the_model(server: Server, tokenizer: Path) -> None:
    subject, text = opened(server, tokenizer), random_stream(100, vocab_size=SYMBOLS)
    assert (subject.context_length, subject.window) == (CONTEXT - 2, CONTEXT - 2)
    theirs = evaluate_loss(subject.scorer.windows, text, subject.window)
    ours = evaluate_loss(lambda *batch: ModelScorer(server.model).windows(*batch), text, subject.window)
    assert theirs.nats_per_token == pytest.approx(ours.nats_per_token, rel=1e-5)
    assert theirs.n_tokens == ours.n_tokens == 99


def test_padding_that_is_not_the_next_token_is_not_asked_for(server: Server, tokenizer: Path) -> None:
    scorer = opened(server, tokenizer).scorer
    nats = scorer.windows(np.array([[1, 2, 3, 0]]), np.array([[2, 3, 4, 9]]))
    assert np.isnan(nats).tolist() == [[False, False, False, True]]
    assert server.asked[0]["prompt"] == [1, 2, 3, 4]


PASSING: dict[str, list[Answer | None]] = {
    "errors-of-the-server": [(500, {}, "oh"), (503, {"Retry-After": "0.01"}, {"error": "busy"})],
    "too-many-requests": [(429, {"Retry-After": "0"}, "slow down"), (429, {"Retry-After": "soon"}, "slow down")],
    "an-error-cut-short": [(500, {"Content-Length": "99"}, "oh")],
    "a-wait-that-is-no-number": [(503, {"Retry-After": "nan"}, "busy")],
    "a-closed-connection": [None, (500, {}, "oh")],
}


@pytest.mark.parametrize("kind", PASSING)
def test_what_passes_is_tried_again(kind: str, server: Server, tokenizer: Path) -> None:
    scorer, asked = opened(server, tokenizer).scorer, questions(1)
    right = scorer.answers(asked)
    server.instead = list(PASSING[kind])
    for (again,), (first,) in zip(zip(*scorer.answers(asked), strict=True), zip(*right, strict=True), strict=True):
        np.testing.assert_array_equal(again.nats, first.nats)
    assert server.instead == []


def test_what_does_not_pass_is_said_with_the_question(server: Server, tokenizer: Path) -> None:
    scorer = opened(server, tokenizer).scorer
    server.instead = [(500, {}, "out of memory")] * 100
    with pytest.raises(UnreachableError, match=r"question 1, candidate \d: HTTP status 500 \(out of memory\), 3"):
        scorer.answers(questions(1))


def test_what_does_not_pass_is_said_with_the_item(server: Server, tokenizer: Path, tmp_path: Path) -> None:
    subject = opened(server, tokenizer)
    server.instead = [(500, {}, "oh")] * 100
    items = (Item(17, ("every effort",) * 2, (" moves you", " ideal"), 0),)
    with pytest.raises(UnreachableError, match=r"made-up, item 17, candidate \d: HTTP status 500 \(oh\), 3 times"):
        evaluate_task(subject, Task("made-up", items, Wording(delimiter="")), tmp_path)


NO_LISTS: dict[str, tuple[list[Any], str]] = {
    "empty": ([], "lists no model: load one there"),
    "a-context-of-two": ([{"id": "a", "max_model_len": 2}], "gave no list of models: .*'max_model_len': 2"),
    "a-context-in-words": ([{"id": "a", "max_model_len": "64"}], "gave no list of models"),
}


@pytest.mark.parametrize("kind", NO_LISTS)
def test_a_list_of_models_that_says_nothing(kind: str, server: Server, tokenizer: Path) -> None:
    listed, message = NO_LISTS[kind]
    server.instead = [(200, {}, {"data": listed})]
    with pytest.raises(ScratchlabError, match=message):
        open_subject(server.url, tokenizer=str(tokenizer))


def test_no_answer_in_time_is_said(server: Server, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "TIMEOUT", 0.2)
    scorer, asked = opened(server, tokenizer).scorer, questions(1)
    with server.lock, pytest.raises(UnreachableError, match="candidate 1: timed out, 3 times"):
        scorer.answers([Question(asked[0].prefix, asked[0].continuations[:1])])


def test_an_endpoint_that_is_gone_is_said(server: Server, tokenizer: Path) -> None:
    with pytest.raises(UnreachableError, match=r"the list of models: .*refused"):
        open_subject("http://127.0.0.1:9/v1#tiny", tokenizer=str(tokenizer))
    for address in ("http://[::1", "http://localhost:99999/v1#tiny", "http://localhost:v1/#tiny"):
        with pytest.raises(UsageError, match="is no address"):
            open_subject(address, tokenizer=str(tokenizer))


def logprobs(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(answer: dict[str, Any]) -> dict[str, Any]:
        kept = answer["choices"][0]["logprobs"]
        answer["choices"][0]["logprobs"] = kept | {name: made(kept[name]) for name, made in changes.items()}
        return answer

    return change


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no-choices": (lambda answer: {"error": "what?"}, "without log-probabilities of the text"),
    "no-log-probabilities": (
        lambda answer: {"choices": [{"text": "", "logprobs": None}]},
        "llama.cpp's server does not",
    ),
    "of-what-is-written-alone": (
        logprobs(token_logprobs=lambda given: given[-1:], top_logprobs=lambda top: top[-1:]),
        r"5 tokens were sent, and 1 log-probabilities came",
    ),
    "null": (logprobs(token_logprobs=lambda given: [*given[:4], None, given[5]]), "token 5 of 5 is None"),
    "text": (logprobs(token_logprobs=lambda given: [*given[:4], "-1", given[5]]), "token 5 of 5 is '-1'"),
    "a-probability": (logprobs(token_logprobs=lambda given: [*given[:4], 0.3, given[5]]), "token 5 of 5 is 0.3"),
    "not-finite": (
        logprobs(token_logprobs=lambda given: [*given[:4], -float("inf"), given[5]]),
        "token 5 of 5 is -inf",
    ),
    "no-likeliest": (logprobs(top_logprobs=lambda top: [*top[:4], None, top[5]]), "the place of token 5 of 5 are None"),
    "no-json": (lambda answer: "<html>", "no JSON: <html>"),
    "lists-within-lists": (lambda answer: "[" * 100_000, r"no JSON: \[\["),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_score_is_an_error_at_once(kind: str, server: Server, tokenizer: Path) -> None:
    subject = opened(server, tokenizer)
    server.change, message = WRONG[kind]
    with pytest.raises(ScratchlabError, match=f"question 1, candidate 1: .*{message}"):
        subject.scorer.answers([Question(np.array([1, 2, 3]), (np.array([4, 5]),))])
    assert len(server.asked) == 1


@pytest.mark.parametrize(("status", "message"), [(400, "is too long"), (401, "taken from the variable OPENAI_API_KEY")])
def test_what_it_will_not_do_is_said_in_its_words(status: int, message: str, server: Server, tokenizer: Path) -> None:
    scorer = opened(server, tokenizer).scorer
    server.instead = [(status, {}, {"error": {"message": "this is too long"}})]
    with pytest.raises(ScratchlabError, match=rf"candidate 1: HTTP status {status} .*{message}"):
        scorer.answers([Question(np.array([1]), (np.array([2]),))])
    assert server.asked == []


def test_the_key_is_sent_to_it(server: Server, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    opened(server, tokenizer)
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    opened(server, tokenizer)
    assert server.keys == {None}  # it was never said that the key is for this address
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/")
    opened(server, tokenizer)
    assert server.keys == {None, "Bearer secret"}


def test_the_model_and_the_tokenizer_must_be_known(server: Server, tokenizer: Path, tmp_path: Path) -> None:
    assert opened(server, tokenizer).identity == open_subject(server.url, tokenizer=str(tokenizer)).identity
    with pytest.raises(UsageError, match="An endpoint's tokenizer must be named"):
        open_subject(server.url)
    with pytest.raises(UsageError, match="there is no such file or folder"):
        open_subject(server.url, tokenizer=str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="has no weights but its own"):
        open_subject(server.url, tokenizer=str(tokenizer), at="best")
    server.models = ("one", "two")
    with pytest.raises(UsageError, match=r"has several models; say which: .*/v1#one, .*/v1#two"):
        open_subject(server.url, tokenizer=str(tokenizer))


def test_another_models_tokenizer_is_noticed(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(train_tokenizer("bpe:280", [TEXT[::-1]]).to_json(), encoding="utf-8")
    with pytest.raises(ScratchlabError, match="reads the tokens of 'one two three' as"):
        open_subject(f"{server.url}#tiny", tokenizer=str(path))


def test_a_task_that_was_cut_short_goes_on(server: Server, tokenizer: Path, tmp_path: Path) -> None:
    """An endpoint that dies half-way: what was answered is kept, and not asked again."""
    from scratchlab.evaluation import running

    subject = opened(server, tokenizer)
    items = tuple(Item(n, ("every effort",) * 2, (" moves you", f" ideal {n}"), n % 2) for n in range(1, 7))
    task = Task("made-up", items, Wording(delimiter=""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "TOKENS_KEPT", 1)
        patch.setattr(endpoint, "AT_ONCE", 1)
        answer = server.change

        def die(right: dict[str, Any]) -> dict[str, Any]:
            if len(server.asked) == 6:
                server.instead = [(500, {}, "gone")] * 3
            return answer(right)

        server.change = die
        with pytest.raises(UnreachableError, match="run the same command again"):
            evaluate_task(subject, task, tmp_path)
    server.asked.clear()
    result = evaluate_task(subject, task, tmp_path)
    assert (result.n, len(server.asked)) == (6, 2 * 3)
