"""What may be asked: the bodies of requests, checked whole, with all that is wrong said at once.

Nothing that would be ignored is accepted: a field of OpenAI's that means nothing here is refused by name, unless its
value asks for nothing (`frequency_penalty: 0`), or it only says who asks (`user`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from scratchlab.corpus.chat import Message, check_messages
from scratchlab.errors import UsageError
from scratchlab.problems import describe_all
from scratchlab.serving.refusals import Refusal

MOST_BYTES = 4 * 2**20
"""Of a request's body."""
MOST_TOKENS = 4096
"""That one text is written on."""
MOST_PROMPT = 16_384
"""Tokens of a prompt where the model's context sets no limit."""
MOST_CHOICES = 16
"""`n`."""
MOST_PROMPTS = 128
MOST_STOPS = 16
LONGEST_STOP = 256
MOST_LIKELIEST = 20
"""Tokens whose log-probabilities are told in one place."""
LONGEST_LINE = 300
"""Of what is said of one field: what was given may be long."""

WHO_ASKS = ("user", "metadata", "safety_identifier", "prompt_cache_key")
"""Fields that change no answer anywhere."""
ASKS_FOR_NOTHING: Mapping[str, Sequence[Any]] = {
    "best_of": [1],
    "frequency_penalty": [0],
    "function_call": ["none", "auto"],
    "functions": [[]],
    "logit_bias": [{}],
    "modalities": [["text"]],
    "parallel_tool_calls": [True, False],
    "presence_penalty": [0],
    "response_format": [{"type": "text"}],
    "service_tier": ["auto", "default"],
    "store": [False],
    "suffix": [""],
    "tool_choice": ["none", "auto"],
    "tools": [[]],
}
"""Fields of OpenAI's that there are not here, and the values with which they may be sent all the same."""

Prompt = str | list[int]


def _prompts(given: Any) -> list[Prompt]:
    """One prompt or several, each a text or token ids."""
    several = given if isinstance(given, list) and given and not _is_token(given[0]) else [given]
    if not all(isinstance(one, str) or (isinstance(one, list) and one and all(map(_is_token, one))) for one in several):
        raise ValueError("should be a text, a list of token ids, or a list of either; a list has one entry at least")
    if len(several) > MOST_PROMPTS:
        raise ValueError(f"should be {MOST_PROMPTS} prompts at most, not {len(several)}")
    return several


def _is_token(given: Any) -> bool:
    return isinstance(given, int) and not isinstance(given, bool)


def _stops(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


def _messages(given: Any) -> list[Message]:
    try:
        return check_messages([_message(one) for one in given] if isinstance(given, list) else given)
    except UsageError as error:
        raise ValueError(str(error).removeprefix("messages: ").removesuffix(".")) from None


def _message(given: Any) -> Any:
    """A message as clients send it: with fields that are null, a later name for the system, and text in parts."""
    if not isinstance(given, dict):
        return given
    told = {name: value for name, value in given.items() if value is not None}
    if more := sorted(told.keys() - {"role", "content"}):
        raise ValueError(f"a message has a role and a content here, and no {', '.join(more)}")
    if told.get("role") == "developer":
        told["role"] = "system"
    if isinstance(parts := told.get("content"), list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
            raise ValueError("the content of a message should be text; there are no images, sounds or files here")
        told["content"] = "".join(part["text"] for part in parts)
    return told


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Request(BaseModel):
    """What completions and chat have in common."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str
    temperature: float = Field(1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    """An extension: draw from the k likeliest tokens only."""
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]],
        Field(max_length=MOST_STOPS),
        BeforeValidator(_stops),
    ] = []
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _check_stream(self) -> "Request":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options means nothing without stream")
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(Request):
    """The body of POST /v1/completions."""

    prompt: Annotated[list[Any], BeforeValidator(_prompts)] = [""]
    """Texts or token ids; an empty text is the start of a document."""
    max_tokens: int = Field(16, ge=0, le=MOST_TOKENS)
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=MOST_LIKELIEST)

    @model_validator(mode="after")
    def _check_something_is_asked(self) -> "CompletionRequest":
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens = 0 asks for nothing without echo")
        return self


class ChatRequest(Request):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Any], BeforeValidator(_messages)]
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    """A later name of the same."""
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LIKELIEST)

    @model_validator(mode="after")
    def _check_fields_together(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs means nothing without logprobs")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens are two names for one thing, and differ")
        if self.messages[-1]["role"] != "user":
            raise ValueError("the last of the messages should be the user's: it is what is answered")
        return self


R = TypeVar("R", bound=Request)


def read_request(body: bytes, kind: type[R]) -> R:
    """The request that a body is. Refusal with all that is wrong."""
    given = {name: value for name, value in _json_object(body).items() if value is not None and name not in WHO_ASKS}
    lines = [
        f"{name}: means nothing here; leave it out (or send {' or '.join(map(repr, accepted))}), not {given[name]!r}."
        for name, accepted in ASKS_FOR_NOTHING.items()
        if name in given and given[name] not in accepted
    ]
    asked = {name: value for name, value in given.items() if name not in ASKS_FOR_NOTHING}
    try:
        request = kind.model_validate(asked)
    except ValidationError as error:
        refuse([*lines, *describe_all([dict(problem) for problem in error.errors()], kind, "the request")])
    if lines:
        refuse(lines)
    return request


def refuse(lines: Sequence[str]) -> NoReturn:
    """Lines that each begin with the field that they are about."""
    field = lines[0].partition(":")[0]
    raise Refusal(" ".join(_shortened(line) for line in lines), param=None if " " in field else field)


def _shortened(line: str) -> str:
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..."


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        given = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:  # not UTF-8, no JSON, too many digits, lists within lists
        raise Refusal(f"The body is not valid JSON: {_shortened(str(error))}.") from None
    if not isinstance(given, dict):
        raise Refusal(f"The body should be a JSON object, not {_shortened(repr(given))}.")
    return given


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")
