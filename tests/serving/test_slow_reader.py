"""Whoever reads a stream slowly gets all of it: the last text and why it ended, however much came in between."""

import asyncio
import json
from typing import Any

import pytest

from in_process import CONTEXT, NAME, model, tokenizer
from scratchlab.corpus.chat import CHATML, ChatTemplate
from scratchlab.serving.app import make_app
from scratchlab.serving.served import Served
from scratchlab.serving.writer import Writer

Sent = list[dict[str, Any]]


def asked(path: str, wish: dict[str, Any], read_after: int) -> Sent:
    """What a client is sent that goes on reading, from event number `read_after` on, when all is written."""

    async def ask() -> Sent:
        writer, sent, body = Writer(model(), tokenizer(), 8, 8), Sent(), list[bytes]()
        app = make_app(Served(NAME, tokenizer(), ChatTemplate(CHATML), CONTEXT), writer)
        body.append(json.dumps({"model": NAME, **wish}).encode())

        async def receive() -> dict[str, Any]:
            if not body:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": body.pop(), "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)
            while len(sent) > read_after and (writer.running or writer.waiting):
                await asyncio.sleep(0.001)

        scope = {"type": "http", "method": "POST", "path": f"/v1/{path}", "headers": [], "query_string": b""}
        async with app.router.lifespan_context(app):
            await app(scope, receive, send)
        return sent

    return asyncio.run(ask())


def events(sent: Sent) -> list[Any]:
    body = b"".join(message.get("body", b"") for message in sent).decode()
    lines = [event.removeprefix("data: ") for event in body.split("\n\n") if event]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("read_after", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("n", [1, 3])
def test_a_slow_reader_gets_all_of_a_completion(n: int, read_after: int) -> None:
    wish: dict[str, Any] = {"prompt": "ab", "max_tokens": 12, "temperature": 2, "seed": 3, "n": n, "stop": ["z"]}
    (whole,) = (json.loads(message["body"]) for message in asked("completions", wish, 99) if "body" in message)
    chunks = events(asked("completions", {**wish, "stream": True}, read_after))
    for choice in whole["choices"]:
        parts = [part for chunk in chunks for part in chunk["choices"] if part["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + [choice["finish_reason"]]


@pytest.mark.parametrize("read_after", [1, 2, 4])
def test_a_slow_reader_gets_all_of_an_answer(read_after: int) -> None:
    wish: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 12, "temperature": 0}
    (whole,) = (json.loads(message["body"]) for message in asked("chat/completions", wish, 99) if "body" in message)
    chunks = events(asked("chat/completions", {**wish, "stream": True}, read_after))
    parts = [part for chunk in chunks for part in chunk["choices"]]
    (choice,) = whole["choices"]
    assert "".join(part["delta"].get("content", "") for part in parts) == choice["message"]["content"]
    assert parts[-1]["finish_reason"] == choice["finish_reason"]
