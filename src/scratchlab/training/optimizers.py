"""The update rules, and what is done to gradients first."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scratchlab.recipe import TrainingSection

MOMENTS = ("exp_avg", "exp_avg_sq", "square_avg", "step")
"""What the optimizers remember of a parameter; a checkpoint keeps what there is."""


def make_optimizer(parameters: Sequence[nn.Parameter], training: TrainingSection) -> torch.optim.Optimizer:
    """AdamW in one fused kernel, with weight decay on matrices only (Loshchilov and Hutter 2019), or RMSprop.

    Unfused on an Apple GPU before PyTorch 2.13, whose kernel there takes no notice of `grad_scale` and `found_inf`.
    """
    if training.optimizer == "rmsprop":
        rate, alpha = training.learning_rate, training.beta2
        return torch.optim.RMSprop(parameters, lr=rate, alpha=alpha, eps=training.eps, foreach=True)
    matrices = [parameter for parameter in parameters if parameter.dim() >= 2]
    others = [parameter for parameter in parameters if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (training.beta1, training.beta2)
    fused = parameters[0].device.type != "mps" or torch.__version__ >= "2.13"
    return torch.optim.AdamW(groups, lr=training.learning_rate, betas=betas, eps=training.eps, fused=fused)


def unfused(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """A fresh AdamW of the same settings by the kernels that PyTorch picks when it is not told, to compare with."""
    if not isinstance(optimizer, torch.optim.AdamW):
        return optimizer
    groups = [{name: group[name] for name in ("params", "weight_decay")} for group in optimizer.param_groups]
    kept = {name: optimizer.defaults[name] for name in ("lr", "betas", "eps")}
    return torch.optim.AdamW(groups, **kept)


def update(optimizer: torch.optim.Optimizer, rate: float, divisor: Tensor, skipped: Tensor) -> None:
    """One step at a learning rate with the gradients over `divisor`; where `skipped`, weights and moments stay.

    AdamW's fused kernel does both as it reads the gradients, without asking the CPU.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    if optimizer.defaults.get("fused"):
        optimizer.grad_scale = divisor  # pyright: ignore[reportAttributeAccessIssue]
        optimizer.found_inf = skipped.float()  # pyright: ignore[reportAttributeAccessIssue]
    elif bool(skipped):
        return
    else:
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            parameter.grad.div_(divisor)
    optimizer.step()
