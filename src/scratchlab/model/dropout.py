"""Dropout that is cheap on a CPU.

PyTorch draws a CPU's dropout masks one Bernoulli number at a time, and leaves the fused attention kernel as soon as
attention weights are to be dropped: together a third of nanoGPT's time on a CPU, and half of its memory. Here four
16-bit numbers come out of each 64-bit draw, and attention goes through in blocks that stay in the cache. On a GPU and
under `torch.compile` PyTorch's own dropout is used.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

QUERY_BLOCK = (
    64  # queries at once: their scores stay in a core's cache, and the half above the diagonal is not computed
)


class Dropout(nn.Module):
    """Zeroes each entry with probability `share` while training and scales the rest up by 1 / (1 - share)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if _use_pytorch(x):
            return F.dropout(x, self.share)
        return _Dropout.apply(x, self.share)  # pyright: ignore[reportReturnType]


def dropped_attention(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, share: float) -> Tensor:
    """Causal softmax attention, (B, H, T, D), in which each attention weight is dropped with probability `share`."""
    if _use_pytorch(q_BHTD):
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, dropout_p=share, is_causal=True)
    return _DroppedAttention.apply(q_BHTD, k_BHTD, v_BHTD, share)  # pyright: ignore[reportReturnType]


def _use_pytorch(x: Tensor) -> bool:
    return x.device.type != "cpu" or torch.compiler.is_compiling()


def _random_bits(shape: tuple[int, ...]) -> Tensor:
    """16 random bits an entry, as int16, from the default generator."""
    entries = torch.Size(shape).numel()
    draws = torch.empty(-(-entries // 4), dtype=torch.int64).random_(-(2**63), None)
    return draws.view(torch.int16)[:entries].view(shape)


def _kept(bits: Tensor, share: float) -> Tensor:
    """1 / (1 - share) where an entry stays, 0 where it is dropped, float32; the share as 16 bits can say it."""
    dropped = min(round(share * 2**16), 2**16 - 1)
    kept = torch.ge(bits, dropped - 2**15, out=torch.empty(bits.shape))  # a float result is faster than a bool one
    return kept.mul_(2**16 / (2**16 - dropped))


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float) -> Tensor:
        ctx.bits, ctx.share = _random_bits(tuple(x.shape)), share
        return (_kept(ctx.bits, share) * x).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return (_kept(ctx.bits, ctx.share) * gradient).to(gradient.dtype), None


class _DroppedAttention(torch.autograd.Function):
    """One sequence and one block of queries at a time; the weights are computed again in the backward pass.

    Letters: S queries of a block, L keys that they may see.
    """

    @staticmethod
    def forward(ctx: Any, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, share: float) -> Tensor:
        y_BTHD = torch.empty_like(q_BHTD.transpose(1, 2), memory_format=torch.contiguous_format)
        y_BHTD = y_BTHD.transpose(1, 2)
        ctx.bits = []
        for row, queries, keys in _blocks(q_BHTD):
            weights_HSL = _weights(q_BHTD[row, :, queries], k_BHTD[row, :, keys])
            ctx.bits.append(_random_bits(tuple(weights_HSL.shape)))
            weights_HSL = weights_HSL.mul_(_kept(ctx.bits[-1], share)).to(v_BHTD.dtype)
            y_BHTD[row, :, queries] = weights_HSL @ v_BHTD[row, :, keys]
        ctx.save_for_backward(q_BHTD, k_BHTD, v_BHTD)
        ctx.share = share
        return y_BHTD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q_BHTD, k_BHTD, v_BHTD = ctx.saved_tensors
        gq_BHTD = torch.empty_like(q_BHTD)
        gk_BHTD, gv_BHTD = torch.zeros_like(k_BHTD), torch.zeros_like(v_BHTD)
        scale = q_BHTD.shape[-1] ** -0.5
        for (row, queries, keys), bits in zip(_blocks(q_BHTD), ctx.bits, strict=True):
            q_HSD, k_HLD, v_HLD = q_BHTD[row, :, queries], k_BHTD[row, :, keys], v_BHTD[row, :, keys]
            gy_HSD = gradients[0][row, :, queries]
            weights_HSL, kept_HSL = _weights(q_HSD, k_HLD), _kept(bits, ctx.share)
            dropped_HSL = (weights_HSL * kept_HSL).to(gy_HSD.dtype)
            gv_BHTD[row, :, keys].baddbmm_(dropped_HSL.transpose(1, 2), gy_HSD)
            gw_HSL = torch.bmm(gy_HSD, v_HLD.transpose(1, 2)).mul_(kept_HSL)
            # Through the softmax: the gradient of each score is its weight times how its gradient exceeds their mean.
            gw_HSL = gw_HSL.sub_((gw_HSL * weights_HSL).sum(-1, keepdim=True)).mul_(weights_HSL).to(q_HSD.dtype)
            gq_BHTD[row, :, queries] = torch.bmm(gw_HSL, k_HLD).mul_(scale)
            gk_BHTD[row, :, keys].baddbmm_(gw_HSL.transpose(1, 2), q_HSD, alpha=scale)
        return gq_BHTD, gk_BHTD, gv_BHTD, None


def _blocks(q_BHTD: Tensor) -> "list[tuple[int, slice, slice]]":
    """Row, queries, and the keys that the last of those queries may see."""
    rows, length = q_BHTD.shape[0], q_BHTD.shape[2]
    starts = range(0, length, QUERY_BLOCK)
    return [
        (row, slice(start, min(start + QUERY_BLOCK, length)), slice(0, min(start + QUERY_BLOCK, length)))
        for row in range(rows)
        for start in starts
    ]


def _weights(q_HSD: Tensor, k_HLD: Tensor) -> Tensor:
    """Causal attention weights of the last S of L places, before dropout, float32 (H, S, L)."""
    queries, keys = q_HSD.shape[1], k_HLD.shape[1]
    mask_SL = torch.full((queries, keys), -torch.inf, dtype=q_HSD.dtype).triu_(keys - queries + 1)
    scores_HSL = torch.baddbmm(mask_SL, q_HSD, k_HLD.transpose(1, 2), alpha=q_HSD.shape[-1] ** -0.5)
    return torch.softmax(scores_HSL, -1, dtype=torch.float32)
