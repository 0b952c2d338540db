"""Scoring with a causal model of Hugging Face transformers, whatever its architecture.

Two things are done that a plain forward pass does not do, each only where a small trial shows that the model finds the
same with them:

- only the places that are asked about go through the head. Its input is cut down on the way in, so that whatever the
  model does to logits afterwards (caps, scales) is done as ever;
- what questions have in common is read once, by way of the cache of keys and values. Not where it holds a window or a
  state that cannot be cut back, nor where positions are turned by a rule that knows how long the whole text is.

Letters in tensor names: B rows, T tokens, C width, V vocabulary, Q questions, N places asked about.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scratchlab.errors import UsageError
from scratchlab.evaluation.batches import in_batches, shared_length, width, worth_sharing
from scratchlab.evaluation.scorer import Answer, Floats, Ids, Question, as_answers, padded

LOGITS_AT_ONCE = {"cpu": 2**23, "other": 2**28}
"""Entries, by device (in float32: 32 MB, 1 GB). So many rows are read together that their logits are no more, or one.

On a CPU they are to stay in its cache (measured for a vocabulary of 50,257: with 128 MB at a time a third slower).
"""
TRIAL_TOKENS = 8
"""Of the longest row in the trial of a model."""
Places = tuple[Ids, Ids]
"""Rows, and columns in them."""


class CausalLMScorer:
    """Scores with a model of transformers, without gradients. Windows are read afresh, each by itself."""

    def __init__(self, model: Any, name: str, context_length: int | None) -> None:
        """`model` is a ...ForCausalLM in evaluation mode; `name` is what messages call it."""
        self._model, self._name, self._context_length = model, name, context_length
        self._vocab_size = int(model.config.get_text_config().vocab_size)
        self._most_logits = LOGITS_AT_ONCE.get(model.device.type, LOGITS_AT_ONCE["other"])
        self._reader, self._shares = _Reader(model, chooses=False), False
        if context_length is None or context_length >= TRIAL_TOKENS:
            self._try_shortcuts()

    @property
    def model(self) -> Any:
        """The model that scores."""
        return self._model

    @torch.no_grad()
    def windows(self, tokens_BT: Ids, targets_BT: Ids) -> Floats:
        self._check_length(tokens_BT.shape[1])
        rows = max(1, self._most_logits // (self._vocab_size * tokens_BT.shape[1]))
        nats_BT = np.empty(targets_BT.shape, np.float32)
        for start in range(0, len(tokens_BT), rows):
            here = slice(start, start + rows)
            tokens, targets = (
                torch.from_numpy(np.ascontiguousarray(x[here], np.int64)).to(self._model.device)
                for x in (tokens_BT, targets_BT)
            )
            logits_NV = self._model(tokens, use_cache=False).logits.flatten(0, 1).float()
            nats_N = torch.nn.functional.cross_entropy(logits_NV, targets.flatten(), reduction="none")
            nats_BT[here] = nats_N.view(targets.shape).cpu().numpy()
        return nats_BT

    @torch.no_grad()
    def answers(self, questions: Sequence[Question]) -> list[tuple[Answer, ...]]:
        for question in questions:
            self._check_length(width(question))
        found: list[tuple[Answer, ...]] = [()] * len(questions)
        for batch in in_batches(questions, self._context_length, self._model.device.type):
            for part in self._parts(questions, batch):
                asked = [questions[place] for place in part]
                for place, answers in zip(part, as_answers(asked, *self._read(asked)), strict=True):
                    found[place] = answers
        return found

    def _read(self, questions: Sequence[Question]) -> tuple[Floats, npt.NDArray[np.bool_]]:
        shared = shared_length(questions)
        saves = self._shares and worth_sharing(questions, shared)
        return self._reader.shared(questions, shared) if saves else self._reader.whole(questions)

    def _check_length(self, tokens: int) -> None:
        if self._context_length is not None and tokens > self._context_length:
            raise UsageError(f"{self._name} sees {self._context_length} tokens at most; it was given {tokens}.")

    def _parts(self, questions: Sequence[Question], batch: Sequence[int]) -> Iterator[list[int]]:
        """A batch in pieces whose logits can be held at once."""
        part, entries = list[int](), 0
        for place in batch:
            question = questions[place]
            whole = len(question.continuations) * width(question)
            more = self._vocab_size * (sum(map(len, question.continuations)) if self._reader.chooses else whole)
            if part and entries + more > self._most_logits:
                yield part
                part, entries = [], 0
            part.append(place)
            entries += more
        yield part

    @torch.no_grad()
    def _try_shortcuts(self) -> None:
        asked = _trial(self._vocab_size)
        plain, _ = self._reader.whole(asked)
        tolerance = 1e-4 if self._model.dtype == torch.float32 else 1e-2
        choosing = _Reader(self._model, chooses=True)
        if _agree(plain, lambda: choosing.whole(asked)[0], tolerance):
            self._reader = choosing
        reader, shared = self._reader, shared_length(asked)
        may = _keeps_every_token(self._model)
        self._shares = may and _agree(plain, lambda: reader.shared(asked, shared)[0], tolerance)


@dataclass(frozen=True, slots=True)
class _Begun:
    """Rows that were read so far, to go on from once."""

    cache: Any
    lengths: Ids
    real: Tensor
    """Which places of the cache are tokens (1), and which padding (0)."""


class _Findings:
    """The loss of each token of all candidates, one after another, and whether it is the likeliest there."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.targets = torch.from_numpy(np.concatenate([c for question in questions for c in question.continuations]))
        self.nats = torch.empty(len(self.targets))
        self.likeliest = torch.empty(len(self.targets), dtype=torch.bool)

    def judge(self, tokens: Ids, logits_NV: Tensor, rows: Ids) -> None:
        """Token tokens[i] is predicted by row rows[i] of the logits."""
        index, row = torch.from_numpy(tokens), torch.from_numpy(rows).to(logits_NV.device)
        targets = self.targets[index].to(logits_NV.device)
        self.nats[index] = -logits_NV.log_softmax(-1)[row, targets].cpu()
        # The place of the largest is found at a quarter of the speed of its size: it is looked for where it may matter.
        likeliest = logits_NV[row, targets] == logits_NV.amax(-1)[row]
        likeliest[likeliest.clone()] = logits_NV[row[likeliest]].argmax(-1) == targets[likeliest]
        self.likeliest[index] = likeliest.cpu()

    def arrays(self) -> tuple[Floats, npt.NDArray[np.bool_]]:
        return self.nats.numpy(), self.likeliest.numpy()


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads questions with a model, which sees all of them at once."""

    model: Any
    chooses: bool
    """Whether only the places asked about go through the head."""

    def whole(self, questions: Sequence[Question]) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """The loss of the tokens of all candidates, each in a row with the whole of what stands before it."""
        rows = [
            (len(question.prefix), np.concatenate([question.prefix, choice[:-1]]))
            for question in questions
            for choice in question.continuations
        ]
        at = _places([(row, begins - 1, len(tokens)) for row, (begins, tokens) in enumerate(rows)])
        logits_NV, _ = self._logits(padded([tokens for _, tokens in rows], self.model.device), at, use_cache=False)
        findings = _Findings(questions)
        findings.judge(np.arange(len(logits_NV)), logits_NV, np.arange(len(logits_NV)))
        return findings.arrays()

    def shared(self, questions: Sequence[Question], shared: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """The same: the `shared` tokens that all begin with once, then each prefix once, and then the candidates."""
        choices = [(place, choice) for place, question in enumerate(questions) for choice in question.continuations]
        begun = _Begun(None, np.zeros(1, np.int64), torch.zeros(1, 0, dtype=torch.long, device=self.model.device))
        if shared:
            begun, _ = self._go_on(begun, [0], [questions[0].prefix[:shared]], _places([(0, 0, 0)]))
        rests = [question.prefix[shared:] for question in questions]
        ends = _places([(row, len(rest) - 1, len(rest)) for row, rest in enumerate(rests)])
        begun, last_QV = self._go_on(begun, [0] * len(questions), rests, ends)
        findings = _Findings(questions)
        starts = np.cumsum([0, *(len(choice) for _, choice in choices)])[:-1]
        findings.judge(starts, last_QV, np.array([place for place, _ in choices]))
        begins = zip(starts, choices, strict=True)
        longer = [(start, place, choice[:-1]) for start, (place, choice) in begins if len(choice) > 1]
        if longer:
            at = _places([(row, 0, len(tokens)) for row, (_, _, tokens) in enumerate(longer)])
            _, logits_NV = self._go_on(begun, [place for _, place, _ in longer], [row for _, _, row in longer], at)
            inside = np.concatenate([start + 1 + np.arange(len(tokens)) for start, _, tokens in longer])
            findings.judge(inside, logits_NV, np.arange(len(inside)))
        return findings.arrays()

    def _go_on(self, begun: _Begun, parents: list[int], rows: Sequence[Ids], at: Places) -> tuple[_Begun, Tensor]:
        """Row i goes on from row parents[i] with tokens rows[i]; gives the logits at the places `at` too, (N, V).

        It uses up what was begun, whose cache becomes the new one's.
        """
        tokens_BT = padded(rows, self.model.device)
        lengths, columns = np.array([len(row) for row in rows]), np.arange(tokens_BT.shape[1])
        real_BT = torch.from_numpy((columns < lengths[:, None]).astype(np.int64)).to(tokens_BT.device)
        before = begun.lengths[parents]
        positions_BT = torch.from_numpy(before[:, None] + columns).to(tokens_BT.device) * real_BT
        if begun.cache is not None:
            begun.cache.batch_select_indices(torch.tensor(parents, device=tokens_BT.device))
        real = torch.cat([begun.real[parents], real_BT], dim=1)
        cached = {cache_name(self.model) or "": begun.cache}
        logits_NV, cache = self._logits(
            tokens_BT, at, attention_mask=real, position_ids=positions_BT, use_cache=True, **cached
        )
        return _Begun(cache, before + lengths, real), logits_NV

    def _logits(self, tokens_BT: Tensor, at: Places, **more: Any) -> tuple[Tensor, Any]:
        """Float32 logits at the places `at`, (N, V), and the cache if there is one."""
        places = tuple(torch.from_numpy(index).to(tokens_BT.device) for index in at)

        def choose(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return inputs[0][places][None], *inputs[1:]

        head = self.model.get_output_embeddings()
        with head.register_forward_pre_hook(choose) if self.chooses else contextlib.nullcontext():
            out = self.model(tokens_BT, **more)
        logits_NV = out.logits[0] if self.chooses else out.logits[places]
        return logits_NV.float(), cache_of(out)


def _places(stretches: Sequence[tuple[int, int, int]]) -> Places:
    """Those of stretches, each a row with its columns from one to before another."""
    rows = np.concatenate([np.full(stop - start, row) for row, start, stop in stretches])
    return rows, np.concatenate([np.arange(start, stop) for _, start, stop in stretches])


# What a model can do.


def _trial(vocab_size: int) -> list[Question]:
    """Questions with something in common, of unequal lengths."""
    rng = np.random.default_rng(0)

    def draw(tokens: int) -> Ids:
        return rng.integers(0, vocab_size, tokens)

    common = draw(2)
    return [
        Question(np.append(common, draw(3)), (draw(1), draw(TRIAL_TOKENS - 4))),
        Question(np.append(common, draw(1)), (draw(3), draw(2))),
        Question(np.append(common, draw(2)), (draw(1),)),
    ]


def _agree(plain: Floats, other: Callable[[], Floats], tolerance: float) -> bool:
    """Whether another way of reading finds the same losses, but for what the order of sums changes."""
    try:
        difference = other() - plain
    except Exception:  # whatever a model of somebody's makes of it: it will be read plainly
        return False
    return bool(np.linalg.norm(difference) <= tolerance * np.linalg.norm(plain))


CACHE_NAMES = ("cache", "past_key_values")
"""What transformers calls a cache, since 5.24 and before."""


def cache_name(model: Any) -> str | None:
    """The argument by which the model takes a cache."""
    taken = inspect.signature(model.forward).parameters
    return next((name for name in CACHE_NAMES if name in taken), None)


def cache_of(output: Any) -> Any:
    """The cache that came with what a model gave, or None."""
    return next((cache for name in CACHE_NAMES if (cache := getattr(output, name, None)) is not None), None)


def _keeps_every_token(model: Any) -> bool:
    """Whether the model has a cache in which every token lies by itself, and can be told the positions of tokens."""
    from transformers.cache_utils import DynamicLayer

    told = {"position_ids", "attention_mask"} <= inspect.signature(model.forward).parameters.keys()
    if not told or cache_name(model) is None or _turns_by_length(model):
        return False
    out = model(torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=True)
    layers = getattr(cache_of(out), "layers", None)
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _turns_by_length(model: Any) -> bool:
    """Whether rotary positions are turned by the length of the text: what was read before would be turned otherwise."""
    settings = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    kinds = [settings, *(value for value in settings.values() if isinstance(value, dict))]
    return any(kind.get("rope_type") == "longrope" or "dynamic" in str(kind.get("rope_type")) for kind in kinds)
