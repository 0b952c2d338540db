"""Low-rank adapters as peft keeps them: `adapter_config.json` and `adapter_model.safetensors`, for a GPT2LMHeadModel.

Hugging Face's GPT-2 makes queries, keys and values in one layer, `c_attn`, which has one adapter; ours have one each.
Of rank r they are together one of rank 3r: their A's above each other, their B's along a diagonal of blocks. The other
way, an adapter of rank r on all of `c_attn` is three of ours with equal A's.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scratchlab.architecture import GPTSection
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import RunError
from scratchlab.files import inside, sha256_of_file
from scratchlab.generation.text import run_template, run_tokenizer
from scratchlab.interop.files import read_json, read_safetensors, refuse_existing, whole_numbers
from scratchlab.interop.gpt2_layout import GPT2, NAMES
from scratchlab.interop.hugging_face import read_chat_template
from scratchlab.interop.imports import fitting, imported_run
from scratchlab.interop.names import listed
from scratchlab.model.build import empty_model
from scratchlab.model.load import load_model
from scratchlab.model.lora import AdaptedLinear, adapt
from scratchlab.recipe import FinetuningSection
from scratchlab.runfolder import BASE, RunFolder

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."

# What our adapters are, where peft's could be otherwise; what a file leaves out is as here.
ALWAYS: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_dora": (False,),
    "lora_bias": (False,),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None,),
    "layer_replication": (None,),
}

Layers = Mapping[str, AdaptedLinear]
"""Those with adapters, by their names on our page, without values."""


def adapted_layers(config: GPTSection, vocab_size: int, finetuning: FinetuningSection) -> Layers:
    """Of a vocabulary without padding, as Hugging Face has it."""
    unpadded = config.model_copy(update={"vocab_multiple": 1})
    model = adapt(empty_model(unpadded, vocab_size, end_of_text=0), finetuning)
    return {path: layer for path, layer in model.named_modules() if isinstance(layer, AdaptedLinear)}


def their_name(path: str) -> str:
    """What Hugging Face calls a layer of ours."""
    name = NAMES.of(f"{path}.weight")[0].removesuffix(".weight")
    return name if name == "lm_head" else f"transformer.{name}"


# Writing.


def to_peft(layers: Layers, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors out of our adapters."""
    state: dict[str, Tensor] = {}
    for path, layer in layers.items():
        a, b = tensors[f"{path}.lora_a"], tensors[f"{path}.lora_b"]
        name = PREFIX + their_name(path)
        state[f"{name}.lora_A.weight"] = a.contiguous()
        state[f"{name}.lora_B.weight"] = _in_blocks(layer, b)
    return state


def _in_blocks(layer: AdaptedLinear, b: Tensor) -> Tensor:
    """(all rows, parts rank): the B of each part in its rows and columns, and zeros elsewhere."""
    blocks = b.new_zeros(layer.out_features, len(layer.adapted) * layer.rank)
    pieces = iter(b[: sum(layer.adapted)].split(layer.adapted))  # a padded vocabulary has more rows
    row = column = 0
    for rows, adapted in layer.parts:
        if adapted:
            blocks[row : row + rows, column : column + layer.rank] = next(pieces)
            column += layer.rank
        row += rows
    return blocks


# Reading.


def import_adapters(source: Path, base: RunFolder, out: str | Path) -> RunFolder:
    """Make the run folder `out` of the adapters that peft saved in `source`, beside the weights of the run `base`.

    `RunError` names all in them that ours do not have.
    """
    refuse_existing(out, "import")
    model, tokenizer = load_model(base, "final", "cpu"), run_tokenizer(base)
    if not isinstance(model.config, GPTSection):
        raise RunError(f"{base.path} is a recurrent network, which has no adapters.")
    if differences := GPT2.lacks(model.config):
        raise RunError(f"{base.path} has {listed(differences)}: adapters are read for GPT-2 as Hugging Face has it.")
    own = {name: parameter.detach() for name, parameter in model.named_parameters()}
    config, state = read_json(source / CONFIG), _without_copies(read_safetensors(source / WEIGHTS), own)
    finetuning, adapters = from_peft(config, state, model.config, tokenizer.vocab_size, str(source))
    rows = model.config.padded(tokenizer.vocab_size)
    if "head.lora_b" in adapters:
        adapters["head.lora_b"] = padded(adapters["head.lora_b"], rows)
    tables = {
        "model": model.config.model_dump(exclude_defaults=True),
        "finetuning": finetuning.model_dump(exclude_defaults=True),
    }
    files = {name: sha256_of_file(source / name) for name in (CONFIG, WEIGHTS)}
    origin = {"source": str(source.absolute()), "format": "peft adapters", "files": files, "base": str(base.path)}
    return imported_run(out, tables, tokenizer, origin, adapters, own, _template(source, base, tokenizer))


def _template(source: Path, base: RunFolder, tokenizer: Tokenizer) -> str | None:
    """How the adapted model is spoken to: as its folder says, or what was exported beside it; else as its base."""
    found = (read_chat_template(inside(place)) for place in (source, source / BASE))
    own = next((fit for said in found if (fit := fitting(said, tokenizer)[0]) is not None), None)
    template = run_template(base)
    return own or (None if template is None else template.source)


def _without_copies(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the embedding and the head of the base, which peft saves too where the head has an adapter."""
    copies = {"transformer.wte.weight": "token_embedding.weight", "lm_head.weight": "head.weight"}

    def is_copy(name: str) -> bool:
        frozen = own.get(copies.get(name.removeprefix(PREFIX).replace(".base_layer.", "."), ""))
        return frozen is not None and torch.equal(state[name].to(frozen.dtype), frozen[: len(state[name])])

    return {name: tensor for name, tensor in state.items() if not is_copy(name)}


def padded(b: Tensor, rows: int) -> Tensor:
    """With zeros for the rows of a padded vocabulary."""
    return torch.cat([b, b.new_zeros(rows - len(b), b.shape[1])])


def from_peft(
    config: Mapping[str, Any], state: Mapping[str, Tensor], model: GPTSection, vocab_size: int, origin: str
) -> tuple[FinetuningSection, dict[str, Tensor]]:
    """Our settings and adapters out of theirs. Layers of ours that theirs leave alone get adapters that do nothing."""
    where = f"{origin}: {CONFIG}"
    given = {name: config.get(name, usual[0]) for name, usual in ALWAYS.items()}
    wrong = [f"{name} = {given[name]!r}" for name, usual in ALWAYS.items() if given[name] not in usual]
    if wrong:
        raise RunError(f"{where}: {listed(wrong)}: adapters here are plain low-rank ones (LoRA), and have none of it.")
    whole_numbers(config, ("r",), where)
    pairs = _pairs(state, origin)
    scale = _scale(config, {name: len(a) for name, (a, _) in pairs.items()}, where)
    problems: list[str] = []
    for chosen in ("query_value", "attention", "mlp", "all"):
        finetuning = FinetuningSection(
            lora_rank=config["r"],
            lora_alpha=scale * config["r"],
            lora_dropout=float(config.get("lora_dropout", 0.0)),
            lora_layers=chosen,
        )
        problems = []
        ours = _fitted(adapted_layers(model, vocab_size, finetuning), pairs, problems)
        if not problems:
            return finetuning, ours
    raise RunError(f"{origin}: these adapters are none that this model can have: {listed(problems)}.")


def _pairs(state: Mapping[str, Tensor], origin: str) -> dict[str, tuple[Tensor, Tensor]]:
    """A (rank, inputs) and B (outputs, rank) of each layer, by Hugging Face's name of it."""
    found: dict[str, dict[str, Tensor]] = {}
    unknown: list[str] = []
    for name, tensor in state.items():
        match = re.fullmatch(rf"{re.escape(PREFIX)}(.+)\.lora_([AB])\.weight", name)
        if match is None or tensor.dim() != 2 or not bool(torch.isfinite(tensor).all()):
            unknown.append(name)
            continue
        layer = match[1] if match[1].startswith(("transformer.", "lm_head")) else f"transformer.{match[1]}"
        found.setdefault(layer, {})[match[2]] = tensor.to(torch.float32)
    unknown += [layer for layer, pair in found.items() if len(pair) < 2 or pair["A"].shape[0] != pair["B"].shape[1]]
    if unknown or not found:
        said = f"not understood is {listed(unknown)}" if unknown else "it holds no adapters"
        raise RunError(f"{origin}: {WEIGHTS}: {said}; two finite matrices, lora_A and lora_B, a layer were expected.")
    return {layer: (pair["A"], pair["B"]) for layer, pair in found.items()}


def _scale(config: Mapping[str, Any], ranks: Mapping[str, int], where: str) -> float:
    """What all adapters are multiplied by. `RunError` if they differ in it, or in rank from what is said of them."""
    rank, alpha = config["r"], config.get("lora_alpha", 8)
    scales: dict[str, float] = {}
    for layer, own in ranks.items():
        said, times = (
            _pattern(config.get(f"{name}_pattern"), layer, usual) for name, usual in (("rank", rank), ("alpha", alpha))
        )
        if said != own:
            raise RunError(f"{where}: {layer} is said to have rank {said}, and has {own}.")
        scales[layer] = times / (own**0.5 if config.get("use_rslora") else own)
    if max(scales.values()) - min(scales.values()) > 1e-9 * max(scales.values()):
        listed_scales = listed([f"{layer} by {scale:g}" for layer, scale in scales.items()])
        raise RunError(f"{where}: adapters here are all multiplied by one scale, and these are not: {listed_scales}.")
    return next(iter(scales.values()))


def _pattern(patterns: Mapping[str, Any] | None, layer: str, usual: float) -> float:
    """What a table of peft's says of a layer: its keys are regular expressions for the end of a name."""
    matching = (value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", layer))
    return next(matching, usual)


def _fitted(layers: Layers, pairs: Mapping[str, tuple[Tensor, Tensor]], problems: list[str]) -> dict[str, Tensor]:
    """Our adapters; what does not fit is added to `problems`."""
    names, ours = {their_name(path): path for path in layers}, dict[str, Tensor]()
    problems += [f"{name} has no adapters here" for name in pairs if name not in names]
    for name, path in names.items():
        layer = layers[path]
        a, b = pairs.get(
            name, (torch.zeros(layer.rank, layer.in_features), torch.zeros(layer.out_features, layer.rank))
        )
        parted = _parted(layer, a, b)
        if parted is None:
            problems.append(f"{name} of rank {len(a)}, {len(b)} by {a.shape[1]}, where r = {layer.rank}")
        else:
            ours |= {f"{path}.lora_a": parted[0].contiguous(), f"{path}.lora_b": parted[1].contiguous()}
    return ours


def _parted(layer: AdaptedLinear, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor] | None:
    """A and B of the parts of our layer that are together theirs; None if none are."""
    parts, rank = len(layer.adapted), layer.rank
    if (a.shape[1], b.shape[0]) != (layer.in_features, layer.out_features):
        return None
    pieces = list(b.split([rows for rows, _ in layer.parts]))
    own = [piece for piece, (_, adapted) in zip(pieces, layer.parts, strict=True) if adapted]
    if len(a) == rank:  # one for all parts
        rest = [piece for piece, (_, adapted) in zip(pieces, layer.parts, strict=True) if not adapted]
        return None if any(bool(piece.any()) for piece in rest) else (a.repeat(parts, 1), torch.cat(own))
    if len(a) != parts * rank:
        return None
    diagonal = torch.cat([piece[:, n * rank : (n + 1) * rank] for n, piece in enumerate(own)])
    return (a, diagonal) if torch.equal(_in_blocks(layer, diagonal), b) else None
