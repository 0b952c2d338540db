"""Texts that are packed into a row see nothing of each other: exactly no gradient, and the logits of each alone."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scratchlab.corpus.examples.packing import PackedRows
from scratchlab.corpus.windows import Batch
from scratchlab.model.build import build_model
from scratchlab.model.gpt import GPT
from scratchlab.model.loss import Objective
from tiny import VOCAB, distance, tiny_config

T, END = 12, 5
CASES: dict[str, dict[str, Any]] = {
    **{positions: {"positions": positions} for positions in ("learned", "rotary", "sinusoidal", "none")},
    "window": {"window": 3, "positions": "rotary"},
    "alternate windows": {"window": 3, "window_layers": "alternate"},
    "document mask": {"document_mask": True},
    "window and document mask": {"window": 4, "document_mask": True},
    "explicit": {"attention": "explicit"},
    "torch": {"attention": "torch"},
    "grouped": {"n_kv_head": 1, "qk_norm": True},
}


class Examples:
    """Five texts of some tokens each, of which the last three are learned; one has an end of text in it."""

    name = "train"
    document_starts = np.cumsum([0, 5, 8, 4, 6, 10])
    tokens = np.random.default_rng(1).integers(0, VOCAB, 33)
    tokens[7] = END
    marks = np.concatenate([np.repeat([0, 1], [size - 3, 3]) for size in (5, 8, 4, 6, 10)]).astype(np.uint8)
    ids = tuple("abcde")

    def read(self, start: int, stop: int) -> Any:
        return self.tokens[start:stop]


def packed(config: Any) -> Batch:
    rows = PackedRows(Examples(), T, "responses", END if config.document_mask else None)  # pyright: ignore
    assert len(rows) == 3
    return rows.batch(0, 3, seed=1)


def model_of(case: str, dtype: torch.dtype = torch.float64) -> GPT:
    model = build_model(tiny_config(context_length=T, **CASES[case]), VOCAB, 1, dtype, end_of_text=END).to(dtype)
    assert isinstance(model, GPT)
    with torch.no_grad():  # far from even predictions, so that what is seen shows
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, dtype=dtype)
    return model


def tensors(batch: Batch) -> tuple[Tensor, ...]:
    assert batch.packing is not None
    weights = torch.from_numpy(batch.weights)
    tokens, targets, documents, positions = map(torch.from_numpy, (batch.tokens, batch.targets, *batch.packing))
    return tokens, targets, weights, documents, positions


def places(positions: Tensor) -> list[list[int]]:
    """Of a row, the places of each text: it begins where positions do."""
    begins = [*torch.nonzero(positions == 0).flatten().tolist(), len(positions)]
    return [list(range(*edges)) for edges in itertools.pairwise(begins)]


@pytest.mark.parametrize("case", CASES)
def test_packed_and_alone_are_the_same(case: str) -> None:
    model = model_of(case).eval()
    tokens, _, _, documents, positions = tensors(packed(model.config))
    logits, _ = model(tokens, None, positions, documents)
    for row in range(3):
        for own in places(positions[row]):
            alone, _ = model(tokens[row : row + 1, own])
            assert distance(logits[row : row + 1, own], alone) < 1e-12


@pytest.mark.parametrize("case", CASES)
def test_no_gradient_crosses(case: str) -> None:
    model = model_of(case)
    tokens, targets, weights, documents, positions = tensors(packed(model.config))
    embedded: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        embedded.append(output)

    model.token_embedding.register_forward_hook(keep)
    crossed = 0
    for row in range(3):
        for own in places(positions[row]):
            counted = torch.zeros_like(weights)
            counted[row, own] = weights[row, own]
            Objective(model)(tokens, targets, counted, None, documents, positions)[0].backward()
            gradient = embedded.pop().grad
            assert gradient is not None
            inside = torch.zeros_like(counted, dtype=torch.bool)
            inside[row, own] = True
            assert (gradient[~inside] == 0).all()
            crossed += bool((gradient[inside] != 0).any())
    assert crossed == 5, "each text has a gradient of its own"


@pytest.mark.parametrize("case", ["learned", "rotary", "window and document mask"])
def test_packed_rows_are_one_graph(case: str) -> None:
    """Nothing in it waits for the device: `fullgraph` refuses what has to look at a value."""
    model = model_of(case)
    tokens, targets, weights, documents, positions = tensors(packed(model.config))
    objective = Objective(model)
    compiled = torch.compile(objective, backend="eager", fullgraph=True, dynamic=False)
    plain, packed_sum = (one(tokens, targets, weights, None, documents, positions)[0] for one in (objective, compiled))
    assert torch.equal(plain, packed_sum)
    torch.compiler.reset()
