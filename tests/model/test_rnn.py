"""The recurrent page: its cells are torch.nn's, it remembers, and it trains by the same loop."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scratchlab.architecture import RNNSection
from scratchlab.corpus.windows import Windows
from scratchlab.evaluation.loss import evaluate_loss
from scratchlab.evaluation.scorer import ModelScorer, ScoreWindows
from scratchlab.generation.engine import Settings, generate
from scratchlab.model.build import build_model
from scratchlab.model.count import forward_flops_per_token, parameter_count
from scratchlab.model.rnn import RNN
from scratchlab.recipe import Recipe, recipe_from
from scratchlab.training.schedule import learning_rate
from scratchlab.training.step import TorchBackend
from tiny import VOCAB, Stream, distance, random_stream

CELLS = ["elman", "gru", "lstm"]
T = 6


def section(**fields: Any) -> RNNSection:
    return RNNSection(**{"architecture": "rnn", "n_layer": 2, "d_model": 8, "context_length": T, **fields})


def rnn(dtype: torch.dtype = torch.float64, **fields: Any) -> RNN:
    model = build_model(section(**fields), VOCAB, seed=1).to(dtype).eval()
    assert isinstance(model, RNN)
    return model


def tokens(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("embedding", ["one_hot", "learned"])
@pytest.mark.parametrize("cell", CELLS)
def test_the_cells_written_out_are_torchs(cell: str, embedding: str) -> None:
    fused, explicit = rnn(cell=cell, embedding=embedding), rnn(cell=cell, embedding=embedding, kernel="explicit")
    read = tokens(3, T)
    results: list[list[Tensor]] = []
    for model in (fused, explicit):
        logits, state = model(read, model.new_state(3))
        logits, state = model(tokens(3, T, 1), state)
        gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
        results.append([logits.detach(), *(part.detach() for part in state.parts), *gradients])
    for ours, theirs in zip(*results, strict=True):
        assert distance(ours, theirs) < 1e-6


@pytest.mark.parametrize("cell", CELLS)
def test_reading_in_pieces_is_reading_at_once_and_never_looks_ahead(cell: str) -> None:
    model, read = rnn(cell=cell), tokens(2, 10)
    whole, _ = model(read)
    state, pieces = None, []
    for part in read.split([1, 4, 3, 2], dim=1):
        logits, state = model(part, state)
        pieces.append(logits)
    assert distance(torch.cat(pieces, 1), whole) < 1e-6
    changed = read.clone()
    changed[:, 6] = (changed[:, 6] + 1) % VOCAB
    assert torch.equal(model(changed)[0][:, :6], whole[:, :6])
    assert not torch.equal(model(changed)[0][:, 6], whole[:, 6])


@pytest.mark.parametrize("embedding", ["one_hot", "learned"])
@pytest.mark.parametrize("cell", CELLS)
def test_counts_are_those_of_the_built_model(cell: str, embedding: str) -> None:
    config = section(cell=cell, embedding=embedding)
    model = build_model(config, VOCAB, 1)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameter_count(config, VOCAB)
    matrices = {n: p for n, p in model.named_parameters() if p.dim() == 2 and "embedding" not in n}
    if embedding == "one_hot":
        del matrices["layers.weight_ih_l0"]
    assert forward_flops_per_token(config, VOCAB) == 2 * sum(p.numel() for p in matrices.values())


def test_the_heads_last_column_is_its_bias() -> None:
    model = rnn()
    logits, _ = model(tokens(2, T))
    with torch.no_grad():
        model.head_weight[:, -1] += torch.arange(VOCAB)
    assert torch.allclose(model(tokens(2, T))[0] - logits, torch.arange(VOCAB).float(), atol=1e-5)


def test_char_rnns_initialization_is_small_with_open_forget_gates() -> None:
    model = build_model(section(initialization="char_rnn"), VOCAB, 1)
    for name, parameter in model.named_parameters():
        values = parameter.detach().clone()
        if name.startswith("layers.bias_ih"):
            assert (values[8:16] == 1).all()
            values[8:16] = 0
        assert float(values.abs().max()) <= 0.08


def test_dropout_stands_between_the_layers_and_before_the_head() -> None:
    model = rnn(torch.float32, dropout=0.5)
    assert model.layers.dropout == 0.5
    model.train()
    hidden, _ = model.hidden(tokens(4, T))
    assert (hidden[..., :-1] == 0).any()
    assert (hidden[..., -1] == 1).all(), "never the bias"


@pytest.mark.parametrize("kernel", ["fused", "explicit"])
def test_what_is_dropped_between_the_layers_does_not_reach_the_head(kernel: str) -> None:
    model = rnn(torch.float32, dropout=0.9999, kernel=kernel).train()
    model.dropout = torch.nn.Identity()  # the one before the head
    one, other = model.hidden(tokens(4, T))[0], model.hidden(tokens(4, T, 1))[0]
    assert distance(one, other) < 1e-3, "the second layer hears nothing of the text"
    model.eval()
    assert distance(model.hidden(tokens(4, T))[0], model.hidden(tokens(4, T, 1))[0]) > 1e-2


# Training.


def recipe(changes: dict[str, Any] | None = None) -> Recipe:
    base: dict[str, Any] = {
        "corpus": "c",
        "model": section().model_dump(exclude_unset=True),
        "training": {
            "steps": 30,
            "global_batch_size": 4,
            "learning_rate": 1e-2,
            "precision": "float32",
            "order": "streams",
            "optimizer": "rmsprop",
            "weight_decay": 0.0,
        },
        "execution": {"device": "cpu", "compile": False, "micro_batch_size": 4, "threads": 1},
    }
    return recipe_from(base, "rnn").replaced(changes or {})


def run(settled: Recipe, steps: int = 20, stop_at: int | None = None) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and final tensors, with a save and a restore at `stop_at`."""
    windows = Windows(random_stream(400), T, parallel=4)
    backend, losses = TorchBackend(settled, VOCAB), []
    state = backend.init()
    for step in range(steps):
        if step == stop_at:
            kept = {name: tensor.clone() for name, tensor in backend.tensors(state).items()}
            state = backend.restore(kept, backend.extras(state))
        state, metrics = backend.step(state, windows.batch(step * 4, 4, settled.seeds.data), step)
        losses.append(float(metrics["loss"]))
    return losses, backend.tensors(state)


@pytest.mark.parametrize("optimizer", ["rmsprop", "adamw"])
def test_what_is_remembered_is_saved(optimizer: str) -> None:
    settled = recipe({"training.optimizer": optimizer})
    plain, tensors = run(settled)
    resumed, tensors_again = run(settled, stop_at=9)
    assert plain == resumed
    assert all(torch.equal(tensor, tensors_again[name]) for name, tensor in tensors.items())
    assert {"carried.0", "carried.1"} <= set(tensors)


def test_micro_batches_change_nothing() -> None:
    whole, _ = run(recipe(), 8)
    pieces, _ = run(recipe({"execution.micro_batch_size": 2}), 8)
    assert pieces == pytest.approx(whole, rel=1e-5)


def test_it_equals_a_plain_torch_loop() -> None:
    """nn.LSTM, nn.Linear, RMSprop, clipping by value, state carried and detached: char-rnn's recipe."""
    settled = recipe({"training.clip_value": 0.003, "training.schedule": "constant", "training.clip_norm": 0.0})
    ours, _ = run(settled, 25)
    start = build_model(settled.model, VOCAB, settled.seeds.init)
    lstm, head = torch.nn.LSTM(VOCAB, 8, 2, batch_first=True), torch.nn.Linear(8, VOCAB)
    lstm.load_state_dict({n.removeprefix("layers."): p for n, p in start.state_dict().items() if n != "head_weight"})
    with torch.no_grad():
        head.weight.copy_(start.head_weight[:, :-1])
        head.bias.copy_(start.head_weight[:, -1])
    parameters = [*lstm.parameters(), *head.parameters()]
    optimizer = torch.optim.RMSprop(parameters, lr=1e-2, alpha=0.95, eps=1e-8)
    windows, carried, theirs = Windows(random_stream(400), T, parallel=4), None, []
    for step in range(25):
        batch = windows.batch(step * 4, 4, settled.seeds.data)
        x = torch.nn.functional.one_hot(torch.from_numpy(batch.tokens.copy()), VOCAB).float()
        carried = tuple(part.detach() for part in carried) if carried and batch.continues else None
        hidden, carried = lstm(x, carried)
        loss = torch.nn.functional.cross_entropy(
            head(hidden).flatten(0, 1), torch.from_numpy(batch.targets.copy()).flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_value_(parameters, 0.003)
        optimizer.step()
        theirs.append(loss.item())
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_a_step_with_a_gradient_that_is_not_finite_changes_nothing() -> None:
    settled = recipe()
    backend = TorchBackend(settled, VOCAB)
    state = backend.init()
    with torch.no_grad():
        state.model.head_weight[0, 0] = torch.inf
    before = {name: tensor.clone() for name, tensor in backend.tensors(state).items()}
    state, metrics = backend.step(state, Windows(random_stream(400), T, parallel=4).batch(0, 4, 1), 0)
    assert bool(metrics["skipped"])
    assert all(torch.equal(tensor, backend.tensors(state)[name]) for name, tensor in before.items())


def test_char_rnns_schedule() -> None:
    training = recipe(
        {
            "training.schedule": "epochs",
            "training.epoch_steps": 5,
            "training.decay_after_epochs": 2,
            "training.epoch_decay": 0.5,
        }
    ).training
    rates = [learning_rate(training, step, 30) / 1e-2 for step in range(0, 30, 5)]
    assert rates == pytest.approx([1, 1, 0.5, 0.25, 0.125, 0.0625])


# Evaluation and writing.


def test_evaluation_remembers_within_its_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scratchlab.evaluation.loss.STREAMS", 1)
    model, text = rnn(torch.float32), random_stream(50)
    result = evaluate_loss(ModelScorer(model).windows, text, T, remembers=True)
    read = torch.from_numpy(text.tokens)
    with torch.no_grad():
        logits, _ = model(read[None, :-1])
    assert result.nats_per_token == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits[0], read[1:])), rel=1e-5
    )
    assert result.n_tokens == 49


def test_it_writes_beyond_any_context_and_greedy_is_the_argmax_of_reading_it_all() -> None:
    model = rnn(torch.float32)
    prompt = tokens(1, 20)[0].tolist()
    written = list(generate(model, prompt, Settings(max_tokens=15, temperature=0)))
    seen = list(prompt)
    for token in written:
        assert int(model(torch.tensor([seen]))[0][0, -1].argmax()) == token
        seen.append(token)
    assert len(written) == 15


def test_what_is_remembered_is_used() -> None:
    """In this text only more than a window shows tells what comes next: scored from memory it is plain to see."""
    stream = Stream(np.tile(np.repeat([1, 2], 6), 203))
    settled = recipe({"model.context_length": 4, "training.steps": 400, "training.optimizer": "adamw"})
    windows, backend = Windows(stream, 4, parallel=4), TorchBackend(settled, VOCAB)
    state = backend.init()
    for step in range(400):
        state, _ = backend.step(state, windows.batch(step * 4, 4, 1), step)
    remembered, cold = (
        evaluate_loss(
            backend.scorer(state).windows if remembers else fresh(backend, state), stream, 4, remembers=remembers
        )
        for remembers in (True, False)
    )
    assert remembered.nats_per_token < 0.8 * cold.nats_per_token


def fresh(backend: TorchBackend, state: Any) -> ScoreWindows:
    """Scores each batch with nothing remembered."""
    return lambda tokens, targets: backend.scorer(state).windows(tokens, targets)
