"""The loss of pairs is the paper's, written out with a forward pass for each answer; and so are its gradients."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from scratchlab.corpus.examples.encode import CHOSEN, REJECTED
from scratchlab.corpus.examples.pairs import PairRows, PairTokens, read_pair
from scratchlab.corpus.windows import Batch, Paired
from scratchlab.model import loss as module
from scratchlab.model.build import build_model
from scratchlab.model.gpt import GPT
from scratchlab.model.preferences import Preferences
from tiny import VOCAB, distance, tiny_config

T, END, BETA = 14, 5, 0.3
CASES: dict[str, dict[str, Any]] = {
    **{positions: {"positions": positions} for positions in ("learned", "rotary", "sinusoidal", "none")},
    "window": {"window": 3, "positions": "rotary"},
    "document mask": {"document_mask": True},
    "torch": {"attention": "torch"},
    "explicit": {"attention": "explicit", "logit_cap": 3.0},
}
SIZES = ((3, 4, 2), (6, 3, 5), (1, 2, 3), (5, 9, 9))


class Pairs:
    """Four pairs, of which the last is cut and the second has an end of text in its prompt."""

    name = "train"
    document_starts = np.cumsum([0, *map(sum, SIZES)])
    tokens = np.random.default_rng(1).integers(6, VOCAB, document_starts[-1])
    tokens[11] = END
    marks = np.concatenate([np.repeat([0, CHOSEN, REJECTED], sizes) for sizes in SIZES]).astype(np.uint8)
    ids = tuple("abcd")

    def read(self, start: int, stop: int) -> Any:
        return self.tokens[start:stop]


REFERENCE = np.array([1.5, -2.0, 0.0, 0.7])


def rows_of(config: Any) -> PairRows:
    return PairRows(Pairs(), T, END if config.document_mask else None, REFERENCE)  # pyright: ignore


def model_of(case: str) -> GPT:
    model = build_model(tiny_config(context_length=T, **CASES[case]), VOCAB, 1, torch.float64, end_of_text=END)
    assert isinstance(model, GPT)
    with torch.no_grad():  # far from even predictions, so that what is seen shows
        for parameter in model.double().parameters():
            parameter += 0.2 * torch.randn(parameter.shape, dtype=torch.float64)
    return model


def tensors(batch: Batch) -> tuple[Any, ...]:
    assert isinstance(batch.packing, Paired)
    tokens, targets, weights = map(torch.from_numpy, (batch.tokens, batch.targets, batch.weights))
    return tokens, targets, weights, None, *map(torch.from_numpy, batch.packing)


def log_likelihood(model: GPT, prompt: Any, answer: Any) -> Tensor:
    """Of an answer after its prompt, and nothing else in the row."""
    tokens = torch.from_numpy(np.concatenate([prompt, answer]))[None]
    logits, _ = model(tokens[:, :-1])
    return torch.log_softmax(logits[0, len(prompt) - 1 :], -1).gather(-1, tokens[0, len(prompt) :, None]).sum()


def margin(model: GPT, pair: PairTokens) -> Tensor:
    return log_likelihood(model, pair.prompt, pair.chosen) - log_likelihood(model, pair.prompt, pair.rejected)


def gradients(model: GPT, loss: Tensor) -> list[Tensor]:
    return [grad for grad in torch.autograd.grad(loss, list(model.parameters()), allow_unused=True) if grad is not None]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_the_definitions(case: str, chunked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(case)
    rows = rows_of(model.config)
    expected: Any = [
        -F.logsigmoid(BETA * (margin(model, read_pair(rows.split, rows.fit, number)) - REFERENCE[number]))
        for number in range(4)
    ]
    gains = [margin(model, read_pair(rows.split, rows.fit, number)).item() - REFERENCE[number] for number in range(4)]
    if chunked:
        monkeypatch.setattr(module, "CHUNK_ENTRIES", 5 * VOCAB)
    loss, count, told = Preferences(model, BETA)(*tensors(rows.rows(np.arange(4))))
    total = sum(expected)
    assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    assert float(count) == 4
    assert told.tolist() == pytest.approx([sum(gain > 0 for gain in gains), sum(gains)], rel=1e-4)
    found, wanted = gradients(model, loss), gradients(model, total)
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert distance(ours, theirs) < 1e-4 or theirs.norm() < 1e-9


def test_a_row_counts_as_much_as_its_weights_and_a_blank_one_not_at_all() -> None:
    model = model_of("learned")
    parts = tensors(rows_of(model.config).rows(np.arange(4)))
    scale = torch.tensor([8.0, 8.0, 0.0, 8.0])[:, None]
    objective = Preferences(model, BETA)
    one_by_one = [objective(*(part if part is None else part[row : row + 1] for part in parts)) for row in (0, 1, 3)]
    loss, count, told = objective(parts[0], parts[1], parts[2] * scale, *parts[3:])
    assert float(count) == 24
    assert loss.item() == pytest.approx(8 * sum(one[0].item() for one in one_by_one), rel=1e-5)
    assert told.tolist() == pytest.approx((8 * sum(one[2] for one in one_by_one)).tolist(), rel=1e-5)


def test_at_the_reference_it_is_ln_2_and_pulls_both_answers_by_half_of_beta() -> None:
    model = model_of("rotary")
    rows = rows_of(model.config)
    own = np.array([margin(model, read_pair(rows.split, rows.fit, number)).item() for number in range(4)])
    there = PairRows(Pairs(), T, None, own)  # pyright: ignore[reportArgumentType]
    loss, _, _ = Preferences(model, BETA)(*tensors(there.rows(np.arange(4))))
    assert loss.item() / 4 == pytest.approx(np.log(2), abs=1e-6)
    total: Any = sum(margin(model, read_pair(rows.split, rows.fit, number)) for number in range(4))
    for ours, theirs in zip(gradients(model, loss), gradients(model, -BETA / 2 * total), strict=True):
        assert distance(ours, theirs) < 1e-4


def test_it_is_one_graph() -> None:
    model = model_of("window")
    parts = tensors(rows_of(model.config).rows(np.arange(4)))
    objective = Preferences(model, BETA)
    compiled = torch.compile(objective, backend="eager", fullgraph=True, dynamic=False)
    assert torch.equal(objective(*parts)[0], compiled(*parts)[0])
    torch.compiler.reset()
