"""Writing a run as a model that other programs load."""

from pathlib import Path

from scratchlab.errors import RunError
from scratchlab.generation.text import run_tokenizer
from scratchlab.interop.hugging_face import write_hugging_face
from scratchlab.model.load import At, load_model
from scratchlab.recipe import GPTSection
from scratchlab.runfolder import RunFolder


def export_run(folder: RunFolder, to: Path, at: At = "final", custom: bool = False) -> list[str]:
    """Make the new folder `to` with a run's weights for transformers, its tokenizer, and its chat template if any.

    The model is of a class that transformers has, or, if `custom`, of one whose code lies with it. Gives the names of
    the files. RunError if transformers has no class for it.
    """
    model = load_model(folder, at, "cpu")
    if not isinstance(model.config, GPTSection):
        raise RunError(
            f"{folder.path} is a recurrent network (model.architecture = 'rnn'): transformers has no class for it, and "
            "--custom carries the code of a GPT alone."
        )
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    template = folder.chat_template_path
    worded = template.read_bytes().decode() if template.is_file() else None
    write_hugging_face(model.config, tensors, run_tokenizer(folder), to, worded, custom)
    return sorted(path.name for path in to.iterdir())
