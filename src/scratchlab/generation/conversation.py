"""A conversation with one model: what was said, how much of it still fits, and the answer as it comes."""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Literal

from scratchlab.corpus.chat import ChatTemplate, Message
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import UsageError
from scratchlab.generation.context import KEPT_FOR_THE_ANSWER, within
from scratchlab.generation.engine import Settings, generate
from scratchlab.generation.text import TextStream
from scratchlab.model.build import Model

Ending = Literal["stop", "length", "context"]


@dataclass
class Conversation:
    """Turns of user and assistant, after a system text if there is one. What is asked and answered is added to them."""

    model: Model
    tokenizer: Tokenizer
    template: ChatTemplate
    system: str | None = None
    turns: list[Message] = field(default_factory=list[Message])
    dropped: int = 0
    """Questions that were forgotten, with their answers, for the last answer to have room."""
    ending: Ending | None = None
    """Why the last answer ended: by itself or at a stop string, at `max_tokens`, or where the context does. None if it
    was broken off."""

    def ask(self, question: str, settings: Settings) -> Generator[str]:
        """The answer, in pieces as they come. What was said of it until somebody breaks off is kept.

        UsageError for a question that does not fit into the context by itself.
        """
        prompt, self.ending = self._make_room(question), None
        own = within(settings, len(prompt), self.model.most_tokens)
        end, turn_ends = self.tokenizer.end_of_text, self.template.end_of_turn(self.tokenizer)
        stream, said, written = TextStream(self.tokenizer.token_bytes, settings.stop), list[str](), 0
        try:
            for token in generate(self.model, prompt, own, end, turn_ends):
                written += 1
                said.append(stream.add(token))
                yield said[-1]
                if stream.stopped:
                    break
            else:
                said.append(stream.end())
                yield said[-1]
            cut = written == own.max_tokens and not stream.stopped
            self.ending = ("length" if own == settings else "context") if cut else "stop"
        finally:
            self.turns.append({"role": "user", "content": question})
            self.turns.append({"role": "assistant", "content": "".join(said)})

    def undo(self) -> str | None:
        """Take the last question and its answer back; gives the question."""
        last = self.turns[-2:]
        del self.turns[-2:]
        return last[0]["content"] if last else None

    def _make_room(self, question: str) -> list[int]:
        """The prompt, less as many of the oldest turns as leave the answer too little room."""
        self.dropped = 0
        most = self.model.most_tokens
        while True:
            prompt = self.template.prompt(self.tokenizer, self.messages(question))
            if most is None or len(prompt) <= most - most // KEPT_FOR_THE_ANSWER:
                return prompt
            if not self.turns:
                break
            del self.turns[:2]
            self.dropped += 1
        if len(prompt) > most:
            raise UsageError(
                f"this question has {len(prompt)} tokens, with the system text and what the template adds; the model "
                f"sees {most} at once. Say it in fewer words."
            )
        return prompt

    def messages(self, question: str) -> list[Message]:
        """All that is said up to `question`."""
        first: list[Message] = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*first, *self.turns, {"role": "user", "content": question}]
