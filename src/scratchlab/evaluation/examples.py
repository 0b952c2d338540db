"""The loss on what the assistant says, example by example: the same figures for any model, whatever it learned from."""

from typing import NamedTuple

import numpy as np

from scratchlab.corpus.examples.fit import fit_instructions
from scratchlab.corpus.shards import Split
from scratchlab.evaluation.loss import Ints, UnitLosses
from scratchlab.evaluation.processes import own_share, summed
from scratchlab.evaluation.scorer import Question, Scorer


def evaluate_examples(
    scorer: Scorer, split: Split, context_length: int, symbol_bytes: Ints, max_tokens: int | None = None
) -> UnitLosses:
    """Score the responses of a split of instructions, each after all that was said before it.

    What does not fit `context_length` is cut off, as in training; examples of which nothing fits are no units. With
    `max_tokens` as many examples as have no more in their responses, in order, and one at least. Where
    torch.distributed has several processes, all must call this; each scores its share, and all get the same figures.
    `symbol_bytes` are the bytes of each symbol (`byte_lengths`); the end of a turn has none.
    """
    fit = fit_instructions(split, context_length)
    responses = [_response(split, number, int(fit.stops[number])) for number in fit.useful.tolist()]
    n_tokens = np.array([len(one.places) for one in responses], np.int64)
    most = len(responses)
    if max_tokens is not None:
        most = max(1, int(np.searchsorted(np.cumsum(n_tokens), max_tokens, side="right")))
    share, nats = own_share(), np.zeros(most)
    own = responses[:most][share.rank :: share.count]
    answers = scorer.answers([one.question for one in own])
    nats[share.rank :: share.count] = [
        float(answer.nats[one.places].sum(dtype=np.float64)) for one, (answer,) in zip(own, answers, strict=True)
    ]
    n_bytes = np.array([symbol_bytes[one.question.continuations[0][one.places]].sum() for one in responses[:most]])
    return UnitLosses("examples", summed(nats), n_tokens[:most], n_bytes)


class _Response(NamedTuple):
    """An example as a question: what comes after its first response began, of which not all need be responses."""

    question: Question
    places: Ints
    """Of the continuation's tokens, those that the assistant writes."""


def _response(split: Split, number: int, stop: int) -> _Response:
    assert split.marks is not None
    start = int(split.document_starts[number])
    ids, learned = split.read(start, stop).astype(np.int64), np.flatnonzero(split.marks[start:stop])
    first = max(1, int(learned[0]))  # the first token of all cannot be predicted
    return _Response(Question(ids[:first], (ids[first:],), split.ids[number]), learned[learned >= first] - first)
