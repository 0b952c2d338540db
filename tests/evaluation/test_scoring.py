"""Loss on held-out text against the naive computation, and its errors against simulation."""

import itertools
import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scratchlab.evaluation import batches
from scratchlab.evaluation import loss as module
from scratchlab.evaluation.loss import UnitLosses, evaluate_loss, paired_error, ratio_error
from scratchlab.evaluation.scorer import ModelScorer, ScoreWindows
from scratchlab.model.gpt import GPT
from tiny import VOCAB, Ints, Stream, modest, random_stream, tiny_gpt

CONTEXT = 6


def naive_nats(model: GPT, tokens: Ints) -> list[float]:
    """One target after another, each given its window's past."""
    nats: list[float] = []
    for target in range(1, len(tokens)):
        start = (target - 1) // CONTEXT * CONTEXT
        logits, _ = model(torch.from_numpy(tokens[start:target])[None])
        nats.append(-float(logits[0, -1].double().log_softmax(-1)[tokens[target]].detach()))
    return nats


def fixed_scorer(nats: npt.NDArray[np.float64]) -> ScoreWindows:
    """The loss of token value t is nats[t]; with a counting stream, that of the token at place t."""
    return lambda tokens, targets: nats[targets].astype(np.float32)


def documents(lengths: tuple[int, ...], sizes: tuple[int, ...] = ()) -> Stream:
    return Stream(np.arange(sum(lengths)), lengths, sizes)


@pytest.mark.parametrize("n", [2, 6, 7, 8, 40])
@pytest.mark.parametrize("at_once", [1, 12, 10_000])
def test_equals_token_by_token(monkeypatch: pytest.MonkeyPatch, n: int, at_once: int) -> None:
    monkeypatch.setitem(batches.TOKENS_AT_ONCE, "cpu", at_once)
    model, text = tiny_gpt(spread=8.0), random_stream(n)
    nats = naive_nats(model, text.tokens)
    result = evaluate_loss(ModelScorer(model).windows, text, CONTEXT)
    assert result.n_tokens == n - 1
    assert result.nats_per_token == pytest.approx(np.mean(nats), rel=1e-5)
    assert result.bits_per_byte == pytest.approx(sum(nats) / math.log(2) / n, rel=1e-5)


@modest
@given(n=st.integers(2, 60), context=st.integers(1, 8), max_tokens=st.none() | st.integers(1, 70))
def test_every_target_counts_once(n: int, context: int, max_tokens: int | None) -> None:
    weights = np.sqrt(np.arange(n) + 1.0)
    result = evaluate_loss(fixed_scorer(weights), Stream(np.arange(n)), context, max_tokens)
    scored = n - 1 if max_tokens is None else min(n - 1, max_tokens)
    assert result.n_tokens == scored
    assert result.nats_per_token * scored == pytest.approx(weights[1 : scored + 1].sum(), rel=1e-6)
    assert result.n_bytes == pytest.approx(scored + 1, abs=0.51), "bytes in proportion to the tokens that were scored"


def test_bits_per_byte_counts_the_bytes_of_documents_and_none_for_their_ends() -> None:
    text = documents((4, 6), (9, 20))
    result = evaluate_loss(fixed_scorer(np.full(10, 2.0)), text, CONTEXT)
    assert (result.n_tokens, result.n_bytes) == (9, 29)
    assert result.bits_per_byte == pytest.approx(9 * 2.0 / math.log(2) / 29)


def test_a_model_that_knows_nothing_scores_ln_of_the_vocabulary() -> None:
    result = evaluate_loss(lambda t, y: np.full(y.shape, np.log(VOCAB), np.float32), random_stream(99), CONTEXT)
    assert result.nats_per_token == pytest.approx(math.log(VOCAB))


def test_errors_are_over_documents() -> None:
    rng = np.random.default_rng(0)
    lengths = tuple(rng.integers(5, 40, 12).tolist())
    sizes = tuple(rng.integers(20, 90, 12).tolist())
    nats = rng.random(sum(lengths))
    result = evaluate_loss(fixed_scorer(nats), documents(lengths, sizes), CONTEXT)
    assert (result.unit, result.n_units) == ("documents", 12)

    edges = np.cumsum([0, *lengths])
    rows = [nats.astype(np.float32)[max(1, a) : b] for a, b in itertools.pairwise(edges)]
    sums, counts = np.array([row.sum() for row in rows]), np.array([len(row) for row in rows])
    # The jackknife, another estimate of the same thing, agrees to its own order of error.
    left_out = np.array([np.delete(sums, i).sum() / np.delete(counts, i).sum() for i in range(12)])
    jackknife = math.sqrt(11 / 12 * np.square(left_out - left_out.mean()).sum())
    assert result.nats_per_token_error == pytest.approx(jackknife, rel=0.1)
    assert result.bits_per_byte_error == pytest.approx(ratio_error(sums / math.log(2), np.array(sizes)), rel=1e-4)


def test_the_error_of_a_difference_is_over_the_documents_of_both() -> None:
    """Two models that find the same documents hard: the difference is known far better than either figure."""
    rng = np.random.default_rng(0)
    nats, sizes = rng.uniform(50, 90, 12), tuple(rng.integers(20, 90, 12).tolist())
    apart = rng.normal(0, 0.1, 12)
    tokens = np.full(12, 20)
    a, b = (UnitLosses("documents", nats + shift, tokens, np.array(sizes)) for shift in (apart, 0))
    assert paired_error(a, b, "nats_per_token") == pytest.approx(float(apart.std(ddof=1)) / math.sqrt(12) / 20)
    assert paired_error(a, b, "bits_per_byte") == pytest.approx(ratio_error(apart / math.log(2), np.array(sizes)))
    assert (paired_error(a, b, "bits_per_byte") or 1) < 0.1 * (a.summary().bits_per_byte_error or 0)
    other = UnitLosses("documents", nats, tokens + 1, np.array(sizes))
    assert paired_error(a, other, "nats_per_token") is None
    assert UnitLosses.from_json(json.loads(json.dumps(a.to_json()))).summary() == a.summary()


def test_units_are_put_together_and_sum_to_the_same() -> None:
    rng = np.random.default_rng(0)
    units = UnitLosses("documents", rng.random(1001), rng.integers(1, 9, 1001), rng.integers(1, 9, 1001))
    few = units.merged(100)
    assert len(few.nats) == 100
    assert few.summary().nats_per_token == pytest.approx(units.summary().nats_per_token)
    assert few.summary().nats_per_token_error == pytest.approx(units.summary().nats_per_token_error, rel=0.2)
    assert units.merged(1001) is units


def test_fewer_than_8_documents_are_scored_by_stretches() -> None:
    nats = np.random.default_rng(0).random(700)
    result = evaluate_loss(fixed_scorer(nats), documents((100,) * 7), CONTEXT)
    assert (result.unit, result.n_units) == ("stretches", module.STRETCHES)
    assert result.nats_per_token_error == pytest.approx(nats.std() / math.sqrt(700), rel=0.4)
    assert evaluate_loss(fixed_scorer(nats), documents((100,) * 6 + (50, 50)), CONTEXT).unit == "documents"
    short = evaluate_loss(fixed_scorer(nats), documents((5,)), CONTEXT)
    assert short.n_units == 5
    assert short.n_tokens == 4


def test_a_document_cut_off_by_max_tokens_brings_a_share_of_its_bytes() -> None:
    text = documents((10,) * 20, (100,) * 20)
    result = evaluate_loss(fixed_scorer(np.ones(200)), text, CONTEXT, max_tokens=94)
    assert (result.n_tokens, result.n_units, result.n_bytes) == (94, 10, 950)


def test_standard_error_is_what_repetition_shows() -> None:
    rng = np.random.default_rng(1)

    def replicate() -> tuple[float, float | None]:
        """40 documents of their own lengths and difficulties; longer ones are easier."""
        counts = rng.integers(5, 100, 40)
        sums = counts * (2 + rng.normal(0, 0.3, 40) - counts / 100)
        return sums.sum() / counts.sum(), ratio_error(sums, counts)

    ratios, errors = zip(*(replicate() for _ in range(2000)), strict=True)
    assert np.mean(np.array(errors, float)) == pytest.approx(np.std(ratios), rel=0.08)


def test_a_single_unit_has_no_error() -> None:
    assert ratio_error(np.array([3.0]), np.array([4])) is None
    assert ratio_error(np.array([2.0, 4.0]), np.array([1, 2])) == pytest.approx(0, abs=1e-12)


def test_scoring_disturbs_no_random_stream() -> None:
    model = tiny_gpt(dropout=0.5)
    before, numpy_before = torch.get_rng_state(), str(np.random.get_state())
    evaluate_loss(ModelScorer(model).windows, random_stream(50), CONTEXT)
    assert torch.equal(torch.get_rng_state(), before)
    assert str(np.random.get_state()) == numpy_before


def test_scoring_leaves_no_gradient_and_reads_strided_arrays() -> None:
    model = tiny_gpt()
    rows = np.arange(14).reshape(2, 7)
    strided = ModelScorer(model).windows(rows[:, :-1], rows[:, 1:])
    assert (strided == ModelScorer(model).windows(rows[:, :-1].copy(), rows[:, 1:].copy())).all()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_progress_ends_at_the_total() -> None:
    told: list[tuple[int, int]] = []
    text: Any = random_stream(50_000)
    evaluate_loss(fixed_scorer(np.zeros(VOCAB)), text, CONTEXT, progress=lambda done, total: told.append((done, total)))
    assert len(told) > 2
    assert told[-1] == (49_999, 49_999)
    assert told == sorted(told)
