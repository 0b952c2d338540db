"""GGUF, the file of llama.cpp and Ollama, written and read: weights in float32, tokenizer and chat template in one.

A file of ours also says what our `[model]` was, and holds the tokenizer.json as it is, so that an import of it is the
identity. What is written is read back and compared to the bit before the folder appears.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scratchlab.architecture import GPTSection
from scratchlab.corpus.chat import ChatTemplate
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import RunError
from scratchlab.extras import missing
from scratchlab.files import folder_in_one_piece, write_atomically
from scratchlab.generation.text import run_template, run_tokenizer
from scratchlab.interop.files import refuse_existing, whole_numbers
from scratchlab.interop.foreign import Foreign, section
from scratchlab.interop.gguf_models import FAMILIES, Family, family_of, fields_of, from_gguf, to_gguf
from scratchlab.interop.gguf_vocabulary import stored_tokenizer, vocabulary_of
from scratchlab.interop.ollama import modelfile
from scratchlab.model.load import At, load_model
from scratchlab.runfolder import RunFolder

if TYPE_CHECKING:
    from gguf import GGUFWriter

MODEL, MODELFILE = "model.gguf", "Modelfile"
# Fields of ours: `[model]` as JSON, without what is at its default; the chat template as it was.
OURS, TEMPLATE = "scratchlab.model", "scratchlab.chat_template"
# Jinja of llama.cpp's need not know the tags around what the assistant writes. A comment strips white space as they do.
GENERATION = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")


def export_gguf(folder: RunFolder, to: Path, at: At = "final") -> list[str]:
    """Make the new folder `to` with a run as model.gguf and an Ollama Modelfile. Gives the names of the files.

    RunError, and no folder, for a model or a tokenizer that llama.cpp does not have, and if what is read back is not
    what was written. MissingExtraError without the package gguf.
    """
    _package()
    refuse_existing(to)
    model = load_model(folder, at, "cpu")
    if not isinstance(model.config, GPTSection):
        raise RunError(f"{folder.path} is a recurrent network, which llama.cpp does not compute.")
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tokenizer, template = run_tokenizer(folder), run_template(folder)
    with folder_in_one_piece(to, "the export") as partial:
        write_gguf(partial / MODEL, model.config, tensors, tokenizer, template, folder.path.name)
        check_gguf(partial / MODEL, model.config, tensors, tokenizer)
        write_atomically(partial / MODELFILE, modelfile(MODEL, model.config.context_length, tokenizer, template))
    return sorted(path.name for path in to.iterdir())


def write_gguf(
    path: Path,
    config: GPTSection,
    tensors: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    name: str,
) -> None:
    """The model as one file at `path`. RunError for what llama.cpp does not compute or has no vocabulary for."""
    family = family_of(config)
    theirs = to_gguf(config, tensors, tokenizer.vocab_size, family)
    writer = _package().GGUFWriter(path, family.name)
    try:
        writer.add_name(name)
        writer.add_file_type(0)  # all in float32
        _add_sizes(writer, config, tokenizer, family)
        _add_tokenizer(writer, tokenizer, template)
        same = config.model_copy(update={"vocab_multiple": 1})
        writer.add_string(OURS, json.dumps(same.model_dump(exclude_defaults=True)))
        for theirs_name, tensor in theirs.items():
            writer.add_tensor(theirs_name, tensor.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add_sizes(writer: "GGUFWriter", config: GPTSection, tokenizer: Tokenizer, family: Family) -> None:
    writer.add_vocab_size(tokenizer.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.n_kv)
    if config.norm == "rms":
        writer.add_layer_norm_rms_eps(1e-5)
    else:
        writer.add_layer_norm_eps(1e-5)
    if config.positions == "rotary":
        writer.add_rope_dimension_count(config.head_width)
        writer.add_rope_freq_base(10_000.0)
    if family.name == "gptneox":
        writer.add_parallel_residual(False)


def _add_tokenizer(writer: "GGUFWriter", tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
    vocabulary = vocabulary_of(tokenizer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(vocabulary.end_of_text)  # as GPT-2 has it: what ends a text stands before the next
    writer.add_eos_token_id(vocabulary.end_of_text)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_string("tokenizer.huggingface.json", tokenizer.to_json())
    if template is not None:
        writer.add_eot_token_id(template.end_of_turn(tokenizer))
        writer.add_chat_template(GENERATION.sub(r"{#\1 \2generation \3#}", template.source))
        writer.add_string(TEMPLATE, template.source)


def check_gguf(path: Path, config: GPTSection, tensors: Mapping[str, Tensor], tokenizer: Tokenizer) -> None:
    """RunError unless the file gives back this model, to the bit."""
    found = read_gguf(path)
    sizes = {name: len(found.tensors[name]) for name in found.tensors}
    wrong = [
        name
        for name in tensors
        if name not in sizes or not torch.equal(found.tensors[name], tensors[name][: sizes[name]])
    ]
    if found.config != config.model_copy(update={"vocab_multiple": 1}):
        wrong.append("[model]")
    if found.tokenizer != tokenizer.to_json():
        wrong.append("the tokenizer")
    if wrong or found.rows != tokenizer.vocab_size:
        raise RunError(f"{path.name} does not give back what was written: {', '.join(wrong[:6]) or 'the vocabulary'}.")


def read_gguf(path: Path) -> Foreign:
    """The model in a GGUF file, in float32 whatever its weights are in. RunError for what is damaged or unknown."""
    settings, theirs = _read(path)
    architecture = str(settings.get("general.architecture"))
    family = next((family for family in FAMILIES if family.name == architecture), None)
    if family is None:
        known = ", ".join(family.name for family in FAMILIES)
        raise RunError(f"{path}: general.architecture = {architecture!r}; known here are {known}.")
    where, prefix = f"{path}: {architecture}", f"{architecture}."
    own = {name.removeprefix(prefix): value for name, value in settings.items() if name.startswith(prefix)}
    needed = ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count")
    whole_numbers(own, needed, where)
    embedding = theirs.get("token_embd.weight")
    rows = len(embedding) if embedding is not None and embedding.dim() else 0
    ours = _ours(settings, path)
    config = section(fields_of(own, family, theirs, where) if ours is None else ours, where)
    if ours is not None and family_of(config) != family:
        raise RunError(f"{path}: {OURS} is a model of {family_of(config).name}, and the file one of {architecture}.")
    tensors = from_gguf(theirs, config, rows, family, str(path))
    template = settings.get(TEMPLATE)
    return Foreign(
        format=f"GGUF ({architecture})",
        config=config,
        rows=rows,
        tensors=tensors,
        files=(path,),
        tokenizer=stored_tokenizer(settings),
        chat_template=template if isinstance(template, str) else None,
    )


def _ours(settings: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    """Our `[model]`, in a file that was written here."""
    if OURS not in settings:
        return None
    try:
        fields = json.loads(settings[OURS])
    except (TypeError, ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise RunError(f"{path}: {OURS} should hold a JSON object.")
    return fields


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The fields and the tensors of a file. RunError if it is damaged or none."""
    gguf = _package()
    try:
        reader = gguf.GGUFReader(path)
        # Lists are those of the vocabulary, which is read from the tokenizer.json.
        settings = {
            name: field.contents()
            for name, field in reader.fields.items()
            if gguf.GGUFValueType.ARRAY not in field.types
        }
        tensors = {
            tensor.name: torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32))
            for tensor in reader.tensors
        }
    except Exception as error:  # a damaged file can raise anything
        raise RunError(f"{path} could not be read as GGUF: {error or type(error).__name__}.") from None
    return settings, tensors


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        raise missing("GGUF", "gguf") from None
    return gguf
