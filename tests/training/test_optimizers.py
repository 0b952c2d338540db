"""Which parameters decay, and that the fused kernel does what the paper says."""

import math

import pytest
import torch

from scratchlab.training.optimizers import make_optimizer, unfused, update
from tiny import distance, tiny_gpt, tiny_recipe


def test_only_matrices_decay() -> None:
    model = tiny_gpt()
    optimizer = make_optimizer(list(model.parameters()), tiny_recipe({"training.weight_decay": 0.3}).training)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters())), "each parameter once, a tied head too"
    for name, parameter in model.named_parameters():
        matrix = not name.endswith((".bias", "norm.weight"))
        assert decay[id(parameter)] == (0.3 if matrix else 0.0), name


def test_updates_are_adamws_by_the_paper() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, in float64 and elementary operations."""
    changes = {"training.beta1": 0.8, "training.beta2": 0.9, "training.eps": 1e-4, "training.weight_decay": 0.5}
    training = tiny_recipe(changes).training
    model = torch.nn.Linear(3, 4)
    ours = make_optimizer(list(model.parameters()), training)
    theirs = [parameter.detach().double().clone() for parameter in model.parameters()]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in theirs]
    for t in range(1, 6):
        for i, parameter in enumerate(model.parameters()):
            parameter.grad = torch.randn(parameter.shape)
            gradient, (m, v) = parameter.grad.double(), moments[i]
            m.mul_(0.8).add_(0.2 * gradient)
            v.mul_(0.9).add_(0.1 * gradient**2)
            theirs[i] -= 0.01 * (0.5 if parameter.dim() == 2 else 0.0) * theirs[i]
            theirs[i] -= 0.01 * (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-4)
        ours.step()
    for parameter, expected in zip(model.parameters(), theirs, strict=True):
        assert distance(parameter, expected) < 1e-6


@pytest.mark.parametrize("beta2", [0.95, 0.999])
def test_the_first_update_is_one_learning_rate_long(beta2: float) -> None:
    model = torch.nn.Linear(50, 50, bias=False)
    optimizer = make_optimizer(
        list(model.parameters()), tiny_recipe({"training.weight_decay": 0.0, "training.beta2": beta2}).training
    )
    before = model.weight.detach().clone()
    model.weight.grad = torch.randn(50, 50) * 100
    optimizer.step()
    assert float((model.weight.detach() - before).norm()) == pytest.approx(0.01 * math.sqrt(2500), rel=1e-3)


class OnApple(torch.nn.Parameter):
    """A parameter that says it lies on an Apple GPU."""

    device = torch.device("mps")  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]


@pytest.mark.parametrize(("version", "fused"), [("2.11.0", False), ("2.12.1", False), ("2.13.0", True)])
def test_a_kernel_that_ignores_the_loss_scale_is_not_used(
    monkeypatch: pytest.MonkeyPatch, version: str, fused: bool
) -> None:
    """PyTorch before 2.13 has such a one for Apple GPUs."""
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)(version))
    training = tiny_recipe().training
    assert make_optimizer([OnApple(torch.ones(2, 2))], training).defaults["fused"] is fused
    assert make_optimizer([torch.nn.Parameter(torch.ones(2, 2))], training).defaults["fused"]


def test_unfused_it_divides_and_skips_as_the_kernel_does() -> None:
    def updated(fused: bool) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3))
        optimizer = make_optimizer([weight], tiny_recipe().training)
        optimizer = optimizer if fused else unfused(optimizer)
        for skipped in (False, True, False):
            weight.grad = torch.full_like(weight, float("inf") if skipped else 64.0)
            update(optimizer, 0.1, torch.tensor(16.0), torch.tensor(skipped))
        return weight.detach()

    assert distance(updated(False), updated(True)) < 1e-6
