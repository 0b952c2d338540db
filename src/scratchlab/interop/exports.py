"""Writing a run as a model that other programs load, and proving that it is the run."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from scratchlab.architecture import GPTSection
from scratchlab.errors import RunError
from scratchlab.files import folder_in_one_piece
from scratchlab.generation.text import run_template, run_tokenizer
from scratchlab.interop.adapter_exports import export_adapters
from scratchlab.interop.card import About, write_card
from scratchlab.interop.card_header import check_header
from scratchlab.interop.files import refuse_existing
from scratchlab.interop.gguf_files import export_gguf
from scratchlab.interop.hugging_face import write_hugging_face
from scratchlab.interop.onnx_files import export_onnx
from scratchlab.interop.proof import prove
from scratchlab.model.load import At, load_model
from scratchlab.runfolder import RunFolder


def export_run(
    folder: RunFolder, to: Path, at: At | int = "final", custom: bool = False, about: About | None = None
) -> list[str]:
    """Make the new folder `to` of a run's weights, proved to be the run when transformers loads it, with a card.

    `at` may also be the step of a snapshot; `custom` as in `write_run`; `about` is for the card. Gives the names of the
    files. RunError if transformers has no class for it, or if the proof fails; there is no folder then.
    """
    about = about or About(load_as=to.name)
    check_header(about.license, about.languages)
    refuse_existing(to)
    with folder_in_one_piece(to, "the export") as whole:
        written = whole / "model"
        write_run(folder, written, at, custom)
        proof = prove(written, folder, at)
        write_card(written, folder, proof, about)
        for path in written.iterdir():
            os.replace(path, whole / path.name)
        written.rmdir()
    return sorted(path.name for path in to.iterdir())


def write_run(folder: RunFolder, to: Path, at: At | int = "final", custom: bool = False) -> list[str]:
    """Make the new folder `to` with a run's weights for transformers, its tokenizer, and its chat template if any.

    The model is of a class that transformers has, or, if `custom`, of one whose code lies with it. Nothing is proved.
    Gives the names of the files. RunError if transformers has no class for it.
    """
    model = load_model(folder, at, "cpu")
    if not isinstance(model.config, GPTSection):
        raise RunError(
            f"{folder.path} is a recurrent network (model.architecture = 'rnn'): transformers has no class for it, and "
            "--custom carries the code of a GPT alone."
        )
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    template = run_template(folder)
    worded = template.source if template else None
    write_hugging_face(model.config, tensors, run_tokenizer(folder), to, worded, custom)
    return sorted(path.name for path in to.iterdir())


# (run, new folder, which weights) -> the names of the files in it.
Export = Callable[[RunFolder, Path, At], list[str]]
OTHERS: Mapping[str, Export] = {"gguf": export_gguf, "onnx": export_onnx, "peft": export_adapters}
"""What is not for transformers."""
