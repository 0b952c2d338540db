"""Many clients, clients that go, too many, a model that fails, and the end of the server."""

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any
from urllib.parse import urlparse

import openai
import pytest
import torch
from in_process import NAME, Running, endless, model, running, tokenizer, wait_until

from scratchlab.generation.batching import Batch
from tiny_run import lively_model

LONG = 4000


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(rows=2, waiting=3, served_model=endless()) as started:
        yield started


def busy(server: Running) -> tuple[int, int]:
    return server.writer.running, server.writer.waiting


def post(server: Running, wish: dict[str, Any]) -> socket.socket:
    """A request on a bare socket, of which nothing is read."""
    place, body = urlparse(server.url), json.dumps({"model": NAME, "prompt": "a", "max_tokens": LONG, **wish}).encode()
    connection = socket.create_connection((place.hostname, place.port), timeout=20)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_frees_its_place_at_once(stream: bool, server: Running) -> None:
    gone = [post(server, {"stream": stream, "n": 2}), post(server, {"stream": stream, "n": 2})]
    wait_until(lambda: busy(server) == (2, 2))
    for connection in gone:
        connection.close()
    wait_until(lambda: busy(server) == (0, 0), seconds=2)


def test_a_stream_that_is_closed_halfway_frees_its_place(server: Running) -> None:
    with server.client().completions.create(model=NAME, prompt="a", max_tokens=LONG, stream=True) as stream:
        next(iter(stream))
        assert busy(server) == (1, 0)
    wait_until(lambda: busy(server) == (0, 0), seconds=2)


def test_one_too_many_is_told_to_come_again(server: Running) -> None:
    with closing(post(server, {"n": 2})), closing(post(server, {"n": 3})):
        wait_until(lambda: busy(server) == (2, 3))
        with pytest.raises(openai.RateLimitError, match="2 texts are being written and 3 wait") as caught:
            server.client().completions.create(model=NAME, prompt="a")
        assert caught.value.response.headers["Retry-After"] == "1"
    patient = openai.OpenAI(base_url=server.url, api_key="none", max_retries=5)
    assert patient.completions.create(model=NAME, prompt="a", max_tokens=2).choices[0].text


def test_health_says_how_busy_it_is(server: Running) -> None:
    import urllib.request

    with closing(post(server, {"n": 3})):
        wait_until(lambda: busy(server) == (2, 1))
        with urllib.request.urlopen(server.url.removesuffix("/v1") + "/health") as response:
            assert json.loads(response.read()) == {"status": "ok", "model": NAME, "running": 2, "waiting": 1}
    wait_until(lambda: busy(server) == (0, 0), seconds=2)


def test_a_model_that_diverged_is_an_error_of_the_server() -> None:
    broken = lively_model(tokenizer())
    with torch.no_grad():
        broken.head_weight[:] = torch.nan
    with running(served_model=broken) as server:
        with pytest.raises(openai.InternalServerError, match="not finite: it has diverged"):
            server.client().completions.create(model=NAME, prompt="a")
        with pytest.raises(openai.APIError, match="not finite: it has diverged"):
            list(server.client().completions.create(model=NAME, prompt="a", stream=True))


def test_what_fails_is_told_and_the_next_request_is_served(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(batch: Batch) -> None:
        monkeypatch.undo()
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Batch, "turn", fail)
    with pytest.raises(openai.InternalServerError, match="out of memory"):
        server.client().completions.create(model=NAME, prompt="a")
    assert "out of memory" in caplog.text, "with a traceback, in the log"
    assert server.client().completions.create(model=NAME, prompt="a", max_tokens=3).choices[0].text


def test_at_the_end_whoever_still_waits_is_told() -> None:
    with running(rows=1, served_model=endless()) as server, ThreadPoolExecutor(3) as pool:
        client = server.client()

        def whole() -> str:
            with pytest.raises(openai.InternalServerError) as caught:
                client.completions.create(model=NAME, prompt="a", max_tokens=LONG)
            return f"{caught.value.status_code} {caught.value}"

        def streamed() -> str:
            with pytest.raises(openai.APIError) as caught:
                list(client.completions.create(model=NAME, prompt="a", max_tokens=LONG, stream=True))
            return str(caught.value)

        told = [pool.submit(whole), pool.submit(streamed), pool.submit(whole)]
        wait_until(lambda: busy(server) == (1, 2))
        server.server.should_exit = True
        for one in told:
            assert "shutting down" in one.result(timeout=10)
        assert told[0].result().startswith("503")


def test_sixty_four_streams_and_others_at_once_are_not_mixed_up() -> None:
    """Each client's text begins with its own prompt, and is the same every time."""
    with running(rows=16) as server:
        client = server.client()

        def ask(number: int) -> str:
            wish: dict[str, Any] = {"model": NAME, "prompt": f"<{number}>", "echo": True, "max_tokens": 20, "seed": 1}
            if number % 2:
                return client.completions.create(**wish).choices[0].text
            return "".join(chunk.choices[0].text for chunk in client.completions.create(**wish, stream=True))

        with ThreadPoolExecutor(64) as pool:
            texts, again = list(pool.map(ask, range(64))), list(pool.map(ask, reversed(range(64))))
    assert texts == again[::-1]
    assert all(text.startswith(f"<{number}>") for number, text in enumerate(texts))
    assert len(set(texts)) == 64


def test_the_loop_answers_while_the_model_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib.request

    computing, go_on = threading.Event(), threading.Event()

    def slow(module: Any, given: Any) -> None:
        computing.set()
        assert go_on.wait(10)

    watched = model().token_embedding
    assert watched is not None
    handle = watched.register_forward_pre_hook(slow)
    with running() as server, closing(post(server, {})):
        assert computing.wait(10)
        with urllib.request.urlopen(server.url.removesuffix("/v1") + "/health", timeout=5) as response:
            assert response.status == 200
        handle.remove()
        go_on.set()
