"""Answers that are made up, and a judge that does as it is told: a server of this machine that speaks OpenAI's chat."""

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from listening import Replying, listening
from scratchlab import lines
from scratchlab.corpus.chat import Message
from scratchlab.judging.answers import (
    FORMAT,
    KIND,
    Answer,
    Answers,
    Likelihood,
    Question,
    Written,
    identity_of,
    open_answers,
    record_of,
)
from scratchlab.judging.contest import Contest, contest_of

Messages = Sequence[Message]


def question(number: int, referenced: bool = True) -> Question:
    asked: Message = {"role": "user", "content": f"What is the name of number {number}?"}
    return Question(number, str(number), (asked,), f"Number {number} is right, worth 95." if referenced else None)


def write_answers(
    folder: Path, model: str, texts: Sequence[str], referenced: bool = True, nats: Sequence[float] | None = None
) -> Answers:
    """A file of answers as `scratchlab answer` leaves it."""
    questions = [question(number, referenced) for number in range(1, len(texts) + 1)]
    settings = {"max_tokens": 9, "temperature": 0.0, "top_k": None, "top_p": None, "seed": 1}
    head = {"format": FORMAT, "kind": KIND, "model": model, "model_sha256": model, "template": "alpaca"}
    head |= {"settings": settings, "data": "made up", "data_sha256": identity_of(questions), "items": len(questions)}
    path = folder / f"{model}.jsonl"
    lines.begin(path, head, "answers")
    records = [
        record_of(Answer(asked, Written(text, 3, ended=True), 1, Likelihood(nats[place], 7, 25) if nats else None))
        for place, (asked, text) in enumerate(zip(questions, texts, strict=True))
    ]
    lines.append(path, records, "answers")
    return open_answers([path])[0]


def worth(scores: Sequence[float]) -> list[str]:
    """Answers that say what they are worth."""
    return [f"Number {number} is well known, worth {score:g}." for number, score in enumerate(scores, 1)]


def made_contest(folder: Path, n: int = 6, models: int = 2, seed: int = 1) -> Contest:
    """Models of which the second is worth 10 more than the first, and so on."""
    answers = [
        write_answers(folder, f"model-{place}", worth([30 + 10 * place + number % 3 for number in range(n)]))
        for place in range(models)
    ]
    return contest_of(answers, seed)


# A judge that reads.


def read_prompt(messages: Messages) -> tuple[str, dict[str, str]]:
    """The question and the answers by label, as somebody reads them who knows the marks and trusts nothing else."""
    text = messages[1]["content"]
    tag = re.findall(r"^<question (\w+)>$", text, re.MULTILINE)[0]
    asked = re.findall(rf"^<question {tag}>\n(.*?)\n</question {tag}>$", text, re.MULTILINE | re.DOTALL)[0]
    found = re.findall(rf"^<answer (\w) {tag}>\n(.*?)\n</answer \1 {tag}>$", text, re.MULTILINE | re.DOTALL)
    return asked, dict(found)


def fair(messages: Messages) -> dict[str, float]:
    """What each answer says it is worth, if it speaks of the number that was asked; else 5."""
    asked, answers = read_prompt(messages)
    number = re.findall(r"\d+", asked)[0]
    return {label: _worth(text) if f"Number {number} " in text else 5.0 for label, text in answers.items()}


def _worth(text: str) -> float:
    found = re.findall(r"worth ([\d.]+)\.", text)
    return float(found[0]) if found else 0.0


# A server.

Reply = str | tuple[int, dict[str, str], str | bytes] | float | None
"""A message; or status, headers and body; or seconds of silence; or a connection that is closed without a word."""


@dataclass
class Server:
    """A model that judges."""

    judge: Callable[[Messages], dict[str, float]] = fair
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    keys: set[str | None] = field(default_factory=set[str | None])
    accounts: set[str | None] = field(default_factory=set[str | None])
    instead: list[Reply] = field(default_factory=list[Reply])
    """What the next requests get."""
    change: Callable[[str, dict[str, Any]], Reply] = lambda text, wish: text
    """What becomes of a message that would be right."""
    usage: bool = True
    pause: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, content: bytes) -> Reply:
        wish = json.loads(content)
        with self.lock:
            self.asked.append(wish)
            instead = self.instead.pop(0) if self.instead else ""
        time.sleep(self.pause)
        if instead != "":
            return instead
        return self.change(json.dumps(self.judge(wish["messages"])), wish)

    def wrapped(self, text: str, wish: dict[str, Any]) -> str:
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110} if self.usage else None
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = {"id": "1", "object": "chat.completion", "created": 0, "model": wish["model"], "choices": [choice]}
        return json.dumps(whole | ({"usage": usage} if usage else {}))


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    class Handler(Replying, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            models = [{"id": "tiny", "object": "model", "created": 0, "owned_by": "us"}]
            self.send(200, {}, json.dumps({"object": "list", "data": models}))

        def do_POST(self) -> None:
            server.keys.add(self.headers.get("Authorization"))
            server.accounts.add(self.headers.get("OpenAI-Organization"))
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            reply = server.answer(content)
            if isinstance(reply, float):
                time.sleep(reply)
            if reply is None or isinstance(reply, float):
                self.close_connection = True
            elif isinstance(reply, str):
                self.send(200, {}, server.wrapped(reply, json.loads(content)))
            else:
                self.send(*reply)

    with listening(Handler) as address:
        server.url = f"{address}/v1#tiny"
        yield server
