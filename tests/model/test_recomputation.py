"""Activation checkpointing keeps less and changes no number."""

from typing import Any

import pytest
import torch
from torch import Tensor

from scratchlab.architecture import GPTSection
from scratchlab.model.build import build_model
from scratchlab.model.loss import Objective
from tiny import VOCAB, distance, random_tokens, tiny_config

Gradients = dict[str, Tensor]


def gradients(config: GPTSection, recompute: bool, compiled: bool, dtype: torch.dtype = torch.float32) -> Gradients:
    """Loss and gradients of one batch, after the seed of its noise."""
    model = build_model(config, VOCAB, 1, dtype, activation_checkpointing=recompute).train()
    objective = Objective(model)
    if compiled:  # cut into graphs as for inductor, whose kernels would take seconds to make
        torch._dynamo.reset()
        objective.compile(dynamic=False, backend="aot_eager_decomp_partition")
    tokens, targets = random_tokens(3, config.context_length), random_tokens(3, config.context_length, seed=1)
    torch.manual_seed(5)
    loss, _, _ = objective(tokens, targets, torch.ones(tokens.shape))
    loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return found | {"loss": loss.detach()}


SWITCHES: list[dict[str, Any]] = [
    {},
    {"dropout": 0.3},
    {"dropout": 0.3, "attention": "explicit", "positions": "rotary", "window": 3},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_are_the_same_to_the_bit(switches: dict[str, Any], dtype: torch.dtype) -> None:
    kept, again = (gradients(tiny_config(**switches), recompute, False, dtype) for recompute in (False, True))
    assert kept.keys() == again.keys()
    assert [name for name in kept if not torch.equal(kept[name], again[name])] == []


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")  # PyTorch's own, when it first compiles
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_compiled_gradients_are_the_same(dropout: float) -> None:
    config = tiny_config(dropout=dropout, n_layer=1)
    kept, again = (gradients(config, recompute, True) for recompute in (False, True))
    assert [name for name in kept if not torch.equal(kept[name], again[name])] == []
    if not dropout:
        eager = gradients(config, False, False)
        assert all(distance(kept[name], eager[name]) < 1e-5 for name in kept)


def bytes_kept(recompute: bool, **switches: Any) -> int:
    """What autograd keeps of a forward pass, weights aside."""
    config = tiny_config(n_layer=4, d_model=32, context_length=64, **switches)
    model = build_model(config, VOCAB, 1, activation_checkpointing=recompute).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden, _ = model.hidden(random_tokens(2, 64))
    assert hidden.requires_grad
    return sum(sizes.values())


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_little_more_is_kept_than_the_stream(dropout: float) -> None:
    """A tenth of all else, the bits of dropout included: what a recomputed block saves, it saves for a moment."""
    stream = 4 * 4 * 2 * 64 * 32
    assert bytes_kept(True, dropout=dropout) < 2 * stream
    assert bytes_kept(False, dropout=dropout) > 8 * stream
