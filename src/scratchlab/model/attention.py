"""Causal attention: who may look where, and the kernels that do it.

Letters: B sequences, H heads, T tokens, L places they may look at, D width of a head; in our own kernel N = B H, and of
one block S queries.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scratchlab.model.dropout import Dropout, kept, random_bits, runs_pytorchs_dropout, scale
from scratchlab.model.layers import Linear

# (q_BHTD, k_BHLD, v_BHLD, visible_B1TL) -> y_BHTD. Without `visible` all look at themselves and at what came before,
# or, where there are more places than queries, everywhere.
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


COMMON = -1
"""The document that all others see, and that is all of what a cache holds."""


def visible_places(
    places_BT: Tensor,
    n_places: int,
    window: int | None = None,
    positions_BT: Tensor | None = None,
    documents_BT: Tensor | None = None,
) -> Tensor:
    """(B, 1, T, L), true where a query at a place may look: not ahead, in its window, in its document or `COMMON`.

    Windows count positions, which are the places unless given.
    """
    keys_L = torch.arange(n_places, device=places_BT.device)
    visible_BTL = keys_L <= places_BT[:, :, None]
    if window is not None:
        positions_BT = places_BT if positions_BT is None else positions_BT
        positions_BL = _in_row(positions_BT, places_BT, keys_L)
        visible_BTL = visible_BTL & (positions_BL[:, None] > positions_BT[:, :, None] - window)
    if documents_BT is not None:
        documents_BL = _in_row(documents_BT, places_BT, torch.full_like(keys_L, COMMON))
        same_BTL = documents_BT[:, :, None] == documents_BL[:, None]
        visible_BTL = visible_BTL & (same_BTL | (documents_BL == COMMON)[:, None])
    return visible_BTL[:, None]


def _in_row(new_BT: Tensor, places_BT: Tensor, cached_L: Tensor) -> Tensor:
    """(B, L): what is new at its places, and at all others what is said of the cache."""
    new_BT, places_BT = torch.broadcast_tensors(new_BT, places_BT)
    return cached_L.repeat(new_BT.shape[0], 1).scatter(1, places_BT, new_BT)


class Fused(nn.Module):
    """PyTorch's fused kernels, which keep no attention weights; on a CPU our own where weights are dropped."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, q_BHTD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, visible: Tensor | None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        if visible is None and q_BHTD.shape[2] == k_BHLD.shape[2]:
            return causal_attention(q_BHTD, k_BHLD, v_BHLD, dropout)
        return F.scaled_dot_product_attention(q_BHTD, k_BHLD, v_BHLD, visible, dropout)


class Explicit(nn.Module):
    """Softmax attention written out. `weights` is where to listen: every attention weight passes through it.

    A forward hook on `weights` sees (B, H, T, L), after the softmax and before dropout.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.weights = nn.Identity()
        self.dropout = Dropout(dropout) if dropout else nn.Identity()

    def forward(self, q_BHTD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, visible: Tensor | None) -> Tensor:
        T, L = q_BHTD.shape[2], k_BHLD.shape[2]
        if visible is None:
            visible = torch.ones(T, L, dtype=torch.bool, device=q_BHTD.device).tril_(L - T)
        at_least_float = torch.promote_types(q_BHTD.dtype, torch.float32)
        scores_BHTL = (q_BHTD @ k_BHLD.transpose(-1, -2)).to(at_least_float) * q_BHTD.shape[-1] ** -0.5
        weights_BHTL = torch.softmax(scores_BHTL.masked_fill(~visible, -torch.inf), dim=-1)
        return self.dropout(self.weights(weights_BHTL)).to(v_BHLD.dtype) @ v_BHLD


KERNELS: Mapping[str, Callable[[float], nn.Module]] = {"fused": Fused, "explicit": Explicit, "torch": Fused}


def multihead_attention(
    x_BTC: Tensor, qkv: Linear, out: Linear, n_head: int, visible: Tensor | None, dropout: float
) -> Tensor:
    """What PyTorch's `nn.MultiheadAttention` computes, here with the weights of two linear layers."""
    B, T, C = x_BTC.shape
    if visible is None:
        blocked = torch.ones(T, T, dtype=torch.bool, device=x_BTC.device).triu_(1)
    else:
        blocked = ~visible.expand(B, n_head, T, T).reshape(B * n_head, T, T)
    x_TBC = x_BTC.to(qkv.compute_dtype).transpose(0, 1)
    (w_qkv, b_qkv), (w_out, b_out) = qkv.cast(), out.cast()
    y_TBC, _ = F.multi_head_attention_forward(
        x_TBC, x_TBC, x_TBC, C, n_head, w_qkv, b_qkv, None, None, False, dropout, w_out, b_out,
        training=dropout > 0, need_weights=False, attn_mask=blocked, is_causal=visible is None,
    )  # fmt: skip
    return y_TBC.transpose(0, 1)


def turned(x_BHTD: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions (Su et al. 2021): number i and number i + D / 2 of a head as a point, turned by its angle."""
    cosine, sine = (part.to(x_BHTD.dtype) for part in rotation)
    a, b = x_BHTD.chunk(2, dim=-1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], dim=-1)


def rotation(places_BT: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (B, 1, T, width / 2): place p turns pair i by p / 10000^(2 i / width)."""
    frequencies = 10_000.0 ** (-torch.arange(0, width, 2, device=places_BT.device).float() / width)
    angles = (places_BT[:, :, None] * frequencies)[:, None]
    return angles.cos(), angles.sin()


def sinusoids(places_BT: Tensor, width: int) -> Tensor:
    """(B, T, width): a place's sines, then its cosines, at falling frequencies (Vaswani et al. 2017)."""
    cosine, sine = rotation(places_BT, width)
    return torch.cat([sine, cosine], dim=-1)[:, 0]


# PyTorch's bf16 kernel for CPUs needs four times as long as the float32 one for the backward pass of short sequences
# (measured: T = 64, D = 32, with AMX and without). With AMX they break even where T times D is about this; without, our
# own blocks take over there (measured: 0.73 of the time of PyTorch's at T = 1024, 0.5 at T = 256, D = 64).
SHORT = 2**14


def causal_attention(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, dropout: float = 0.0) -> Tensor:
    """Softmax attention to oneself and what came before; each attention weight is dropped with probability `dropout`.

    Gives (B, H, T, D) in the type of the values.
    """
    short = q_BHTD.shape[2] * q_BHTD.shape[3] < SHORT
    slow = q_BHTD.dtype == torch.bfloat16 and q_BHTD.device.type == "cpu" and q_BHTD.requires_grad
    if not runs_pytorchs_dropout(q_BHTD) and (dropout or (slow and not short and not has_amx())):
        return _BlockAttention.apply(q_BHTD, k_BHTD, v_BHTD, dropout)  # pyright: ignore[reportReturnType]
    if slow and short:
        y_BHTD = F.scaled_dot_product_attention(q_BHTD.float(), k_BHTD.float(), v_BHTD.float(), is_causal=True)
        return y_BHTD.to(v_BHTD.dtype)
    return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, dropout_p=dropout, is_causal=True)


@functools.cache
def has_amx() -> bool:
    """Whether this processor has units for products of whole tiles."""
    return bool(torch.cpu.get_capabilities().get("amx_tile"))


# In a block: few queries, so that little above the diagonal is computed, or an eighth of all if that is more; and as
# many heads as have so many scores together. With more of them there are fewer and larger products (measured without
# AMX at T = 256, 512 and 1024: 2^21 takes .75 to .85 of the time of 2^19). With dropout the bits that are drawn depend
# on the blocks, which stay as they were.
QUERIES = 64
ENTRIES, ENTRIES_DROPPED = 2**21, 2**19


class _BlockAttention(torch.autograd.Function):
    """Some heads and a block of queries at a time; the attention weights are computed again in the backward pass.

    PyTorch leaves its fused kernel as soon as attention weights are to be dropped, draws every number by itself and
    keeps three arrays of T by T for the backward pass: a third of the time of nanoGPT on a CPU, and half its memory.
    And where a processor has bf16 but no AMX, the fused kernel itself is slow.
    """

    @staticmethod
    def forward(ctx: Any, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, dropout: float) -> Tensor:
        q_NTD, k_NTD, v_NTD = (x.flatten(0, 1) for x in (q_BHTD, k_BHTD, v_BHTD))
        y_NTD = torch.empty_like(q_NTD)
        ctx.dropout, bits = dropout, list[Tensor]()
        for heads, queries, keys in _blocks(q_NTD, dropout):
            weights_NSL = _weights(q_NTD[heads, queries], k_NTD[heads, keys])
            if dropout:
                bits.append(random_bits(tuple(weights_NSL.shape)))
                weights_NSL.mul_(kept(bits[-1], dropout, weights_NSL.dtype))
            y_NTD[heads, queries] = torch.bmm(weights_NSL, v_NTD[heads, keys])
        ctx.save_for_backward(q_NTD, k_NTD, v_NTD, y_NTD, *bits)
        return (y_NTD * scale(dropout)).view(q_BHTD.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q_NTD, k_NTD, v_NTD, y_NTD, *bits = ctx.saved_tensors
        gy_NTD = gradients[0].flatten(0, 1) * scale(ctx.dropout)
        gq_NTD, gk_NTD, gv_NTD = torch.empty_like(q_NTD), torch.zeros_like(k_NTD), torch.zeros_like(v_NTD)
        # Through the softmax: the gradient of each score is its weight times how much its gradient exceeds their
        # weighted mean, and that mean is the product of what came out with its gradient (Dao et al. 2022, appendix B).
        means_NT1 = (gy_NTD.float() * y_NTD).sum(-1, keepdim=True).to(gy_NTD.dtype)
        for number, (heads, queries, keys) in enumerate(_blocks(q_NTD, ctx.dropout)):
            q_NSD, k_NLD = q_NTD[heads, queries], k_NTD[heads, keys]
            weights_NSL = dropped_NSL = _weights(q_NSD, k_NLD)
            gscores_NSL = torch.bmm(gy_NTD[heads, queries], v_NTD[heads, keys].transpose(1, 2))
            if ctx.dropout:
                kept_NSL = kept(bits[number], ctx.dropout, q_NTD.dtype)
                dropped_NSL = weights_NSL * kept_NSL
                gscores_NSL.mul_(kept_NSL)
            gscores_NSL.sub_(means_NT1[heads, queries]).mul_(weights_NSL)
            gv_NTD[heads, keys] += torch.bmm(dropped_NSL.transpose(1, 2), gy_NTD[heads, queries])
            gq_NTD[heads, queries] = torch.bmm(gscores_NSL, k_NLD)
            gk_NTD[heads, keys] += torch.bmm(gscores_NSL.transpose(1, 2), q_NSD)
        shape, width = gradients[0].shape, q_NTD.shape[-1] ** 0.5
        return gq_NTD.div_(width).view(shape), gk_NTD.div_(width).view(shape), gv_NTD.view(shape), None


def _blocks(q_NTD: Tensor, dropout: float) -> Iterator[tuple[slice, slice, slice]]:
    """Heads, queries, and the keys that the last of those queries may see."""
    n, length, _ = q_NTD.shape
    queries, entries = (QUERIES, ENTRIES_DROPPED) if dropout else (max(QUERIES, length // 8), ENTRIES)
    heads = max(1, entries // (queries * length))
    for first in range(0, n, heads):
        for start in range(0, length, queries):
            end = min(start + queries, length)
            yield slice(first, first + heads), slice(start, end), slice(0, end)


def _weights(q_NSD: Tensor, k_NLD: Tensor) -> Tensor:
    """Causal attention weights of the last S of L places, before dropout (N, S, L)."""
    queries, keys = q_NSD.shape[1], k_NLD.shape[1]
    mask_SL = torch.full((queries, keys), -torch.inf, dtype=q_NSD.dtype).triu_(keys - queries + 1)
    scores_NSL = torch.baddbmm(mask_SL, q_NSD, k_NLD.transpose(1, 2), alpha=q_NSD.shape[-1] ** -0.5)
    return torch.softmax(scores_NSL, -1)  # PyTorch's sums are float32 inside
