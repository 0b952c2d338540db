"""The update rule."""

import torch
from torch import nn

from scratchlab.recipe import TrainingSection


def make_optimizer(model: nn.Module, training: TrainingSection) -> torch.optim.AdamW:
    """AdamW in one fused kernel, with weight decay on matrices only (Loshchilov and Hutter 2019)."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    others = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (training.beta1, training.beta2)
    return torch.optim.AdamW(groups, lr=training.learning_rate, betas=betas, eps=training.eps, fused=True)
