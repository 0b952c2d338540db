"""Cross-entropy over the vocabulary, in chunks where the logits would be large."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scratchlab.model.layers import product

# Logits of this many entries (float32: 128 MB) are made whole; beyond it the rows go through in chunks of this size.
# Half of it takes twice as many sums of the head's gradient (with AMX 4% of a step at 124M); larger ones gain little.
CHUNK_ENTRIES = 2**25
ROWS_ADDED = 1024  # of the head's gradient: what is converted stays in a core's cache


class Objective(nn.Module):
    """The one thing that is compiled and wrapped: a model and its loss.

    `objective(tokens_BT, targets_BT, weights_BT, state)` gives the weighted sum of the losses in nats (a float32
    scalar), the sum of the weights, and the model's new state. Rows in which several texts are packed come with
    `documents_BT` and `positions_BT`: the number of each token's text, and its place in it.
    """

    def __init__(self, model: Any, loss: "Loss | None" = None) -> None:
        super().__init__()
        self.model, self.loss = model, loss or weighted_cross_entropy

    def forward(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor,
        weights_BT: Tensor,
        state: Any = None,
        documents_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Any]:
        packing = () if documents_BT is None else (positions_BT, documents_BT)
        hidden_BTC, state = self.model.hidden(tokens_BT, state, *packing)
        head_VC = self.model.head_weight
        hidden_NC = hidden_BTC.flatten(0, 1).to(self.model.head_dtype)
        readout = self.model.readout
        loss_sum = self.loss(hidden_NC, head_VC, targets_BT.flatten(), weights_BT.flatten(), readout)
        return loss_sum, weights_BT.sum(), state


@dataclass(frozen=True, slots=True)
class Readout:
    """How products of the head become scores: the true size of a vocabulary (of tokens, which may be padded, or of
    labels), and a soft cap."""

    vocab_size: int
    cap: float | None = None

    def scores(self, hidden_NC: Tensor, head_VC: Tensor) -> Tensor:
        """Float32 logits (..., V); those of the padding are minus infinity, so that no softmax sees them."""
        logits = product(hidden_NC, head_VC).float()
        if self.cap is not None:
            logits = self.cap * torch.tanh(logits / self.cap)
        if len(head_VC) > self.vocab_size:
            logits[..., self.vocab_size :] = -torch.inf
        return logits


# (hidden_NC, head_VC, targets_N, weights_N, readout) -> the weighted sum of the losses in nats. The head comes as it is
# kept; the type of `hidden_NC` is that of the product.
Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Readout], Tensor]


def weighted_cross_entropy(
    hidden_NC: Tensor, head_VC: Tensor, targets_N: Tensor, weights_N: Tensor, readout: Readout
) -> Tensor:
    """Sum over N of weight times -log softmax(scores)[target], with no more logits at once than needed."""
    if len(hidden_NC) * len(head_VC) <= CHUNK_ENTRIES:
        return plain_cross_entropy(hidden_NC, head_VC, targets_N, weights_N, readout)
    apply = _chunked_as_written if hidden_NC.device.type == "cpu" else _chunked
    return apply(hidden_NC, head_VC, targets_N, weights_N, readout)


def _chunked(hidden_NC: Tensor, head_VC: Tensor, targets_N: Tensor, weights_N: Tensor, readout: Readout) -> Tensor:
    trained = head_VC.requires_grad
    return _ChunkedCrossEntropy.apply(hidden_NC, head_VC, targets_N, weights_N, readout, trained)  # pyright: ignore[reportReturnType]


# What torch.compile makes of the chunks for a CPU takes five times as long as PyTorch's own kernels (measured with AMX
# at 124M, bf16: 2.3 s more in a step of 5.9). So they are left out of what is compiled there.
_chunked_as_written: Loss = torch.compiler.disable(_chunked)  # pyright: ignore[reportAssignmentType]


def plain_cross_entropy(
    hidden_NC: Tensor, head_VC: Tensor, targets_N: Tensor, weights_N: Tensor, readout: Readout
) -> Tensor:
    """The same with all logits at once."""
    scores_NV = readout.scores(hidden_NC, head_VC.to(hidden_NC.dtype))
    losses_N = F.cross_entropy(scores_NV, targets_N, reduction="none")
    return torch.dot(losses_N, weights_N)


def token_losses(hidden_NC: Tensor, head_VC: Tensor, targets_N: Tensor, readout: Readout) -> Tensor:
    """-log softmax(scores)[target] of every target, without gradients, in chunks. Shape (N,), float32."""
    rows = max(1, CHUNK_ENTRIES // len(head_VC))
    return torch.cat(
        [
            F.cross_entropy(readout.scores(hidden, head_VC), targets, reduction="none")
            for hidden, targets in zip(hidden_NC.split(rows), targets_N.split(rows), strict=True)
        ]
    )


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The loss and its gradients chunk by chunk, in the forward pass.

    The gradient with respect to the logits is softmax minus one-hot, known as soon as the logits are. Taking it
    at once means that no logits are kept for the backward pass and none are computed twice (as Liger Kernel does).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NC: Tensor,
        head_VC: Tensor,
        targets_N: Tensor,
        weights_N: Tensor,
        readout: Readout,
        trained: bool,
    ) -> Tensor:
        rows = max(1, CHUNK_ENTRIES // len(head_VC))
        hidden_gradient, head_gradient = torch.empty_like(hidden_NC), torch.zeros_like(head_VC) if trained else None
        head_VC = head_VC.to(hidden_NC.dtype)
        loss_sum = hidden_NC.new_zeros((), dtype=torch.float32)
        for start in range(0, len(hidden_NC), rows):
            here = slice(start, start + rows)
            logits = readout.scores(hidden_NC[here], head_VC)
            slope = None if readout.cap is None else 1 - (logits / readout.cap).square()  # of the soft cap
            logits = F.log_softmax(logits, -1)
            loss_sum -= torch.dot(logits.gather(-1, targets_N[here, None]).squeeze(-1), weights_N[here])
            gradient = logits.exp_()
            gradient.scatter_add_(-1, targets_N[here, None], gradient.new_full((len(gradient), 1), -1.0))
            if slope is not None:
                gradient[:, : readout.vocab_size] *= slope[:, : readout.vocab_size]
            gradient = gradient.mul_(weights_N[here, None]).to(head_VC.dtype)
            torch.mm(gradient, head_VC, out=hidden_gradient[here])
            if head_gradient is not None:  # a frozen head, beside adapters, has none
                _add(head_gradient, gradient.t() @ hidden_NC[here])
        ctx.save_for_backward(hidden_gradient, head_gradient)
        return loss_sum

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        hidden_gradient, head_gradient = ctx.saved_tensors
        (scale,) = outputs
        # In place: they are read once, and autograd refuses a second time.
        hidden_gradient.mul_(scale.to(hidden_gradient.dtype))
        if head_gradient is not None:
            head_gradient.mul_(scale.to(head_gradient.dtype))
        return hidden_gradient, head_gradient, None, None, None, None


def _add(total_VC: Tensor, part_VC: Tensor) -> None:
    """Add in place, some rows at a time: of another type, all of `part_VC` would be copied into memory first (measured
    on a CPU at 124M in bf16: 5% of a step)."""
    for total, part in zip(total_VC.split(ROWS_ADDED), part_VC.split(ROWS_ADDED), strict=True):
        total += part
