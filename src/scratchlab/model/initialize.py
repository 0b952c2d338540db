"""Initial weights: one table, drawn per parameter name.

The same seed and name give the same numbers whatever else the model contains, in PyTorch and in JAX alike.

gpt2          normal with deviation 0.02; the matrices that write into the stream divided by sqrt(2 n_layer), so that
              its variance does not grow with depth (Radford et al. 2019, section 2.3); biases zero
zero_output   the same, but what writes into the stream begins at zero: every branch begins as nothing
width_scaled  the same as gpt2 with sqrt(2 / (5 d_model)) for 0.02, its value at a width of 1,000 (Nguyen and
              Salazar 2019)
pytorch       what torch.nn gives: linear layers and their biases uniform within 1 / sqrt(inputs), embeddings normal
              with deviation 1; a tied matrix is a linear layer's
book          the same, but a tied matrix is an embedding's, as it comes out when the head is pointed at the embedding:
              logits are then sqrt(d_model) large, and the first loss is in the hundreds
char_rnn      (recurrent networks) uniform within 0.08, forget gates open: their biases 1 (Jozefowicz et al. 2015)
"""

import fnmatch
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from scratchlab.architecture import GPTSection, RNNSection
from scratchlab.seeds import initial_normal, initial_uniform


@dataclass(frozen=True, slots=True)
class Normal:
    """Normal draws around 0."""

    deviation: float


@dataclass(frozen=True, slots=True)
class Uniform:
    """Uniform draws between minus and plus `bound`."""

    bound: float


@dataclass(frozen=True, slots=True)
class Constant:
    """One value everywhere."""

    value: float


@dataclass(frozen=True, slots=True)
class OpenForgetGate:
    """An LSTM's biases (write, forget, new, read): uniform within `bound`, but for the forget gate's, which are 1."""

    bound: float


Rule = Normal | Uniform | Constant | OpenForgetGate
Table = Mapping[str, Rule]


def gpt_table(config: GPTSection) -> Table:
    """The rule of each parameter, by patterns of its name: the first that matches holds."""
    norms: dict[str, Rule] = {"*norm.weight": Constant(1.0), "*norm.bias": Constant(0.0)}
    ones = _adapters(config) | norms
    if config.initialization in ("pytorch", "book"):
        outer, inner = Uniform(1 / math.sqrt(config.d_model)), Uniform(1 / math.sqrt(config.mlp_width))
        head = outer if config.initialization == "pytorch" and config.tie_weights else Normal(1.0)
        embeddings = {"token_embedding.weight": head, "position_embedding.weight": Normal(1.0)}
        return ones | embeddings | {"*.mlp.down.*": inner, "*": outer}
    usual = embedding_deviation(config)
    into_stream = usual / math.sqrt(2 * config.n_layer)
    output = Constant(0.0) if config.initialization == "zero_output" else Normal(into_stream)
    outputs = {"*.attention.out.weight": output, "*.mlp.down.weight": output}
    return ones | {"*.bias": Constant(0.0)} | outputs | {"*.weight": Normal(usual)}


def _adapters(config: GPTSection) -> dict[str, Rule]:
    """Of low-rank adapters, whatever the initialization: A as a linear layer of torch.nn, B zero, so that they begin
    as nothing (Hu et al. 2021, section 4.1; its A is normal, peft's as here)."""
    outer, inner = Uniform(1 / math.sqrt(config.d_model)), Uniform(1 / math.sqrt(config.mlp_width))
    return {"*.lora_b": Constant(0.0), "*.mlp.down.lora_a": inner, "*.lora_a": outer}


def rnn_table(config: RNNSection) -> Table:
    """The same for a recurrent network, whose torch.nn default is uniform within 1 / sqrt(width) throughout."""
    if config.initialization == "char_rnn":
        gates = {"layers.bias_ih_l*": OpenForgetGate(0.08)} if config.cell == "lstm" else {}
        return gates | {"*": Uniform(0.08)}
    return {"token_embedding.weight": Normal(1.0), "*": Uniform(1 / math.sqrt(config.d_model))}


def embedding_deviation(config: GPTSection) -> float:
    """The deviation that an initialization gives an embedding table."""
    if config.initialization in ("pytorch", "book"):
        return 1.0
    return math.sqrt(2 / (5 * config.d_model)) if config.initialization == "width_scaled" else 0.02


def sinusoid_size(config: GPTSection) -> float:
    """What sinusoidal positions are multiplied by: they then begin as large as learned ones would, and a comparison
    of the two is about their shape, not their size."""
    return math.sqrt(2) * embedding_deviation(config)


def initialize(
    model: nn.Module,
    table: Table,
    seed: int,
    device: torch.device | str = "cpu",
    fill: Callable[[torch.Tensor, torch.Tensor], Any] = torch.Tensor.copy_,
) -> None:
    """Fill a model that was built on the meta device, parameter by parameter, and move it to `device`.

    `fill(parameter, drawn)` puts the values in place: a parameter of which a process has a part takes its part of them.
    """
    model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fill(parameter, initial_value(name, tuple(parameter.shape), table, seed))


def initial_value(name: str, shape: tuple[int, ...], table: Table, seed: int) -> torch.Tensor:
    """What a parameter of this name begins as, float32 on the CPU."""
    return _draw(name, shape, rule_for(name, table), seed)


def rule_for(name: str, table: Table) -> Rule:
    """The table's entry for a parameter."""
    return next(rule for pattern, rule in table.items() if fnmatch.fnmatchcase(name, pattern))


def _draw(name: str, shape: tuple[int, ...], rule: Rule, seed: int) -> torch.Tensor:
    match rule:
        case Constant(value):
            return torch.full(shape, value)
        case Normal(deviation):
            return torch.from_numpy(initial_normal(seed, name, shape) * deviation).to(torch.float32)
        case Uniform(bound):
            return torch.from_numpy(initial_uniform(seed, name, shape) * bound).to(torch.float32)
        case OpenForgetGate(bound):
            drawn = torch.from_numpy(initial_uniform(seed, name, shape) * bound).to(torch.float32)
            drawn[len(drawn) // 4 : len(drawn) // 2] = 1.0
            return drawn
