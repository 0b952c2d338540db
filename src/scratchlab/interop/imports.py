"""Making a run folder of a model that another program trained."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scratchlab import hardware
from scratchlab.architecture import GPTSection
from scratchlab.corpus.chat import ChatTemplate
from scratchlab.corpus.pretrained import KNOWN_TOKENIZERS, find_tokenizer, open_tokenizer
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import CorpusError, RunError, ScratchlabError, UsageError
from scratchlab.files import Find, inside, sha256_of_file, sha256_of_json
from scratchlab.interop.book import is_book, read_book
from scratchlab.interop.files import read_pickle, read_safetensors, refuse_existing, tensors_of
from scratchlab.interop.foreign import Foreign
from scratchlab.interop.gguf_files import read_gguf
from scratchlab.interop.hub import commit_of, is_name, on_the_hub
from scratchlab.interop.hugging_face import CONFIG, read_hugging_face
from scratchlab.interop.names import listed
from scratchlab.interop.nanogpt import is_nanogpt, read_nanogpt
from scratchlab.interop.onnx_files import read_onnx
from scratchlab.recipe import fingerprint, recipe_from
from scratchlab.runfolder import Record, RunFolder
from scratchlab.training.checkpoint import write_tensors

KNOWN = (
    "Known are Hugging Face's GPT-2, Llama and their like (a folder with config.json, or a name on the Hub), nanoGPT's "
    "ckpt.pt, checkpoints of the book's GPT (.pth or .safetensors, with its model.json), GGUF and ONNX"
)
WEIGHTS = (".pt", ".pth", ".safetensors", ".gguf", ".onnx")
MULTIPLES = (1, 8, 16, 32, 64, 128, 256, 512, 1024)  # what others pad a vocabulary to a multiple of


def import_run(source: str, out: str | Path, tokenizer: str | None = None, revision: str | None = None) -> RunFolder:
    """Make the run folder `out` of the foreign model `source`: a run of no steps, which begins from its weights.

    `tokenizer` says where the tokenizer lies, if not with the model: a path (see `open_tokenizer`), gpt2, or a name
    on the Hub. `revision` is a branch, tag or commit there. Raises RunError
    or CorpusError for what cannot be read, is not known here, or does not fit together.
    """
    refuse_existing(out, "import")
    find, foreign = _find_model(source, revision)
    spoken = _find_tokenizer(source, find, tokenizer, foreign.tokenizer)
    hashes = {path.name: sha256_of_file(path) for path in foreign.files}
    origin: Record = {"source": _lasting(source), "format": foreign.format, "files": hashes}
    if not Path(source).exists():
        origin["revision"] = commit_of(foreign.files[0])
    model = _padded(source, foreign, spoken).model_dump(exclude_defaults=True)
    template, unfit = fitting(foreign.chat_template, spoken)
    origin |= {} if unfit is None else {"chat_template_left_out": unfit}
    return imported_run(out, {"model": model}, spoken, origin, foreign.tensors, chat_template=template)


def fitting(template: str | None, tokenizer: Tokenizer) -> tuple[str | None, str | None]:
    """The template, if a run with this tokenizer can be spoken to by it; else why it cannot."""
    if template is None:
        return None, None
    try:
        ChatTemplate(template).end_of_turn(tokenizer)
    except ScratchlabError as error:
        return None, str(error)
    return template, None


def imported_run(
    out: str | Path,
    sections: Mapping[str, Any],
    spoken: Tokenizer,
    origin: Record,
    tensors: dict[str, Tensor],
    base: dict[str, Tensor] | None = None,
    chat_template: str | None = None,
) -> RunFolder:
    """Make the folder of a run of no steps that has these weights; or adapters, beside the weights `base`.

    Its recipe says: begin from these weights, on a corpus and for a length still to be named. `origin` says where they
    come from: with the hashes of the `files` that were read.
    """
    unsaid = {"corpus": "", "training": {"steps": 0}, "start": {"weights": str(out)}}
    recipe = recipe_from({**unsaid, **sections}, where=origin["source"])
    settled = {"training.precision": "float32", "execution.device": "cpu", "execution.compile": False}
    resolved = recipe.replaced(settled | {"execution.micro_batch_size": 1, "execution.threads": 1})
    nothing = {"path": None, "sha256": None}
    manifest: Record = {
        "fingerprint": fingerprint(resolved, "", None, sha256_of_json(origin["files"])),
        "imported": origin,
        "lineage": [],
        "seeds": resolved.seeds.model_dump(),
        "corpus": nothing,
        "evaluation_corpus": nothing,
        "tokenizer_sha256": spoken.sha256,
        "vocab_size": spoken.vocab_size,
        "end_of_text": spoken.end_of_text,
        "environment": hardware.environment("cpu"),
        "command": sys.argv,
    }
    begin = (lambda path: write_tensors(tensors, path)), {}
    frozen = None if base is None else lambda path: write_tensors(base, path)
    return RunFolder.create(out, recipe, resolved, manifest, spoken.to_json(), begin, chat_template, frozen)


def _lasting(source: str) -> str:
    return str(Path(source).absolute()) if Path(source).exists() else source


def _padded(source: str, foreign: Foreign, tokenizer: Tokenizer) -> GPTSection:
    """The model, with as many rows in its embedding as it came with."""
    rows, symbols = foreign.rows, tokenizer.vocab_size
    multiple = next((m for m in MULTIPLES if -(-symbols // m) * m == rows), None)
    if multiple is None:
        raise RunError(
            f"{source} has {rows:,} rows in its embedding and its tokenizer {symbols:,} symbols: they do not belong "
            "together. Name the tokenizer it was trained with: --tokenizer PATH."
        )
    return foreign.config.model_copy(update={"vocab_multiple": multiple})


def _find_model(source: str, revision: str | None) -> tuple[Find, Foreign]:
    path = Path(source)
    if not path.exists():
        if not is_name(source):
            raise RunError(f"{source}: there is no such file or folder. {KNOWN}.")
        find = on_the_hub(source, revision)
        return find, read_hugging_face(find, source)
    if revision is not None:
        raise UsageError(f"--revision is for names on the Hub, and {source} is a file or folder here.")
    if path.is_file():
        return inside(path.parent), _read_file(path)
    if RunFolder(path).exists():
        raise RunError(f"{path} is a run already. To begin another from its weights: start.weights={path}.")
    if (path / CONFIG).is_file():
        return inside(path), read_hugging_face(inside(path), source)
    weights = sorted(file for file in path.iterdir() if file.suffix in WEIGHTS)
    if len(weights) != 1:
        found = f"it has {listed([file.name for file in weights])}: name one" if weights else "it has no weights"
        raise RunError(f"{path} is no model that is known here ({found}). {KNOWN}.")
    return inside(path), _read_file(weights[0])


def _read_file(path: Path) -> Foreign:
    if path.suffix == ".gguf":
        return read_gguf(path)
    if path.suffix == ".onnx":
        return read_onnx(path)
    saved = read_safetensors(path) if path.suffix == ".safetensors" else read_pickle(path)
    if is_nanogpt(saved):
        return read_nanogpt(path, saved)
    inner = saved.get("model_state_dict", saved) if isinstance(saved, dict) else saved
    state = tensors_of(inner, path)
    if is_book(state):
        return read_book(path, state)
    if any(name.removeprefix("transformer.") == "wte.weight" for name in state):
        raise RunError(f"{path} is of Hugging Face's GPT-2: name its folder, which has the {CONFIG} too.")
    raise RunError(f"{path} is no model that is known here: its tensors are {listed(list(state))}. {KNOWN}.")


def _find_tokenizer(source: str, find: Find, tokenizer: str | None, within: str | None) -> Tokenizer:
    if tokenizer is not None:
        if given := open_tokenizer(tokenizer):
            return given
        if not is_name(tokenizer):
            raise CorpusError(f"--tokenizer {tokenizer}: there is no such file or folder.")
        find = on_the_hub(tokenizer, None)
    elif within is not None:
        return _in_the_model(source, within)
    found = find_tokenizer(find)
    if found is None:
        raise CorpusError(
            f"{tokenizer or source} brings no tokenizer. Say which with --tokenizer: {KNOWN_TOKENIZERS}, or a name on "
            "the Hub."
        )
    return found


def _in_the_model(source: str, stored: str) -> Tokenizer:
    try:
        return Tokenizer.from_json(stored)
    except CorpusError as error:
        raise CorpusError(f"{source}: its tokenizer: {error}") from None
