"""Scoring: token sequences in, the loss of each target out. All that evaluation asks of a model, whoever made it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scratchlab.evaluation.batches import in_batches, of_like_length, shared_length, worth_sharing
from scratchlab.model.build import Model
from scratchlab.model.gpt import GPT
from scratchlab.model.layers import Cache
from scratchlab.model.loss import CHUNK_ENTRIES, token_losses

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Question:
    """How likely is each of these continuations after `prefix`? All are tokens, and each has one at least."""

    prefix: Ids
    continuations: tuple[Ids, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says of a continuation."""

    nats: Floats
    """The loss of each of its tokens, given the prefix and the tokens before it. Shape (tokens,)."""
    greedy: bool
    """Whether each of its tokens is the one that the model finds likeliest there."""


ScoreWindows = Callable[[Ids, Ids], Floats]
"""See `Scorer.windows`."""


class Scorer(Protocol):
    """A model as evaluation sees it. Disturbs no random stream."""

    def windows(self, tokens_BT: Ids, targets_BT: Ids) -> Floats:
        """The loss of each target in nats, (B, T). A model that remembers goes on, row by row, from the last call."""
        ...

    def answers(self, questions: Sequence[Question]) -> list[tuple[Answer, ...]]:
        """An answer for each continuation of each question; nothing is remembered of others."""
        ...


@runtime_checkable
class Remembers(Protocol):
    """A scorer of a model that remembers."""

    def forget(self) -> None:
        """Begin another text, of which nothing has been read."""
        ...


class ModelScorer:
    """Scores with a model of ours, without gradients."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._state: Any = None

    def forget(self) -> None:
        self._state = None

    @torch.no_grad()
    def windows(self, tokens_BT: Ids, targets_BT: Ids) -> Floats:
        model, device = self._model, self._model.head_weight.device
        hidden_BTC, self._state = model.hidden(
            torch.from_numpy(np.ascontiguousarray(tokens_BT)).to(device), self._state
        )
        targets_N = torch.from_numpy(np.ascontiguousarray(targets_BT)).to(device).flatten()
        hidden_NC, head_VC = (x.to(model.head_dtype) for x in (hidden_BTC.flatten(0, 1), model.head_weight))
        losses_N = token_losses(hidden_NC, head_VC, targets_N, model.readout)
        return losses_N.view(targets_BT.shape).cpu().numpy()

    @torch.no_grad()
    def answers(self, questions: Sequence[Question]) -> list[tuple[Answer, ...]]:
        found: list[tuple[Answer, ...]] = [()] * len(questions)
        for batch in in_batches(questions, self._model.most_tokens, self._model.head_weight.device.type):
            asked = [questions[place] for place in batch]
            for place, answers in zip(batch, self._judge(asked, self._read(asked)), strict=True):
                found[place] = answers
        return found

    def _read(self, questions: Sequence[Question]) -> Tensor:
        """The hidden states from which the tokens of all continuations are predicted, in their order: (N, C)."""
        shared = shared_length(questions)
        can = isinstance(self._model, GPT)  # the state of a recurrent network cannot be cut back to a shorter row's end
        saves = can and worth_sharing(questions, shared)
        return self._read_shared(questions, shared) if saves else self._read_whole(questions)

    def _read_shared(self, questions: Sequence[Question], shared: int) -> Tensor:
        """What the questions begin with in common is read once, each prefix once, and then the continuations."""
        choices = [(place, choice) for place, question in enumerate(questions) for choice in question.continuations]
        start = _Reading.empty(self._model)
        if shared:
            start, _ = start.read([0], [questions[0].prefix[:shared]])
        prefixes, hidden_BTC = start.read([0] * len(questions), [question.prefix[shared:] for question in questions])
        ends = [len(question.prefix) - shared - 1 for question in questions]
        last_BC = hidden_BTC[torch.arange(len(questions)), ends]
        inside: dict[int, Tensor] = {}
        for alike in of_like_length({row: len(choice) - 1 for row, (_, choice) in enumerate(choices)}):
            rows = [choices[row] for row in alike]
            _, hidden_NTC = prefixes.read([place for place, _ in rows], [choice[:-1] for _, choice in rows])
            inside |= {row: hidden_NTC[at, : len(choices[row][1]) - 1] for at, row in enumerate(alike)}
        parts = [
            part
            for row, (place, _) in enumerate(choices)
            for part in (last_BC[place][None], *([inside[row]] if row in inside else []))
        ]
        return torch.cat(parts)

    def _read_whole(self, questions: Sequence[Question]) -> Tensor:
        """Each continuation is read with all that stands before it."""
        rows = [
            (len(question.prefix), np.concatenate([question.prefix, choice[:-1]]))
            for question in questions
            for choice in question.continuations
        ]
        hidden_BTC, _ = self._model.hidden(padded([row for _, row in rows], self._model.head_weight.device))
        return torch.cat([hidden_BTC[at, begins - 1 : len(row)] for at, (begins, row) in enumerate(rows)])

    def _judge(self, questions: Sequence[Question], hidden_NC: Tensor) -> list[tuple[Answer, ...]]:
        model = self._model
        targets = np.concatenate([choice for question in questions for choice in question.continuations])
        targets_N = torch.from_numpy(targets).to(hidden_NC.device)
        head_VC = model.head_weight.to(model.head_dtype)
        nats, likeliest = list[Tensor](), list[Tensor]()
        rows = max(1, CHUNK_ENTRIES // len(head_VC))
        for hidden, aims in zip(hidden_NC.to(model.head_dtype).split(rows), targets_N.split(rows), strict=True):
            scores = model.readout.scores(hidden, head_VC)
            nats.append(torch.nn.functional.cross_entropy(scores, aims, reduction="none"))
            likeliest.append(scores.argmax(-1) == aims)
        return as_answers(questions, torch.cat(nats).cpu().numpy(), torch.cat(likeliest).cpu().numpy())


def as_answers(
    questions: Sequence[Question], nats_N: Floats, likeliest_N: npt.NDArray[np.bool_]
) -> list[tuple[Answer, ...]]:
    """The answers of questions whose continuations' tokens, one after another, have these losses."""
    answers, start = list[tuple[Answer, ...]](), 0
    for question in questions:
        own = list[Answer]()
        for choice in question.continuations:
            here = slice(start, start := start + len(choice))
            own.append(Answer(nats_N[here], bool(likeliest_N[here].all())))
        answers.append(tuple(own))
    return answers


def padded(rows: Sequence[Ids], device: torch.device) -> Tensor:
    """(rows, longest): each row, then zeros, which nothing before them sees."""
    tokens_BT = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for row, tokens in enumerate(rows):
        tokens_BT[row, : len(tokens)] = tokens
    return torch.from_numpy(tokens_BT).to(device)


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a GPT has read in several rows, to go on from as often as one likes."""

    model: GPT
    buffers: tuple[tuple[Tensor, Tensor], ...]
    lengths: tuple[int, ...]

    @classmethod
    def empty(cls, model: Model) -> "_Reading":
        """One row in which nothing has been read."""
        assert isinstance(model, GPT)
        return cls(model, tuple(model.new_state(1, 0).buffers), (0,))

    def read(self, parents: Sequence[int], rows: Sequence[Ids]) -> tuple["_Reading", Tensor]:
        """Row i goes on from row parents[i] with tokens rows[i]; gives their hidden states too, (rows, longest, C)."""
        tokens_BT = padded(rows, self.model.head_weight.device)
        before = [self.lengths[parent] for parent in parents]
        longest, room = max(before), max(before) + tokens_BT.shape[1]
        cache = self.model.new_state(len(rows), room)
        for old, new in zip(self.buffers, cache.buffers, strict=True):
            for source, target in zip(old, new, strict=True):
                target[:, :, :longest] = source[list(parents), :, :longest]
        cache.lengths = before
        hidden_BTC, _ = self.model.hidden(tokens_BT, Cache(cache.buffers, before, room))
        lengths = tuple(length + len(row) for length, row in zip(before, rows, strict=True))
        return _Reading(self.model, tuple(cache.buffers), lengths), hidden_BTC
