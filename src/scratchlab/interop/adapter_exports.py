"""A run's adapters for peft, with the GPT-2 that they go beside: written, read back, and proved."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scratchlab.architecture import GPTSection
from scratchlab.errors import RunError
from scratchlab.files import folder_in_one_piece, pretty_json, sha256_of_file, write_atomically
from scratchlab.generation.text import run_template, run_tokenizer
from scratchlab.interop.adapters import CONFIG, WEIGHTS, Layers, adapted_layers, from_peft, padded, their_name, to_peft
from scratchlab.interop.expected import float32_model
from scratchlab.interop.files import read_json, read_safetensors, refuse_existing
from scratchlab.interop.gpt2_layout import GPT2
from scratchlab.interop.hugging_face import WEIGHTS as MODEL
from scratchlab.interop.hugging_face import write_hugging_face
from scratchlab.interop.names import listed, shapes_of
from scratchlab.interop.proof import prove
from scratchlab.interop.proof_files import PROOF
from scratchlab.model.load import At, StoredTensors, weights_at
from scratchlab.model.lora import is_adapter
from scratchlab.recipe import FinetuningSection
from scratchlab.runfolder import BASE, RunFolder
from scratchlab.training.checkpoint import write_tensors

COMPARED = "compared.json"


def export_adapters(folder: RunFolder, to: Path, at: At = "final") -> list[str]:
    """Make the new folder `to` with a run's adapters for peft, and in `to/base` the GPT-2 that they go beside.

    The base is proved to be what transformers computes with, the adapters are read back. Gives the names of what is in
    it. `RunError` if the run has no adapters, its model is no GPT-2, or anything differs; there is no folder then.
    """
    recipe, tokenizer = folder.resolved(), run_tokenizer(folder)
    if recipe.finetuning.lora_rank is None:
        raise RunError(f"{folder.path} has no adapters: export it as a whole, without --format peft.")
    assert isinstance(recipe.model, GPTSection)
    if differences := GPT2.lacks(recipe.model):
        raise RunError(f"GPT-2 as Hugging Face has it knows no {listed(differences)}: this model cannot be one.")
    refuse_existing(to)
    tensors = dict(StoredTensors(*folder.weight_files(weights_at(folder, at))))
    layers, template = adapted_layers(recipe.model, tokenizer.vocab_size, recipe.finetuning), run_template(folder)
    with folder_in_one_piece(to, "the export") as partial:
        base = {name: tensors[name] for name in shapes_of(recipe.model, tokenizer.vocab_size)}
        worded = template.source if template else None
        write_hugging_face(recipe.model, base, tokenizer, partial / BASE, worded)
        prove(
            partial / BASE, folder, at, float32_model(recipe.model, base, tokenizer.vocab_size, tokenizer.end_of_text)
        )
        write_tensors(to_peft(layers, tensors), partial / WEIGHTS, {"format": "pt"})
        named = _known_base(folder)
        write_atomically(partial / CONFIG, pretty_json(_settings(recipe.finetuning, layers) | named))
        _check(partial, recipe.model, tokenizer.vocab_size, recipe.finetuning, tensors)
        write_atomically(partial / COMPARED, pretty_json(_compared(partial, folder, at, layers, named)))
    return sorted(path.name for path in to.iterdir())


def _known_base(folder: RunFolder) -> dict[str, Any]:
    """The name of the base on the Hub, if it is one of there as it came; else that of the folder beside them."""
    begun = folder.manifest().get("lineage") or [{}]
    imported = begun[-1].get("imported", {})
    same = folder.snapshot(BASE)[1]["sha256"] == begun[-1].get("weights_sha256")
    if same and imported.get("revision"):
        return {"base_model_name_or_path": imported["source"], "revision": imported["revision"]}
    return {"base_model_name_or_path": BASE, "revision": None}


def _check(
    exported: Path, config: GPTSection, vocab_size: int, given: FinetuningSection, tensors: Mapping[str, Tensor]
) -> None:
    """RunError unless what was written gives back these adapters, to the bit."""
    settings, state = read_json(exported / CONFIG), read_safetensors(exported / WEIGHTS)
    found, adapters = from_peft(settings, state, config, vocab_size, str(exported))
    if "head.lora_b" in adapters:
        adapters["head.lora_b"] = padded(adapters["head.lora_b"], config.padded(vocab_size))
    ours = {name: tensor for name, tensor in tensors.items() if is_adapter(name)}
    wrong = [name for name in ours if name not in adapters or not torch.equal(adapters[name], ours[name])]
    wrong += sorted(adapters.keys() - ours.keys())
    if _times(found) != _times(given):
        wrong.append("their scale")
    if wrong:
        raise RunError(f"{WEIGHTS} does not give back the adapters that were written: {listed(wrong)}.")


def _times(finetuning: FinetuningSection) -> tuple[int | None, float]:
    """The rank, and what adapters are multiplied by."""
    rank = finetuning.lora_rank or 1
    return finetuning.lora_rank, (rank if finetuning.lora_alpha is None else finetuning.lora_alpha) / rank


def _compared(exported: Path, folder: RunFolder, at: At, layers: Layers, named: Mapping[str, Any]) -> dict[str, Any]:
    """What these adapters are, and of which base, by hashes."""
    hashes = {name: sha256_of_file(exported / name) for name in (CONFIG, WEIGHTS, f"{BASE}/{MODEL}", f"{BASE}/{PROOF}")}
    return {
        "run": {"name": folder.path.absolute().name, "fingerprint": folder.manifest()["fingerprint"], "at": at},
        "adapters": f"{len(layers)} layers, read back and equal to the run's to the bit",
        "base": {
            "name": named["base_model_name_or_path"],
            "revision": named["revision"],
            "folder": BASE,
            "weights_sha256": hashes[f"{BASE}/{MODEL}"],
        },
        "files": hashes,
    }


def _settings(finetuning: FinetuningSection, layers: Layers) -> dict[str, Any]:
    """The configuration of these adapters. Of a fused layer rank and alpha are so many times as large: the scale is the
    same."""
    rank = finetuning.lora_rank
    assert rank is not None
    alpha = rank if finetuning.lora_alpha is None else finetuning.lora_alpha
    times = {_kind(path): len(layer.adapted) for path, layer in layers.items()}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {kind: n * rank for kind, n in times.items() if n > 1},
        "alpha_pattern": {kind: n * alpha for kind, n in times.items() if n > 1},
        "lora_dropout": finetuning.lora_dropout,
        "target_modules": sorted(times),
        "fan_in_fan_out": True,  # their "Conv1D" keeps its matrix the other way
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
        "modules_to_save": None,
        "inference_mode": True,
    }


def _kind(path: str) -> str:
    """The end of Hugging Face's name that layers of one kind share."""
    return re.sub(r"^transformer\.h\.\d+\.", "", their_name(path))
