"""Answers to questions: what each continuation costs after its prefix, however questions are batched and shared."""

import itertools

import numpy as np
import pytest
import torch

from scratchlab.architecture import GPTSection, RNNSection
from scratchlab.errors import UsageError
from scratchlab.evaluation import batches, scorer
from scratchlab.evaluation.scorer import ModelScorer, Question
from scratchlab.model.attention import COMMON
from scratchlab.model.build import Model, build_model

VOCAB, CONTEXT, END = 50, 24, 0
GPTS = {
    "learned": {},
    "rotary": {"positions": "rotary", "norm": "rms", "mlp": "swiglu"},
    "window": {"positions": "rotary", "window": 6, "n_kv_head": 1},
    "every other window": {"positions": "sinusoidal", "window": 3, "window_layers": "alternate", "qk_norm": True},
    "explicit": {"attention": "explicit", "logit_cap": 5.0, "vocab_multiple": 64},
    "torch": {"attention": "torch", "positions": "none", "window": 4, "norm_position": "post"},
    "documents": {"document_mask": True},
    "none": {"attention": "none"},
}


def gpt(**switches: object) -> Model:
    config = GPTSection(n_layer=2, n_head=2, d_model=16, context_length=CONTEXT, **switches)  # pyright: ignore[reportArgumentType]
    model = build_model(config, VOCAB, seed=3, end_of_text=END).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0)
    return model


def rnn() -> Model:
    return build_model(RNNSection(architecture="rnn", d_model=16, context_length=CONTEXT), VOCAB, seed=3).eval()


def questions(rng: np.random.Generator, count: int, shared: int = 0) -> list[Question]:
    """Questions of all lengths that fit, some with nothing but one token; they hold no end of text."""
    common = rng.integers(1, VOCAB, shared)
    made: list[Question] = []
    for _ in range(count):
        choices = rng.integers(1, 5)
        longest = int(rng.integers(1, CONTEXT // 2))
        prefix = np.append(common, rng.integers(1, VOCAB, rng.integers(1, CONTEXT - longest - shared + 2)))
        sizes = rng.integers(1, longest + 1, choices)
        made.append(Question(prefix, tuple(rng.integers(1, VOCAB, size) for size in sizes)))
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
    monkeypatch.setattr(scorer, "WORTH_SHARING", 0.0)
    check(make(), questions(np.random.default_rng(at_once + shared), 12, shared))


@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("document_mask", [False, True])
def test_an_end_of_text_parts_what_it_parts_in_training(at, document_mask):
    asked = [
        Question(np.insert(np.array([4, 5, 6, 7]), at, END), (np.array([8, 9]), np.array([3, 2, 1]))),
        Question(np.insert(np.array([4, 5, 6, 8]), at, END), (np.array([8, END, 9, 3]), np.array([4]))),
        Question(np.insert(np.array([4, 5, 6, 9]), at, END), (np.array([1, 2]), np.array([3, END]))),
    ]
    check(gpt(document_mask=document_mask), asked)
    check(gpt(document_mask=document_mask), [asked[0], asked[2]])


def check(model: Model, asked: list[Question]) -> None:
    """Each answer is that of the question alone."""
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
    shared = batches.shared_length(asked)
    first, *rest = reads(monkeypatch, model, asked)
    assert shared >= 10
    assert first[0].tolist() == [asked[0].prefix[:shared].tolist()]
    assert rest
    assert all(state.lengths == [shared + tokens.shape[1]] * len(tokens) for tokens, state, *_ in rest)


def reads(monkeypatch, model: Model, asked: list[Question]) -> list[tuple]:
    """What the model is given to read: tokens, state, positions and documents."""
    read, whole = list[tuple](), model.hidden
    monkeypatch.setattr(model, "hidden", lambda *given: (read.append(given), whole(*given))[1])
    ModelScorer(model).answers(asked)
    return read


def test_a_prefix_is_read_once_and_each_continuation_beside_the_others(monkeypatch):
    """The row is longer than what the model sees at once; no continuation is."""
    prefix, choices = np.arange(1, 21), tuple(np.arange(at, at + size) for at, size in enumerate((5, 1, 4, 5)))
    ((tokens, state, positions, documents),) = reads(monkeypatch, gpt(), [Question(prefix, choices)])
    assert tokens.tolist() == [[*range(1, 21), 0, 1, 2, 3, 2, 3, 4, 3, 4, 5, 6]]
    assert tokens.shape[1] > CONTEXT
    assert state is None
    assert positions.tolist() == [[*range(20), 20, 21, 22, 23, 20, 21, 22, 20, 21, 22, 23]]
    assert documents.tolist() == [[COMMON] * 20 + [0] * 4 + [2] * 3 + [3] * 4]


def test_equal_continuations_are_read_once(monkeypatch):
    """So that they tie, in whatever order sums are taken."""
    asked = Question(np.array([1, 2]), tuple(np.array(tokens) for tokens in ([3, 4, 5], [6, 7], [3, 4, 5])))
    ((first, _, last),) = ModelScorer(gpt()).answers([asked])
    assert first.nats.tolist() == last.nats.tolist()
    ((tokens, *_),) = reads(monkeypatch, gpt(), [asked])
    assert tokens.tolist() == [[1, 2, 3, 4, 6]]


def test_single_continuations_are_read_without_a_mask(monkeypatch):
    asked = [Question(np.array([1, 2]), (np.array([3, 4]),)), Question(np.array([5]), (np.array([6]),))]
    ((tokens, state),) = reads(monkeypatch, gpt(), asked)
    assert tokens.tolist() == [[1, 2, 3], [5, 0, 0]]
    assert state is None


def test_a_continuation_beyond_the_context_is_an_error():
    choices = (np.array([1]), np.array([1, 2]))
    ModelScorer(gpt()).answers([Question(np.ones(CONTEXT - 1, np.int64), choices)])
    with pytest.raises(UsageError, match=f"sees {CONTEXT} tokens at most"):
        ModelScorer(gpt()).answers([Question(np.ones(CONTEXT, np.int64), choices)])


def test_no_questions_have_no_answers():
    assert ModelScorer(gpt()).answers([]) == []


def test_rows_of_like_length_are_read_together():
    lengths = np.random.default_rng(2).integers(1, 300, 200).tolist()
    found = list(batches.rows_in_batches(lengths, "cpu"))
    assert sorted(place for batch in found for place in batch) == list(range(200))
    sizes = [[lengths[place] for place in batch] for batch in found]
    assert [size for batch in sizes for size in batch] == sorted(lengths, reverse=True)
    most = batches.TOKENS_AT_ONCE["cpu"]
    for batch, following in itertools.pairwise(sizes):
        assert len(batch) * batch[0] <= most < (len(batch) + 1) * batch[0]
        assert following
    assert list(batches.rows_in_batches([most + 1, most + 1], "cpu")) == [[0], [1]]


def test_batches_hold_all_once_and_no_more_than_fits():
    asked = questions(np.random.default_rng(2), 200)
    found = list(batches.in_batches(asked, CONTEXT, "cpu"))
    assert sorted(place for batch in found for place in batch) == list(range(200))
    for batch in found:
        longest = max(len(asked[place].prefix) for place in batch)
        assert longest + max(len(choice) for place in batch for choice in asked[place].continuations) - 1 <= CONTEXT
