"""Attention, dropout and GELU against their definitions, with the masks that were really drawn."""

import pytest
import torch

from scratchlab.model import attention, dropout
from scratchlab.model.activations import tanh_gelu


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_attention_and_its_gradients_are_those_of_the_plain_formula_with_the_same_masks(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    B, H, T, D = 2, 3, 2 * attention.QUERIES + 17, 8
    entries = "ENTRIES_DROPPED" if share else "ENTRIES"
    monkeypatch.setattr(attention, entries, 4 * attention.QUERIES * T)  # four of the six heads, then two
    torch.manual_seed(1)
    qkv = torch.randn(B, T, 3, H, D, requires_grad=True)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    gradient = torch.randn(B, H, T, D)
    y = attention.causal_attention(q, k, v, share)
    kept = torch.ones(B * H, T, T)
    if share:
        blocks = attention._blocks(q.flatten(0, 1), share)
        for (heads, queries, keys), bits in zip(blocks, y.grad_fn.saved_tensors[4:], strict=True):
            kept[heads, queries, keys] = dropout.kept(bits, share, torch.float32) * dropout.scale(share)
    (ours,) = torch.autograd.grad(y, qkv, gradient)
    scores = (q @ k.transpose(-1, -2)) / D**0.5 + torch.full((T, T), -torch.inf).triu(1)
    plain = (scores.softmax(-1) * kept.view(B, H, T, T)) @ v
    (theirs,) = torch.autograd.grad(plain, qkv, gradient)
    assert float((y - plain).detach().norm() / plain.detach().norm()) < 1e-6
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-6


@pytest.mark.parametrize("share", [0.0, 0.2])
@pytest.mark.parametrize(("T", "D"), [(64, 32), (256, 64)])  # below and at SHORT
def test_attention_in_bf16_stays_near_that_of_the_same_numbers_in_float64(T: int, D: int, share: float) -> None:
    torch.manual_seed(1)
    inputs = torch.randn(3, 2, 2, T, D).bfloat16()
    gradient = torch.randn(2, 2, T, D).bfloat16()
    results: list[list[torch.Tensor]] = []
    for dtype in (torch.bfloat16, torch.float64):
        qkv = inputs.to(dtype).requires_grad_()
        torch.manual_seed(2)
        y = attention.causal_attention(*qkv.unbind(0), share)
        assert y.dtype == dtype
        (back,) = torch.autograd.grad(y, qkv, gradient.to(dtype))
        results.append([y.detach().double(), *back.double().unbind(0)])
    for ours, exact in zip(*results, strict=True):
        assert float((ours - exact).norm() / exact.norm()) < 1e-2


@pytest.mark.parametrize(
    ("amx", "dtype", "T", "kernel"),
    [
        (False, torch.bfloat16, 256, "_BlockAttention"),
        (False, torch.bfloat16, 64, "ScaledDot"),
        (False, torch.float32, 256, "ScaledDot"),
        (True, torch.bfloat16, 256, "ScaledDot"),
    ],
)
def test_attention_goes_by_the_kernel_that_was_measured_to_be_fastest(
    amx: bool, dtype: torch.dtype, T: int, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "has_amx", lambda: amx)
    q = torch.randn(1, 1, T, 64, dtype=dtype, requires_grad=True)
    node = attention.causal_attention(q, q, q).grad_fn
    names: list[str] = []
    while node is not None:
        names.append(node.name())
        node = node.next_functions[0][0] if node.next_functions else None
    assert any(kernel in name for name in names), names


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
