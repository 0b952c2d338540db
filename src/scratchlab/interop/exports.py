"""Writing a run as a model that other programs load."""

from collections.abc import Callable, Mapping
from pathlib import Path

from scratchlab.errors import RunError
from scratchlab.generation.text import run_tokenizer
from scratchlab.interop.gguf_files import export_gguf
from scratchlab.interop.hugging_face import write_hugging_face
from scratchlab.interop.onnx_files import export_onnx
from scratchlab.model.load import At, load_model
from scratchlab.recipe import GPTSection
from scratchlab.runfolder import RunFolder


def export_run(folder: RunFolder, to: Path, at: At = "final") -> list[str]:
    """Make the new folder `to` with a Hugging Face GPT-2 of a run's weights, and its chat template if it has one.

    Gives the names of the files. RunError if the model is none that GPT2LMHeadModel could be.
    """
    model = load_model(folder, at, "cpu")
    if not isinstance(model.config, GPTSection):
        raise RunError(f"{folder.path} is a recurrent network, which Hugging Face has no class for.")
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    template = folder.chat_template_path
    worded = template.read_bytes().decode() if template.is_file() else None
    write_hugging_face(model.config, tensors, run_tokenizer(folder), to, worded)
    return sorted(path.name for path in to.iterdir())


# (run, new folder, which weights) -> the names of the files in it.
Export = Callable[[RunFolder, Path, At], list[str]]
FORMATS: Mapping[str, Export] = {"hf": export_run, "gguf": export_gguf, "onnx": export_onnx}
