"""Answers to questions: what each continuation costs after its prefix, however questions are batched and shared."""

import numpy as np
import pytest
import torch

from scratchlab.evaluation import batches
from scratchlab.evaluation.scorer import ModelScorer, Question
from scratchlab.model.build import Model, build_model
from scratchlab.recipe import GPTSection, RNNSection

VOCAB, CONTEXT = 50, 24
GPTS = {
    "learned": {},
    "rotary": {"positions": "rotary", "norm": "rms", "mlp": "swiglu"},
    "window": {"positions": "rotary", "window": 6, "n_kv_head": 1},
    "explicit": {"attention": "explicit", "logit_cap": 5.0, "vocab_multiple": 64},
    "none": {"attention": "none"},
}


def gpt(**switches: object) -> Model:
    config = GPTSection(n_layer=2, n_head=2, d_model=16, context_length=CONTEXT, **switches)  # pyright: ignore[reportArgumentType]
    model = build_model(config, VOCAB, seed=3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0)
    return model


def rnn() -> Model:
    return build_model(RNNSection(architecture="rnn", d_model=16, context_length=CONTEXT), VOCAB, seed=3).eval()


def questions(rng: np.random.Generator, count: int, shared: int = 0) -> list[Question]:
    """Questions of all lengths that fit, some with nothing but one token."""
    common = rng.integers(0, VOCAB, shared)
    made: list[Question] = []
    for _ in range(count):
        choices = rng.integers(1, 5)
        longest = int(rng.integers(1, CONTEXT // 2))
        prefix = np.append(common, rng.integers(0, VOCAB, rng.integers(1, CONTEXT - longest - shared + 2)))
        sizes = rng.integers(1, longest + 1, choices)
        made.append(Question(prefix, tuple(rng.integers(0, VOCAB, size) for size in sizes)))
    return made


def one_by_one(model: Model, question: Question) -> list[tuple[np.ndarray, bool]]:
    """Every token of every continuation by itself."""
    found: list[tuple[np.ndarray, bool]] = []
    for choice in question.continuations:
        whole = np.append(question.prefix, choice)
        begins = len(question.prefix)
        with torch.no_grad():
            logits = model(torch.from_numpy(whole[:-1])[None])[0][0, begins - 1 :].double()
        nats = -logits.log_softmax(-1)[torch.arange(len(choice)), torch.from_numpy(choice)]
        found.append((nats.numpy(), bool((logits.argmax(-1).numpy() == choice).all())))
    return found


@pytest.mark.parametrize("make", [*(lambda kind=kind: gpt(**GPTS[kind]) for kind in GPTS), rnn], ids=[*GPTS, "rnn"])
@pytest.mark.parametrize("at_once", [1, 60, 10_000])
@pytest.mark.parametrize("shared", [0, 7])
def test_each_answer_is_that_of_the_question_alone(monkeypatch, make, at_once, shared):
    monkeypatch.setitem(batches.TOKENS_AT_ONCE, "cpu", at_once)
    model, asked = make(), questions(np.random.default_rng(at_once + shared), 12, shared)
    answers = ModelScorer(model).answers(asked)
    for question, found in zip(asked, answers, strict=True):
        for answer, (nats, greedy) in zip(found, one_by_one(model, question), strict=True):
            np.testing.assert_allclose(answer.nats, nats, rtol=1e-4, atol=1e-5)
            assert answer.greedy == greedy


def test_the_likeliest_continuation_is_known_for_it():
    model, prefix = gpt(), np.array([1, 2, 3])
    written: list[int] = []
    for _ in range(4):
        logits, _ = model(torch.tensor([[*prefix, *written]]))
        written.append(int(logits[0, -1].argmax()))
    wrong = np.array([*written[:-1], (written[-1] + 1) % VOCAB])
    ((right, other),) = ModelScorer(model).answers([Question(prefix, (np.array(written), wrong))])
    assert right.greedy
    assert not other.greedy


def test_a_common_beginning_is_read_once(monkeypatch):
    """As of few-shot questions that begin with the same examples."""
    model, asked = gpt(), questions(np.random.default_rng(1), 6, shared=10)
    read: list[int] = []
    whole = model.hidden

    def counted(tokens_BT, *rest):
        read.append(tokens_BT.numel())
        return whole(tokens_BT, *rest)

    monkeypatch.setattr(model, "hidden", counted)
    ModelScorer(model).answers(asked)
    assert batches.shared_length(asked) >= 10
    assert read[0] == batches.shared_length(asked)


def test_batches_hold_all_once_and_no_more_than_fits():
    asked = questions(np.random.default_rng(2), 200)
    found = list(batches.in_batches(asked, CONTEXT, "cpu"))
    assert sorted(place for batch in found for place in batch) == list(range(200))
    for batch in found:
        longest = max(len(asked[place].prefix) for place in batch)
        assert longest + max(len(choice) for place in batch for choice in asked[place].continuations) - 1 <= CONTEXT
