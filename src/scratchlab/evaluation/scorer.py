"""Scoring: token sequences in, the loss of each target out. All that evaluation asks of a model, whoever made it."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scratchlab.evaluation.batches import rows_in_batches, shared_length
from scratchlab.model.attention import COMMON
from scratchlab.model.build import Model
from scratchlab.model.gpt import GPT, check_places
from scratchlab.model.layers import Cache
from scratchlab.model.loss import CHUNK_ENTRIES, token_losses

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Question:
    """How likely is each of these continuations after `prefix`? All are tokens, and each has one at least."""

    prefix: Ids
    continuations: tuple[Ids, ...]
    name: str = ""
    """What messages call it: its task and item."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says of a continuation."""

    nats: Floats
    """The loss of each of its tokens, given the prefix and the tokens before it. Shape (tokens,)."""
    greedy: bool
    """Whether each of its tokens is the one that the model finds likeliest there."""


WORTH_SHARING = 1 / 3
"""Of the tokens of all rows: so many must be spared, since with a cache there is a pass more, and a mask."""


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

    @property
    def model(self) -> Model:
        """The model that scores."""
        return self._model

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
        if not questions:
            return []
        branching = self._may_branch(questions)
        rows = [_Row.of(part) for question in questions for part in ([question] if branching else apart(question))]
        start = self._begin(rows, shared_length(questions)) if branching else None
        targets = np.concatenate([choice for question in questions for choice in question.continuations])
        nats, likeliest = np.empty(len(targets), np.float32), np.empty(len(targets), np.bool_)
        own = np.split(np.arange(len(targets)), np.cumsum([len(row.predicting) for row in rows])[:-1])
        for batch in rows_in_batches([len(row.tokens) for row in rows], self._model.head_weight.device.type):
            at = np.concatenate([own[row] for row in batch])
            hidden_NC = self._read([rows[row] for row in batch], start)
            nats[at], likeliest[at] = self._judge(hidden_NC, targets[at])
        return as_answers(questions, nats, likeliest)

    def _may_branch(self, questions: Sequence[Question]) -> bool:
        """Whether several continuations may go on from one prefix, and several prefixes from one beginning.

        Not where all that was read is one state; nor where an end of text parts what is read, which documents cannot
        say at the same time.
        """
        end = self._model.end_of_text
        parted = end is not None and any((_Row.of(question).tokens[1:] == end).any() for question in questions)
        return isinstance(self._model, GPT) and not parted

    def _begin(self, rows: Sequence["_Row"], shared: int) -> Cache | None:
        """The tokens that all rows begin with, read once, if that spares enough of them."""
        if (len(rows) - 1) * shared <= WORTH_SHARING * sum(len(row.tokens) for row in rows):
            return None
        assert isinstance(self._model, GPT)
        tokens_BT = padded([rows[0].tokens[:shared]], self._model.head_weight.device)
        return self._model.hidden(tokens_BT, self._model.new_state(1, shared))[1]

    def _read(self, rows: Sequence["_Row"], start: Cache | None) -> Tensor:
        """The hidden states from which the tokens of all continuations are predicted, in their order: (N, C)."""
        shared, device = start.lengths[0] if start else 0, self._model.head_weight.device
        tokens_BT, positions_BT, documents_BT = (
            padded([part[shared:] for part in parts], device)
            for parts in zip(*((row.tokens, row.positions, row.documents) for row in rows), strict=True)
        )
        state: Any = start.repeated(*tokens_BT.shape) if start else None
        if any(row.branches for row in rows):
            assert isinstance(self._model, GPT)
            check_places(1 + max(int(row.positions.max()) for row in rows), self._model.config.context_length)
            hidden_BTC, _ = self._model.hidden(tokens_BT, state, positions_BT, documents_BT)
        else:
            hidden_BTC, _ = self._model.hidden(tokens_BT, state)
        return torch.cat([hidden_BTC[at, row.predicting - shared] for at, row in enumerate(rows)])

    def _judge(self, hidden_NC: Tensor, targets: Ids) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """The loss of each target, and whether it is the likeliest."""
        model, targets_N = self._model, torch.from_numpy(targets).to(hidden_NC.device)
        head_VC = model.head_weight.to(model.head_dtype)
        nats, likeliest = list[Tensor](), list[Tensor]()
        rows = max(1, CHUNK_ENTRIES // len(head_VC))
        for hidden, aims in zip(hidden_NC.to(model.head_dtype).split(rows), targets_N.split(rows), strict=True):
            scores = model.readout.scores(hidden, head_VC)
            nats.append(torch.nn.functional.cross_entropy(scores, aims, reduction="none"))
            likeliest.append(scores.argmax(-1) == aims)
        return torch.cat(nats).cpu().numpy(), torch.cat(likeliest).cpu().numpy()


@dataclass(frozen=True, slots=True)
class _Row:
    """A question as a model reads it: its prefix, then its continuations side by side, all without their last token.

    They are documents, which do not see one another, and their positions go on from the prefix. Equal ones
    are read once: in two places they would differ by the order of sums, and the first is to win a tie.
    """

    tokens: Ids
    positions: Ids
    documents: Ids
    predicting: Ids
    """The places from which the tokens of the continuations are predicted, one after another."""

    @classmethod
    def of(cls, question: Question) -> "_Row":
        begins, different = len(question.prefix), {choice.tobytes(): choice for choice in question.continuations}
        sizes = [len(choice) - 1 for choice in different.values()]
        edges = itertools.pairwise(np.cumsum([begins, *sizes]))
        predicting = {name: [begins - 1, *range(*ends)] for name, ends in zip(different, edges, strict=True)}
        return cls(
            np.concatenate([question.prefix, *(choice[:-1] for choice in different.values())]),
            np.concatenate([np.arange(begins), *(begins + np.arange(size) for size in sizes)]),
            np.repeat(np.arange(len(sizes) + 1) + COMMON, [begins, *sizes]),
            np.concatenate([predicting[choice.tobytes()] for choice in question.continuations]),
        )

    @property
    def branches(self) -> bool:
        """Whether there is more than one continuation to be kept apart."""
        return bool(self.documents[-1] > COMMON + 1)


def apart(question: Question) -> list[Question]:
    """Each continuation as a question by itself."""
    return [Question(question.prefix, (choice,)) for choice in question.continuations]


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
