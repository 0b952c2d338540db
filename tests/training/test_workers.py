"""Workers at the micro-batches of a CPU step: the same mathematics, to the bit from run to run."""

from collections.abc import Generator
from typing import Any

import pytest
import torch

from scratchlab.corpus.windows import Windows
from scratchlab.training.step import TorchBackend
from tiny import VOCAB, random_stream, tiny_recipe


@pytest.fixture(autouse=True)
def one_thread_afterwards() -> Generator[None]:
    yield
    torch.set_num_threads(1)


def weights_after(steps: int, **changes: Any) -> tuple[dict[str, torch.Tensor], list[float]]:
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    recipe = tiny_recipe({"training.global_batch_size": 7, **dotted})
    backend = TorchBackend(recipe, VOCAB)
    state, losses = backend.init(), list[float]()
    windows = Windows(random_stream(200), recipe.model.context_length)
    for step in range(steps):
        state, metrics = backend.step(state, windows.batch(step * 7, 7, 1), step)
        losses.append(float(metrics["loss"]))
    return {name: tensor.clone() for name, tensor in backend.tensors(state).items()}, losses


@pytest.mark.parametrize(("threads", "micro"), [(2, 4), (2, 1), (3, 2), (4, 2), (5, 7)])
def test_workers_add_up_to_one(threads: int, micro: int) -> None:
    alone, loss_alone = weights_after(3, execution__threads=1, execution__micro_batch_size=7)
    together, loss_together = weights_after(3, execution__threads=threads, execution__micro_batch_size=micro)
    assert loss_together == pytest.approx(loss_alone, rel=1e-5)
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_workers_give_the_same_bits_every_time_with_dropout() -> None:
    changes = {"execution__threads": 3, "execution__micro_batch_size": 1, "model__dropout": 0.3}
    first, losses = weights_after(4, **changes)
    for _ in range(3):
        again, losses_again = weights_after(4, **changes)
        assert losses_again == losses
        assert all(torch.equal(first[name], again[name]) for name in first)


def test_workers_see_the_same_noise_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask is a function of the step and the first sequence of its micro-batch, not of who works on it."""
    changes = {"execution__micro_batch_size": 1, "model__dropout": 0.3}
    _, alone = weights_after(2, execution__threads=1, **changes)
    _, together = weights_after(2, execution__threads=3, **changes)
    assert together == pytest.approx(alone, rel=1e-5)


def test_a_worker_without_a_micro_batch_is_never_made() -> None:
    assert TorchBackend(tiny_recipe({"execution.threads": 4, "execution.micro_batch_size": 4}), VOCAB).workers == 1
    assert TorchBackend(tiny_recipe({"execution.threads": 4, "execution.micro_batch_size": 1}), VOCAB).workers == 4
    assert TorchBackend(tiny_recipe({"execution.threads": 1, "execution.micro_batch_size": 1}), VOCAB).workers == 1
