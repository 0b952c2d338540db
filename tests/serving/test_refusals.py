"""What cannot be served is refused: with a status of 4xx, a sentence, and the field; and the server lives on."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from in_process import CONTEXT, NAME, Running, running
from scratchlab.serving.requests import MOST_BYTES


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(rows=2, waiting=3) as started:
        yield started


@pytest.fixture(autouse=True)
def alive_after_it(server: Running) -> Iterator[None]:
    yield
    assert server.client().completions.create(model=NAME, prompt="a", max_tokens=1).object == "text_completion"
    assert (server.writer.running, server.writer.waiting) == (0, 0)


def send(server: Running, path: str, body: bytes, method: str = "POST") -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"{server.url}{path}", body or None, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        content = json.loads(error.read())
        assert set(content["error"]) == {"message", "type", "param", "code"}
        return error.code, content["error"]


COMPLETIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no-model": ({"model": None}, "model", "model: this field is needed."),
    "negative-tokens": ({"max_tokens": -1}, "max_tokens", "greater than or equal to 0, not -1"),
    "too-many-tokens": ({"max_tokens": 10**30}, "max_tokens", "less than or equal to 4096"),
    "half-a-token": ({"max_tokens": 1.5}, "max_tokens", "valid integer"),
    "tokens-as-text": ({"max_tokens": "9"}, "max_tokens", "valid integer"),
    "no-tokens": ({"max_tokens": 0}, "", "asks for nothing without echo"),
    "truth-for-a-number": ({"temperature": True}, "temperature", "valid number"),
    "hot": ({"temperature": 2.5}, "temperature", "less than or equal to 2, not 2.5"),
    "cold": ({"temperature": -0.1}, "temperature", "greater than or equal to 0"),
    "no-share": ({"top_p": 0}, "top_p", "greater than 0"),
    "none-of-the-likeliest": ({"top_k": 0}, "top_k", "greater than or equal to 1"),
    "negative-seed": ({"seed": -1}, "seed", "greater than or equal to 0"),
    "huge-seed": ({"seed": 2**70}, "seed", "less than"),
    "no-choices": ({"n": 0}, "n", "greater than or equal to 1"),
    "too-many-choices": ({"n": 17}, "n", "less than or equal to 16"),
    "more-than-may-wait": ({"n": 6}, "n", "6 texts are asked for at once; this server takes 5 at most"),
    "empty-stop": ({"stop": [""]}, "stop", "at least 1 character"),
    "many-stops": ({"stop": ["a"] * 17}, "stop", "at most 16 items"),
    "stop-as-a-number": ({"stop": 3}, "stop", "valid list"),
    "prompt-as-a-number": ({"prompt": 3}, "prompt", "a text, a list of token ids, or a list of either"),
    "no-prompts": ({"prompt": []}, "prompt", "one entry at least"),
    "prompts-of-no-tokens": ({"prompt": [[1], []]}, "prompt", "one entry at least"),
    "truths-for-tokens": ({"prompt": [True]}, "prompt", "a list of token ids"),
    "a-token-that-is-none": ({"prompt": [1, 9999]}, "prompt", "there is no token 9999"),
    "a-token-below-none": ({"prompt": [-1]}, "prompt", "there is no token -1"),
    "too-long": ({"prompt": [1] * 97}, "prompt", "97 tokens are more than this model sees at once, which is 96"),
    "half-a-character": ({"prompt": "\ud800"}, "prompt", "surrogate"),
    "unknown": ({"repetition_penalty": 1.1}, "repetition_penalty", "there is no such field"),
    "misspelled": ({"max_token": 3}, "max_token", "did you mean max_tokens?"),
    "a-penalty": ({"frequency_penalty": 0.5}, "frequency_penalty", "means nothing here"),
    "logprobs-of-all": ({"logprobs": 50}, "logprobs", "less than or equal to 20"),
    "options-of-no-stream": ({"stream_options": {"include_usage": True}}, "", "means nothing without stream"),
}


@pytest.mark.parametrize("kind", COMPLETIONS)
def test_completions_that_cannot_be(kind: str, server: Running) -> None:
    changes, param, message = COMPLETIONS[kind]
    status, error = send(server, "/completions", json.dumps({"model": NAME, "prompt": "a", **changes}).encode())
    assert (status, error["type"], error["param"] or "") == (400, "invalid_request_error", param)
    assert message in error["message"]
    assert len(error["message"]) < 500


SAID: dict[str, tuple[Any, str]] = {
    "nothing": ([], "with one at least"),
    "no-list": ("hello", "expected a list"),
    "no-role": ([{"content": "a"}], "expected a role"),
    "another-role": ([{"role": "tool", "content": "a"}], "expected a role"),
    "no-content": ([{"role": "user"}], "its content as text"),
    "twice-the-user": ([{"role": "user", "content": "a"}] * 2, "must take turns"),
    "the-assistant-last": (
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "the last of the messages should be the user's",
    ),
    "a-picture": ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "no images"),
    "a-name": ([{"role": "user", "content": "a", "name": "me"}], "no name"),
    "too-long": ([{"role": "user", "content": "a" * CONTEXT}], "this model sees at once"),
    "a-noncharacter": ([{"role": "user", "content": "\ufdd0"}], "noncharacter"),
    "a-number": ([3], "expected a role"),
}


@pytest.mark.parametrize("kind", SAID)
def test_messages_that_cannot_be_answered(kind: str, server: Running) -> None:
    messages, message = SAID[kind]
    status, error = send(server, "/chat/completions", json.dumps({"model": NAME, "messages": messages}).encode())
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert message in error["message"]


CHATS: dict[str, tuple[dict[str, Any], str]] = {
    "more-than-the-context": ({"max_tokens": CONTEXT}, "so that max_tokens may be"),
    "likeliest-of-nothing": ({"top_logprobs": 3}, "means nothing without logprobs"),
    "two-names": ({"max_tokens": 3, "max_completion_tokens": 4}, "two names for one thing"),
    "json": ({"response_format": {"type": "json_object"}}, "response_format: means nothing here"),
    "tools": ({"tools": [{"type": "function"}]}, "tools: means nothing here"),
    "a-number-of-logprobs": ({"logprobs": 3}, "valid boolean"),
}


@pytest.mark.parametrize("kind", CHATS)
def test_chats_that_cannot_be(kind: str, server: Running) -> None:
    changes, message = CHATS[kind]
    asked = {"model": NAME, "messages": [{"role": "user", "content": "a"}], **changes}
    status, error = send(server, "/chat/completions", json.dumps(asked).encode())
    assert status == 400
    assert message in error["message"]


def test_all_that_is_wrong_is_said_at_once(server: Running) -> None:
    asked = {"model": NAME, "prompt": [], "temperature": -1, "n": "two", "logit_bias": {"5": 3}, "nonsense": 1}
    _, error = send(server, "/completions", json.dumps(asked).encode())
    for field in ("prompt:", "temperature:", "n:", "logit_bias:", "nonsense:"):
        assert field in error["message"]


BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b" ", "not valid JSON"),
    "cut-short": (b'{"model": "tiny", "prompt": "a', "not valid JSON"),
    "no-utf-8": (b'{"model": "\xff"}', "not valid JSON"),
    "a-list": (b"[1, 2]", "should be a JSON object"),
    "lists-within-lists": (b"[" * 100_000, "not valid JSON"),
    "endless-digits": (b'{"seed": ' + b"9" * 10_000 + b"}", "not valid JSON"),
    "no-number": (b'{"model": "tiny", "temperature": NaN}', "no number in JSON"),
}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("path", ["/completions", "/chat/completions"])
def test_bodies_that_are_no_request(kind: str, path: str, server: Running) -> None:
    body, message = BODIES[kind]
    status, error = send(server, path, body)
    assert status == 400
    assert message in error["message"]


def test_a_body_that_is_too_long(server: Running) -> None:
    status, error = send(server, "/completions", b'{"prompt": "' + b"a" * MOST_BYTES + b'"}')
    assert status == 413
    assert f"{MOST_BYTES} are the most" in error["message"]


def test_another_model(server: Running) -> None:
    for path, more in (("/completions", {}), ("/chat/completions", {"messages": [{"role": "user", "content": "a"}]})):
        status, error = send(server, path, json.dumps({"model": "gpt-4", **more}).encode())
        assert (status, error["param"], error["code"]) == (404, "model", "model_not_found")
        assert "this server has 'tiny'" in error["message"]


def test_paths_and_methods_that_are_none(server: Running) -> None:
    assert send(server, "/embeddings", b"{}")[0] == 404
    status, error = send(server, "/completions", b"", method="GET")
    assert status == 405
    assert "POST /v1/chat/completions" in error["message"]


def test_openais_client_raises_what_it_should(server: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="less than or equal to 2"):
        server.client().completions.create(model=NAME, prompt="a", temperature=7)
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        server.client().completions.create(model="other", prompt="a")
