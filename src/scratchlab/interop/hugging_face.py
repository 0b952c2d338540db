"""Hugging Face's GPT-2, read and written: `config.json` and safetensors, as GPT2LMHeadModel has them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scratchlab.corpus.chat import ChatTemplate
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import RunError
from scratchlab.files import Find, folder_in_one_piece, pretty_json, write_atomically
from scratchlab.interop.files import read_json, read_pickle, read_safetensors, tensors_of, whole_numbers
from scratchlab.interop.foreign import Foreign, section
from scratchlab.interop.names import Names, listed, shapes_of, tied, to_ours, to_theirs
from scratchlab.recipe import GPTSection
from scratchlab.training.checkpoint import write_tensors

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
    "head.weight": "lm_head.weight",
}
HEAD = TABLE["head.weight"]
# Their "Conv1D" is a linear layer whose matrix lies the other way.
NAMES = Names(TABLE, frozenset(name for name in TABLE if re.search(r"\.(qkv|out|up|down)\.weight$", name)))

CONFIG, WEIGHTS, OLD_WEIGHTS = "config.json", "model.safetensors", "pytorch_model.bin"
INDEX = "model.safetensors.index.json"  # of weights in several files

# Their activations, by ours.
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}

# What GPT-2 is, where it could be otherwise: our page computes nothing else.
ALWAYS = {
    "model_type": "gpt2",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "quantization_config": None,
}


def read_hugging_face(find: Find, origin: str) -> Foreign:
    """The model whose `config.json` and weights `find` finds. `origin` is what messages call it."""
    path = find(CONFIG)
    if path is None:
        raise RunError(f"{origin} has no {CONFIG}.")
    settings, where = read_json(path), f"{origin}: {CONFIG}"
    given = {name: settings.get(name, None if name == "model_type" else usual) for name, usual in ALWAYS.items()}
    wrong = [f"{name} = {given[name]!r} and not {usual!r}" for name, usual in ALWAYS.items() if given[name] != usual]
    if wrong:
        raise RunError(f"{where}: this is not GPT-2 as it can be built here: {listed(wrong)}.")
    config = section(_fields(settings, where), where)
    state, files = _read_weights(find, origin)
    state = without_masks({name.removeprefix("transformer."): tensor for name, tensor in state.items()})
    if config.tie_weights:
        state = tied(state, "wte.weight", HEAD, origin)
    tensors = to_ours(state, config, settings["vocab_size"], NAMES, origin)
    return Foreign("Hugging Face GPT-2", config, settings["vocab_size"], tensors, (path, *files))


def _fields(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Our `[model]` for their configuration."""
    inner = () if settings.get("n_inner") is None else ("n_inner",)
    whole_numbers(settings, ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", *inner), where)
    width, activation = settings["n_embd"], settings.get("activation_function", "gelu_new")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise RunError(f"{where}: activation_function = {activation!r}; known here are {', '.join(ACTIVATIONS)}.")
    dropout, *others = (settings.get(f"{place}_pdrop", 0.1) for place in ("resid", "embd", "attn"))
    own = dict(zip(("dropout_embedding", "dropout_attention"), others, strict=True))
    return {
        "n_layer": settings["n_layer"],
        "n_head": settings["n_head"],
        "d_model": width,
        "context_length": settings["n_positions"],
        "mlp": ACTIVATIONS[activation],
        "mlp_ratio": settings["n_inner"] / width if inner else 4.0,
        "dropout": dropout,
        **{place: share for place, share in own.items() if share != dropout},
        "tie_weights": settings.get("tie_word_embeddings", True),
    }


def without_masks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the causal masks that older versions saved along with the weights."""
    return {name: t for name, t in state.items() if not re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", name)}


def _read_weights(find: Find, origin: str) -> tuple[dict[str, Tensor], list[Path]]:
    files = weight_files(find, origin)
    if files[0].name == OLD_WEIGHTS:
        return tensors_of(read_pickle(files[0]), files[0]), files
    shards = [path for path in files if path.name != INDEX]
    return {name: tensor for path in shards for name, tensor in read_safetensors(path).items()}, files


def weight_files(find: Find, origin: str) -> list[Path]:
    """Where the weights of a model lie: a file, or an index and the files it names. `RunError` if there are none."""
    if path := find(WEIGHTS):
        return [path]
    if index := find(INDEX):
        shards = sorted({str(name) for name in read_json(index).get("weight_map", {}).values()})
        files = {name: find(name) if Path(name).name == name else None for name in shards}
        if missing := [name for name, path in files.items() if path is None]:
            raise RunError(f"{origin}: {INDEX} names {listed(missing)}, and there is no such file.")
        return [index, *(path for path in files.values() if path)]
    if path := find(OLD_WEIGHTS):
        return [path]
    raise RunError(f"{origin} has no weights: {WEIGHTS}, {INDEX} or {OLD_WEIGHTS} was expected.")


def write_hugging_face(
    config: GPTSection, tensors: Mapping[str, Tensor], tokenizer: Tokenizer, to: Path, chat_template: str | None = None
) -> None:
    """A new folder that GPT2LMHeadModel and AutoTokenizer load. `RunError` if this model is no GPT-2.

    Padding of the vocabulary is left out, and biases that ours does not have are zeros. `chat_template` is how the
    model is spoken to, if it is; where its turns end with another token than the text does, generation stops at both.
    """
    if differences := not_gpt2(config):
        raise RunError(f"GPT-2 as Hugging Face has it knows no {listed(differences)}: this model cannot be one.")
    if to.exists():
        raise RunError(f"{to} exists already; an export needs a folder of its own.")
    whole = {name: torch.zeros(shape) for name, shape in shapes_of(_with_biases(config), tokenizer.vocab_size).items()}
    for name in whole:
        if name in tensors:
            whole[name] = tensors[name][: len(whole[name])]
    theirs = to_theirs(whole, NAMES)
    state = {name if name == HEAD else f"transformer.{name}": tensor for name, tensor in theirs.items()}
    with folder_in_one_piece(to, "the export") as folder:
        write_tensors(state, folder / WEIGHTS, {"format": "pt"})
        write_atomically(folder / CONFIG, pretty_json(_settings(config, tokenizer)))
        write_atomically(folder / "tokenizer.json", tokenizer.to_json())
        settings = _tokenizer_settings(config, tokenizer)
        if chat_template is not None:
            settings["chat_template"] = chat_template
            of_turn, of_text = ChatTemplate(chat_template).end_of_turn(tokenizer), tokenizer.end_of_text
            ends = {of_turn, of_turn if of_text is None else of_text}
            stops = {"bos_token_id": of_text, "eos_token_id": sorted(ends)}
            write_atomically(folder / "generation_config.json", pretty_json(stops))
        write_atomically(folder / "tokenizer_config.json", pretty_json(settings))


def not_gpt2(config: GPTSection) -> list[str]:
    """The switches of a model that Hugging Face's GPT-2 does not have."""
    same: dict[str, tuple[object, ...]] = {
        "norm": ("layer",),
        "norm_position": ("pre",),
        "positions": ("learned",),
        "attention": ("fused", "explicit", "torch"),
        "n_kv_head": (None, config.n_head),
        "qk_norm": (False,),
        "window": (None,),
        "document_mask": (False,),
        "mlp": tuple(ACTIVATIONS.values()),
        "residual": (True,),
        "logit_cap": (None,),
        "labels": (None,),
    }
    return [f"{name} = {value!r}" for name, known in same.items() if (value := getattr(config, name)) not in known]


def _with_biases(config: GPTSection) -> GPTSection:
    biases = dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias", "norm_bias"))
    return config.model_copy(update={"bias": True, "vocab_multiple": 1, **biases})


def _settings(config: GPTSection, tokenizer: Tokenizer) -> dict[str, Any]:
    """Their configuration of our model."""
    activation = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.mlp)
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.d_model,
        "n_positions": config.context_length,
        "n_inner": None if config.mlp_width == 4 * config.d_model else config.mlp_width,
        "vocab_size": tokenizer.vocab_size,
        "activation_function": activation,
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": config.tie_weights,
        "embd_pdrop": config.dropped("embedding"),
        "attn_pdrop": config.dropped("attention"),
        "resid_pdrop": config.dropped("residual"),
        "bos_token_id": tokenizer.end_of_text,
        "eos_token_id": tokenizer.end_of_text,
        "torch_dtype": "float32",
    }


def _tokenizer_settings(config: GPTSection, tokenizer: Tokenizer) -> dict[str, Any]:
    ends = [name for name, token in tokenizer.specials.items() if token == tokenizer.end_of_text]
    special = dict.fromkeys(("bos_token", "eos_token"), ends[0]) if ends else {}
    return {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": config.context_length, **special}
