"""Any causal model of Hugging Face transformers, out of a folder or from the Hub, as something to be evaluated.

Weights are safetensors, or a pickle that is opened for tensors alone; code that comes with a model is never executed.
"""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

from scratchlab import hardware
from scratchlab.corpus.manifest import TOKENIZER
from scratchlab.corpus.pretrained import KNOWN_TOKENIZERS, find_tokenizer, open_tokenizer
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import CorpusError, DeviceError, RunError
from scratchlab.evaluation.subjects import Subject
from scratchlab.extras import require
from scratchlab.files import Find, inside, sha256_of_file, sha256_of_json
from scratchlab.generation.text import prompt_tokens
from scratchlab.interop.files import read_json
from scratchlab.interop.hub import is_name, on_the_hub
from scratchlab.interop.hugging_face import CONFIG, weight_files
from scratchlab.interop.hugging_face_scorer import CausalLMScorer
from scratchlab.interop.names import listed

Precision = Literal["float32", "bf16", "fp16"]
LONGEST_WINDOW = 4096
"""Tokens of the windows that a long text is cut into, though a model may see more: one has all its logits in memory."""
SLOW_TOKENIZER = ("tokenizer.model", "spiece.model", "special_tokens_map.json", "added_tokens.json")
"""What there may be instead of tokenizer.json: transformers makes one of it."""
CHAT_FILES = ("tokenizer_config.json", "chat_template.jinja")
"""Where a chat template may be."""


def hugging_face_subject(
    name: str, tokenizer: str | None = None, device: str = "auto", precision: Precision = "float32"
) -> Subject:
    """The model in the folder `name`, or of that name on the Hub (HF_ENDPOINT says where that is).

    `tokenizer` is for models that bring none: a path, gpt2, or a name on the Hub. Before a text stands nothing; before
    an empty one the token that the model's configuration has for that (`bos_token_id`), else `<|endoftext|>`.

    Raises RunError or CorpusError for what is not there, cannot be reached or read, does not fit together, or would
    have to be executed; MissingExtraError without transformers.
    """
    require("Evaluating a model of Hugging Face", "transformers", "transformers")
    device = _settled(device, precision)
    find = _find(name)
    if (config_path := find(CONFIG)) is None:
        raise RunError(f"{name} has no {CONFIG}: that is no model of Hugging Face transformers.")
    files = [config_path, *weight_files(find, name)]
    if tokenizer is not None:
        encoder = open_tokenizer(tokenizer) or _tokenizer_of(_find(tokenizer), tokenizer)
    else:
        encoder = _tokenizer_of(find, name)
    model = _load(config_path.parent, name, precision).to(device)
    _check_fit(model, encoder, name)
    context_length = _context_length(model)
    return Subject(
        name=name,
        identity=sha256_of_json([[sha256_of_file(path) for path in files], encoder.meaning, precision]),
        scorer=CausalLMScorer(model, name, context_length),
        encoder=encoder,
        start=_start(model, encoder),
        context_length=context_length,
        window=min(context_length or LONGEST_WINDOW, LONGEST_WINDOW),
        device=device,
    )


def chat_tokenizer(name: str) -> Any:
    """transformers' own tokenizer of a model, which words conversations by the chat template that came with it.

    RunError if none did.
    """
    from transformers import AutoTokenizer

    find = _find(name)
    found = [path for file in (TOKENIZER, *CHAT_FILES) if (path := find(file))]
    try:
        with _quiet():
            tokenizer: Any = AutoTokenizer.from_pretrained(found[0].parent, trust_remote_code=False)
    except Exception as error:  # of many kinds, after what is missing or unknown
        raise RunError(f"the tokenizer of {name} could not be read: {_first_line(error)}") from None
    if not tokenizer.chat_template:
        raise RunError(f"{name} has no chat template ({CHAT_FILES[1]}): nobody taught it to answer.")
    return tokenizer


def _settled(device: str, precision: Precision) -> str:
    device = hardware.choose_device(device)
    able = hardware.precisions_of(device)
    if precision not in able:
        raise DeviceError(f"precision {precision!r}: {device} cannot; it offers {', '.join(able)}.")
    return device


def _find(name: str) -> Find:
    if Path(name).is_dir():
        return inside(Path(name))
    if Path(name).exists() or not is_name(name):
        raise RunError(f"{name} is no folder with a model, and no name of one on the Hub, as gpt2 or USER/NAME.")
    return on_the_hub(name, None)


def _tokenizer_of(find: Find, name: str) -> Tokenizer:
    """The tokenizer among a model's files. CorpusError if there is none that is understood here."""
    if found := find_tokenizer(find):
        return found
    slow = [path for file in SLOW_TOKENIZER if (path := find(file))]
    settings = find("tokenizer_config.json")
    if slow and settings:
        return _made_fast(settings.parent, name)
    raise CorpusError(
        f"{name} brings no tokenizer. Say which with --tokenizer: {KNOWN_TOKENIZERS}, or a name on the Hub."
    )


def _made_fast(folder: Path, name: str) -> Tokenizer:
    """The tokenizer.json that transformers makes of a tokenizer in another form."""
    from transformers import AutoTokenizer

    try:
        with _quiet():
            fast: Any = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
        return Tokenizer.from_json(fast.backend_tokenizer.to_str())
    except Exception as error:  # of many kinds, after what is missing or unknown
        raise CorpusError(f"the tokenizer of {name} could not be read: {_first_line(error)}") from None


def _load(folder: Path, name: str, precision: Precision) -> Any:
    """The model in evaluation mode, with every weight out of its files."""
    from transformers import AutoModelForCausalLM

    if not isinstance(read_json(folder / CONFIG).get("model_type"), str):
        raise RunError(f"{name}: {CONFIG} does not say what kind of model it is (model_type).")
    try:
        with _quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=hardware.compute_dtype(precision),
                trust_remote_code=False,
                weights_only=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # told of below
                output_loading_info=True,
            )
    except Exception as error:  # transformers raises whatever it meets on its way
        raise RunError(f"{name} could not be loaded: {_explained(error)}") from None
    model, report = loaded
    mismatched = {str(key[0]) for key in report["mismatched_keys"]}
    if wrong := mismatched | set(report["missing_keys"]):
        raise RunError(f"{name}: {listed(sorted(wrong))}: the weights lack this, or have it in another shape.")
    return model.eval()


def _explained(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "it needs code that comes with it to be executed, which is not done here."
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Without transformers' progress bars and its advice."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _check_fit(model: Any, encoder: Tokenizer, name: str) -> None:
    rows = len(model.get_input_embeddings().weight)
    if encoder.vocab_size > rows:
        raise RunError(
            f"{name} has {rows:,} rows in its embedding and its tokenizer {encoder.vocab_size:,} symbols: they do not "
            "belong together. Name the tokenizer it was trained with: --tokenizer PATH."
        )


def _context_length(model: Any) -> int | None:
    """The most tokens at once, under the names that configurations have for it; None where they say nothing."""
    config = model.config.get_text_config()
    for field in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"):
        if isinstance(length := getattr(config, field, None), int) and length > 0:
            return length
    return None


def _start(model: Any, encoder: Tokenizer) -> int:
    token = getattr(model.config.get_text_config(), "bos_token_id", None)
    return token if isinstance(token, int) else prompt_tokens(encoder, "")[0]
