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

from in_process import NAME, Running, alone, endless, model, running, tokenizer, wait_until
from scratchlab.generation.batching import Batch
from scratchlab.generation.engine import Settings, generate
from scratchlab.generation.text import TextStream
from tiny_run import lively_model

LONG = 4000
TIED = 1e-4
"""Logits that differ by less: the order of sums decides between them."""


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


@torch.no_grad()
def certain(prompt: list[int], settings: Settings) -> tuple[str, bool]:
    """What the model writes by itself up to the first token that is as good as equally likely, and if that is all."""
    tokens = list(generate(model(), prompt, settings, tokenizer().end_of_text))
    logits = model()(torch.tensor([[*prompt, *tokens]]))[0][0, len(prompt) - 1 :]
    first, second = logits.topk(2).values.unbind(-1)
    sure = next((place for place, tied in enumerate((first - second < TIED).tolist()) if tied), len(tokens) + 1)
    stream = TextStream(tokenizer().token_bytes)
    text = "".join(map(stream.add, tokens[:sure]))
    return (text, False) if sure <= len(tokens) else (text + stream.end(), True)


def test_each_of_sixty_four_clients_at_once_gets_what_the_model_writes_to_it_alone() -> None:
    """Greedy texts, but for ties; and among them drawn ones. The model begins when all of them have asked."""
    asked = [
        (f"<{n}> {'x' * (n % 7)}", Settings(max_tokens=5 + n % 40, temperature=0 if n < 64 else 1, seed=n))
        for n in range(80)
    ]
    watched = model().token_embedding
    assert watched is not None
    with running(rows=64) as server, ThreadPoolExecutor(len(asked)) as pool:
        client = server.client()

        def ask(prompt: str, how: Settings) -> str:
            wish: dict[str, Any] = {"model": NAME, "prompt": prompt, "max_tokens": how.max_tokens, "seed": how.seed}
            wish["temperature"] = how.temperature
            if how.seed % 2:
                return client.completions.create(**wish).choices[0].text
            return "".join(chunk.choices[0].text for chunk in client.completions.create(**wish, stream=True))

        def hold(*_: Any) -> None:
            handle.remove()
            wait_until(lambda: sum(busy(server)) == len(asked))

        handle = watched.register_forward_pre_hook(hold)
        texts = list(pool.map(ask, *zip(*asked, strict=True)))
    prompts = [tokenizer().encode(prompt).tolist() for prompt, _ in asked]
    expected = [certain(prompt, how) for prompt, (_, how) in zip(prompts[:64], asked[:64], strict=True)]
    for text, (own, is_all) in zip(texts[:64], expected, strict=True):
        assert text == own if is_all else text.startswith(own)
    assert len({own for own, _ in expected}) == 64, "so that no two can have been mixed up"
    assert sum(is_all for _, is_all in expected) > 60
    assert texts[64:] == [alone(prompt, how) for prompt, (_, how) in zip(prompts[64:], asked[64:], strict=True)]


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
