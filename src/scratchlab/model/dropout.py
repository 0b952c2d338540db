"""Dropout that is cheap on a CPU.

PyTorch draws a CPU's dropout masks one Bernoulli number at a time. Here four 16-bit numbers come out of each 64-bit
draw. On a GPU and under `torch.compile` PyTorch's own dropout is used.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dropout(nn.Module):
    """Zeroes each entry with probability `share` while training and scales the rest up by 1 / (1 - share)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if runs_pytorchs_dropout(x):
            return F.dropout(x, self.share)
        return _Dropout.apply(x, self.share)  # pyright: ignore[reportReturnType]


def runs_pytorchs_dropout(x: Tensor) -> bool:
    """Whether PyTorch's own kernels do it: on a GPU, and in a compiled graph."""
    return x.device.type != "cpu" or torch.compiler.is_compiling()


def random_bits(shape: tuple[int, ...]) -> Tensor:
    """16 random bits an entry, as int16, from the default generator."""
    entries = torch.Size(shape).numel()
    draws = torch.empty(-(-entries // 4), dtype=torch.int64).random_(-(2**63), None)
    return draws.view(torch.int16)[:entries].view(shape)


def kept(bits: Tensor, share: float, dtype: torch.dtype) -> Tensor:
    """1 where an entry stays, 0 where it is dropped, for a share as 16 bits can say it."""
    # Comparing into a float tensor is faster than into a bool one that is then multiplied.
    return torch.ge(bits, _dropped(share) - 2**15, out=torch.empty(bits.shape, dtype=dtype))


def scale(share: float) -> float:
    """What the entries that stay are multiplied by, so that the mean stays too."""
    return 2**16 / (2**16 - _dropped(share))


def _dropped(share: float) -> int:
    """Of the 65,536 values of 16 bits, how many mean that an entry is dropped."""
    return min(round(share * 2**16), 2**16 - 1)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float) -> Tensor:
        bits, ctx.share = random_bits(tuple(x.shape)), share
        ctx.save_for_backward(bits)
        return kept(bits, share, x.dtype).mul_(scale(share)).mul_(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), (bits,) = gradients, ctx.saved_tensors
        return kept(bits, ctx.share, gradient.dtype).mul_(scale(ctx.share)).mul_(gradient), None
