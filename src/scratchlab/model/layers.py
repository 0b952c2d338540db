"""The parts that the model page is made of."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """A linear layer that keeps its weights in float32 and computes in `compute_dtype`."""

    def __init__(self, n_in: int, n_out: int, bias: bool, compute_dtype: torch.dtype) -> None:
        super().__init__(n_in, n_out, bias)
        self.compute_dtype, self.has_bias = compute_dtype, bias

    def forward(self, input: Tensor) -> Tensor:
        dtype = self.compute_dtype
        bias = self.bias.to(dtype) if self.has_bias else None
        return product(input.to(dtype), self.weight.to(dtype), bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` over the last dimension, as `F.linear`, by the kernel that is fastest for its rows."""
    if x.dtype == torch.bfloat16 and x.numel() == x.shape[-1] and x.device.type == "cpu" and not weight.requires_grad:
        # One row, as in generation, only reads the weights: PyTorch's product for many rows reads them at half the
        # speed of the one for a vector, which adds in float32 all the same (measured on AMX, 13.6 against 19 GB/s).
        y = torch.mv(weight, x.flatten()) if bias is None else torch.addmv(bias, weight, x.flatten())
        return y.view(*x.shape[:-1], -1)
    return F.linear(x, weight, bias)


@dataclass
class Cache:
    """Keys and values of the tokens seen so far, for generation. Rows may differ in length.

    `buffers` holds one (2, B, H, L, D) a layer, keys and values; of row b the first `lengths[b]` places are filled.
    """

    buffers: list[Tensor]
    lengths: list[int]

    @property
    def capacity(self) -> int:
        return self.buffers[0].shape[3]

    def append(self, layer: int, new_2BHTD: Tensor) -> tuple[Tensor, Tensor | None]:
        """Store the keys and values of T new tokens a row. Gives all so far and the mask of what each query may see.

        The lengths stay as they are until `advance`, since every layer appends at the same places.
        """
        buffer, n_new, longest = self.buffers[layer], new_2BHTD.shape[3], max(self.lengths)
        if min(self.lengths) == longest:
            buffer[:, :, :, longest : longest + n_new] = new_2BHTD
        else:
            for row, length in enumerate(self.lengths):
                buffer[:, row, :, length : length + n_new] = new_2BHTD[:, row]
        return buffer[:, :, :, : longest + n_new], self._visible(n_new, longest + n_new)

    def advance(self, n_new: int) -> None:
        self.lengths = [length + n_new for length in self.lengths]

    def _visible(self, n_new: int, longest: int) -> Tensor | None:
        """(B, 1, T, L), true where query t of row b, at place lengths[b] + t, may look; None if it may everywhere."""
        if n_new == 1 and min(self.lengths) + 1 == longest:
            return None
        device = self.buffers[0].device
        places_BT = torch.tensor(self.lengths, device=device)[:, None] + torch.arange(n_new, device=device)
        return (torch.arange(longest, device=device) <= places_BT[:, :, None])[:, None]
