"""Models as other programs compute and save them, written out for the tests from what the programs do."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from scratchlab.corpus.tokenizer import Tokenizer, train_tokenizer

TEXT = "every effort moves you toward an ideal that no effort of yours will ever reach, and yet you are moved. " * 8
SYMBOLS = 280


def make_tokenizer() -> Tokenizer:
    return train_tokenizer(f"bpe:{SYMBOLS}", [TEXT])


def random_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


# nanoGPT: GPT-2 with linear layers, exact GELU, biases everywhere or nowhere.

NANO_ARGS: dict[str, Any] = {
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 16,
    "block_size": 12,
    "vocab_size": 320,
    "dropout": 0.1,
}


def nano_weights(bias: bool) -> dict[str, Tensor]:
    C, V, T = NANO_ARGS["n_embd"], NANO_ARGS["vocab_size"], NANO_ARGS["block_size"]
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (V, C), "transformer.wpe.weight": (T, C)}
    matrices = {"attn.c_attn": (3 * C, C), "attn.c_proj": (C, C), "mlp.c_fc": (4 * C, C), "mlp.c_proj": (C, 4 * C)}
    for layer in range(NANO_ARGS["n_layer"]):
        for part, shape in matrices.items():
            shapes[f"transformer.h.{layer}.{part}.weight"] = shape
            shapes |= {f"transformer.h.{layer}.{part}.bias": shape[:1]} if bias else {}
        for norm in ("ln_1", "ln_2"):
            shapes[f"transformer.h.{layer}.{norm}.weight"] = (C,)
            shapes |= {f"transformer.h.{layer}.{norm}.bias": (C,)} if bias else {}
    shapes["transformer.ln_f.weight"] = (C,)
    shapes |= {"transformer.ln_f.bias": (C,)} if bias else {}
    weights = random_weights(shapes)
    return weights | {"lm_head.weight": weights["transformer.wte.weight"]}


def nano_logits(w: dict[str, Tensor], tokens_BT: Tensor) -> Tensor:
    """What nanoGPT's model computes with these weights."""
    x = w["transformer.wte.weight"][tokens_BT] + w["transformer.wpe.weight"][: tokens_BT.shape[1]]
    for layer in range(NANO_ARGS["n_layer"]):
        parts = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
        names = [f"transformer.h.{layer}.{part}" for part in parts]
        norm1, qkv, out, norm2, up, down = ((w[f"{name}.weight"], w.get(f"{name}.bias")) for name in names)
        q, k, v = F.linear(F.layer_norm(x, x.shape[-1:], *norm1), *qkv).chunk(3, dim=-1)
        x = x + F.linear(causal(q, k, v, NANO_ARGS["n_head"]), *out)
        x = x + F.linear(F.gelu(F.linear(F.layer_norm(x, x.shape[-1:], *norm2), *up)), *down)
    x = F.layer_norm(x, x.shape[-1:], w["transformer.ln_f.weight"], w.get("transformer.ln_f.bias"))
    return x @ w["lm_head.weight"].T


def causal(q: Tensor, k: Tensor, v: Tensor, n_head: int) -> Tensor:
    """Attention, a head and a query at a time."""
    outputs: list[Tensor] = []
    for q_h, k_h, v_h in zip(*(x.chunk(n_head, dim=-1) for x in (q, k, v)), strict=True):
        rows: list[Tensor] = []
        for t in range(q.shape[1]):
            scores = (k_h[:, : t + 1] @ q_h[:, t, :, None]).squeeze(-1) / math.sqrt(q_h.shape[-1])
            rows.append((scores.softmax(-1)[:, None] @ v_h[:, : t + 1]).squeeze(1))
        outputs.append(torch.stack(rows, dim=1))
    return torch.cat(outputs, dim=-1)


def save_nano(path: Path, bias: bool, **changes: Any) -> dict[str, Tensor]:
    """A ckpt.pt as train.py writes it, of a compiled model, with the mask that older versions kept."""
    weights = nano_weights(bias)
    state = {f"_orig_mod.{name}": tensor for name, tensor in weights.items()}
    if bias:
        state["_orig_mod.transformer.h.0.attn.bias"] = torch.ones(1, 1, 12, 12).tril()
    saved = {
        "model": state,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
        "model_args": NANO_ARGS | {"bias": bias},
        "iter_num": 300,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "shakespeare_char", "compile": True},
    }
    torch.save(saved | changes, path)
    return weights


# The book: two linear layers more, norms with scale and shift, tanh GELU written out, an untied head.

BOOK: dict[str, Any] = {
    "vocab_size": SYMBOLS,
    "context_length": 12,
    "emb_dim": 16,
    "n_heads": 4,
    "n_layers": 2,
    "drop_rate": 0.1,
    "qkv_bias": False,
}


def book_weights(settings: dict[str, Any]) -> dict[str, Tensor]:
    V, C = settings["vocab_size"], settings["emb_dim"]
    shapes: dict[str, tuple[int, ...]] = {"tok_emb.weight": (V, C), "pos_emb.weight": (settings["context_length"], C)}
    for layer in range(settings["n_layers"]):
        at = f"trf_blocks.{layer}."
        for which in ("query", "key", "value"):
            shapes[f"{at}att.W_{which}.weight"] = (C, C)
            shapes |= {f"{at}att.W_{which}.bias": (C,)} if settings["qkv_bias"] else {}
        shapes |= {f"{at}att.out_proj.weight": (C, C), f"{at}att.out_proj.bias": (C,)}
        shapes |= {f"{at}ff.layers.0.weight": (4 * C, C), f"{at}ff.layers.0.bias": (4 * C,)}
        shapes |= {f"{at}ff.layers.2.weight": (C, 4 * C), f"{at}ff.layers.2.bias": (C,)}
        shapes |= {f"{at}{norm}.{part}": (C,) for norm in ("norm1", "norm2") for part in ("scale", "shift")}
    shapes |= {"final_norm.scale": (C,), "final_norm.shift": (C,), "out_head.weight": (V, C)}
    return random_weights(shapes)


def book_logits(w: dict[str, Tensor], settings: dict[str, Any], tokens_BT: Tensor) -> Tensor:
    """What the book's GPTModel computes with these weights."""

    def norm(x: Tensor, name: str) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        return (
            w[f"{name}.scale"] * centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()
            + w[f"{name}.shift"]
        )

    x = w["tok_emb.weight"][tokens_BT] + w["pos_emb.weight"][: tokens_BT.shape[1]]
    for layer in range(settings["n_layers"]):
        at = f"trf_blocks.{layer}."
        h = norm(x, f"{at}norm1")
        q, k, v = (
            F.linear(h, w[f"{at}att.W_{which}.weight"], w.get(f"{at}att.W_{which}.bias"))
            for which in ("query", "key", "value")
        )
        attended = causal(q, k, v, settings["n_heads"])
        x = x + attended @ w[f"{at}att.out_proj.weight"].T + w[f"{at}att.out_proj.bias"]
        h = norm(x, f"{at}norm2") @ w[f"{at}ff.layers.0.weight"].T + w[f"{at}ff.layers.0.bias"]
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = x + h @ w[f"{at}ff.layers.2.weight"].T + w[f"{at}ff.layers.2.bias"]
    return norm(x, "final_norm") @ w["out_head.weight"].T


def save_book(folder: Path, settings: dict[str, Any], weights: dict[str, Tensor], kind: str) -> Path:
    """A checkpoint as the book saves it (`.pth`, alone or with the optimizer) or as gpjt does (safetensors)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps(settings), encoding="utf-8")
    state = weights | {"trf_blocks.0.att.mask": torch.ones(12, 12).triu(1)}
    if kind == "safetensors":
        place = folder / "checkpoints" / "20260101Z000000-best"
        place.mkdir(parents=True)
        save_file(state, place / "model.safetensors")
        return place
    torch.save(
        {"model_state_dict": state, "optimizer_state_dict": {}} if kind == "both" else state, folder / "model.pth"
    )
    return folder / "model.pth"
