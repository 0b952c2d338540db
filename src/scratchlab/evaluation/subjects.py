"""What is evaluated: a model with its tokenizer, whoever made it, and what tells it from all others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.evaluation.scorer import ModelScorer, Scorer
from scratchlab.files import sha256_of_json
from scratchlab.generation.text import prompt_tokens, run_tokenizer
from scratchlab.model.build import Model
from scratchlab.model.load import At, load_model
from scratchlab.runfolder import RunFolder


class Encoder(Protocol):
    """What evaluation asks of a tokenizer; a corpus's has it."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def end_of_text(self) -> int | None: ...
    @property
    def meaning(self) -> str:
        """SHA-256 of what decides the ids of a text."""
        ...

    def encode(self, text: str, /) -> npt.NDArray[np.unsignedinteger]: ...
    def token_bytes(self, token: int, /) -> bytes: ...


BEST = " (best)"  # what a run's name ends with where its best weights are evaluated, not its final ones


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to be evaluated."""

    name: str
    """As it was named: a run folder, a model of the Hub, an endpoint."""
    identity: str
    """SHA-256 of what its scores depend on: weights, tokenizer, precision. Results of others are kept apart."""
    scorer: Scorer
    encoder: Encoder
    start: int
    """The token that it has seen before the first of a text."""
    context_length: int | None
    """The most tokens it sees at once; None if there is no end to it."""
    window: int
    """Tokens of the windows in which its loss on a long text is measured."""
    remembers: bool = False
    """Whether it goes on from one window to the next, as a recurrent model does."""
    device: str = "other"
    """What it computes on: how much is scored at once."""


def run_subject(path: str | Path, at: At = "final", device: str = "auto") -> Subject:
    """The model of a run folder."""
    folder = RunFolder.open(path)
    model, tokenizer = load_model(folder, at, device), run_tokenizer(folder)
    name = str(path) if at == "final" else f"{path}{BEST}"
    saved = folder.snapshot("best") if at == "best" else folder.checkpoint(folder.checkpoint_steps()[-1])
    identity = sha256_of_json([folder.weights_sha256(saved[1]), tokenizer.meaning, str(model.compute_dtype)])
    return model_subject(name, identity, model, tokenizer)


def model_subject(name: str, identity: str, model: Model, tokenizer: Tokenizer) -> Subject:
    """A model of ours, in evaluation mode."""
    return Subject(
        name=name,
        identity=identity,
        scorer=ModelScorer(model),
        encoder=tokenizer,
        start=prompt_tokens(tokenizer, "")[0],
        context_length=model.most_tokens,
        window=model.config.context_length,
        remembers=model.config.remembers,
        device=model.head_weight.device.type,
    )
