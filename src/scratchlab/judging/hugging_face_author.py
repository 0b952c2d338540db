"""A model of Hugging Face that answers: worded by its own chat template, written by transformers' `generate`."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from scratchlab.evaluation import scorer
from scratchlab.evaluation.subjects import Subject
from scratchlab.generation.context import Fitted, fitted
from scratchlab.generation.engine import Settings
from scratchlab.interop.hugging_face_scorer import CausalLMScorer
from scratchlab.interop.hugging_face_subject import chat_tokenizer
from scratchlab.judging.answers import Question, Written
from scratchlab.judging.author import Author, likelihoods, seed_of


def hugging_face_author(subject: Subject) -> Author:
    """The model of `subject`. RunError if it brings no chat template."""
    assert isinstance(subject.scorer, CausalLMScorer)
    tokenizer, model = chat_tokenizer(subject.name), subject.scorer.model

    def prompt(question: Question) -> list[int]:
        return tokenizer.apply_chat_template(list(question.messages), add_generation_prompt=True, return_dict=False)

    def write(questions: Sequence[Question], settings: Settings) -> Iterator[tuple[int, Written]]:
        for place, question in enumerate(questions):
            own = fitted(prompt(question), settings, subject.context_length)
            yield place, _write(model, tokenizer, own, seed_of(settings.seed, question))

    def pair(question: Question) -> scorer.Question:
        reference = tokenizer.encode(question.reference, add_special_tokens=False)
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        return scorer.Question(np.array(prompt(question)), (np.array([*reference, *end]),), question.id)

    return Author(subject.name, subject.identity, "its own", write, lambda asked: likelihoods(subject, asked, pair))


@torch.inference_mode()
def _write(model: Any, tokenizer: Any, asked: Fitted, seed: int) -> Written:
    tokens, settings = torch.tensor([asked.prompt], device=model.device), asked.settings
    ends = _ends(model, tokenizer)
    drawn = {"temperature": settings.temperature, "top_k": settings.top_k or 0, "top_p": settings.top_p or 1.0}
    with torch.random.fork_rng([tokens.device] if tokens.is_cuda else []):
        torch.manual_seed(seed)
        out = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=settings.max_tokens,
            do_sample=settings.temperature > 0,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
            **(drawn if settings.temperature > 0 else {}),
        )
    written: list[int] = out[0, len(asked.prompt) :].tolist()
    ended = bool(written) and written[-1] in ends
    return Written(tokenizer.decode(written, skip_special_tokens=True), len(written) - ended, ended, asked.cut)


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a turn: those the model's settings name, and its tokenizer."""
    named = getattr(model.generation_config, "eos_token_id", None)
    listed = named if isinstance(named, list) else [named]
    return [token for token in dict.fromkeys([*listed, tokenizer.eos_token_id]) if token is not None]
