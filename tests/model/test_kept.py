"""The formulae of model/kept.py against the tensors that are alive between the passes, for every switch."""

from typing import Any

import numpy as np
import pytest
import torch

from meter import Meter
from scratchlab.architecture import GPTSection, ModelSection, RNNSection
from scratchlab.evaluation.scorer import ModelScorer
from scratchlab.model import kept as kept_module
from scratchlab.model import loss
from scratchlab.model.build import build_model
from scratchlab.model.kept import Kept, Shape, kept_bytes, layer_bytes_per_sequence, recomputed, scoring_bytes
from scratchlab.model.loss import Objective

ROWS, VOCAB = 2, 97
HALVES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])


def alive(config: ModelSection, dtype: torch.dtype, vocab_size: int = VOCAB) -> tuple[int, int]:
    """Bytes after a forward pass, and the most until the backward pass is over."""
    model = build_model(config, vocab_size, 1, dtype, end_of_text=0).train()
    tokens = torch.randint(1, vocab_size, (ROWS, config.context_length))
    weights = torch.ones(tokens.shape)
    with Meter([*model.parameters(), tokens, weights]) as meter:
        loss_sum, _, _ = Objective(model)(tokens, tokens, weights)
        after = meter.live
        loss_sum.backward()
    return after, meter.peak


def formula(config: ModelSection, dtype: torch.dtype, vocab_size: int = VOCAB) -> Kept:
    return kept_bytes(config, vocab_size, Shape(ROWS, config.context_length, dtype.itemsize))


def gpt(**fields: Any) -> GPTSection:
    return GPTSection(**{"n_layer": 3, "n_head": 4, "d_model": 64, "context_length": 128, **fields})


SWITCHES: dict[str, dict[str, Any]] = {
    "as GPT-2": {},
    "rms norm": {"norm": "rms"},
    "no norm": {"norm": "none"},
    "post norm": {"norm_position": "post"},
    "no residual": {"residual": False},
    "gelu": {"mlp": "gelu"},
    "relu": {"mlp": "relu"},
    "relu2": {"mlp": "relu2"},
    "swiglu": {"mlp": "swiglu", "mlp_ratio": 2.5},
    "qk norm": {"qk_norm": True},
    "rotary": {"positions": "rotary"},
    "rotary, qk norm": {"positions": "rotary", "qk_norm": True},
    "sinusoidal": {"positions": "sinusoidal"},
    "dropout": {"dropout": 0.1},
    "dropout, rotary": {"dropout": 0.1, "positions": "rotary"},
    "explicit": {"attention": "explicit"},
    "explicit, window, dropout": {"attention": "explicit", "window": 32, "dropout": 0.1},
    "torch": {"attention": "torch"},
    "no attention": {"attention": "none"},
    "shared keys": {"n_kv_head": 2},
    "shared keys, rotary": {"n_kv_head": 2, "positions": "rotary"},
    "window": {"window": 32},
    "window in turn": {"window": 32, "window_layers": "alternate"},
    "documents": {"document_mask": True},
    "soft cap": {"logit_cap": 15.0},
    "padded": {"vocab_multiple": 64},
    "untied": {"tie_weights": False},
    "no biases": {"bias": False},
    "float32 attention": {"float32_attention": True},
    "float32 mlp": {"float32_mlp": True},
    "float32 head": {"float32_head": True},
    "long": {"context_length": 1024, "n_layer": 1},
}


@HALVES
@pytest.mark.parametrize("fields", SWITCHES.values(), ids=SWITCHES)
def test_what_is_kept_is_what_is_alive_between_the_passes(fields: dict[str, Any], dtype: torch.dtype) -> None:
    after, peak = alive(gpt(**fields), dtype)
    kept = formula(gpt(**fields), dtype)
    assert kept.total == pytest.approx(after, rel=0.002)
    assert kept.peak == pytest.approx(peak, rel=0.06)


@HALVES
@pytest.mark.parametrize("fields", [{"attention": "torch"}, {"window": 32}], ids=["torch", "window"])
def test_dropped_weights_of_pytorchs_own_kernel_are_counted_nearly(fields: dict[str, Any], dtype: torch.dtype) -> None:
    config = gpt(dropout_attention=0.1, **fields)
    assert formula(config, dtype).total == pytest.approx(alive(config, dtype)[0], rel=0.06)


@HALVES
def test_a_loss_in_chunks_keeps_gradients_instead_of_logits(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    vocab_size = 3000
    whole, _ = alive(gpt(n_layer=1), dtype, vocab_size)
    for module in (loss, kept_module):
        monkeypatch.setattr(module, "CHUNK_ENTRIES", 2**16)
    after, peak = alive(gpt(n_layer=1), dtype, vocab_size)
    kept = formula(gpt(n_layer=1), dtype, vocab_size)
    assert after < whole / 2
    assert kept.total == pytest.approx(after, rel=0.002)
    assert kept.peak == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize("kernel", ["fused", "explicit"])
@pytest.mark.parametrize("cell", ["elman", "gru", "lstm"])
@pytest.mark.parametrize("embedding", ["learned", "one_hot"])
def test_what_a_recurrent_network_keeps(cell: Any, kernel: Any, embedding: Any) -> None:
    config = RNNSection(
        architecture="rnn", cell=cell, kernel=kernel, embedding=embedding, n_layer=2, d_model=64, dropout=0.1
    )
    assert formula(config, torch.float32).total == pytest.approx(alive(config, torch.float32)[0], rel=0.04)


def test_a_gpu_keeps_less_than_a_cpu_and_twice_as_many_rows_twice_as_much() -> None:
    config = gpt(norm="rms")
    on_gpu = kept_bytes(config, VOCAB, Shape(ROWS, 128, 4, on_cpu=False)).total
    assert on_gpu < formula(config, torch.float32).total
    assert kept_bytes(config, VOCAB, Shape(2 * ROWS, 128, 4)).total == 2 * formula(config, torch.float32).total
    assert 3 * layer_bytes_per_sequence(gpt(n_layer=1), 4) == layer_bytes_per_sequence(gpt(), 4)


def test_layers_gone_through_again_keep_their_stream_and_one_of_them_all() -> None:
    kept, stream = formula(gpt(n_layer=12), torch.float32), 4 * ROWS * 128 * 64
    again = recomputed(kept, stream)
    assert again.total == kept.total - sum(kept.layers) + 12 * stream
    assert again.peak - 12 * stream >= kept.layers[0]
    assert again.peak < kept.peak / 3


@HALVES
@pytest.mark.parametrize(
    "fields",
    [{}, {"mlp": "swiglu"}, {"mlp": "relu2"}, {"attention": "explicit"}, {"vocab_multiple": 4096}],
    ids=["as GPT-2", "swiglu", "relu2", "explicit", "many logits"],
)
def test_scoring_takes_what_a_layer_or_the_logits_take(fields: dict[str, Any], dtype: torch.dtype) -> None:
    config = gpt(**fields)
    model = build_model(config, VOCAB, 1, dtype).eval()
    tokens = np.random.default_rng(1).integers(1, VOCAB, (8, config.context_length))
    with Meter(model.parameters()) as meter:
        ModelScorer(model).windows(tokens, tokens)
    assert scoring_bytes(config, VOCAB, Shape(8, config.context_length, dtype.itemsize)) == pytest.approx(
        meter.peak, rel=0.15
    )
