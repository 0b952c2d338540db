"""A model to evaluate by how a person names it: a run of ours, a model of Hugging Face, or an endpoint."""

from pathlib import Path

from scratchlab.errors import RunError, UsageError
from scratchlab.evaluation.subjects import Subject, run_subject
from scratchlab.interop.endpoint import endpoint_subject, is_endpoint
from scratchlab.interop.hub import is_name
from scratchlab.interop.hugging_face import CONFIG
from scratchlab.interop.hugging_face_subject import hugging_face_subject
from scratchlab.model.load import At
from scratchlab.runfolder import RunFolder

KNOWN = (
    "A model is a run folder, a folder with a model of Hugging Face transformers (config.json and weights), the name "
    "of one on the Hub (gpt2, USER/NAME), or an endpoint (http://HOST:PORT/v1#MODEL)"
)


def open_subject(name: str, *, tokenizer: str | None = None, at: At = "final", device: str = "auto") -> Subject:
    """The model that is called `name`, ready to be evaluated.

    `tokenizer` is for models that bring none, as an endpoint does; `at` is for runs, `device` for all but endpoints.
    Raises UsageError for an argument that this kind of model knows nothing of, RunError for what is no model.
    """
    if is_endpoint(name):
        _refuse(at != "final", f"{name} is an endpoint, and has no weights but its own: leave out --at {at}.")
        return endpoint_subject(name, tokenizer)
    if RunFolder(Path(name)).exists():
        _refuse(tokenizer is not None, f"{name} is a run, which has its own tokenizer: leave out --tokenizer.")
        return run_subject(name, at, device)
    if (Path(name) / CONFIG).is_file() or (not Path(name).exists() and is_name(name)):
        _refuse(at != "final", f"{name} is no run of ours, and has no weights but its own: leave out --at {at}.")
        return hugging_face_subject(name, tokenizer, device)
    is_there = "is there, but no model" if Path(name).exists() else "is neither there nor a name"
    raise RunError(f"{name} {is_there}. {KNOWN}.")


def _refuse(wrong: bool, message: str) -> None:
    if wrong:
        raise UsageError(message)
