"""Models with weights that are all at work, exported; and what a fresh process should find of them."""

import json
from pathlib import Path
from typing import Any

import others
import torch
from torch import Tensor

from scratchlab.architecture import GPTSection
from scratchlab.corpus.chat import ChatTemplate, Message
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.generation.engine import Settings, generate
from scratchlab.interop.hugging_face import write_hugging_face
from scratchlab.model.build import build_model
from scratchlab.model.gpt import GPT

SIZES: dict[str, Any] = {"n_layer": 2, "n_head": 4, "d_model": 32, "context_length": 24}
MODERN: dict[str, Any] = {"norm": "rms", "positions": "rotary", "mlp": "swiglu", "mlp_ratio": 2.5}
ALTERNATE: dict[str, Any] = {"window": 5, "window_layers": "alternate", "n_layer": 4}

# Of each class of transformers: what it is told apart by, and what it can have besides.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2-no-biases": ("GPT2LMHeadModel", {"bias": False, "vocab_multiple": 32, "mlp": "gelu"}),
    "gpt2-untied": ("GPT2LMHeadModel", {"qkv_bias": False, "tie_weights": False, "mlp": "relu2", "dropout": 0.1}),
    "llama": ("LlamaForCausalLM", MODERN | {"bias": False, "n_kv_head": 2}),
    "llama-biases": ("LlamaForCausalLM", MODERN | {"output_bias": False, "tie_weights": False, "dropout_mlp": 0.2}),
    "smollm3-windows": ("SmolLM3ForCausalLM", MODERN | {"bias": False, "window": 5, "n_kv_head": 1}),
    "smollm3-alternate": (
        "SmolLM3ForCausalLM",
        MODERN | ALTERNATE | {"bias": False, "qkv_bias": True},
    ),
    "qwen3": ("Qwen3ForCausalLM", MODERN | {"bias": False, "qk_norm": True, "n_kv_head": 2, "tie_weights": False}),
    "qwen3-windows": (
        "Qwen3ForCausalLM",
        MODERN | ALTERNATE | {"mlp_bias": False, "qk_norm": True},
    ),
    "starcoder2": ("Starcoder2ForCausalLM", {"positions": "rotary", "vocab_multiple": 64, "attention": "explicit"}),
    "starcoder2-windows": (
        "Starcoder2ForCausalLM",
        {"positions": "rotary", "bias": False, "window": 5, "n_kv_head": 2, "mlp": "gelu"},
    ),
    "arcee": (
        "ArceeForCausalLM",
        {"positions": "rotary", "norm": "rms", "bias": False, "mlp": "relu2", "initialization": "zero_output"},
    ),
}


def lively(fields: dict[str, Any], tokenizer: Tokenizer) -> GPT:
    """A model of these switches in evaluation mode whose weights are all far from where they began."""
    config = GPTSection(**(SIZES | fields))
    model = build_model(config, tokenizer.vocab_size, 1, end_of_text=tokenizer.end_of_text).eval()
    assert isinstance(model, GPT)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter += 0.5 * noise / parameter.shape[-1] ** 0.5
    return model


def export(model: GPT, to: Path, tokenizer: Tokenizer, custom: bool = False, template: str | None = None) -> Path:
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    write_hugging_face(model.config, tensors, tokenizer, to, template, custom)
    return to


def exported_weights(model: GPT, tokenizer: Tokenizer) -> dict[str, Tensor]:
    """A model's parameters without the padding of its vocabulary."""
    padded = ("token_embedding.weight", "head.weight")
    cut = {name: tokenizer.vocab_size if name in padded else None for name, _ in model.named_parameters()}
    return {name: parameter.detach()[: cut[name]] for name, parameter in model.named_parameters()}


def greedy(model: GPT, prompt: list[int], n_new: int) -> list[int]:
    """What the engine writes without chance, its cache in use."""
    return list(generate(model, prompt, Settings(max_tokens=n_new, temperature=0.0)))


@torch.no_grad()
def expect(model: GPT, tokenizer: Tokenizer, path: Path, n_new: int, template: ChatTemplate | None = None) -> None:
    """Write down what `load_export.py` should find of this model, and how it is spoken to."""
    talk: list[Message] = [{"role": "user", "content": others.TEXT[:20]}]
    prompt = tokenizer.encode(others.TEXT)[:6].tolist()
    asked = torch.randint(
        tokenizer.vocab_size - 1, (2, min(model.config.context_length, 64)), generator=torch.Generator().manual_seed(5)
    )
    expected = {
        "text": others.TEXT,
        "ids": tokenizer.encode(others.TEXT).tolist(),
        "prompt": prompt,
        "greedy": greedy(model, prompt, n_new),
        "tokens": asked.tolist(),
        "logits": model(asked)[0].tolist(),
        "talk": talk if template else None,
        "worded": template.prompt(tokenizer, talk) if template else None,
        "parameters": sum(tensor.numel() for tensor in exported_weights(model, tokenizer).values()),
    }
    path.write_text(json.dumps(expected), encoding="utf-8")


def assert_readable(folder: Path) -> None:
    """All files are for whoever may read what is usually written here."""
    (folder / "usual").write_text("")
    usual = (folder / "usual").stat().st_mode
    (folder / "usual").unlink()
    others = {path.name: oct(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert set(others.values()) == {oct(usual)}, others
