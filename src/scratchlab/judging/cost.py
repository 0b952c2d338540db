"""What judging costs: tokens as the server counts them, money by the price a person names, and an end to it."""

import math
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from scratchlab.errors import UsageError
from scratchlab.judging.judges import Reply
from scratchlab.judging.prompts import Prompt

BYTES_PER_TOKEN = 4
"""Of English, about: what is said before anything was asked is a guess by this."""
TOKENS_PER_SCORE = 8
"""Of a reply, about; a model that thinks first writes a hundred times as many."""
MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars for a million tokens."""

    read: float
    written: float

    def of(self, tokens_in: float, tokens_out: float) -> float:
        return (self.read * tokens_in + self.written * tokens_out) / MILLION


def parse_price(text: str) -> Price:
    """`0.15,0.60`: dollars for a million tokens in, and out. UsageError."""
    try:
        read, written = (float(part) for part in text.split(","))
    except ValueError:
        read = written = math.nan
    if not (0 <= read < math.inf and 0 <= written < math.inf):
        raise UsageError(f"--price {text}: expected dollars for a million tokens in and out, as in 0.15,0.60.")
    return Price(read, written)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of requests that were made or are to be made."""

    requests: int
    tokens_in: int | None
    """None where the server did not say of all of them."""
    tokens_out: int | None
    dollars: float | None
    """None without a price, or without tokens."""

    def to_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "dollars": self.dollars,
        }


def cost_of(replies: Iterable[Reply], price: Price | None) -> Cost:
    """What replies have cost."""
    listed = list(replies)
    told = [(reply.tokens_in, reply.tokens_out) for reply in listed]
    if any(read is None or written is None for read, written in told):
        return Cost(len(listed), None, None, None)
    read, written = (sum(one[place] or 0 for one in told) for place in (0, 1))
    return Cost(len(listed), read, written, None if price is None else price.of(read, written))


def guess(prompts: Iterable[Prompt], price: Price | None) -> Cost:
    """About what prompts will cost, where nobody asks twice."""
    tokens = [_tokens(prompt) for prompt in prompts]
    read, written = (sum(one[place] for one in tokens) for place in (0, 1))
    return Cost(len(tokens), read, written, None if price is None else price.of(read, written))


def _tokens(prompt: Prompt) -> tuple[int, int]:
    size = sum(len(message["content"].encode()) for message in prompt.messages)
    return math.ceil(size / BYTES_PER_TOKEN), TOKENS_PER_SCORE * len(prompt.labels)


class Budget:
    """Grants requests while the money lasts. May be used by several threads.

    A request is granted if what was spent, with those under way and this one each at the dearest so far, stays within
    the most; before anything was spent, at a guess. Where those under way may turn out cheaper, it is waited for them.
    """

    def __init__(self, price: Price | None, most: float | None) -> None:
        self._price, self._most = price, most
        self._spent = self._dearest = 0.0
        self._under_way, self._stopped = 0, False
        self._changed = threading.Condition()

    def stop(self) -> None:
        """Grant nothing more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @contextmanager
    def request(self, prompt: Prompt) -> Generator[bool]:
        """Whether a request may be made; it counts as under way until this ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or not self._under_way or self._suffices(prompt))
            granted = not self._stopped and self._suffices(prompt)
            self._stopped = not granted
            self._under_way += granted
        try:
            yield granted
        finally:
            with self._changed:
                self._under_way -= granted
                self._changed.notify_all()

    def spend(self, reply: Reply) -> None:
        """Count a reply. UsageError where there is a limit and the server does not say what it counts."""
        if self._price is None:
            return
        if reply.tokens_in is None or reply.tokens_out is None:
            if self._most is not None:
                raise UsageError("--max-cost: this judge does not say how many tokens it read and wrote. Leave it out.")
            return
        with self._changed:
            cost = self._price.of(reply.tokens_in, reply.tokens_out)
            self._spent += cost
            self._dearest = max(self._dearest, cost)

    def _suffices(self, prompt: Prompt) -> bool:
        if self._price is None or self._most is None:
            return True
        one = self._dearest or self._price.of(*_tokens(prompt))
        return self._spent + (self._under_way + 1) * one <= self._most
