"""Hugging Face's GPT-2: learned positions, layer norms, a plain MLP, biases everywhere."""

import re
from typing import Any

from scratchlab.architecture import GPTSection
from scratchlab.errors import RunError
from scratchlab.interop.files import whole_numbers
from scratchlab.interop.layouts import ACTIVATIONS, EVERYWHERE, HEAD, PLAIN, Layout, Settings, Values, activation
from scratchlab.interop.names import Names

TABLE = {
    "token_embedding.weight": "wte.weight",
    "position_embedding.weight": "wpe.weight",
    "blocks.{}.attention_norm.weight": "h.{}.ln_1.weight",
    "blocks.{}.attention_norm.bias": "h.{}.ln_1.bias",
    "blocks.{}.attention.qkv.weight": "h.{}.attn.c_attn.weight",
    "blocks.{}.attention.qkv.bias": "h.{}.attn.c_attn.bias",
    "blocks.{}.attention.out.weight": "h.{}.attn.c_proj.weight",
    "blocks.{}.attention.out.bias": "h.{}.attn.c_proj.bias",
    "blocks.{}.mlp_norm.weight": "h.{}.ln_2.weight",
    "blocks.{}.mlp_norm.bias": "h.{}.ln_2.bias",
    "blocks.{}.mlp.up.weight": "h.{}.mlp.c_fc.weight",
    "blocks.{}.mlp.up.bias": "h.{}.mlp.c_fc.bias",
    "blocks.{}.mlp.down.weight": "h.{}.mlp.c_proj.weight",
    "blocks.{}.mlp.down.bias": "h.{}.mlp.c_proj.bias",
    "final_norm.weight": "ln_f.weight",
    "final_norm.bias": "ln_f.bias",
    "head.weight": HEAD,
}
# Their "Conv1D" is a linear layer whose matrix lies the other way.
NAMES = Names(TABLE, frozenset(name for name in TABLE if re.search(r"\.(qkv|out|up|down)\.weight$", name)))


def _knows(config: GPTSection) -> Values:
    return {
        **EVERYWHERE,
        "norm": ("layer",),
        "positions": ("learned",),
        "n_kv_head": (None, config.n_head),
        "qk_norm": (False,),
        "window": (None,),
        "mlp": PLAIN,
    }


def _settings(config: GPTSection) -> dict[str, Any]:
    return {
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.d_model,
        "n_positions": config.context_length,
        "n_inner": None if config.mlp_width == 4 * config.d_model else config.mlp_width,
        "activation_function": activation(config),
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": config.tie_weights,
        "embd_pdrop": config.dropped("embedding"),
        "attn_pdrop": config.dropped("attention"),
        "resid_pdrop": config.dropped("residual"),
    }


def _fields(settings: Settings, where: str) -> dict[str, Any]:
    inner = () if settings.get("n_inner") is None else ("n_inner",)
    whole_numbers(settings, ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", *inner), where)
    width, theirs = settings["n_embd"], settings.get("activation_function", "gelu_new")
    if not isinstance(theirs, str) or theirs not in ACTIVATIONS:
        raise RunError(f"{where}: activation_function = {theirs!r}; known here are {', '.join(ACTIVATIONS)}.")
    dropout, *others = (settings.get(f"{place}_pdrop", 0.1) for place in ("resid", "embd", "attn"))
    own = dict(zip(("dropout_embedding", "dropout_attention"), others, strict=True))
    return {
        "n_layer": settings["n_layer"],
        "n_head": settings["n_head"],
        "d_model": width,
        "context_length": settings["n_positions"],
        "mlp": ACTIVATIONS[theirs],
        "mlp_ratio": settings["n_inner"] / width if inner else 4.0,
        "dropout": dropout,
        **{place: share for place, share in own.items() if share != dropout},
        "tie_weights": settings.get("tie_word_embeddings", True),
    }


GPT2 = Layout(
    name="GPT2LMHeadModel",
    title="GPT-2",
    model_type="gpt2",
    names=NAMES,
    prefix="transformer.",
    knows=_knows,
    biases=lambda _: dict.fromkeys(("qkv", "output", "mlp", "norm"), True),
    settings=_settings,
    fields=_fields,
    fixed={
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "quantization_config": None,
    },
    usual={},
)
