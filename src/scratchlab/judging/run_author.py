"""A run of ours that answers: spoken to by its own chat template, or by one that is named."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from scratchlab.corpus.chat import SPECIALS, TEMPLATES, ChatTemplate, Message, needed_specials
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import CorpusError, UsageError
from scratchlab.evaluation import scorer
from scratchlab.evaluation.scorer import ModelScorer
from scratchlab.evaluation.subjects import Subject
from scratchlab.files import sha256_of_json
from scratchlab.generation.batching import Wish, write_all
from scratchlab.generation.context import fitted
from scratchlab.generation.engine import Settings
from scratchlab.judging.answers import Question, Written
from scratchlab.judging.author import Author, likelihoods, seed_of
from scratchlab.runfolder import RunFolder


def run_author(name: str, subject: Subject, given: str | None) -> Author:
    """The run `name`, opened as `subject`; `given` is the template for one that has none.

    UsageError for a run with two templates or without any, and for special tokens that its tokenizer lacks.
    """
    template, called = _template_of(RunFolder(Path(name)), given)
    tokenizer, found = subject.encoder, subject.scorer
    assert isinstance(tokenizer, Tokenizer)
    assert isinstance(found, ModelScorer)
    if lacking := needed_specials(tokenizer, SPECIALS.get(called, ())):
        raise UsageError(f"{subject.name}: its tokenizer lacks {', '.join(lacking)}, which template {called} needs.")
    ends = {template.end_of_turn(tokenizer), *([] if tokenizer.end_of_text is None else [tokenizer.end_of_text])}

    def write(questions: Sequence[Question], settings: Settings) -> Iterator[tuple[int, Written]]:
        own = [replace(settings, seed=seed_of(settings.seed, one)) for one in questions]
        prompts = [_prompt(template, tokenizer, one) for one in questions]
        fits = [fitted(*one, found.model.most_tokens) for one in zip(prompts, own, strict=True)]
        wishes = [Wish(prompt=one.prompt, settings=one.settings, ends=ends) for one in fits]
        for place, row in write_all(found.model, wishes):
            tokens = [one.token for one in row.written]
            yield place, Written(tokenizer.decode(tokens), len(tokens), row.finish == "stop", fits[place].cut)

    def pair(question: Question) -> scorer.Question | None:
        return _as_scored(template, tokenizer, question)

    return Author(subject.name, subject.identity, called, write, lambda asked: likelihoods(subject, asked, pair))


def _template_of(folder: RunFolder, given: str | None) -> tuple[ChatTemplate, str]:
    """How a run is spoken to, and what that is called."""
    own = folder.chat_template_path
    if own.is_file():
        if given is not None:
            raise UsageError(f"--template {given}: {folder.path} has a chat template of its own. Leave --template out.")
        return _named(own)
    if given is None:
        raise UsageError(
            f"{folder.path} has no chat template: nobody taught it to answer. Say how to put questions to it: "
            f"--template {', '.join(TEMPLATES)} or a file of Jinja. Or teach it: scratchlab finetune."
        )
    if given in TEMPLATES:
        return ChatTemplate(TEMPLATES[given]), given
    if not os.path.isfile(given):
        raise UsageError(f"--template {given}: expected {', '.join(TEMPLATES)}, or a file of Jinja.")
    return _named(Path(given))


def _named(path: Path) -> tuple[ChatTemplate, str]:
    try:
        source = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no template: it is not text in UTF-8 ({error.reason}).") from None
    known = {text: name for name, text in TEMPLATES.items()}
    return ChatTemplate(source), known.get(source) or sha256_of_json(source)


def _prompt(template: ChatTemplate, tokenizer: Tokenizer, question: Question) -> list[int]:
    try:
        return template.prompt(tokenizer, question.messages)
    except CorpusError as error:
        raise CorpusError(f"question {question.id}: {error}") from None


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
