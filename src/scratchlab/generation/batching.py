"""Many texts at once by one model: they join and leave between tokens, and a step reads every weight once for all.

A prompt is read beside those of like length, so many tokens of them between two steps that whoever writes waits little.
Then its row joins those that write. What is written is what `engine.generate` writes for the same prompt and settings,
up to the order of sums: greedy texts part only where two tokens are as good as equally likely.
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from scratchlab.errors import RunError, ScratchlabError
from scratchlab.generation.engine import Seen, Settings, cast_once
from scratchlab.generation.sampling import NOT_FINITE, choose
from scratchlab.model.build import Model

READ_AT_ONCE = 256
"""Tokens of prompts that are read between two steps: enough for full speed, and few enough that nobody waits long."""
LIKE = 16
"""Prompts that differ by no more tokens are read together; what is left of the longer ones goes with others' steps."""
ROOM = 64
"""Places beyond the prompt that a cache has at first."""

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a text, and if it was asked for what the model thought of it."""

    token: int
    logprob: float | None = None
    """In nats, by the model's own scores: before temperature, top_k and top_p. None for the first of a prompt."""
    likeliest: tuple[tuple[int, float], ...] = ()
    """Tokens and their log-probabilities in its place, the likeliest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A text that somebody wants. `settings.stop` is for whoever turns tokens into text."""

    prompt: Sequence[int]
    settings: Settings
    ends: Collection[int] = ()
    """Tokens that end the text, and are not part of it."""
    logprobs: int | None = None
    """How many of the likeliest tokens are told in each place; None: no log-probability at all."""
    echo: bool = False
    """Whether those of the prompt are told too. It must not be longer than the context then."""


@dataclass(eq=False)
class Row:
    """A text under way."""

    wish: Wish
    seen: Seen
    generator: torch.Generator
    prompt: list[Token] = field(default_factory=list[Token])
    """The prompt, as far as it was read, where `echo` asks for its log-probabilities."""
    written: list[Token] = field(default_factory=list[Token])
    finish: Finish | None = None
    """Why it ended: a token of `ends`, or `max_tokens`."""
    error: ScratchlabError | None = None
    gone: bool = False
    """Nobody wants it any more: set from outside, between two turns."""

    @property
    def over(self) -> bool:
        return self.gone or self.finish is not None or self.error is not None

    @property
    def unscored(self) -> Sequence[int]:
        """The tokens of the prompt whose log-probabilities are still to be told."""
        return self.wish.prompt[len(self.prompt) :] if self.wish.echo else ()

    def take(self, token: Token) -> None:
        if token.token in self.wish.ends:
            self.finish = "stop"
            return
        self.seen.add(token.token)
        self.written.append(token)
        if len(self.written) == self.wish.settings.max_tokens:
            self.finish = "length"


@dataclass
class _Group:
    """Rows that go through the model together, and their states as the rows of one."""

    rows: list[Row]
    state: Any

    def part(self, leaving: Collection[Row]) -> None:
        """Rows leave; in the state and here the last one takes the place of each."""
        for place in reversed(range(len(self.rows))):
            if self.rows[place] in leaving:
                self.rows[place] = self.rows[-1]
                self.rows.pop()
                self.state.drop(place)
        if not self.rows:
            self.state = None  # and its memory


class Batch:
    """At most `most_rows` texts at once; more of them wait."""

    def __init__(self, model: Model, most_rows: int) -> None:
        self._model, self._most_rows = cast_once(model.eval()), most_rows
        self._arrived: deque[Row] = deque()
        self._waiting: deque[Row] = deque()
        self._reading = _Group([], None)
        self._running = _Group([], None)

    def add(self, wish: Wish) -> Row:
        """A text more, which waits for a place. Whoever sets `gone` on the row gives it up.

        Both may be done while another thread is in `turn`.
        """
        generator = torch.Generator().manual_seed(wish.settings.seed)
        row = Row(wish, Seen(self._model, wish.prompt), generator)
        if wish.echo:
            row.prompt.append(Token(wish.prompt[0]))
        self._arrived.append(row)
        return row

    @property
    def running(self) -> int:
        """Texts that have a place."""
        return len(self._running.rows) + len(self._reading.rows)

    @property
    def waiting(self) -> int:
        return len(self._waiting) + len(self._arrived)

    def rows(self) -> list[Row]:
        """All that are here."""
        return [*self._running.rows, *self._reading.rows, *self._waiting, *self._arrived]

    @torch.inference_mode()
    def turn(self) -> list[Row]:
        """A token for every text that is read, and some tokens of prompts. Gives the rows that came on."""
        self._come_and_go()
        return [*self._step(), *self._read()]

    def _come_and_go(self) -> None:
        while self._arrived:
            self._waiting.append(self._arrived.popleft())
        self._waiting = deque(row for row in self._waiting if not row.gone)
        for group in (self._reading, self._running):
            group.part([row for row in group.rows if row.gone])

    def _step(self) -> list[Row]:
        if self._running.rows:
            self._make_room()
        return self._forward(self._running, 1) if self._running.rows else []

    def _make_room(self) -> None:
        """For one token more in every row: rows whose context is full read the newer half of it again."""
        state, most = self._running.state, self._model.most_tokens
        if state.has_room(1):
            return
        assert most is not None
        if state.capacity < most:
            state.widen(most)
            return
        full = [row for row, length in zip(self._running.rows, state.lengths, strict=True) if length == most]
        self._running.part(full)
        for row in full:
            row.seen.let_go()
        self._waiting.extendleft(full)

    def _read(self) -> list[Row]:
        """On with the prompts of one group, or with those of the next; whose prompt is read joins those that write."""
        if not self._reading.rows:
            self._reading = self._next_group()
        rows = self._reading.rows
        if not rows:
            return []
        shortest = min(len(row.seen.unread) for row in rows)
        n_tokens = min(shortest, max(1, READ_AT_ONCE // len(rows)))
        moved = self._forward(self._reading, n_tokens)
        if n_tokens == shortest:
            self._join()
        return moved

    def _next_group(self) -> _Group:
        """Who has waited longest, and others whose prompts are about as long."""
        rows, free = list[Row](), self._most_rows - len(self._running.rows)
        if not self._waiting or not free:
            return _Group([], None)
        for row in self._waiting:
            length, first = len(row.seen.unread), len((rows or [row])[0].seen.unread)
            fits = not rows or (len(rows) + 1) * max(length, first) <= READ_AT_ONCE
            if len(rows) < free and fits and abs(length - first) <= LIKE:
                rows.append(row)
        chosen = set(rows)
        self._waiting = deque(row for row in self._waiting if row not in chosen)
        for row in rows:
            if row.unscored and len(row.seen.tokens) < len(row.wish.prompt):  # document_mask: it will not be read whole
                hidden_BTC, _ = self._model.hidden(self._tensor([row.wish.prompt]))
                self._score(row, hidden_BTC[0])
        capacity = max(len(row.seen.unread) for row in rows) + ROOM
        return _Group(rows, self._model.new_state(len(rows), min(capacity, self._model.most_tokens or capacity)))

    def _join(self) -> None:
        if self._running.rows and self._reading.rows:
            self._running.state.add(self._reading.state)
            self._running.rows += self._reading.rows
        elif self._reading.rows:
            self._running = self._reading
        self._reading = _Group([], None)

    def _forward(self, group: _Group, n_tokens: int) -> list[Row]:
        """Read so many tokens of every row, and write where nothing is left to read. Who is done leaves."""
        rows = list(group.rows)
        tokens_BT = self._tensor([row.seen.unread[:n_tokens] for row in rows])
        hidden_BTC, group.state = self._model.hidden(tokens_BT, group.state)
        for place, row in enumerate(rows):
            if row.unscored:
                self._score(row, hidden_BTC[place])
            del row.seen.unread[:n_tokens]
            if not row.seen.unread and not row.wish.settings.max_tokens:
                row.finish = "length"
        writing = [place for place, row in enumerate(rows) if not row.seen.unread and not row.over]
        if writing:
            self._write([rows[place] for place in writing], self._model.logits(hidden_BTC[writing, -1]))
        group.part([row for row in rows if row.over])
        return rows

    def _write(self, rows: Sequence[Row], logits_BV: Tensor) -> None:
        """The next token of every row."""
        finite_B: list[bool] = torch.isfinite(logits_BV).all(-1).tolist()
        for places in _alike(rows):
            for place in places:
                if not finite_B[place]:
                    rows[place].error = RunError(NOT_FINITE)
            good = [place for place in places if finite_B[place]]
            if good:
                self._write_alike([rows[place] for place in good], logits_BV[good])

    def _write_alike(self, rows: Sequence[Row], logits_BV: Tensor) -> None:
        """The same, where all choose in the same way and have the same wish for log-probabilities."""
        settings, count = rows[0].wish.settings, rows[0].wish.logprobs
        how = settings.temperature, settings.top_k, settings.top_p
        tokens: list[int] = choose(logits_BV, *how, *(row.generator for row in rows)).tolist()
        told = [Token(token) for token in tokens] if count is None else _told(logits_BV, tokens, count)
        for row, token in zip(rows, told, strict=True):
            row.take(token)

    def _score(self, row: Row, hidden_TC: Tensor) -> None:
        """The log-probabilities of those tokens of the prompt that are predicted from here."""
        for hidden in hidden_TC.split(READ_AT_ONCE):
            tokens = row.unscored[: len(hidden)]
            if tokens:
                row.prompt += _told(self._model.logits(hidden[: len(tokens)]), tokens, row.wish.logprobs or 0)

    def _tensor(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(tokens, device=self._model.head_weight.device)


TOGETHER = 16
"""Texts at once where nobody waits for one of them: more gain little on a CPU, and on a GPU memory soon bounds them."""


def write_all(model: Model, wishes: Sequence[Wish]) -> Iterator[tuple[int, Row]]:
    """The texts of all wishes, each with the place of its wish, as they are done. RunError for one that diverged."""
    batch = Batch(model, TOGETHER)
    places = {batch.add(wish): place for place, wish in enumerate(wishes)}
    while places:
        for row in batch.turn():
            if row.error is not None:
                raise row.error
            if row.over:
                yield places.pop(row), row


def _alike(rows: Sequence[Row]) -> Iterator[list[int]]:
    """The places of rows that can be chosen for together."""
    ways: dict[Any, list[int]] = {}
    for place, row in enumerate(rows):
        settings = row.wish.settings
        way = settings.temperature, settings.top_k, settings.top_p, row.wish.logprobs
        ways.setdefault(way, []).append(place)
    yield from ways.values()


def _told(logits_NV: Tensor, tokens: Sequence[int], count: int) -> list[Token]:
    """Tokens with their log-probabilities, and those of so many of the likeliest in their places."""
    logprobs_NV = logits_NV.float().log_softmax(-1).cpu()
    own: list[float] = logprobs_NV[torch.arange(len(tokens)), torch.tensor(tokens)].tolist()
    top = logprobs_NV.topk(min(count, logprobs_NV.shape[-1]))
    likeliest = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [
        Token(token, logprob, tuple(zip(*others, strict=True)))
        for token, logprob, others in zip(tokens, own, likeliest, strict=True)
    ]
