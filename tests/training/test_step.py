"""One optimizer step: the same mathematics whatever the micro-batch, and exact continuation."""

from collections.abc import Iterable
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scratchlab.corpus.loader import prefetch
from scratchlab.corpus.windows import Batch, Windows
from scratchlab.model import loss as loss_module
from scratchlab.model.build import build_model
from scratchlab.model.loss import Objective
from scratchlab.recipe import Recipe
from scratchlab.training import step as module
from scratchlab.training.optimizers import make_optimizer
from scratchlab.training.schedule import learning_rate
from scratchlab.training.step import TorchBackend, TorchState
from tiny import VOCAB, distance, random_stream, tiny_batch, tiny_recipe

Kept = dict[str, Tensor]


def copied(backend: TorchBackend, state: TorchState) -> Kept:
    return {name: tensor.clone() for name, tensor in backend.tensors(state).items()}


def trained(recipe: Recipe, steps: Iterable[int] = range(3), state: Any = None) -> tuple[Kept, list[dict[str, float]]]:
    """Weights and moments after some steps, and their metrics."""
    backend = TorchBackend(recipe, VOCAB)
    state, metrics = state or backend.init(), []
    for step in steps:
        state, values = backend.step(state, tiny_batch(recipe, step), step)
        metrics.append({name: float(value) for name, value in values.items()})
    return copied(backend, state), metrics


def same_bits(a: Kept, b: Kept) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def farthest(a: Kept, b: Kept) -> float:
    assert a.keys() == b.keys()
    return max(distance(a[name], b[name]) for name in a)


def poison(state: TorchState, value: float) -> Any:
    """Make one gradient not finite, as an overflow deep in the model would."""
    weight = state.model.get_parameter("blocks.0.mlp.up.weight")
    return weight.register_hook(lambda gradient: torch.full_like(gradient, value))


# Accumulation.


@pytest.mark.parametrize("micro", [1, 2, 3, 5, 6])
def test_micro_batches_are_one_batch(micro: int) -> None:
    whole = tiny_recipe({"training.global_batch_size": 6, "execution.micro_batch_size": 6})
    parts = whole.replaced({"execution.micro_batch_size": micro})
    (one, metrics), (other, again) = trained(whole), trained(parts)
    assert farthest(other, one) < 2e-4  # Adam divides by small moments: rounding of 1e-7 grows
    for a, b in zip(metrics, again, strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_gradients_of_micro_batches_add_up_whatever_the_weights() -> None:
    """The mean over the targets that count, not a mean of means: rows differ in how many do."""
    recipe = tiny_recipe({"training.global_batch_size": 5, "execution.micro_batch_size": 2})
    batch = tiny_batch(recipe)
    weights = (np.random.default_rng(0).random(batch.weights.shape) > 0.6).astype(np.float32)
    weights[4] = 0
    batch = Batch(batch.tokens, batch.targets, weights, batch.first_sequence)
    backend = TorchBackend(recipe, VOCAB)
    state, metrics = backend.step(backend.init(), batch, 0)

    model = build_model(recipe.model, VOCAB, recipe.seeds.init, torch.float64).double()
    logits, _ = model(torch.from_numpy(batch.tokens))
    losses = torch.nn.functional.cross_entropy(
        logits.double().flatten(0, 1), torch.from_numpy(batch.targets).flatten(), reduction="none"
    )
    loss = losses[torch.from_numpy(weights).flatten() > 0].mean()
    loss.backward()
    assert float(metrics["loss"]) == pytest.approx(float(loss.detach()), rel=1e-6)
    for ours, theirs in zip(state.model.parameters(), model.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        clip = float((ours.grad.double() * theirs.grad).sum() / theirs.grad.square().sum())
        assert distance(ours.grad, clip * theirs.grad) < 1e-5, "the same direction (the kernel clips in place)"


def test_a_batch_in_which_nothing_counts_divides_by_nothing() -> None:
    recipe = tiny_recipe({"training.weight_decay": 0.0})
    batch, backend = tiny_batch(recipe), TorchBackend(recipe, VOCAB)
    state = backend.init()
    before = copied(backend, state)
    state, metrics = backend.step(state, Batch(batch.tokens, batch.targets, np.zeros_like(batch.weights)), 0)
    assert {name: float(value) for name, value in metrics.items()} == {"loss": 0, "gradient_norm": 0, "skipped": 0}
    after = copied(backend, state)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


# The update.


@pytest.mark.parametrize("clip_norm", [0.0, 0.05, 100.0])
def test_steps_are_torchs_adamw_and_clipping_by_hand(clip_norm: float) -> None:
    recipe = tiny_recipe({"training.clip_norm": clip_norm, "training.warmup_steps": 2, "training.schedule": "linear"})
    ours, metrics = trained(recipe, range(5))
    training = recipe.training
    model = build_model(recipe.model, VOCAB, recipe.seeds.init)
    fused = make_optimizer(list(model.parameters()), training)
    groups = [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in fused.param_groups]
    optimizer = torch.optim.AdamW(groups, betas=(training.beta1, training.beta2), eps=training.eps, foreach=False)
    for step in range(5):
        batch = tiny_batch(recipe, step)
        arrays = (torch.from_numpy(a) for a in (batch.tokens, batch.targets, batch.weights))
        loss_sum, weight_sum, _ = Objective(model)(*arrays)
        optimizer.zero_grad()
        (loss_sum / weight_sum).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm or float("inf"))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(training, step, 8)
        optimizer.step()
        assert metrics[step]["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)
        assert metrics[step]["loss"] == pytest.approx(float((loss_sum / weight_sum).detach()), rel=1e-5)
        assert metrics[step]["skipped"] == 0
    for name, parameter in model.named_parameters():
        assert distance(ours[name], parameter) < 1e-4, name
        assert distance(ours[f"{name}.exp_avg"], optimizer.state[parameter]["exp_avg"]) < 1e-3, name
        assert float(ours[f"{name}.step"]) == 5


def test_training_learns() -> None:
    recipe = tiny_recipe({"training.steps": 60, "training.schedule": "constant", "model.d_model": 16})
    backend, losses = TorchBackend(recipe, VOCAB), []
    state = backend.init()
    for step in range(60):
        state, metrics = backend.step(state, tiny_batch(recipe), step)
        losses.append(float(metrics["loss"]))
    assert losses[0] > 2.7
    assert losses[-1] < 0.5 * losses[0]


# Steps that are skipped.


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("clip_norm", "clip_value"), [(0.0, 0.0), (1.0, 0.0), (0.0, 5.0)])
@pytest.mark.parametrize("bad", [0, 2])
def test_a_gradient_that_is_not_finite_changes_nothing_and_uses_up_its_step(
    value: float, clip_norm: float, clip_value: float, bad: int
) -> None:
    clipping = {"training.clip_norm": clip_norm, "training.clip_value": clip_value}
    recipe = tiny_recipe(clipping | {"training.warmup_steps": 4})
    backend = TorchBackend(recipe, VOCAB)
    state = backend.init()
    for step in range(bad):
        state, _ = backend.step(state, tiny_batch(recipe, step), step)
    before = copied(backend, state)
    hook = poison(state, value)
    state, metrics = backend.step(state, tiny_batch(recipe, bad), bad)
    hook.remove()
    after = copied(backend, state)
    assert bool(metrics["skipped"])
    assert not torch.isfinite(metrics["gradient_norm"])
    assert torch.isfinite(metrics["loss"])
    for name, tensor in after.items():
        assert torch.equal(tensor, before.get(name, torch.zeros_like(tensor))), name

    state, metrics = backend.step(state, tiny_batch(recipe, bad + 1), bad + 1)
    assert not bool(metrics["skipped"])
    assert float(copied(backend, state)["final_norm.bias.step"]) == bad + 1, "one update fewer than steps"
    # It goes on as a run whose schedule and data left the bad step out.
    direct = TorchBackend(recipe, VOCAB)
    other = direct.init()
    for step in (*range(bad), bad + 1):
        other, _ = direct.step(other, tiny_batch(recipe, step), step)
    assert same_bits(copied(backend, state), copied(direct, other))


def test_fp16_loss_scale_halves_on_overflow_and_doubles_after_good_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS_BEFORE_GROWTH", 3)
    recipe = tiny_recipe({"training.precision": "fp16", "training.steps": 20})
    backend = TorchBackend(recipe, VOCAB)
    state = backend.init()
    scales: list[float] = []
    for step in range(9):
        hook = poison(state, float("inf")) if step in (1, 6) else None
        state, metrics = backend.step(state, tiny_batch(recipe, step), step)
        assert bool(metrics["skipped"]) == (hook is not None)
        if hook:
            hook.remove()
        scales.append(float(state.loss_scale) / module.FIRST_LOSS_SCALE)
    assert scales == [1, 0.5, 0.5, 0.5, 1, 1, 0.5, 0.5, 0.5]


def head_gradient(size: float, scores: Tensor, targets: int | None = None, scale: float = 2.0**16) -> Tensor:
    """Of the mean loss in fp16, times the loss scale, where every hidden state is `size` in each of its entries.

    `scores` are the logits of the vocabulary, and all targets are one token, if given. In chunks.
    """
    recipe = tiny_recipe({"training.precision": "fp16", "model.tie_weights": False})
    backend, batch = TorchBackend(recipe, VOCAB), tiny_batch(recipe)
    state = backend.init()
    state.loss_scale.fill_(scale)
    with torch.no_grad():
        state.parameters["final_norm.weight"].zero_()
        state.parameters["final_norm.bias"].fill_(size)
        state.parameters["head.weight"].copy_(scores[:, None].expand(-1, 8) / (8 * size))
    if targets is not None:
        batch.targets[:] = targets
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_module, "CHUNK_ENTRIES", 3 * VOCAB)
        backend._accumulate_gradients(state, backend.send(batch), 0)
    gradient = state.parameters["head.weight"].grad
    assert gradient is not None
    return gradient


def test_fp16_gradients_that_the_loss_scale_saves_do_not_vanish_in_chunks() -> None:
    """A token of which the model is sure that it does not come: 1e-9 is nothing in fp16, 2^16 times that is."""
    scores = torch.zeros(VOCAB)
    scores[3] = -18.0
    gradient = head_gradient(1.0, scores, targets=0)[3] / 2**16
    expected = float(scores.softmax(0)[3])
    assert gradient.tolist() == pytest.approx([expected] * 8, rel=0.05)


def test_fp16_gradients_that_are_large_in_sum_and_not_in_the_mean_stay_finite_in_chunks() -> None:
    """Else no loss scale helps: each is applied to what is infinite already."""
    gradient = head_gradient(3000.0, torch.zeros(VOCAB), targets=5, scale=1.0)
    assert gradient[5].tolist() == pytest.approx([(1 / VOCAB - 1) * 3000] * 8, rel=1e-3)


def test_fp16_scale_cancels_out(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe({"training.precision": "fp16"})
    exact, metrics = trained(tiny_recipe())
    half, scaled = trained(recipe)
    assert scaled[0]["gradient_norm"] == pytest.approx(metrics[0]["gradient_norm"], rel=0.01)
    monkeypatch.setattr(module, "FIRST_LOSS_SCALE", 2.0**10)
    assert farthest(trained(recipe)[0], half) < 0.1
    assert distance(half["token_embedding.weight"], exact["token_embedding.weight"]) < 0.1


# Continuation, seeds, precision.


@pytest.mark.parametrize("changes", [{}, {"model.dropout": 0.3}, {"training.precision": "bf16"}], ids=str)
@pytest.mark.parametrize("cut", [0, 1, 3])
def test_restored_tensors_continue_bit_for_bit(changes: dict[str, Any], cut: int) -> None:
    recipe = tiny_recipe({"execution.micro_batch_size": 2, **changes})
    straight, metrics = trained(recipe, range(5))
    first = TorchBackend(recipe, VOCAB)
    state = first.init()
    for step in range(cut):
        state, _ = first.step(state, tiny_batch(recipe, step), step)
    kept, extras = copied(first, state), first.extras(state)
    torch.rand(7)  # another process has another random state
    second = TorchBackend(recipe, VOCAB)
    resumed, again = trained(recipe, range(cut, 5), second.restore(kept, extras))
    assert same_bits(resumed, straight)
    assert again == metrics[cut:]


def test_extras_come_back() -> None:
    backend = TorchBackend(tiny_recipe({"training.precision": "fp16"}), VOCAB)
    state = backend.init()
    extras = {"loss_scale": 64.0, "good_steps": 7}
    assert backend.extras(backend.restore(copied(backend, state), extras)) == extras
    assert backend.extras(state) == {"loss_scale": module.FIRST_LOSS_SCALE, "good_steps": 0}


def test_noise_is_a_function_of_its_seed() -> None:
    recipe = tiny_recipe({"model.dropout": 0.3, "execution.micro_batch_size": 2})
    one, metrics = trained(recipe)
    torch.rand(3)
    again, metrics_again = trained(recipe)
    assert same_bits(one, again)
    assert metrics == metrics_again
    other, _ = trained(recipe.replaced({"seeds.noise": 2}))
    assert not torch.equal(one["token_embedding.weight"], other["token_embedding.weight"])
    without, _ = trained(tiny_recipe({"seeds.noise": 2}))
    assert same_bits(without, trained(tiny_recipe())[0]), "without dropout the noise seed has no say"


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"))],
)
def test_batches_sent_ahead_by_a_thread_give_the_same_bits(device: str) -> None:
    recipe = tiny_recipe({"model.dropout": 0.3, "execution.micro_batch_size": 3, "execution.device": device})
    straight, metrics = trained(recipe, range(6))
    backend = TorchBackend(recipe, VOCAB)
    state, again = backend.init(), []
    with closing(prefetch(lambda step: backend.send(tiny_batch(recipe, step)), range(6))) as batches:
        for step, batch in enumerate(batches):
            state, values = backend.step(state, batch, step)
            again.append({name: float(value) for name, value in values.items()})
    assert same_bits(copied(backend, state), straight)
    assert again == metrics


def test_evaluating_between_steps_changes_nothing() -> None:
    recipe = tiny_recipe({"model.dropout": 0.3})
    backend = TorchBackend(recipe, VOCAB)
    state = backend.init()
    for step in range(3):
        tokens = np.zeros((2, 6), np.int64)
        scores = backend.scorer(state).windows(tokens, tokens)
        assert (scores == backend.scorer(state).windows(tokens, tokens)).all()
        assert not backend.model(state).training
        state, _ = backend.step(state, tiny_batch(recipe, step), step)
    assert same_bits(copied(backend, state), trained(recipe)[0])


def test_arms_of_other_batch_sizes_see_the_same_tokens_in_the_same_order() -> None:
    windows = Windows(random_stream(200), 6)

    def seen(size: int) -> list[list[int]]:
        return [row.tolist() for step in range(24 // size) for row in windows.batch(step * size, size, 1).tokens]

    assert seen(4) == seen(6) == seen(24)


def test_threads_and_determinism_are_the_recipes() -> None:
    TorchBackend(tiny_recipe({"execution.threads": 2, "execution.deterministic": True}), VOCAB)
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled()
    TorchBackend(tiny_recipe(), VOCAB)
    assert torch.get_num_threads() == 1
    assert not torch.are_deterministic_algorithms_enabled()


def test_kept_tensors_are_named_by_parameter() -> None:
    kept, _ = trained(tiny_recipe(), range(1))
    names = {name for name, _ in build_model(tiny_recipe().model, VOCAB, 1).named_parameters()}
    assert set(kept) == {name + part for name in names for part in ("", ".exp_avg", ".exp_avg_sq", ".step")}


@pytest.mark.parametrize(("device", "claimed"), [("cuda:1", ["cuda:1"]), ("cuda", []), ("cpu", [])])
def test_a_card_by_number_is_the_one_that_memory_is_pinned_for(
    monkeypatch: pytest.MonkeyPatch, device: str, claimed: list[str]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    TorchBackend(tiny_recipe({"execution.device": device}), VOCAB)
    assert asked == claimed
