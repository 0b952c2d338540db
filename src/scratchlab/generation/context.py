"""Writing within the context: an answer ends where the model would lose sight of its question."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from scratchlab.generation.engine import Settings

KEPT_FOR_THE_ANSWER = 4
"""One part in so many of the context: what was said is forgotten from its beginning before the answer has less."""


def room_after(n_tokens: int, most_tokens: int | None) -> int | None:
    """How many tokens a model that sees `most_tokens` at once may write after so many; None: there is no end to it.

    The last one that is written is not read.
    """
    return None if most_tokens is None else most_tokens - n_tokens + 1


def within(settings: Settings, n_tokens: int, most_tokens: int | None) -> Settings:
    """The settings for an answer to a prompt of `n_tokens`: it ends where the context does, if not before."""
    room = room_after(n_tokens, most_tokens)
    return settings if room is None else replace(settings, max_tokens=max(0, min(settings.max_tokens, room)))


class Fitted(NamedTuple):
    """A prompt that the model sees whole, and settings for the answer to it."""

    prompt: Sequence[int]
    settings: Settings
    cut: int
    """Tokens at the beginning of the prompt that were forgotten."""


def fitted(prompt: Sequence[int], settings: Settings, most_tokens: int | None) -> Fitted:
    """A prompt within the context: one that is longer loses its beginning, so that the answer has its part."""
    cut = 0
    if most_tokens is not None and len(prompt) > most_tokens:
        cut = len(prompt) - most_tokens + most_tokens // KEPT_FOR_THE_ANSWER
    return Fitted(prompt[cut:], within(settings, len(prompt) - cut, most_tokens), cut)
