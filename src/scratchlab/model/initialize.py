"""Initial weights: one table, drawn per parameter name.

The same seed and name give the same numbers whatever else the model contains, in PyTorch and in JAX alike.
"""

import fnmatch
import math
from collections.abc import Mapping

import torch
from torch import nn

from scratchlab.seeds import initial_normal

Table = Mapping[str, float | str]


def gpt2_table(n_layer: int) -> Table:
    """GPT-2's initialization: the standard deviation of each parameter, or what it is filled with. First match wins.

    The two matrices that write into the residual stream are scaled down by the square root of the number of
    residual additions, so that its variance does not grow with depth (Radford et al. 2019, section 2.3).
    """
    residual = 0.02 / math.sqrt(2 * n_layer)
    return {
        "*norm.weight": "ones",
        "*.bias": "zeros",
        "*.attention.out.weight": residual,
        "*.mlp.down.weight": residual,
        "*.weight": 0.02,
    }


def initialize(model: nn.Module, table: Table, seed: int, device: torch.device | str = "cpu") -> None:
    """Fill a model that was built on the meta device, parameter by parameter, and move it to `device`."""
    model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_draw(name, tuple(parameter.shape), rule_for(name, table), seed))


def rule_for(name: str, table: Table) -> float | str:
    """The table's entry for a parameter."""
    return next(rule for pattern, rule in table.items() if fnmatch.fnmatchcase(name, pattern))


def _draw(name: str, shape: tuple[int, ...], rule: float | str, seed: int) -> torch.Tensor:
    match rule:
        case "ones":
            return torch.ones(shape)
        case "zeros":
            return torch.zeros(shape)
        case _:
            return torch.from_numpy(initial_normal(seed, name, shape) * float(rule)).to(torch.float32)
