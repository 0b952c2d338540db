"""nanoGPT's `ckpt.pt`."""

import re
from pathlib import Path
from typing import Any

from scratchlab.errors import RunError
from scratchlab.interop.files import tensors_of, whole_numbers
from scratchlab.interop.foreign import Foreign, section
from scratchlab.interop.gpt2_layout import TABLE
from scratchlab.interop.hugging_face import without_masks
from scratchlab.interop.layouts import HEAD
from scratchlab.interop.names import Names, tied, to_ours

# GPT-2's own names; the matrices are those of linear layers, as ours are.
NAMES = Names(TABLE)

# Their words for ours.
FIELDS = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "d_model",
    "block_size": "context_length",
    "bias": "bias",
    "dropout": "dropout",
}


def is_nanogpt(saved: Any) -> bool:
    """Whether this is what nanoGPT's train.py saves."""
    return isinstance(saved, dict) and {"model", "model_args"} <= saved.keys()


def read_nanogpt(path: Path, saved: dict[str, Any]) -> Foreign:
    """The model of an opened `ckpt.pt`. Its optimizer is left behind."""
    arguments, where = saved["model_args"], f"{path}: model_args"
    given = arguments if isinstance(arguments, dict) else {}
    whole_numbers(given, ("n_layer", "n_head", "n_embd", "block_size", "vocab_size"), where)
    if missing := [name for name in FIELDS if name not in given]:
        raise RunError(f"{where} lacks {', '.join(missing)}.")
    config = section({ours: given[theirs] for theirs, ours in FIELDS.items()} | {"mlp": "gelu"}, where)
    # torch.compile puts a prefix before every name, and the class another before all but the head's.
    named = tensors_of(saved["model"], path)
    state = {re.sub(r"^(_orig_mod\.)?(transformer\.)?", "", name): tensor for name, tensor in named.items()}
    state = tied(without_masks(state), "wte.weight", HEAD, str(path))
    tensors = to_ours(state, config, given["vocab_size"], NAMES, str(path))
    return Foreign("nanoGPT", config, given["vocab_size"], tensors, (path,))
