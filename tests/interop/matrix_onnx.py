"""Every value of every switch of a GPT as ONNX: too slow for `make test` (`make test-interop` runs it)."""

from pathlib import Path
from typing import Any

import pytest
from others import make_tokenizer

from scratchlab.interop.onnx_files import export_onnx
from tiny_run import make_run

SWITCHES: dict[str, tuple[Any, ...]] = {
    "norm": ("layer", "rms", "none"),
    "positions": ("learned", "sinusoidal", "rotary", "none"),
    "attention": ("fused", "explicit", "torch", "none"),
    "mlp": ("gelu_tanh", "gelu", "relu", "relu2", "swiglu"),
    "norm_position": ("post",),
    "n_kv_head": (1,),
    "qk_norm": (True,),
    "window": (8,),
    "window_layers": ("alternate",),
    "document_mask": (True,),
    "residual": (False,),
    "bias": (False,),
    "tie_weights": (False,),
    "logit_cap": (20.0,),
    "vocab_multiple": (64,),
    "n_layer": (1,),
}
CASES = [(name, value) for name, values in SWITCHES.items() for value in values]


@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{name}={value}" for name, value in CASES])
def test_onnxruntime_computes_what_we_do(name: str, value: object, tmp_path: Path) -> None:
    """The export itself compares the logits and the parameters, and appears only if they are the same."""
    window = {"window": 8} if name == "window_layers" else {}
    run = make_run(tmp_path / "run", make_tokenizer(), **{name: value}, **window)
    assert "model.onnx" in export_onnx(run, tmp_path / "out")
