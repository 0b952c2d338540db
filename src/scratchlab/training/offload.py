"""The optimizer on the CPU, for cards whose memory does not hold its moments (Ren et al. 2021, "ZeRO-Offload").

The device keeps the weights that it computes with. Their copies on the CPU are what the optimizer updates: gradients
go there, weights come back, and the moments never leave.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from scratchlab.hardware import synchronize

Parameters = Mapping[str, nn.Parameter]


def host_copies(parameters: Parameters) -> dict[str, nn.Parameter]:
    """A copy of each parameter on the CPU, by the same name."""
    return {name: nn.Parameter(_pinned(one.detach().cpu().clone())) for name, one in parameters.items()}


def send_gradients(parameters: Parameters, copies: Parameters) -> None:
    """Move the gradients of the parameters to their copies. Waits until they are there."""
    device = str(next(iter(parameters.values())).device)
    for name, parameter in parameters.items():
        copy = copies[name]
        if parameter.grad is None:
            copy.grad = None
            continue
        if copy.grad is None:
            copy.grad = _pinned(torch.empty_like(copy))
        copy.grad.copy_(parameter.grad, non_blocking=True)
        parameter.grad = None
    synchronize(device)


def fetch_weights(parameters: Parameters, copies: Parameters) -> None:
    """Give the parameters the values of their copies. What the device computes next waits for them, nobody else."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(copies[name], non_blocking=True)


def _pinned(tensor: Tensor) -> Tensor:
    """In memory that a card reads by itself, where there is a card."""
    return tensor.pin_memory() if torch.cuda.is_available() else tensor
