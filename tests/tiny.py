"""Tiny recipes, models and streams for the tests, made in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import settings
from torch import Tensor

from scratchlab.architecture import GPTSection
from scratchlab.corpus.windows import Batch, Windows
from scratchlab.model.build import build_model
from scratchlab.model.gpt import GPT
from scratchlab.recipe import Recipe, recipe_from

Ints = npt.NDArray[np.int64]

VOCAB = 17
modest = settings(deadline=None, max_examples=25, derandomize=True)


@dataclass(frozen=True)
class Stream:
    """A token stream in memory; one document of as many bytes as tokens unless told otherwise."""

    tokens: Ints
    lengths: tuple[int, ...] = ()
    bytes: tuple[int, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, start: int, stop: int) -> Ints:
        assert 0 <= start <= stop <= len(self), "read outside the stream"
        return self.tokens[start:stop]

    def expect(self, start: int, stop: int) -> None:
        assert 0 <= start <= stop <= len(self), "expects what is outside the stream"

    @property
    def document_starts(self) -> Ints:
        return np.cumsum([0, *(self.lengths or (len(self),))])

    @property
    def document_bytes(self) -> Ints:
        return np.array(self.bytes or self.lengths or (len(self),))


def counting(n: int) -> Stream:
    """Token i is i, so that a window shows where it was cut."""
    return Stream(np.arange(n))


def random_stream(n: int, seed: int = 0, vocab_size: int = VOCAB) -> Stream:
    return Stream(np.random.default_rng(seed).integers(0, vocab_size, n))


def tiny_config(**fields: Any) -> GPTSection:
    """Two layers, two heads, eight wide, context 6."""
    return GPTSection(**{"n_layer": 2, "n_head": 2, "d_model": 8, "context_length": 6, **fields})


def tiny_gpt(*, dtype: torch.dtype = torch.float32, spread: float = 1.0, **fields: Any) -> GPT:
    """A tiny model in evaluation mode; `spread` widens its weights so that its predictions are far from even."""
    model = build_model(tiny_config(**fields), VOCAB, 1, dtype).to(dtype).eval()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number), dtype=dtype)
            parameter += (spread - 1.0) * 0.05 * noise
    return model


def random_tokens(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def tiny_recipe(changes: Mapping[str, Any] | None = None) -> Recipe:
    """A resolved recipe of the tiny model: 8 steps of 4 sequences on the CPU in float32, plus dotted changes."""
    base: dict[str, Any] = {
        "corpus": "corpora/tiny",
        "model": tiny_config().model_dump(exclude_unset=True),
        "training": {"steps": 8, "global_batch_size": 4, "learning_rate": 1e-2, "precision": "float32"},
        "execution": {"device": "cpu", "compile": False, "micro_batch_size": 4, "threads": 1},
    }
    return recipe_from(base, where="tiny").replaced(changes or {})


def tiny_batch(recipe: Recipe, step: int = 0) -> Batch:
    """What the loop would take at `step` from a fixed random stream."""
    size = recipe.training.global_batch_size
    return Windows(random_stream(200), recipe.model.context_length).batch(step * size, size, recipe.seeds.data)


def distance(a: Tensor, b: Tensor) -> float:
    """The norm of the difference over the norm."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm().clamp(min=1e-300))
