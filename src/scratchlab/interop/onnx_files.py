"""ONNX: any GPT as a graph, tokens (batch, length) in and logits (batch, length, vocabulary) out, for onnxruntime.

The graph is that of the model page itself, as `torch.export` sees it, in float32 and without a cache. It appears once
onnxruntime has computed the same with it on batches of several shapes. Parameters keep their names, and a field of the
file says what our `[model]` was, so that an import is the identity.
"""

import contextlib
import json
import logging
import warnings
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scratchlab.architecture import GPTSection
from scratchlab.errors import RunError
from scratchlab.extras import missing
from scratchlab.files import folder_in_one_piece, pretty_json, write_atomically
from scratchlab.generation.text import run_template, run_tokenizer
from scratchlab.interop.files import refuse_existing
from scratchlab.interop.foreign import Foreign, section
from scratchlab.interop.names import Names, shapes_of, to_ours
from scratchlab.model.build import Model, empty_model
from scratchlab.model.load import At, Logits, load_model
from scratchlab.runfolder import RunFolder

MODEL, COMPARED, TEMPLATE = "model.onnx", "compared.json", "chat_template.jinja"
OURS = "scratchlab.model"
"""The field with our `[model]` as JSON, without what is at its default."""
TOLERANCE = 1e-4
"""How far a logit may lie from ours, as a part of the largest one."""
LARGEST = 2**31
"""Bytes of a protobuf; larger models keep their weights in a file beside the graph."""


class _Same(dict[str, str]):
    """Names that are ours, behind the name of what wraps the model."""

    def __missing__(self, ours: str) -> str:
        return f"model.{ours}"


NAMES = Names(_Same())


def export_onnx(folder: RunFolder, to: Path, at: At = "final") -> list[str]:
    """Make the new folder `to` with a run as model.onnx, its tokenizer and how the logits compare.

    Gives the names of the files. RunError, and no folder, for a recurrent network, and if onnxruntime computes anything
    else. MissingExtraError without the packages that it takes.
    """
    _packages()
    refuse_existing(to)
    model, tokenizer, template = load_model(folder, at, "cpu"), run_tokenizer(folder), run_template(folder)
    if not isinstance(model.config, GPTSection):
        raise RunError(f"{folder.path} is a recurrent network; as ONNX there are GPTs alone.")
    ours = {name: parameter.detach() for name, parameter in model.named_parameters()}
    plain = plain_model(model.config, ours, tokenizer.vocab_size, tokenizer.end_of_text)
    with folder_in_one_piece(to, "the export") as partial:
        write_onnx(partial / MODEL, plain, model.config.model_copy(update={"vocab_multiple": 1}))
        check_onnx(partial / MODEL, plain)
        write_atomically(partial / COMPARED, pretty_json(compare_logits(partial / MODEL, plain)))
        write_atomically(partial / "tokenizer.json", tokenizer.to_json())
        if template is not None:
            write_atomically(partial / TEMPLATE, template.source)
    return sorted(path.name for path in to.iterdir())


def plain_model(config: GPTSection, tensors: Mapping[str, Tensor], vocab_size: int, end_of_text: int | None) -> Model:
    """The model in float32, its vocabulary at its true size, by a kernel that can be exported."""
    kernel = {"attention": "fused"} if config.attention == "torch" else {}
    same = config.model_copy(update={"vocab_multiple": 1, **kernel})
    model = empty_model(same, vocab_size, torch.float32, end_of_text)
    shapes = shapes_of(same, vocab_size)
    model.load_state_dict({name: tensor[: shapes[name][0]] for name, tensor in tensors.items()}, assign=True)
    return model.requires_grad_(False).eval()


def write_onnx(path: Path, model: Model, config: GPTSection) -> None:
    """The graph and the weights of a `plain_model` at `path`, and that it is of `config`."""
    # Longer than a window: what is shorter needs no mask for it, and a graph without one would be what is traced.
    length = min(3 if config.window is None else config.window + 1, config.context_length)
    example = torch.zeros(2, length, dtype=torch.int64)
    with _quietly(), torch.no_grad():
        program = torch.onnx.export(
            Logits(model).eval(),
            (example,),
            dynamo=True,
            optimize=False,  # it would fold and rename the parameters; onnxruntime does the same when it loads them
            dynamic_shapes=({0: "batch", 1: "length"},),
            input_names=["tokens"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props[OURS] = json.dumps(config.model_dump(exclude_defaults=True))
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    program.save(path, external_data=size > LARGEST // 2)


@contextlib.contextmanager
def _quietly() -> Generator[None]:
    """Without what the exporter says of its own insides."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def check_onnx(path: Path, model: Model) -> None:
    """RunError unless the file gives back the parameters of this model, to the bit."""
    found = read_onnx(path).tensors
    if wrong := [name for name, tensor in model.named_parameters() if not torch.equal(found[name], tensor)]:
        raise RunError(f"{path.name} does not give back what was written: {', '.join(wrong[:6])}.")


@torch.no_grad()
def compare_logits(path: Path, model: Model) -> dict[str, Any]:
    """How far onnxruntime's logits lie from ours, on random tokens. RunError where it is more than `TOLERANCE`."""
    _, onnxruntime = _packages()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    largest, total, count, scale = 0.0, 0.0, 0, 0.0
    shapes = [tuple(tokens.shape) for tokens in _trials(model)]
    for tokens in _trials(model):
        (theirs,) = session.run(None, {"tokens": tokens.numpy()})
        ours = model(tokens)[0]
        difference = (torch.from_numpy(theirs) - ours).abs()
        if theirs.shape != tuple(ours.shape) or not bool(torch.isfinite(difference).all()):
            raise RunError(f"onnxruntime gives no logits for tokens of shape {tuple(tokens.shape)}.")
        largest, scale = max(largest, float(difference.max())), max(scale, float(ours.abs().max()))
        total, count = total + float(difference.double().sum()), count + difference.numel()
    if largest > TOLERANCE * max(scale, 1.0):
        raise RunError(f"onnxruntime's logits lie up to {largest:.2g} from ours, which reach {scale:.3g}.")
    return {
        "compared": "logits of onnxruntime with ours, on random tokens",
        "onnxruntime": str(onnxruntime.__version__),
        "shapes": shapes,
        "largest_difference": largest,
        "mean_difference": total / count,
        "largest_logit": scale,
        "tolerance": TOLERANCE,
    }


def _trials(model: Model) -> Iterator[Tensor]:
    """Batches of several shapes, the last of them as long as the model sees."""
    assert isinstance(model.config, GPTSection)
    longest = model.config.context_length
    for rows, length in ((1, 1), (3, min(5, longest)), (1, longest)):
        generator = torch.Generator().manual_seed(length)
        yield torch.randint(model.vocab_size, (rows, length), generator=generator)


def read_onnx(path: Path) -> Foreign:
    """The model in an ONNX file that was written here. RunError for any other: a graph does not say what it is."""
    onnx, _ = _packages()
    try:
        stored = onnx.load(path)
        fields = {entry.key: entry.value for entry in stored.metadata_props}
        found = {entry.name: entry for entry in stored.graph.initializer if entry.name.startswith("model.")}
        state = {name: torch.from_numpy(onnx.numpy_helper.to_array(entry).copy()) for name, entry in found.items()}
        said = json.loads(fields[OURS]) if OURS in fields else None
    except Exception as error:  # a damaged file can raise anything
        raise RunError(f"{path} could not be read as ONNX: {error}.") from None
    if not isinstance(said, dict):
        raise RunError(
            f"{path} does not say what model it is. An ONNX file is a graph, in which an architecture cannot be known "
            "again: those that scratchlab export wrote can be imported, and others from what they were made of."
        )
    config = section(said, str(path))
    embedding = state.get("model.token_embedding.weight")
    rows = len(embedding) if embedding is not None and embedding.dim() else 0
    tensors = to_ours(state, config, rows, NAMES, str(path))
    template = path.parent / TEMPLATE
    worded = template.read_text(encoding="utf-8") if template.is_file() else None
    return Foreign("ONNX", config, rows, tensors, (path,), chat_template=worded)


def _packages() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # pyright: ignore[reportUnusedImport]  torch.onnx needs it
    except ImportError:
        raise missing("ONNX", "onnx") from None
    return onnx, onnxruntime
