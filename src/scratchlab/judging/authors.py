"""Who answers, by how a person names it: a run of ours, a model of Hugging Face, or an endpoint."""

from scratchlab.errors import UsageError
from scratchlab.evaluation.scorer import ModelScorer
from scratchlab.interop.endpoint import is_endpoint
from scratchlab.interop.subjects import open_subject
from scratchlab.judging.author import Author
from scratchlab.judging.client import OPENAI
from scratchlab.judging.hugging_face_author import hugging_face_author
from scratchlab.judging.remote_author import endpoint_author
from scratchlab.judging.run_author import run_author
from scratchlab.model.load import At


def open_author(name: str, *, template: str | None = None, at: At = "final", device: str = "auto") -> Author:
    """The model that is called `name`, ready to answer.

    `template` (alpaca, chatml or a file of Jinja) is for runs that have none of their own. UsageError for one that has,
    for a run without any, and for a template whose special tokens a tokenizer lacks; RunError for what is no model.
    """
    if is_endpoint(name) or name.startswith(OPENAI):
        _refuse_template(name, template, "an endpoint, which words conversations itself")
        return endpoint_author(name)
    subject = open_subject(name, at=at, device=device)
    if isinstance(subject.scorer, ModelScorer):
        return run_author(name, subject, template)
    _refuse_template(name, template, "a model of Hugging Face, which is spoken to by its own template")
    return hugging_face_author(subject)


def _refuse_template(name: str, template: str | None, what: str) -> None:
    if template is not None:
        raise UsageError(f"--template {template}: {name} is {what}. Leave --template out.")
