"""The optimizer on the CPU, for cards whose memory does not hold its moments (Ren et al. 2021, "ZeRO-Offload").

The device keeps the weights that it computes with. Their copies on the CPU are what the optimizer updates: gradients
go there, weights come back, and the moments never leave.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def host_copies(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """A copy of each parameter on the CPU."""
    return [nn.Parameter(_pinned(parameter.detach().cpu().clone())) for parameter in parameters]


def send_gradients(parameters: Sequence[nn.Parameter], copies: Sequence[nn.Parameter]) -> None:
    """Move the gradients of the parameters to their copies. Waits until they are there."""
    for parameter, copy in zip(parameters, copies, strict=True):
        if parameter.grad is None:
            copy.grad = None
            continue
        if copy.grad is None:
            copy.grad = _pinned(torch.empty_like(copy))
        copy.grad.copy_(parameter.grad, non_blocking=True)
        parameter.grad = None
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def fetch_weights(parameters: Sequence[nn.Parameter], copies: Sequence[nn.Parameter]) -> None:
    """Give the parameters the values of their copies. What the device computes next waits for them, nobody else."""
    with torch.no_grad():
        for parameter, copy in zip(parameters, copies, strict=True):
            parameter.copy_(copy, non_blocking=True)


def _pinned(tensor: Tensor) -> Tensor:
    """In memory that a card reads by itself, where there is a card."""
    return tensor.pin_memory() if torch.cuda.is_available() else tensor
