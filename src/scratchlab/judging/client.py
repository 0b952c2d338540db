"""Any OpenAI-compatible server, asked by OpenAI's own client: Ollama, vLLM, llama.cpp, OpenAI, scratchlab serve.

What may pass is waited for: a connection that fails or breaks off, a time-out, status 408, 409, 429 and 5xx, an answer
that is no JSON. The key is the one that is for the server, if there is any (`interop.addresses`).
"""

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from scratchlab.corpus.chat import Message
from scratchlab.errors import ScratchlabError, UnreachableError, UsageError
from scratchlab.extras import require
from scratchlab.interop.addresses import KEY, KEY_FOR, OPENAI_BASE, checked, key_for, key_words
from scratchlab.interop.waits import WAITS, advised

OPENAI = "openai:"
TIMEOUT = 120.0
"""Seconds for an answer: a long text on a busy machine."""
PASSING = (408, 409, 429)
"""Of the 4xx: what another try may help."""
MOST = 2**53
"""Tokens: what a float holds exactly."""
NO_JSON = (json.JSONDecodeError, UnicodeDecodeError, RecursionError)
"""What reading JSON raises: for no JSON, half a character, lists within lists within lists."""


class RefusedError(ValueError):
    """A status of 4xx: this request will never be answered. The message is what the server says."""


class _BrokenError(ValueError):
    """An answer that is none."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a server answered."""

    text: str
    finish: str | None
    """Why it ended: stop, length, ..."""
    tokens_in: int | None
    """As the server counts them; None if it does not say."""
    tokens_out: int | None


@dataclass(frozen=True, slots=True)
class Client:
    """One model of one server. May be used by several threads."""

    base: str
    model: str
    openai: Any
    stopped: threading.Event = field(default_factory=threading.Event)
    """Set from another thread: nothing is waited for any more, and nothing tried again."""

    def __str__(self) -> str:
        return f"{self.base}#{self.model}"

    def complete(self, messages: Sequence[Message], where: str, **settings: Any) -> Completion:
        """The next message of a conversation; `where` is what errors call it.

        RefusedError for a request that the server will not answer, ScratchlabError for a key or a model that it does
        not take, UnreachableError where it fails again and again.
        """
        import openai

        problem, tries, sent = "", 0, [{**message, "content": _whole(message["content"])} for message in messages]
        for wait in (*WAITS, None):
            tries += 1
            try:
                answer = self.openai.chat.completions.create(model=self.model, messages=sent, **settings)
                return _completion(answer)
            except openai.APIStatusError as error:
                problem = self._problem(error, where)
                wait = None if wait is None else advised(error.response.headers.get("Retry-After"), wait)
            except (openai.APIConnectionError, *NO_JSON, _BrokenError) as error:
                problem = _words(str(error.__cause__ or error)) or type(error).__name__
            if wait is None or self.stopped.wait(wait):
                break
        raise UnreachableError(
            f"{self}, {where}: {problem}, {tries} times. What was done is kept: run the same command again "
            "when it answers."
        )

    def _problem(self, error: Any, where: str) -> str:
        """What a status means, if another try may help. Else an error."""
        told = error.body.get("message") if isinstance(error.body, dict) else None
        said = f"HTTP status {error.status_code} ({_words(str(told or error.response.text))})"
        if error.status_code in PASSING or error.status_code >= 500:
            return said
        if error.status_code in (401, 403):
            raise ScratchlabError(f"{self}, {where}: {said}. {key_words(self.base)}") from None
        if error.status_code == 404:
            raise ScratchlabError(
                f"{self}, {where}: {said}. Is the model there, and the address right (most end in /v1)?"
            ) from None
        raise RefusedError(said) from None


def open_client(name: str, timeout: float) -> Client:
    """The client for `openai:MODEL`, or for an address with the model's name behind a #.

    Without a name it is the only model there. UsageError for what is no such thing, or for OpenAI without a key;
    MissingExtraError without the openai package.
    """
    require("Asking a server", "judge", "openai")
    import openai

    base, _, model = (OPENAI_BASE, "", name.removeprefix(OPENAI)) if name.startswith(OPENAI) else name.partition("#")
    base = checked(base)
    key = key_for(base)
    if base == OPENAI_BASE and not (key and model):
        lacks = f"needs a key, in the environment variable {KEY}" if model else f"needs a model, as in {OPENAI}gpt-4.1"
        elsewhere = f" The one that is there is for {KEY_FOR}." if model and os.environ.get(KEY) else ""
        raise UsageError(f"{name}: OpenAI {lacks}.{elsewhere}")
    client = openai.OpenAI(base_url=base, api_key=key or "none", timeout=timeout, max_retries=0)
    if key is None:  # whose account it is no other server need know either
        client.organization = client.project = None
    return Client(base, model or _only_model(client, base), client)


def _only_model(client: Any, base: str) -> str:
    import openai

    try:
        listed = [str(one.id) for one in client.models.list().data]
    except openai.APIError as error:
        raise UnreachableError(f"{base}/models, the list of models: {_words(str(error.__cause__ or error))}.") from None
    except (AttributeError, TypeError, *NO_JSON):
        raise ScratchlabError(f"{base}/models gave no list of models. Say which: {base}#MODEL.") from None
    if len(listed) != 1:
        names = ", ".join(f"{base}#{one}" for one in listed) or "none is loaded there"
        raise UsageError(f"{base} has {len(listed)} models; say which: {names}.")
    return listed[0]


def _completion(answer: Any) -> Completion:
    """_BrokenError for what is no answer: the client gives back text as it is where it is no JSON."""
    try:
        choice = answer.choices[0]
        text = choice.message.content or ""
    except (AttributeError, IndexError, KeyError, TypeError):
        raise _BrokenError(f"an answer that is none: {answer!r:.200}") from None
    finish, usage = getattr(choice, "finish_reason", None), getattr(answer, "usage", None)
    counts = (_count(getattr(usage, name, None)) for name in ("prompt_tokens", "completion_tokens"))
    return Completion(str(text), finish if isinstance(finish, str) else None, *counts)


def _count(value: Any) -> int | None:
    """A number of tokens; None for what is none, which the client gives back as it came."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST else None


def _whole(text: str) -> str:
    """A text that can be sent: half a surrogate pair, which JSON may hold and UTF-8 cannot, is replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _words(text: str) -> str:
    """The beginning of a text in one line."""
    return " ".join(text.split())[:300]
