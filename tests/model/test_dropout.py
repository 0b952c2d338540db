"""Dropout against its definition, with the masks that were really drawn."""

import pytest
import torch

from scratchlab.model import dropout
from scratchlab.model.activations import tanh_gelu


def test_attention_and_its_gradients_are_those_of_the_plain_formula_with_the_same_masks() -> None:
    B, H, T, D, share = 2, 3, 2 * dropout.QUERY_BLOCK + 17, 8, 0.3
    torch.manual_seed(1)
    qkv = torch.randn(B, T, 3, H, D, requires_grad=True)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    gradient = torch.randn(B, H, T, D)
    y = dropout.dropped_attention(q, k, v, share)
    kept = torch.zeros(B, H, T, T)
    for (row, queries, keys), bits in zip(dropout._blocks(q), y.grad_fn.bits, strict=True):
        kept[row, :, queries, keys] = dropout._kept(bits, share)
    (ours,) = torch.autograd.grad(y, qkv, gradient)
    scores = (q @ k.transpose(-1, -2)) / D**0.5 + torch.full((T, T), -torch.inf).triu(1)
    plain = (scores.softmax(-1) * kept) @ v
    (theirs,) = torch.autograd.grad(plain, qkv, gradient)
    assert float((y - plain).detach().norm() / plain.detach().norm()) < 1e-6
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-6


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_entries_are_dropped_at_the_share_and_the_rest_keep_the_mean(share: float) -> None:
    torch.manual_seed(2)
    n = 1_000_000
    x = torch.ones(n, requires_grad=True)
    y = dropout.Dropout(share).train()(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    y = y.detach()
    dropped = float((y == 0).float().mean())
    error = (share * (1 - share) / n) ** 0.5
    assert abs(dropped - share) < 4 * error + 1 / 2**16
    assert float(y.max()) == pytest.approx(1 / (1 - share), rel=1e-3)
    assert abs(float(y.mean()) - 1) < 5 * error / (1 - share)
    assert torch.equal(gradient, y), "what is dropped forward is dropped backward, and scaled alike"


def test_neighbors_are_dropped_independently() -> None:
    torch.manual_seed(3)
    kept = (dropout.Dropout(0.5).train()(torch.ones(1_000_000)) > 0).float() - 0.5
    for distance in (1, 2, 3, 4, 8):
        assert abs(float((kept[:-distance] * kept[distance:]).mean())) < 4 * 0.25 / 1000


def test_nothing_is_dropped_in_evaluation() -> None:
    x = torch.randn(100)
    assert torch.equal(dropout.Dropout(0.5).eval()(x), x)


def test_gelu_is_pytorchs_tanh_approximation() -> None:
    x = torch.cat([torch.linspace(-20, 20, 10_001), torch.tensor([-1e4, 1e4, 0.0])]).requires_grad_()
    gradient = torch.randn(len(x), generator=torch.Generator().manual_seed(4))
    exact = x.detach().double().requires_grad_()
    ours, theirs = tanh_gelu(x), torch.nn.functional.gelu(exact, approximate="tanh")
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
    (ours_gradient,) = torch.autograd.grad(ours, x, gradient)
    (theirs_gradient,) = torch.autograd.grad(theirs, exact, gradient.double())
    torch.testing.assert_close(ours_gradient.double(), theirs_gradient, rtol=1e-5, atol=5e-6)
