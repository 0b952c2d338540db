"""Tokens one after another, with a key-value cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from scratchlab.errors import UsageError
from scratchlab.generation.sampling import choose
from scratchlab.model.build import Model
from scratchlab.model.gpt import GPT
from scratchlab.model.layers import Linear
from scratchlab.model.rnn import RNN


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to write. `stop` ends the text before the first of these strings."""

    max_tokens: int = 100
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 1
    stop: Sequence[str] = ()

    def __post_init__(self) -> None:
        checks = {
            "max_tokens must be at least 0": self.max_tokens >= 0,
            "temperature must be at least 0": self.temperature >= 0,
            "top_k must be at least 1": self.top_k is None or self.top_k >= 1,
            "top_p must lie above 0 and be at most 1": self.top_p is None or 0 < self.top_p <= 1,
            "seed must be between 0 and 2^63 - 1": 0 <= self.seed < 2**63,
            "a stop text must not be empty": all(self.stop),
        }
        if wrong := [what for what, holds in checks.items() if not holds]:
            raise UsageError(f"{'; '.join(wrong)}.")


class Seen:
    """The tokens of a text that is being written, and which of them the model has still to read.

    When a GPT's context is full, the older half of it is let go and the rest is read again: each token sees between
    half a context and a whole one.
    """

    def __init__(self, model: Model, prompt: Sequence[int]) -> None:
        """The prompt must have a token at least."""
        self.tokens, self._most = list(prompt), model.most_tokens
        if model.end_of_text in self.tokens:  # with document_mask nothing sees what came before it
            self.tokens = self.tokens[len(self.tokens) - 1 - self.tokens[::-1].index(model.end_of_text) :]
        self.unread = self.tokens[-self._most if self._most else 0 :]

    def add(self, token: int) -> None:
        self.tokens.append(token)
        self.unread = [token]

    def let_go(self) -> None:
        """The context is full."""
        self.unread = self.tokens[-max(1, (self._most or 2) // 2) :]


@torch.inference_mode()
def generate(
    model: Model,
    prompt: Sequence[int],
    settings: Settings,
    end_of_text: int | None = None,
    end_of_turn: int | None = None,
) -> Iterator[int]:
    """Yield new tokens, one at a time, until `max_tokens`, or `end_of_text` or `end_of_turn` (which are not yielded).

    The prompt must have a token at least; `Seen` says what becomes of a text that is longer than the context.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    seen, most = Seen(model, prompt), model.most_tokens
    model = cast_once(model.eval())
    state: Any = None
    for _ in range(settings.max_tokens):
        if state is not None and not state.has_room(len(seen.unread)):
            seen.let_go()
            state = None
        if state is None:
            capacity = len(seen.unread) + settings.max_tokens
            state = model.new_state(1, min(most, capacity) if most else capacity)
        tokens_BT = torch.tensor([seen.unread], device=model.head_weight.device)
        hidden_BTC, state = model.hidden(tokens_BT, state)
        logits_BV = model.logits(hidden_BTC[:, -1])
        token = int(choose(logits_BV, settings.temperature, settings.top_k, settings.top_p, generator))
        if token in (end_of_text, end_of_turn):
            return
        seen.add(token)
        yield token


def cast_once(model: Model) -> Model:
    """The model for writing: with the weights of its products in the compute type, where each token would cast them
    again. It shares what needs no cast; where nothing does, it is the model itself."""
    if isinstance(model, RNN) or model.head_weight.dtype == model.compute_dtype:
        return model
    with torch.device("meta"):
        untied = model.config.model_copy(update={"tie_weights": False})
        copy = GPT(untied, model.vocab_size, model.compute_dtype, model.end_of_text)
    tensors = model.state_dict() | {"head.weight": model.head_weight.detach()}
    for name, module in copy.named_modules():
        if isinstance(module, Linear):
            own = {f"{name}.{part}" for part in module.state_dict()}
            tensors |= {part: tensors[part].to(module.compute_dtype) for part in own}
    copy.load_state_dict(tensors, assign=True)
    return copy.eval().requires_grad_(False)
