"""Classes of transformers with rotary positions: Llama and Arcee, SmolLM3, Qwen2 and Qwen3, Starcoder2.

They part in little. Llama has RMS norms and SwiGLU, Arcee another MLP in its place. SmolLM3, Qwen2 and Qwen3 are Llama
with windows, which may be every second layer's, and Qwen3 with QK norms. Starcoder2 has layer norms and GPT-2's MLP.

Their rotation pairs number i of a head with number i + D / 2, as ours does, so that no matrix is permuted.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from scratchlab.architecture import GPTSection
from scratchlab.errors import RunError
from scratchlab.interop.files import whole_numbers
from scratchlab.interop.layouts import ACTIVATIONS, EVERYWHERE, HEAD, PLAIN, Layout, Settings, Values, activation
from scratchlab.interop.names import Names

PARTS = ("weight", "bias")
TABLE: dict[str, str | tuple[str, ...]] = {
    "token_embedding.weight": "embed_tokens.weight",
    "final_norm.weight": "norm.weight",
    "final_norm.bias": "norm.bias",
    "head.weight": HEAD,
    "blocks.{}.attention.q_norm.weight": "layers.{}.self_attn.q_norm.weight",
    "blocks.{}.attention.k_norm.weight": "layers.{}.self_attn.k_norm.weight",
    **{
        f"blocks.{{}}.attention.qkv.{part}": tuple(f"layers.{{}}.self_attn.{x}_proj.{part}" for x in "qkv")
        for part in PARTS
    },
    **{f"blocks.{{}}.attention.out.{part}": f"layers.{{}}.self_attn.o_proj.{part}" for part in PARTS},
    **{f"blocks.{{}}.attention_norm.{part}": f"layers.{{}}.input_layernorm.{part}" for part in PARTS},
    **{f"blocks.{{}}.mlp_norm.{part}": f"layers.{{}}.post_attention_layernorm.{part}" for part in PARTS},
    **{
        f"blocks.{{}}.mlp.{x}.{part}": f"layers.{{}}.mlp.{x}_proj.{part}"
        for x in ("gate", "up", "down")
        for part in PARTS
    },
}
STARCODER2_TABLE = TABLE | {
    f"blocks.{{}}.mlp.{ours}.{part}": f"layers.{{}}.mlp.{theirs}.{part}"
    for ours, theirs in (("up", "c_fc"), ("down", "c_proj"))
    for part in PARTS
}

ROTATION: Settings = {"rope_theta": 10_000.0, "rope_type": "default", "partial_rotary_factor": 1.0}
FIXED: Settings = ROTATION | {"quantization_config": None}
RMS: Settings = FIXED | {"rms_norm_eps": 1e-5}
GATED: Settings = RMS | {"hidden_act": "silu"}


def _knows(**own: tuple[object, ...]) -> Values:
    usual: Values = {"positions": ("rotary",), "norm": ("rms",), "qk_norm": (False,), "window": (None,)}
    return {**EVERYWHERE, **usual, **own}


def _settings(config: GPTSection) -> dict[str, Any]:
    """What all of them have."""
    return {
        "hidden_size": config.d_model,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv,
        "head_dim": config.head_width,
        "max_position_embeddings": config.context_length,
        "hidden_act": "silu" if config.mlp == "swiglu" else activation(config),
        "rope_theta": ROTATION["rope_theta"],
        "attention_dropout": config.dropped("attention"),
        "tie_word_embeddings": config.tie_weights,
    }


def _fields(settings: Settings, where: str) -> dict[str, Any]:
    """What is read the same in all of them."""
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    own = [name for name in ("num_key_value_heads", "head_dim") if settings.get(name) is not None]
    whole_numbers(settings, (*sizes, *own, "vocab_size"), where)
    width, heads = settings["hidden_size"], settings["num_attention_heads"]
    if (head := settings.get("head_dim") or width // heads) * heads != width:
        raise RunError(f"{where}: head_dim = {head}, and {heads} heads of it are not hidden_size = {width}, as here.")
    return {
        "n_layer": settings["num_hidden_layers"],
        "n_head": heads,
        "n_kv_head": None if settings.get("num_key_value_heads") in (None, heads) else settings["num_key_value_heads"],
        "d_model": width,
        "context_length": settings["max_position_embeddings"],
        "positions": "rotary",
        "mlp_ratio": settings["intermediate_size"] / width,
        "bias": False,
        "dropout_attention": settings.get("attention_dropout") or None,
        "tie_weights": settings["tie_word_embeddings"],
    }


def _plain_mlp(settings: Settings, where: str) -> str:
    theirs = settings.get("hidden_act")
    if not isinstance(theirs, str) or theirs not in ACTIVATIONS:
        raise RunError(f"{where}: hidden_act = {theirs!r}; known here are {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[theirs]


# Llama, and Arcee, which is Llama with GPT-2's MLP.


def _in_attention(config: GPTSection) -> bool:
    """One switch for the biases of queries, keys, values and the projection."""
    return config.has_bias("qkv") or config.has_bias("output")


def _llama_biases(config: GPTSection) -> Mapping[str, bool]:
    attention = _in_attention(config)
    return {"qkv": attention, "output": attention, "mlp": config.has_bias("mlp"), "norm": False}


def _llama_settings(config: GPTSection) -> dict[str, Any]:
    biases = {"attention_bias": _in_attention(config), "mlp_bias": config.has_bias("mlp")}
    return _settings(config) | biases | {"rms_norm_eps": 1e-5}


def _llama_fields(settings: Settings, where: str) -> dict[str, Any]:
    attention = settings.get("attention_bias", False)
    biases = {"qkv_bias": attention, "output_bias": attention, "mlp_bias": settings.get("mlp_bias", False)}
    return _fields(settings, where) | biases | {"norm": "rms", "mlp": "swiglu"}


def _arcee_fields(settings: Settings, where: str) -> dict[str, Any]:
    return _llama_fields(settings, where) | {"mlp": _plain_mlp(settings, where)}


LLAMA = Layout(
    name="LlamaForCausalLM",
    title="Llama",
    model_type="llama",
    names=Names(TABLE),
    prefix="model.",
    knows=lambda _: _knows(mlp=("swiglu",)),
    biases=_llama_biases,
    settings=_llama_settings,
    fields=_llama_fields,
    fixed=GATED,
    usual={"rms_norm_eps": 1e-6, "tie_word_embeddings": False},
)
ARCEE = Layout(
    name="ArceeForCausalLM",
    title="Arcee",
    model_type="arcee",
    names=Names(TABLE),
    prefix="model.",
    knows=lambda _: _knows(mlp=PLAIN),
    biases=_llama_biases,
    settings=_llama_settings,
    fields=_arcee_fields,
    fixed=RMS,
    usual={"hidden_act": "relu2", "tie_word_embeddings": False},
)

# With windows: SmolLM3, Qwen2 and Qwen3.


def _windows(config: GPTSection) -> dict[str, Any]:
    types = {True: "sliding_attention", False: "full_attention"}
    return {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "layer_types": [types[config.window_of(layer) is not None] for layer in range(config.n_layer)],
    }


def _windows_of_qwen(config: GPTSection) -> dict[str, Any]:
    first = 0 if config.window_layers == "all" else config.n_layer
    return _windows(config) | {"max_window_layers": first}  # older releases read this alone


def _narrow(settings: Settings, where: str) -> int | None:
    """The window, if it hides anything."""
    if settings.get("sliding_window") is None:
        return None
    whole_numbers(settings, ("sliding_window",), where)
    window = settings["sliding_window"]
    return window if window < settings["max_position_embeddings"] else None


def _window_fields(settings: Settings, where: str) -> dict[str, Any]:
    n_layer = settings["num_hidden_layers"]
    if not settings.get("use_sliding_window") or (window := _narrow(settings, where)) is None:
        return {}
    first = settings.get("max_window_layers", 28)
    slides = [f"{'sliding' if layer >= first else 'full'}_attention" for layer in range(n_layer)]
    slides = [kind == "sliding_attention" for kind in settings.get("layer_types") or slides]
    if not any(slides):
        return {}
    if slides not in ([True] * n_layer, [layer % 2 == 1 for layer in range(n_layer)]):
        raise RunError(
            f"{where}: layer_types: windows are every layer's here, or every second one's after a dense one."
        )
    return {"window": window, "window_layers": "all" if slides[0] else "alternate"}


def _smollm3_settings(config: GPTSection) -> dict[str, Any]:
    # Its usual padding is a token that a small vocabulary has not, and every fourth layer's positions are not turned.
    own = {"pad_token_id": None, "no_rope_layers": [1] * config.n_layer}
    return _llama_settings(config) | _windows(config) | own


def _smollm3_fields(settings: Settings, where: str) -> dict[str, Any]:
    found, n_layer = _llama_fields(settings, where), settings["num_hidden_layers"]
    if settings.get("no_rope_layers") != [1] * n_layer:
        raise RunError(f"{where}: no_rope_layers: positions are turned in every layer here.")
    return found | _window_fields({"layer_types": ["full_attention"] * n_layer} | dict(settings), where)


def _qwen2_settings(config: GPTSection) -> dict[str, Any]:
    settings = _settings(config) | _windows_of_qwen(config) | {"rms_norm_eps": 1e-5}
    del settings["head_dim"]  # it knows none but the width by the heads
    return settings


def _qwen2_fields(settings: Settings, where: str) -> dict[str, Any]:
    return (
        _fields(settings, where) | _window_fields(settings, where) | {"norm": "rms", "mlp": "swiglu", "qkv_bias": True}
    )


def _qwen3_settings(config: GPTSection) -> dict[str, Any]:
    return (
        _settings(config) | _windows_of_qwen(config) | {"rms_norm_eps": 1e-5, "attention_bias": _in_attention(config)}
    )


def _qwen3_fields(settings: Settings, where: str) -> dict[str, Any]:
    attention = settings.get("attention_bias", False)
    own = {"norm": "rms", "mlp": "swiglu", "qk_norm": True, "qkv_bias": attention, "output_bias": attention}
    return _fields({"head_dim": 128} | dict(settings), where) | _window_fields(settings, where) | own


SMOLLM3 = replace(
    LLAMA,
    name="SmolLM3ForCausalLM",
    title="SmolLM3",
    model_type="smollm3",
    knows=lambda config: _knows(mlp=("swiglu",), window=(config.window,)),
    settings=_smollm3_settings,
    fields=_smollm3_fields,
    usual={"rms_norm_eps": 1e-6, "rope_theta": 2e6, "num_key_value_heads": 4, "tie_word_embeddings": True},
)
QWEN2 = Layout(
    name="Qwen2ForCausalLM",
    title="Qwen2",
    model_type="qwen2",
    names=Names(TABLE),
    prefix="model.",
    knows=lambda config: _knows(mlp=("swiglu",), window=(config.window,), output_bias=(False,), mlp_bias=(False,)),
    biases=lambda _: {"qkv": True, "output": False, "mlp": False, "norm": False},
    settings=_qwen2_settings,
    fields=_qwen2_fields,
    fixed=GATED,
    usual={"rms_norm_eps": 1e-6, "tie_word_embeddings": False},
)
QWEN3 = Layout(
    name="Qwen3ForCausalLM",
    title="Qwen3",
    model_type="qwen3",
    names=Names(TABLE),
    prefix="model.",
    knows=lambda config: _knows(mlp=("swiglu",), qk_norm=(True,), window=(config.window,), mlp_bias=(False,)),
    biases=lambda config: {**_llama_biases(config), "mlp": False},
    settings=_qwen3_settings,
    fields=_qwen3_fields,
    fixed=GATED,
    usual={"rms_norm_eps": 1e-6, "tie_word_embeddings": False},
)

# Starcoder2.


def _linear_biases(config: GPTSection) -> bool:
    """One switch for all linear layers."""
    return _in_attention(config) or config.has_bias("mlp")


def _starcoder2_settings(config: GPTSection) -> dict[str, Any]:
    settings = _settings(config) | {
        "norm_epsilon": 1e-5,
        "use_bias": _linear_biases(config),
        "sliding_window": config.window,
        "residual_dropout": config.dropped("residual"),
        "embedding_dropout": config.dropped("embedding"),
    }
    del settings["head_dim"]
    return settings


def _starcoder2_fields(settings: Settings, where: str) -> dict[str, Any]:
    bias = settings.get("use_bias", True)
    return _fields(settings, where) | {
        "mlp": _plain_mlp(settings, where),
        "bias": bias,
        "norm_bias": None if bias else True,
        "window": _narrow(settings, where),
        "dropout_residual": settings.get("residual_dropout") or None,
        "dropout_mlp": settings.get("residual_dropout") or None,
        "dropout_embedding": settings.get("embedding_dropout") or None,
    }


STARCODER2 = Layout(
    name="Starcoder2ForCausalLM",
    title="Starcoder2",
    model_type="starcoder2",
    names=Names(STARCODER2_TABLE),
    prefix="model.",
    knows=lambda config: _knows(norm=("layer",), mlp=PLAIN, window=(config.window,), window_layers=("all",)),
    biases=lambda config: dict.fromkeys(("qkv", "output", "mlp"), _linear_biases(config)) | {"norm": True},
    settings=_starcoder2_settings,
    fields=_starcoder2_fields,
    fixed=FIXED | {"norm_epsilon": 1e-5},
    usual={"hidden_act": "gelu_pytorch_tanh", "num_key_value_heads": 2, "tie_word_embeddings": True},
)
