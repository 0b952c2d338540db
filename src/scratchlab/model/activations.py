"""Activations of the MLP, GPT-2's in the form a CPU computes fastest."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SLOPE = 2 * math.sqrt(2 / math.pi)
CUBIC = 0.044715


def tanh_gelu(x: Tensor) -> Tensor:
    """GELU by its tanh approximation (Hendrycks and Gimpel 2016), as GPT-2 has it.

    tanh is a sigmoid in disguise: 0.5 (1 + tanh(z / 2)) = sigmoid(z). PyTorch's CPU kernel takes the tanh, at half the
    speed of the sigmoid; elsewhere its fused kernel is the best there is.
    """
    plain = not torch.is_grad_enabled() or torch.compiler.is_compiling()  # a single token is not worth the detour
    if plain or x.device.type != "cpu" or x.dtype != torch.float32:
        return F.gelu(x, approximate="tanh")
    return _TanhGelu.apply(x)  # pyright: ignore[reportReturnType]


class _TanhGelu(torch.autograd.Function):
    """x sigmoid(z) with z = SLOPE (x + CUBIC x^3); its derivative is sigmoid(z) (1 + x z' (1 - sigmoid(z)))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate = (x * x).mul_(SLOPE * CUBIC).add_(SLOPE).mul_(x).sigmoid_()
        ctx.save_for_backward(x, gate)
        return gate * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x, gate = ctx.saved_tensors
        slope = (x * x).mul_(3 * SLOPE * CUBIC).add_(SLOPE).mul_(x)
        return slope.addcmul_(slope, gate, value=-1).add_(1).mul_(gate).mul_(gradients[0])


def relu2(x: Tensor) -> Tensor:
    """ReLU, squared (So et al. 2021, "Primer")."""
    return F.relu(x).square()


# Of the MLP's inside; SwiGLU's is that of its gate (Shazeer 2020).
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": tanh_gelu,
    "gelu": F.gelu,
    "relu": F.relu,
    "relu2": relu2,
    "swiglu": F.silu,
}
