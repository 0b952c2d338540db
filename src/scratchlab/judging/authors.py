"""Who answers: a run of ours, a model of Hugging Face with a chat template, or an endpoint."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scratchlab.corpus.chat import SPECIALS, TEMPLATES, ChatTemplate, Message, needed_specials
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import CorpusError, UsageError
from scratchlab.evaluation import scorer
from scratchlab.evaluation.batches import width
from scratchlab.evaluation.scorer import ModelScorer
from scratchlab.evaluation.subjects import Subject
from scratchlab.files import sha256_of_json
from scratchlab.generation.engine import Settings, generate
from scratchlab.interop.endpoint import is_endpoint
from scratchlab.interop.subjects import open_subject
from scratchlab.judging.answers import Likelihood, Question, Written
from scratchlab.judging.client import OPENAI
from scratchlab.model.build import Model
from scratchlab.model.load import At
from scratchlab.runfolder import RunFolder
from scratchlab.seeds import derive

Write = Callable[[Sequence[Question], Settings], Iterator[tuple[int, Written]]]
"""The answers to questions, each with the place of its question, in whatever order they are done."""


@dataclass(frozen=True, slots=True)
class Author:
    """Somebody who answers."""

    name: str
    identity: str
    """SHA-256 of what answers depend on, settings and template aside."""
    template: str
    """How it is spoken to: the name of a template, or SHA-256 of one."""
    write: Write
    likelihoods: Callable[[Sequence[Question]], list[Likelihood | None]]
    """Of the reference answers: None where there is none, it does not fit, or nobody can say."""


def seed_of(seed: int, question: Question) -> int:
    """The seed with which a question is answered: whatever else is asked. 31 bits, which any server takes."""
    return derive(seed, "answer", question.id) >> 97


def open_author(name: str, *, template: str | None = None, at: At = "final", device: str = "auto") -> Author:
    """The model that is called `name`, ready to answer.

    `template` (alpaca, chatml or a file of Jinja) is for runs that have none of their own. UsageError for one that has,
    for a run without any, and for a template whose special tokens a tokenizer lacks; RunError for what is no model.
    """
    if is_endpoint(name) or name.startswith(OPENAI):
        from scratchlab.judging.remote_author import endpoint_author

        _refuse_template(name, template, "an endpoint, which words conversations itself")
        return endpoint_author(name)
    subject = open_subject(name, at=at, device=device)
    if isinstance(subject.scorer, ModelScorer):
        return _run_author(subject, subject.scorer, *_template_of(RunFolder(Path(name)), template))
    from scratchlab.judging.hugging_face_author import hugging_face_author

    _refuse_template(name, template, "a model of Hugging Face, which is spoken to by its own template")
    return hugging_face_author(subject)


def _refuse_template(name: str, template: str | None, what: str) -> None:
    if template is not None:
        raise UsageError(f"--template {template}: {name} is {what}. Leave --template out.")


# Runs.


def _template_of(folder: RunFolder, given: str | None) -> tuple[ChatTemplate, str]:
    """How a run is spoken to, and what that is called."""
    own = folder.chat_template_path
    if own.is_file():
        _refuse_template(str(folder.path), given, "a run that has a chat template of its own")
        return _named(own.read_text(encoding="utf-8"))
    if given is None:
        raise UsageError(
            f"{folder.path} has no chat template: nobody taught it to answer. Say how to put questions to it: "
            f"--template {', '.join(TEMPLATES)} or a file of Jinja. Or teach it: scratchlab finetune."
        )
    if given in TEMPLATES:
        return ChatTemplate(TEMPLATES[given]), given
    if not os.path.isfile(given):
        raise UsageError(f"--template {given}: expected {', '.join(TEMPLATES)}, or a file of Jinja.")
    return _named(Path(given).read_text(encoding="utf-8"))


def _named(source: str) -> tuple[ChatTemplate, str]:
    known = {text: name for name, text in TEMPLATES.items()}
    return ChatTemplate(source), known.get(source) or sha256_of_json(source)


def _run_author(subject: Subject, found: ModelScorer, template: ChatTemplate, called: str) -> Author:
    tokenizer = subject.encoder
    assert isinstance(tokenizer, Tokenizer)
    if lacking := needed_specials(tokenizer, SPECIALS.get(called, ())):
        raise UsageError(f"{subject.name}: its tokenizer lacks {', '.join(lacking)}, which template {called} needs.")
    ends = {template.end_of_turn(tokenizer), *([] if tokenizer.end_of_text is None else [tokenizer.end_of_text])}

    def write(questions: Sequence[Question], settings: Settings) -> Iterator[tuple[int, Written]]:
        prompts = [template.prompt(tokenizer, one.messages) for one in questions]
        seeds = [seed_of(settings.seed, one) for one in questions]
        for place, tokens, ended in write_all(found.model, prompts, settings, seeds, ends):
            cut = max(0, len(prompts[place]) - (found.model.most_tokens or len(prompts[place])))
            yield place, Written(tokenizer.decode(tokens), len(tokens), ended, cut)

    def pair(question: Question) -> scorer.Question | None:
        return _as_scored(template, tokenizer, question)

    return Author(subject.name, subject.identity, called, write, lambda asked: likelihoods(subject, asked, pair))


def write_all(
    model: Model, prompts: Sequence[list[int]], settings: Settings, seeds: Sequence[int], ends: set[int]
) -> Iterator[tuple[int, list[int], bool]]:
    """What a model writes after each prompt: its place, its tokens, and whether one of `ends` ended it."""
    for place, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        own = Settings(
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            seed=seed,
        )
        tokens, ended = list[int](), False
        for token in generate(model, prompt, own):
            if ended := token in ends:
                break
            tokens.append(token)
        yield place, tokens, ended


def _as_scored(template: ChatTemplate, tokenizer: Tokenizer, question: Question) -> scorer.Question | None:
    """A question with its reference answer as its one continuation."""
    assert question.reference is not None
    told: list[Message] = [*question.messages, {"role": "assistant", "content": question.reference}]
    try:
        whole, begins = template.encode(tokenizer, told), len(template.prompt(tokenizer, question.messages))
    except CorpusError:  # a character that the tokenizer does not have
        return None
    after = np.arange(len(whole.ids)) >= begins
    return scorer.Question(whole.ids[:begins], (whole.ids[after & whole.learned],), question.id)


# Likelihoods, of any model that scores.


def likelihoods(
    subject: Subject, questions: Sequence[Question], as_scored: Callable[[Question], scorer.Question | None]
) -> list[Likelihood | None]:
    """What `subject` thinks of the reference answers."""
    asked: dict[int, scorer.Question] = {}
    for place, question in enumerate(questions):
        one = as_scored(question) if question.reference and question.reference.strip() else None
        if one is not None and (subject.context_length is None or width(one) <= subject.context_length):
            asked[place] = one
    found: list[Likelihood | None] = [None] * len(questions)
    for place, (answer,) in zip(asked, subject.scorer.answers(list(asked.values())), strict=True):
        size = len((questions[place].reference or "").encode())
        found[place] = Likelihood(float(answer.nats.astype(np.float64).sum()), len(answer.nats), size)
    return found
