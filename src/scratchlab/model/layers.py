"""The parts that the model page is made of."""

import itertools
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
        return product(input.to(self.compute_dtype), *self.cast())

    def cast(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in the compute type."""
        return self.weight.to(self.compute_dtype), self.bias.to(self.compute_dtype) if self.has_bias else None

    def operand(self, x: Tensor) -> Tensor:
        """Of a head, whose product the loss does by itself: what its `matrix` is multiplied with."""
        return x

    def matrix(self) -> Tensor:
        """Of a head, float32."""
        return self.weight


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
    """Keys and values of the tokens seen so far, for generation. Rows may differ in length, and come and go.

    `buffers` holds keys and values of each layer, (rows, H, L, D), with room for more rows than there are; of row b
    the first `lengths[b]` places are filled.
    """

    buffers: list[tuple[Tensor, Tensor]]
    lengths: list[int]
    capacity: int

    def append(self, layer: int, k_BHTD: Tensor, v_BHTD: Tensor, places_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Store T new tokens a row at their places; gives all keys and all values so far, (B, H, L, D).

        The lengths stay as they are until `advance`, since every layer appends at the same places.
        """
        keys, values = self.buffers[layer]
        n_rows, n_new, longest = len(self.lengths), k_BHTD.shape[2], max(self.lengths)
        if min(self.lengths) == longest:
            here = slice(n_rows), slice(None), slice(longest, longest + n_new)
            keys[here], values[here] = k_BHTD, v_BHTD
        else:
            here = torch.arange(n_rows, device=places_BT.device)[:, None], slice(None), places_BT
            keys[here], values[here] = k_BHTD.transpose(1, 2), v_BHTD.transpose(1, 2)
        return keys[:n_rows, :, : longest + n_new], values[:n_rows, :, : longest + n_new]

    def add(self, other: "Cache") -> None:
        """The rows of `other` join at the end."""
        n_rows, longest = len(self.lengths), max(other.lengths)
        here, there = slice(n_rows, n_rows + len(other.lengths)), slice(len(other.lengths))
        self._hold(here.stop, max(longest, self.capacity))
        for ours, theirs in zip(self.buffers, other.buffers, strict=True):
            for x, more in zip(ours, theirs, strict=True):
                x[here, :, :longest] = more[there, :, :longest]
        self.lengths = self.lengths + other.lengths

    def drop(self, row: int) -> None:
        """A row leaves, and the last one takes its place."""
        length = self.lengths.pop()
        if row < len(self.lengths):
            for x in itertools.chain(*self.buffers):
                x[row, :, :length] = x[len(self.lengths), :, :length]
            self.lengths[row] = length

    def widen(self, most: int) -> None:
        """Twice the room in every row, up to so many tokens."""
        self._hold(len(self.lengths), min(2 * self.capacity, most))

    def _hold(self, n_rows: int, capacity: int) -> None:
        """Have room for so many rows, and for so many tokens in each."""
        there = len(self.buffers[0][0]) if self.buffers else n_rows
        if n_rows > there or capacity > self.capacity:
            more = (0, 0, 0, capacity - self.capacity, 0, 0, 0, max(n_rows, 2 * there) - there if n_rows > there else 0)
            self.buffers = [(F.pad(k, more), F.pad(v, more)) for k, v in self.buffers]
            self.capacity = capacity

    def repeated(self, rows: int, room: int) -> "Cache":
        """So many rows that all begin as this cache's only row, each with room for so many tokens more."""
        (length,) = self.lengths

        def several(x_1HLD: Tensor) -> Tensor:
            return F.pad(x_1HLD[:, :, :length].expand(rows, -1, -1, -1), (0, 0, 0, room))

        return Cache([(several(k), several(v)) for k, v in self.buffers], [length] * rows, length + room)

    def has_room(self, n_new: int) -> bool:
        """Whether so many more tokens fit in every row."""
        return max(self.lengths) + n_new <= self.capacity

    def advance(self, n_new: int) -> None:
        self.lengths = [length + n_new for length in self.lengths]


class RMSNorm(nn.RMSNorm):
    """RMS norm (Zhang and Sennrich 2019), computed in float32 whatever comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


def make_norm(kind: str, width: int, bias: bool) -> nn.Module:
    """Layer norm (Ba et al. 2016), RMS norm, or nothing at all."""
    match kind:
        case "layer":
            return nn.LayerNorm(width, bias=bias)
        case "rms":
            return RMSNorm(width, eps=1e-5)
        case _:
            return nn.Identity()
