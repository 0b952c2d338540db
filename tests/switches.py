"""Every switch of the model, and rows of their values in which each pair meets: for tests that hold for all of them."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from allpairspy import AllPairs
from pydantic import ValidationError
from torch import Tensor

from scratchlab.architecture import GPTSection
from scratchlab.model.build import build_model
from scratchlab.model.gpt import GPT

VOCAB, END = 13, 0
T = 8
BASE: dict[str, Any] = {"n_layer": 2, "n_head": 4, "d_model": 16, "context_length": T}
# The first of each is the default.
SWITCHES: dict[str, list[Any]] = {
    "norm": ["layer", "rms", "none"],
    "norm_position": ["pre", "post"],
    "positions": ["learned", "sinusoidal", "rotary", "none"],
    "attention": ["fused", "explicit", "torch", "none"],
    "n_kv_head": [None, 2, 1],
    "qk_norm": [False, True],
    "window": [None, 3],
    "window_layers": ["all", "alternate"],
    "document_mask": [False, True],
    "mlp": ["gelu_tanh", "gelu", "relu", "relu2", "swiglu"],
    "mlp_ratio": [4.0, 2.5],
    "residual": [True, False],
    "bias": [True, False],
    "qkv_bias": [None, True, False],
    "output_bias": [None, True, False],
    "mlp_bias": [None, True, False],
    "norm_bias": [None, True, False],
    "dropout": [0.0, 0.2],
    "dropout_embedding": [None, 0.0, 0.3],
    "dropout_attention": [None, 0.0, 0.3],
    "dropout_residual": [None, 0.0, 0.3],
    "dropout_mlp": [None, 0.0, 0.3],
    "tie_weights": [True, False],
    "logit_cap": [None, 5.0],
    "vocab_multiple": [1, 8],
    "initialization": ["gpt2", "pytorch", "book", "zero_output", "width_scaled"],
    "float32_attention": [False, True],
    "float32_mlp": [False, True],
    "float32_head": [False, True],
}
NOT_SWITCHES = {"architecture", "labels", *BASE}  # labels make another kind of model: tests/training/test_labels.py


def makes_sense(fields: Mapping[str, Any]) -> bool:
    try:
        GPTSection(**BASE, **fields)
    except ValidationError:
        return False
    return True


def covering_rows() -> list[dict[str, Any]]:
    """Rows of values in which every pair that makes sense meets at least once."""
    names = list(SWITCHES)
    defaults = {name: values[0] for name, values in SWITCHES.items()}

    def sensible(row: Sequence[Any]) -> bool:
        return makes_sense(defaults | dict(zip(names, row, strict=False)))

    rows = [dict(zip(names, row, strict=True)) for row in AllPairs(list(SWITCHES.values()), filter_func=sensible)]
    met = {pair for row in rows for pair in itertools.combinations(row.items(), 2)}
    for a, b in itertools.combinations(SWITCHES, 2):  # the few that its filter keeps it from finding
        for pair in itertools.product(SWITCHES[a], SWITCHES[b]):
            row = defaults | dict(zip((a, b), pair, strict=True))
            if "window_layers" in (a, b) and "window" not in (a, b):
                row["window"] = 3
            if tuple(zip((a, b), pair, strict=True)) not in met and makes_sense(row):
                rows.append(row)
                met |= set(itertools.combinations(row.items(), 2))
    return rows


ROWS = covering_rows()


def config_of(row: Mapping[str, Any]) -> GPTSection:
    return GPTSection(**BASE, **row)


def lively(row: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> GPT:
    """A model of this row in evaluation mode whose weights are all at work."""
    model = build_model(config_of(row), VOCAB, 1, dtype, end_of_text=END).to(dtype).eval()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number), dtype=dtype)
            parameter += 0.3 * noise
    return model


def tokens_with_documents(rows: int = 2, seed: int = 0) -> Tensor:
    tokens = torch.randint(1, VOCAB, (rows, T), generator=torch.Generator().manual_seed(seed))
    tokens[0, 4] = END
    return tokens
