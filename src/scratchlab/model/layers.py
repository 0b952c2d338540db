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
        return F.linear(input.to(dtype), self.weight.to(dtype), bias)


@dataclass
class Cache:
    """Keys and values of the tokens seen so far, for generation. Rows may differ in length.

    `keys` and `values` hold one (B, H, L, D) buffer a layer; of row b the first `lengths[b]` places are filled.
    """

    keys: list[Tensor]
    values: list[Tensor]
    lengths: list[int]

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[2]

    def append(self, layer: int, k_BHTD: Tensor, v_BHTD: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store T new tokens a row. Gives all keys and values so far and the mask of what each query may see.

        The lengths stay as they are until `advance`, since every layer appends at the same places.
        """
        keys, values, n_new = self.keys[layer], self.values[layer], k_BHTD.shape[2]
        for row, length in enumerate(self.lengths):
            keys[row, :, length : length + n_new] = k_BHTD[row]
            values[row, :, length : length + n_new] = v_BHTD[row]
        longest = max(self.lengths) + n_new
        return keys[:, :, :longest], values[:, :, :longest], self._visible(n_new, longest)

    def advance(self, n_new: int) -> None:
        self.lengths = [length + n_new for length in self.lengths]

    def _visible(self, n_new: int, longest: int) -> Tensor | None:
        """(B, 1, T, L), true where query t of row b, at place lengths[b] + t, may look; None if it may everywhere."""
        if n_new == 1 and min(self.lengths) + 1 == longest:
            return None
        device = self.keys[0].device
        places_BT = torch.tensor(self.lengths, device=device)[:, None] + torch.arange(n_new, device=device)
        return (torch.arange(longest, device=device) <= places_BT[:, :, None])[:, None]
