"""The checkpoints of the book "Build a Large Language Model (From Scratch)", and of gpjt's runs with its model.

Weights alone, as safetensors or as a state dict in a `.pth`; a `model.json` says what cannot be told from them.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scratchlab.errors import RunError
from scratchlab.interop.files import read_json, whole_numbers
from scratchlab.interop.foreign import Foreign, section
from scratchlab.interop.names import Names, listed, tied, to_ours

NAMES = Names(
    {
        "token_embedding.weight": "tok_emb.weight",
        "position_embedding.weight": "pos_emb.weight",
        "blocks.{}.attention_norm.weight": "trf_blocks.{}.norm1.scale",
        "blocks.{}.attention_norm.bias": "trf_blocks.{}.norm1.shift",
        **{
            f"blocks.{{}}.attention.qkv.{part}": tuple(
                f"trf_blocks.{{}}.att.W_{which}.{part}" for which in ("query", "key", "value")
            )
            for part in ("weight", "bias")
        },
        "blocks.{}.attention.out.weight": "trf_blocks.{}.att.out_proj.weight",
        "blocks.{}.attention.out.bias": "trf_blocks.{}.att.out_proj.bias",
        "blocks.{}.mlp_norm.weight": "trf_blocks.{}.norm2.scale",
        "blocks.{}.mlp_norm.bias": "trf_blocks.{}.norm2.shift",
        "blocks.{}.mlp.up.weight": "trf_blocks.{}.ff.layers.0.weight",
        "blocks.{}.mlp.up.bias": "trf_blocks.{}.ff.layers.0.bias",
        "blocks.{}.mlp.down.weight": "trf_blocks.{}.ff.layers.2.weight",
        "blocks.{}.mlp.down.bias": "trf_blocks.{}.ff.layers.2.bias",
        "final_norm.weight": "final_norm.scale",
        "final_norm.bias": "final_norm.shift",
        "head.weight": "out_head.weight",
    }
)

# Their words for ours.
FIELDS = {
    "n_layers": "n_layer",
    "n_heads": "n_head",
    "emb_dim": "d_model",
    "context_length": "context_length",
    "drop_rate": "dropout",
    "qkv_bias": "qkv_bias",
}
SETTINGS = "model.json"


def is_book(state: Mapping[str, Any]) -> bool:
    """Whether these are names of the book's GPTModel."""
    return any(re.fullmatch(r"(tok_emb|pos_emb|out_head|trf_blocks\.\d+\..+)\.\w+", name) for name in state)


def read_book(path: Path, state: Mapping[str, Tensor]) -> Foreign:
    """The model of the tensors that were in the file `path`, with the `model.json` beside it or above it."""
    settings_path = _find_settings(path, state)
    settings, where = read_json(settings_path), str(settings_path)
    known = (*FIELDS, "vocab_size", "tie_weights")
    if unknown := [name for name in settings if name not in known]:
        raise RunError(f"{where}: {listed(unknown)}: this is not in the book's model, and cannot be built here.")
    whole_numbers(settings, ("vocab_size", "context_length", "emb_dim", "n_heads", "n_layers"), where)
    if missing := [name for name in FIELDS if name not in settings]:
        raise RunError(f"{where} lacks {', '.join(missing)}.")
    head_is_tied = settings.get("tie_weights", False)
    fields = {ours: settings[theirs] for theirs, ours in FIELDS.items()} | {"tie_weights": head_is_tied}
    config = section(fields, where)
    kept = {name: tensor for name, tensor in state.items() if not re.fullmatch(r"trf_blocks\.\d+\.att\.mask", name)}
    if head_is_tied:
        kept = tied(kept, "tok_emb.weight", "out_head.weight", str(path))
    tensors = to_ours(kept, config, settings["vocab_size"], NAMES, str(path))
    return Foreign("the book's GPT", config, settings["vocab_size"], tensors, (settings_path, path))


def _find_settings(path: Path, state: Mapping[str, Tensor]) -> Path:
    """Beside the weights; gpjt's runs have it two folders up, above `checkpoints`."""
    folder = path.resolve().parent
    for place in (folder, *folder.parents[:2]):
        if (place / SETTINGS).is_file():
            return place / SETTINGS
    raise RunError(
        f"{path} holds weights alone, and into how many heads they part cannot be told from them. Put a {SETTINGS} "
        f"beside it, with the number of heads for null (12 in the book's smallest model): {_draft(state)}"
    )


def _draft(state: Mapping[str, Tensor]) -> str:
    """A `model.json` with everything that the weights do say."""
    layers = {name.split(".")[1] for name in state if name.startswith("trf_blocks.")}
    embedding, positions = state.get("tok_emb.weight"), state.get("pos_emb.weight")
    guess = {
        "vocab_size": len(embedding) if embedding is not None and embedding.dim() else None,
        "context_length": len(positions) if positions is not None and positions.dim() else None,
        "emb_dim": embedding.shape[-1] if embedding is not None and embedding.dim() else None,
        "n_heads": None,
        "n_layers": len(layers),
        "drop_rate": 0.1,
        "qkv_bias": "trf_blocks.0.att.W_query.bias" in state,
    }
    return json.dumps(guess)
