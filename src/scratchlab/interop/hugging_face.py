"""Hugging Face's models, read and written: `config.json`, safetensors and the tokenizer, as transformers has them.

Several of its classes can be a GPT of ours (`gpt2_layout.py`, `rotary_layouts.py`); every GPT can be one that brings
its own code (`custom.py`). What a class has no word for lies in `config.json` under `scratchlab`, where transformers
does not look: with it an export is read back as the very model that it was, without it as what the class says.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scratchlab.architecture import GPTSection
from scratchlab.corpus.chat import ChatTemplate
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import RunError
from scratchlab.files import Find, folder_in_one_piece, pretty_json, write_atomically
from scratchlab.interop.custom import CUSTOM, FILES, source_of
from scratchlab.interop.files import read_json, read_pickle, read_safetensors, refuse_existing, tensors_of
from scratchlab.interop.foreign import Foreign, section
from scratchlab.interop.gpt2_layout import GPT2
from scratchlab.interop.layouts import HEAD, Layout, Settings
from scratchlab.interop.names import listed, shapes_of, tied, to_ours, to_theirs
from scratchlab.interop.rotary_layouts import ARCEE, LLAMA, QWEN2, QWEN3, SMOLLM3, STARCODER2
from scratchlab.training.checkpoint import write_tensors

NATIVE = (GPT2, LLAMA, SMOLLM3, QWEN3, STARCODER2, ARCEE)
"""What is written. Where a model can be several of them, it is the first."""
LAYOUTS = {layout.model_type: layout for layout in (*NATIVE, QWEN2, CUSTOM)}
"""What is read. Qwen2 is read alone: whatever tokenizer comes with it, transformers 5 parts text as Qwen's does."""

CONFIG, WEIGHTS, OLD_WEIGHTS = "config.json", "model.safetensors", "pytorch_model.bin"
TOKENIZER_CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
INDEX = "model.safetensors.index.json"  # of weights in several files
OURS = "scratchlab"
"""Of their configuration: our `[model]`, its defaults left out."""


def read_hugging_face(find: Find, origin: str) -> Foreign:
    """The model whose `config.json` and weights `find` finds. `origin` is what messages call it."""
    path = find(CONFIG)
    if path is None:
        raise RunError(f"{origin} has no {CONFIG}.")
    settings, where = _with_rotation(read_json(path)), f"{origin}: {CONFIG}"
    layout = _layout_of(settings, where)
    settings = {**layout.usual, **settings}
    config, rows = section(layout.fields(settings, where), where), settings["vocab_size"]
    state, files = _read_weights(find, origin)
    state = without_masks(layout.without_prefix(state))
    if config.tie_weights:
        state = tied(state, layout.names.of("token_embedding.weight")[0], HEAD, origin)
    tensors = to_ours(state, config, rows, layout.names, origin)
    if (exported := _as_exported(settings, layout, where)) and (kept := _without_fill(tensors, exported, rows)):
        config, tensors = exported, kept
    template = read_chat_template(find)
    return Foreign(f"Hugging Face {layout.title}", config, rows, tensors, (path, *files), chat_template=template)


def _layout_of(settings: Settings, where: str) -> Layout:
    """How the class that the settings name keeps a model. RunError if that is nothing that can be built here."""
    known = settings.get("model_type")
    if not isinstance(known, str) or known not in LAYOUTS:
        raise RunError(f"{where}: model_type = {known!r}; known here are {', '.join(LAYOUTS)}.")
    layout = LAYOUTS[known]
    given = {name: settings.get(name, layout.usual.get(name, usual)) for name, usual in layout.fixed.items()}
    if wrong := [
        f"{name} = {given[name]!r} and not {usual!r}" for name, usual in layout.fixed.items() if given[name] != usual
    ]:
        raise RunError(f"{where}: this is not {layout.title} as it can be built here: {listed(wrong)}.")
    return layout


def _with_rotation(settings: dict[str, Any]) -> dict[str, Any]:
    """How positions are turned, as one name for each number: newer releases keep a table of them, older ones two."""
    table = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    if not isinstance(table, dict):
        return settings | {"rope_type": table}
    kind = table.get("rope_type", table.get("type"))
    own = {name: table[name] for name in ("rope_theta", "partial_rotary_factor") if name in table}
    return settings | own | ({} if kind is None else {"rope_type": kind})


def _as_exported(settings: Settings, layout: Layout, where: str) -> GPTSection | None:
    """What a model was when it was exported from here, if its configuration still says the same."""
    ours = settings.get(OURS)
    if not isinstance(ours, dict):
        return None
    config = section(ours, f"{where}: {OURS}")
    said = layout.settings(config).items()
    return config if all(settings.get(name) == value for name, value in said) else None


def _without_fill(tensors: Mapping[str, Tensor], config: GPTSection, rows: int) -> dict[str, Tensor] | None:
    """The tensors without the zeros that stood for biases; None where one of them is zero no more."""
    ours = shapes_of(config, rows)
    if any(bool(tensor.any()) for name, tensor in tensors.items() if name not in ours):
        return None
    return {name: tensors[name] for name in ours}


def without_masks(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what older versions saved along with the weights: causal masks, and frequencies of the rotation."""
    constant = r"h\.\d+\.attn\.(masked_)?bias|layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
    return {name: tensor for name, tensor in state.items() if not re.fullmatch(constant, name)}


def read_chat_template(find: Find) -> str | None:
    """How a model is spoken to, if its tokenizer says so: newer releases keep a file of it, older ones a field."""
    if path := find(TEMPLATE):
        return path.read_bytes().decode(errors="replace")
    said = read_json(path).get("chat_template") if (path := find(TOKENIZER_CONFIG)) else None
    if isinstance(said, list):  # several, by their names
        said = next(
            (one.get("template") for one in said if isinstance(one, dict) and one.get("name") == "default"), None
        )
    return said if isinstance(said, str) else None


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


def layout_for(config: GPTSection) -> Layout:
    """The class of transformers' own that a model can be. RunError if there is none."""
    lacking = [(layout.lacks(config), layout) for layout in NATIVE]
    missing, nearest = min(lacking, key=lambda pair: len(pair[0]))
    if missing:
        raise RunError(
            f"No class of transformers is this model: {nearest.name}, the nearest, knows no {listed(missing)}. With "
            "--custom the export brings the code of the model itself, and loads with trust_remote_code=True."
        )
    return nearest


def write_hugging_face(
    config: GPTSection,
    tensors: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    to: Path,
    chat_template: str | None = None,
    custom: bool = False,
) -> None:
    """A new folder that AutoModelForCausalLM and AutoTokenizer load: a class of transformers' own, or, if `custom`, one
    that comes with it. RunError if this model is none of the former.

    Padding of the vocabulary is left out, and biases that ours does not have are zeros. `chat_template` is how the
    model is spoken to, if it is; where its turns end with another token than the text does, generation stops at both.
    """
    layout = CUSTOM if custom else layout_for(config)
    refuse_existing(to)
    with folder_in_one_piece(to, "the export") as folder:
        write_tensors(_state(config, tensors, layout, tokenizer.vocab_size), folder / WEIGHTS, {"format": "pt"})
        write_atomically(folder / CONFIG, pretty_json(_settings(config, layout, tokenizer)))
        for name in FILES if custom else ():
            write_atomically(folder / name, source_of(name))
        _write_tokenizer(folder, config, tokenizer, chat_template)


def _state(config: GPTSection, tensors: Mapping[str, Tensor], layout: Layout, rows: int) -> dict[str, Tensor]:
    """Their tensors, by their whole names."""
    filled = layout.filled(config)
    whole = {name: torch.zeros(shape) for name, shape in shapes_of(filled, rows).items()}
    assert tensors.keys() <= whole.keys(), "a layout that knows a model has a place for each of its tensors"
    whole |= {name: tensor[: len(whole[name])] for name, tensor in tensors.items()}
    return {layout.theirs(name): tensor for name, tensor in to_theirs(whole, filled, layout.names).items()}


def _settings(config: GPTSection, layout: Layout, tokenizer: Tokenizer) -> dict[str, Any]:
    """Their configuration of our model."""
    unpadded = config.model_copy(update={"vocab_multiple": 1})
    return {
        "architectures": [layout.name],
        "model_type": layout.model_type,
        **layout.settings(config),
        "vocab_size": tokenizer.vocab_size,
        "bos_token_id": tokenizer.end_of_text,
        "eos_token_id": tokenizer.end_of_text,
        "torch_dtype": "float32",
        **({"end_of_text": tokenizer.end_of_text} if layout is CUSTOM else {}),
        OURS: unpadded.model_dump(exclude_defaults=True),
    }


def _write_tokenizer(folder: Path, config: GPTSection, tokenizer: Tokenizer, chat_template: str | None) -> None:
    write_atomically(folder / "tokenizer.json", tokenizer.to_json())
    settings, end = _tokenizer_settings(config, tokenizer), tokenizer.end_of_text
    # Not in config.json: some classes would take the row of a token for padding out of the training.
    stops: dict[str, Any] = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    stops["max_length"] = config.context_length  # transformers would stop after 20 tokens and say nothing
    if chat_template is not None:
        settings["chat_template"] = chat_template
        of_turn = ChatTemplate(chat_template).end_of_turn(tokenizer)
        stops["eos_token_id"] = sorted({of_turn, of_turn if end is None else end})
    write_atomically(folder / "generation_config.json", pretty_json(stops))
    write_atomically(folder / TOKENIZER_CONFIG, pretty_json(settings))


def _tokenizer_settings(config: GPTSection, tokenizer: Tokenizer) -> dict[str, Any]:
    ends = [name for name, token in tokenizer.specials.items() if token == tokenizer.end_of_text]
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token"), ends[0]) if ends else {}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.context_length,
        "clean_up_tokenization_spaces": False,  # older releases otherwise take spaces from what they decode
        **special,
    }
