"""What is served: a run as those who ask know it, and what its requests become."""

import functools
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scratchlab.corpus.chat import ChatTemplate
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import CorpusError, UsageError
from scratchlab.generation.batching import Wish
from scratchlab.generation.context import room_after
from scratchlab.generation.engine import Settings
from scratchlab.generation.text import prompt_tokens, run_template, run_tokenizer
from scratchlab.runfolder import RunFolder
from scratchlab.serving.refusals import Refusal
from scratchlab.serving.requests import MOST_PROMPT, MOST_TOKENS, ChatRequest, CompletionRequest, Prompt, Request


@dataclass(frozen=True)
class Served:
    """A run: its name, and how to speak to it."""

    name: str
    tokenizer: Tokenizer
    template: ChatTemplate | None
    most_tokens: int | None
    """That the model sees at once; None if there is no end to it."""
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def run(cls, folder: RunFolder, most_tokens: int | None) -> "Served":
        """A run by the name of its folder."""
        return cls(folder.path.resolve().name, run_tokenizer(folder), run_template(folder), most_tokens)

    @functools.cached_property
    def special_names(self) -> Mapping[int, str]:
        return {token: name for name, token in self.tokenizer.specials.items()}

    @functools.cached_property
    def end_of_turn(self) -> int | None:
        return None if self.template is None else self.template.end_of_turn(self.tokenizer)

    def about(self) -> dict[str, Any]:
        """Its entry among the models; `max_model_len` as vLLM has it."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "scratchlab",
            "max_model_len": self.most_tokens,
        }

    def check_name(self, name: str) -> None:
        if name != self.name:
            raise Refusal(
                f"There is no model {name!r:.100} here; this server has {self.name!r}.",
                status=404,
                param="model",
                code="model_not_found",
            )

    def completion_wishes(self, asked: CompletionRequest) -> list[Wish]:
        """A wish for each prompt and choice: the choices of one prompt together."""
        prompts = [self._prompt(prompt) for prompt in asked.prompt]
        scored = asked.echo and asked.logprobs is not None
        end = self.tokenizer.end_of_text
        return [
            Wish(
                prompt=prompt,
                settings=settings,
                ends=() if end is None else (end,),
                logprobs=asked.logprobs,
                echo=scored,
            )
            for prompt in prompts
            for settings in _settings(asked, asked.max_tokens)
        ]

    def chat_wishes(self, asked: ChatRequest) -> list[Wish]:
        """A wish for each choice. The answer ends where the context does: it must not lose sight of the question."""
        if self.template is None:
            raise Refusal(
                f"{self.name!r} has no chat template: it goes on from a text (POST /v1/completions) and was not taught "
                "to answer. Teach it: scratchlab finetune RUN --data instructions.json.",
                code="no_chat_template",
            )
        try:
            prompt = self.template.prompt(self.tokenizer, asked.messages)
        except (CorpusError, UsageError) as error:
            raise Refusal(f"messages: {error}", param="messages") from None
        self._check_length(prompt, "messages")
        room = room_after(len(prompt), self.most_tokens) or MOST_TOKENS
        most = asked.max_tokens or asked.max_completion_tokens or min(room, MOST_TOKENS)
        if most > room:
            raise Refusal(
                f"max_tokens: the messages have {len(prompt)} tokens, and {most} more are asked for; this model sees "
                f"{self.most_tokens} at once, so that max_tokens may be {room} at most.",
                param="max_tokens",
                code="context_length_exceeded",
            )
        ends = [end for end in (self.end_of_turn, self.tokenizer.end_of_text) if end is not None]
        logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
        return [
            Wish(prompt=prompt, settings=settings, ends=ends, logprobs=logprobs) for settings in _settings(asked, most)
        ]

    def _prompt(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            try:
                tokens = prompt_tokens(self.tokenizer, prompt)
            except CorpusError as error:
                raise Refusal(f"prompt: {error}", param="prompt") from None
        else:
            tokens = prompt
            if outside := [token for token in tokens if not 0 <= token < self.tokenizer.vocab_size]:
                raise Refusal(
                    f"prompt: there is no token {outside[0]}; this model's are 0 to {self.tokenizer.vocab_size - 1}.",
                    param="prompt",
                )
        self._check_length(tokens, "prompt")
        return tokens

    def _check_length(self, tokens: Sequence[int], param: str) -> None:
        most = self.most_tokens or MOST_PROMPT
        if len(tokens) > most:
            raise Refusal(
                f"{param}: {len(tokens)} tokens are more than this model sees at once, which is {most}. Send less.",
                param=param,
                code="context_length_exceeded",
            )


def _settings(asked: Request, max_tokens: int) -> list[Settings]:
    """How each choice is written: the first by the seed that was asked for, the next by the next."""
    seed = secrets.randbits(62) if asked.seed is None else asked.seed
    return [
        Settings(
            max_tokens=max_tokens,
            temperature=asked.temperature,
            top_k=asked.top_k,
            top_p=asked.top_p,
            seed=(seed + choice) % 2**63,
            stop=tuple(asked.stop),
        )
        for choice in range(asked.n)
    ]
