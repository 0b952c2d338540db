"""Which of llama.cpp's models ours is, and its tensors as those there and back.

llama.cpp computes many architectures, and four of them are ours under certain switches: GPT-2 (learned positions, layer
norm), GPT-NeoX with its branches one after the other (rotary positions, layer norm), Llama (rotary positions, RMS norm,
SwiGLU) and Qwen3 (Llama with a norm of queries and keys).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scratchlab.architecture import GPTSection
from scratchlab.errors import RunError
from scratchlab.interop.names import Names, heights, listed, shapes_of, tied, to_ours, to_theirs

TABLE = {
    "token_embedding.weight": "token_embd.weight",
    "position_embedding.weight": "position_embd.weight",
    **{
        f"blocks.{{}}.{ours}.{part}": f"blk.{{}}.{theirs}.{part}"
        for ours, theirs in {
            "attention_norm": "attn_norm",
            "attention.qkv": "attn_qkv",
            "attention.q_norm": "attn_q_norm",
            "attention.k_norm": "attn_k_norm",
            "attention.out": "attn_output",
            "mlp_norm": "ffn_norm",
            "mlp.gate": "ffn_gate",
            "mlp.up": "ffn_up",
            "mlp.down": "ffn_down",
        }.items()
        for part in ("weight", "bias")
    },
    "final_norm.weight": "output_norm.weight",
    "final_norm.bias": "output_norm.bias",
    "head.weight": "output.weight",
}
NAMES = Names(TABLE)
# Where queries, keys and values have a matrix each.
SPLIT = Names(
    TABLE
    | {
        f"blocks.{{}}.attention.qkv.{part}": tuple(f"blk.{{}}.attn_{which}.{part}" for which in "qkv")
        for part in ("weight", "bias")
    }
)
EMBEDDING, HEAD = TABLE["token_embedding.weight"], TABLE["head.weight"]


@dataclass(frozen=True, slots=True)
class Family:
    """An architecture of llama.cpp."""

    name: str
    """`general.architecture`."""
    switches: Mapping[str, object]
    """What ours must say to be one."""
    names: Names
    biases: bool
    """Whether all linear layers and norms have one: where ours has none, it is zeros. (Else they may, if not forbidden
    by `switches`.)"""
    interleaved: bool = False
    """Whether rotary positions turn number 2 i of a head with number 2 i + 1, where ours turn i with i + D / 2."""
    own_head: bool = False
    """Whether the head is written even where it is the embedding."""

    @property
    def norm_key(self) -> str:
        return "layer_norm_rms_epsilon" if self.switches["norm"] == "rms" else "layer_norm_epsilon"


_LAYER_NORM = {"norm": "layer", "mlp": "gelu_tanh", "qk_norm": False}
_RMS_NORM = {"norm": "rms", "mlp": "swiglu", "positions": "rotary"}
FAMILIES = (
    Family("gpt2", {**_LAYER_NORM, "positions": "learned"}, NAMES, biases=True),
    Family("gptneox", {**_LAYER_NORM, "positions": "rotary"}, NAMES, biases=True, own_head=True),
    Family("llama", {**_RMS_NORM, "qk_norm": False}, SPLIT, biases=False, interleaved=True),
    Family("qwen3", {**_RMS_NORM, "qk_norm": True}, SPLIT, biases=False),
)
# What none of them has.
PLAIN = {
    "norm_position": "pre",
    "window": None,
    "document_mask": False,
    "residual": True,
    "logit_cap": None,
}


def family_of(config: GPTSection) -> Family:
    """The architecture that computes what this model does. `RunError` says what keeps it from the nearest."""
    differences = {family.name: _differences(config, family) for family in FAMILIES}
    fewest = min(map(len, differences.values()))
    nearest = [family for family in FAMILIES if len(differences[family.name]) == fewest]
    if fewest:
        near = ", and ".join(f"{family.name}, which knows no {listed(differences[family.name])}" for family in nearest)
        raise RunError(f"llama.cpp computes no such model. Nearest to it: {near}. ONNX takes any GPT.")
    return nearest[0]


def _differences(config: GPTSection, family: Family) -> list[str]:
    expected = {**PLAIN, **family.switches}
    wrong = [f"{name} = {value!r}" for name, usual in expected.items() if (value := getattr(config, name)) != usual]
    if config.attention == "none":
        wrong.append("attention = 'none'")
    if family.names is NAMES and config.n_kv != config.n_head:
        wrong.append(f"n_kv_head = {config.n_kv_head}")
    if family.name == "qwen3":
        wrong += [f"bias in {place}" for place in ("qkv", "output", "mlp") if config.has_bias(place)]
    return wrong


def to_gguf(config: GPTSection, ours: Mapping[str, Tensor], vocab_size: int, family: Family) -> dict[str, Tensor]:
    """The tensors of the file: padding of the vocabulary left out, biases that ours does not have zeros."""
    shapes = shapes_of(_as_there(config, family), vocab_size)
    whole = {name: ours[name][: shape[0]] if name in ours else torch.zeros(shape) for name, shape in shapes.items()}
    if family.interleaved:
        whole = _reordered(whole, config, interleaved)
    theirs = to_theirs(whole, config, family.names)
    if family.own_head and config.tie_weights:
        theirs[HEAD] = theirs[EMBEDDING]
    return {name: tensor.to(torch.float32) for name, tensor in theirs.items()}


def from_gguf(
    theirs: Mapping[str, Tensor], config: GPTSection, rows: int, family: Family, origin: str
) -> dict[str, Tensor]:
    """Our parameters out of the tensors of a file: `to_gguf` the other way, to the bit.

    `RunError` names all that is missing, unknown or misshapen.
    """
    state = dict(theirs)
    if config.n_layer <= len(theirs):  # before so many layers are built
        ours, filled = shapes_of(config, rows), shapes_of(_as_there(config, family), rows)
        zeros = {part for name in filled.keys() - ours.keys() for part in family.names.of(name)}
        state = {name: tensor for name, tensor in theirs.items() if name not in zeros or bool(tensor.any())}
    if config.tie_weights:
        state = tied(state, EMBEDDING, HEAD, origin)
    found = to_ours(state, config, rows, family.names, origin)
    return _reordered(found, config, halved) if family.interleaved else found


def _as_there(config: GPTSection, family: Family) -> GPTSection:
    """Our model with the true size of its vocabulary, and with all biases where they are needed."""
    every = {"bias": True, **dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias", "norm_bias"))}
    return config.model_copy(update={"vocab_multiple": 1, **(every if family.biases else {})})


def _reordered(
    ours: Mapping[str, Tensor], config: GPTSection, order: Callable[[Tensor, int], Tensor]
) -> dict[str, Tensor]:
    """Our tensors with the outputs of each head of queries and keys in another order."""
    changed = dict(ours)
    for name in (name for name in ours if ".qkv." in name):
        q, k, v = ours[name].split(heights(config, name, len(ours[name]), 3))
        changed[name] = torch.cat([order(q, config.n_head), order(k, config.n_kv), v])
    return changed


def interleaved(rows: Tensor, heads: int) -> Tensor:
    """The outputs of each head reordered: 0, D / 2, 1, D / 2 + 1, ... llama.cpp's Llama turns neighbors.

    `rows` is a matrix (heads D, C) or a bias (heads D).
    """
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def halved(rows: Tensor, heads: int) -> Tensor:
    """`interleaved` undone."""
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def fields_of(settings: Mapping[str, Any], family: Family, theirs: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """Our `[model]` for a file that another program wrote. `settings` are its fields, without the architecture."""
    width, heads = settings["embedding_length"], settings["attention.head_count"]
    inner, kv_heads = settings["feed_forward_length"], settings.get("attention.head_count_kv", heads)
    usual: dict[str, object] = {
        f"attention.{family.norm_key}": 1e-5,
        "rope.freq_base": 10_000.0,
        "rope.dimension_count": width // heads,
        "attention.key_length": width // heads,
        "attention.value_length": width // heads,
        "use_parallel_residual": False,
        "rope.scaling.type": "none",
        "expert_count": 0,
    }
    given = {name: settings.get(name, value) for name, value in usual.items()}
    if family.name == "gptneox":  # there it is what a file without the field means
        given["use_parallel_residual"] = settings.get("use_parallel_residual", True)
    wrong = [
        f"{name} = {given[name]!r} and not {value!r}" for name, value in usual.items() if not _is(given[name], value)
    ]
    if wrong:
        raise RunError(f"{where}: this is not {family.name} as it can be built here: {listed(wrong)}.")
    first = {name.removeprefix("blk.0.") for name in theirs}
    biases = {
        "qkv_bias": not first.isdisjoint(("attn_qkv.bias", "attn_q.bias")),
        "output_bias": "attn_output.bias" in first,
        "mlp_bias": "ffn_up.bias" in first,
    }
    return {
        "n_layer": settings["block_count"],
        "n_head": heads,
        "n_kv_head": None if kv_heads == heads else kv_heads,
        "d_model": width,
        "context_length": settings["context_length"],
        "mlp_ratio": inner / width,
        "tie_weights": HEAD not in theirs,
        **family.switches,
        **(biases if not family.biases else {}),
    }


def _is(value: object, usual: object) -> bool:
    """Whether a field says the usual; the file has it in float32."""
    if isinstance(value, float) and isinstance(usual, float):
        return abs(value - usual) <= 1e-6 * usual
    return value == usual
