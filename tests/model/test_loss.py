"""The chunked loss is the plain one, gradients included, and never makes more logits than it may."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scratchlab.evaluation.scorer import ModelScorer
from scratchlab.model import loss as module
from scratchlab.model.loss import Objective, Readout, token_losses, weighted_cross_entropy
from tiny import VOCAB, distance, modest, random_tokens, tiny_gpt

Parts = tuple[Tensor, Tensor, Tensor, Tensor]
PLAIN = Readout(VOCAB)


def drawn(n: int, width: int = 5, seed: int = 0) -> Parts:
    """Hidden states, a head, targets, and weights of which some are 0."""
    generator = torch.Generator().manual_seed(seed)
    hidden, head = (torch.randn(rows, width, generator=generator) for rows in (n, VOCAB))
    weights = torch.rand(n, generator=generator) * (torch.rand(n, generator=generator) > 0.3)
    return hidden, head, torch.randint(VOCAB, (n,), generator=generator), weights


def by_definition(hidden: Tensor, head: Tensor, targets: Tensor, readout: Readout = PLAIN) -> Tensor:
    """-log softmax at the target, in float64, one row after another."""
    scores = hidden.double() @ head.double()[: readout.vocab_size].T
    scores = readout.cap * torch.tanh(scores / readout.cap) if readout.cap else scores
    return torch.stack([row.exp().sum().log() - row[target] for row, target in zip(scores, targets, strict=True)])


def with_gradients(parts: Parts, scale: float, readout: Readout = PLAIN) -> list[Tensor]:
    hidden, head, targets, weights = (part.clone() for part in parts)
    hidden.requires_grad_()
    head.requires_grad_()
    total = weighted_cross_entropy(hidden, head, targets, weights, readout)
    (total * scale).backward()
    assert hidden.grad is not None
    assert head.grad is not None
    return [total.detach(), hidden.grad, head.grad]


def expected_gradients(parts: Parts, scale: float, readout: Readout = PLAIN) -> list[Tensor]:
    hidden, head, targets, weights = parts
    hidden, head = hidden.double().requires_grad_(), head.double().requires_grad_()
    total = (by_definition(hidden, head, targets, readout) * weights.double()).sum()
    return [total.detach(), *torch.autograd.grad(total * scale, [hidden, head])]


@modest
@given(
    n=st.integers(1, 20),
    entries=st.integers(1, 25 * VOCAB),
    seed=st.integers(0, 99),
    scale=st.floats(0.1, 4),
    padding=st.integers(0, 3),
    cap=st.sampled_from([None, 2.0]),
)
def test_loss_and_gradients_are_those_of_the_definition(
    n: int, entries: int, seed: int, scale: float, padding: int, cap: float | None
) -> None:
    readout = Readout(VOCAB - padding, cap)
    hidden, head, targets, weights = drawn(n, seed=seed)
    parts = hidden, head, targets % readout.vocab_size, weights
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_ENTRIES", entries)
        found = with_gradients(parts, scale, readout)
        losses = token_losses(*parts[:3], readout)
    for ours, theirs in zip(found, expected_gradients(parts, scale, readout), strict=True):
        assert distance(ours, theirs) < 2e-6 or float(theirs.norm()) == 0 == float(ours.norm())
    assert not found[2][readout.vocab_size :].any(), "padding learns nothing"
    assert distance(losses, by_definition(*parts[:3], readout)) < 2e-6


def test_a_target_of_weight_0_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, head, targets, weights = drawn(12)
    weights[4:] = 0
    for entries in (10**9, 3 * VOCAB):
        monkeypatch.setattr(module, "CHUNK_ENTRIES", entries)
        whole, part = (with_gradients(p, 1.0) for p in [(hidden, head, targets, weights), drawn(12)])
        alone = with_gradients((hidden[:4], head, targets[:4], weights[:4]), 1.0)
        assert distance(whole[0], alone[0]) < 1e-6
        assert distance(whole[2], alone[2]) < 1e-6
        assert not whole[1][4:].any()
        assert distance(part[0], alone[0]) > 0.1


@pytest.mark.parametrize("tie", [True, False])
def test_a_model_learns_the_same_from_both(monkeypatch: pytest.MonkeyPatch, tie: bool) -> None:
    model = tiny_gpt(spread=8.0, tie_weights=tie)
    tokens, targets = random_tokens(3, 6), random_tokens(3, 6, seed=1)
    weights = torch.rand(3, 6)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        loss_sum, weight_sum, _ = Objective(model)(tokens, targets, weights)
        (loss_sum / weight_sum).backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    plain = gradients()
    monkeypatch.setattr(module, "CHUNK_ENTRIES", 4 * VOCAB)
    assert all(distance(a, b) < 1e-5 for a, b in zip(gradients(), plain, strict=True))
    assert len(plain) == len(list(model.parameters()))


class Largest(TorchDispatchMode):
    """Remembers the most entries any operation made."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else [result]:
            if isinstance(made, Tensor):
                self.entries = max(self.entries, made.numel())
        return result


@pytest.mark.parametrize("compute", [lambda p: with_gradients(p, 1.0), lambda p: token_losses(*p[:3], PLAIN)])
def test_no_more_logits_at_once_than_allowed(monkeypatch: pytest.MonkeyPatch, compute: Callable[[Parts], Any]) -> None:
    parts = drawn(500, width=2)
    monkeypatch.setattr(module, "CHUNK_ENTRIES", 1500)
    with Largest() as largest:
        compute(parts)
    assert 1000 <= largest.entries <= 1500
    monkeypatch.setattr(module, "CHUNK_ENTRIES", 10**6)
    with Largest() as largest:
        compute(parts)
    assert largest.entries == 500 * VOCAB


def test_the_objective_sums_what_the_scorer_gives_one_by_one() -> None:
    model = tiny_gpt(spread=8.0)
    tokens, targets = random_tokens(3, 6), random_tokens(3, 6, seed=1)
    weights = torch.tensor([[1.0, 0, 1, 1, 1, 0]]).expand(3, 6)
    loss_sum, weight_sum, state = Objective(model)(tokens, targets, weights)
    losses = ModelScorer(model).windows(tokens.numpy(), targets.numpy())
    assert losses.shape == (3, 6)
    assert float(loss_sum.detach()) == pytest.approx(float((losses * weights.numpy()).sum()), rel=1e-6)
    assert float(weight_sum) == 12
    assert state is None
    logits = model(tokens)[0].double()
    expected = logits.logsumexp(-1) - logits.gather(-1, targets[..., None]).squeeze(-1)
    np.testing.assert_allclose(losses, expected.detach().numpy(), rtol=1e-5)
