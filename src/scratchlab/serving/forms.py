"""How answers are worded: the objects of OpenAI's API, whole and in chunks."""

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from scratchlab.generation.batching import Finish, Token
from scratchlab.serving.choices import Choice, Piece, Placed
from scratchlab.serving.served import Served

Json = dict[str, Any]


class Form(Protocol):
    """The objects of one endpoint."""

    def answer(self, choices: Sequence[Json], **more: Any) -> Json:
        """The answer around the choices."""
        ...

    def chunk(self, choices: Sequence[Json], **more: Any) -> Json:
        """A chunk of a stream around parts of choices."""
        ...

    def whole(self, choice: Choice) -> Json:
        """A choice that is over."""
        ...

    def opening(self, choice: Choice) -> Json | None:
        """What a stream says of a choice before anything else."""
        ...

    def part(self, choice: Choice, piece: Piece) -> Json:
        """More of a choice."""
        ...

    def closing(self, choice: Choice, finish: Finish) -> Json:
        """The end of a choice."""
        ...


class _Envelope:
    """What is around the choices: the same for an answer and all chunks of one."""

    prefix: str
    answer_kind: str
    chunk_kind: str

    def __init__(self, served: Served, logprobs: bool) -> None:
        self.served, self.logprobs = served, logprobs
        self._head = {"id": f"{self.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": served.name}

    def answer(self, choices: Sequence[Json], **more: Any) -> Json:
        return {**self._head, "object": self.answer_kind, "choices": choices, **more}

    def chunk(self, choices: Sequence[Json], **more: Any) -> Json:
        return {**self._head, "object": self.chunk_kind, "choices": choices, **more}


class CompletionForm(_Envelope):
    """POST /v1/completions."""

    prefix, answer_kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def whole(self, choice: Choice) -> Json:
        return {**self.part(choice, choice.news()), "finish_reason": choice.finish}

    def opening(self, choice: Choice) -> None:
        return None

    def part(self, choice: Choice, piece: Piece) -> Json:
        told = self._told(piece.tokens) if self.logprobs else None
        return {"index": choice.index, "text": piece.text, "logprobs": told, "finish_reason": None}

    def closing(self, choice: Choice, finish: Finish) -> Json:
        return {"index": choice.index, "text": "", "logprobs": None, "finish_reason": finish}

    def _told(self, tokens: Sequence[Placed]) -> Json:
        return {
            "tokens": [token_name(self.served, placed.token.token) for placed in tokens],
            "token_logprobs": [placed.token.logprob for placed in tokens],
            "top_logprobs": [self._likeliest(placed.token) for placed in tokens],
            "text_offset": [placed.offset for placed in tokens],
        }

    def _likeliest(self, token: Token) -> Mapping[str, float] | None:
        """By name; of tokens that are written alike the likeliest. The token itself is always among them."""
        if token.logprob is None:
            return None
        named: dict[str, float] = {}
        for other, logprob in (*token.likeliest, (token.token, token.logprob)):
            named.setdefault(token_name(self.served, other), logprob)
        return named


class ChatForm(_Envelope):
    """POST /v1/chat/completions."""

    prefix, answer_kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def whole(self, choice: Choice) -> Json:
        piece = choice.news()
        return {
            "index": choice.index,
            "message": {"role": "assistant", "content": piece.text, "refusal": None},
            "logprobs": self._told(piece.tokens),
            "finish_reason": choice.finish,
        }

    def opening(self, choice: Choice) -> Json:
        return self._delta(choice, {"role": "assistant", "content": "", "refusal": None})

    def part(self, choice: Choice, piece: Piece) -> Json:
        return {**self._delta(choice, {"content": piece.text}), "logprobs": self._told(piece.tokens)}

    def closing(self, choice: Choice, finish: Finish) -> Json:
        return {**self._delta(choice, {}), "finish_reason": finish}

    def _delta(self, choice: Choice, delta: Json) -> Json:
        return {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}

    def _told(self, tokens: Sequence[Placed]) -> Json | None:
        if not self.logprobs:
            return None
        content = [
            {
                **self._one(placed.token.token, placed.token.logprob),
                "top_logprobs": [self._one(*other) for other in placed.token.likeliest],
            }
            for placed in tokens
        ]
        return {"content": content, "refusal": None}

    def _one(self, token: int, logprob: float | None) -> Json:
        data = list(self.served.tokenizer.token_bytes(token))
        return {"token": token_name(self.served, token), "logprob": logprob, "bytes": data}


def token_name(served: Served, token: int) -> str:
    """How a token is written where single ones are told of; as OpenAI has it where its bytes are no text."""
    if token in served.special_names:
        return served.special_names[token]
    data = served.tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def usage(choices: Sequence[Choice], per_prompt: int) -> Json:
    """The tokens that were read and written; a prompt counts once for all of its choices."""
    read = sum(len(choice.row.wish.prompt) for choice in choices[::per_prompt])
    written = sum(len(choice.row.written) for choice in choices)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
