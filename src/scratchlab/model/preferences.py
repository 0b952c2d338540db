"""Direct preference optimization (Rafailov et al. 2023) on one page: learning which of two answers is better.

A row holds a prompt and two answers to it. Its margin m is by how many nats the chosen answer is likelier than the
rejected one: log p(chosen) - log p(rejected), each summed over the tokens of the answer. What the model that the run
began from made of them, r, is known beforehand. What counts is how far the model has come since, m - r, and

    loss = -log sigmoid(beta (m - r))

is the likelihood of the preference (Bradley and Terry 1952) where an answer's reward is beta times the log of how much
likelier it has become. At m = r it is ln 2. The smaller beta, the further the model goes before it has said enough.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scratchlab.model.loss import token_losses, weighted_cross_entropy


class Preferences(nn.Module):
    """What `Objective` is to text: the one thing that is compiled and wrapped.

    `objective(tokens_BT, targets_BT, weights_BT, None, documents_BT, positions_BT, reference_B)` gives the sum over
    rows of the losses in nats, each as much as the row counts; how much rows count together; and, for people, how many
    of them have m > r and the sum of m - r, each as much as it counts (2,). The weights of a row's chosen tokens are
    how much it counts (1, or the scale of fp16), those of the rejected ones minus that, and all others 0.
    """

    def __init__(self, model: Any, beta: float) -> None:
        super().__init__()
        self.model, self.beta = model, beta

    def forward(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor,
        weights_BT: Tensor,
        state: None,
        documents_BT: Tensor,
        positions_BT: Tensor,
        reference_B: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        hidden_BTC, _ = self.model.hidden(tokens_BT, None, positions_BT, documents_BT)
        hidden_NC = hidden_BTC.flatten(0, 1).to(self.model.head_dtype)
        head_VC, readout, targets_N = self.model.head_weight, self.model.readout, targets_BT.flatten()
        counted_B, signs_BT = weights_BT.abs().amax(1), weights_BT.sign()
        with torch.no_grad():
            nats_BT = token_losses(hidden_NC, head_VC.to(hidden_NC.dtype), targets_N, readout).view_as(signs_BT)
            gained_B = -(signs_BT * nats_BT).sum(1) - reference_B
            losses_B = -F.logsigmoid(self.beta * gained_B)
            slopes_B = -self.beta * torch.sigmoid(-self.beta * gained_B)  # d loss / d m
        # With the slopes known, the gradient is that of a weighted cross-entropy, which takes the logits in chunks.
        signed_N = -(slopes_B * counted_B)[:, None] * signs_BT
        steep = weighted_cross_entropy(hidden_NC, head_VC, targets_N, signed_N.flatten(), readout)
        loss_sum = torch.dot(counted_B, losses_B) + (steep - steep.detach())
        told_2 = torch.stack([torch.dot(counted_B, (gained_B > 0).float()), torch.dot(counted_B, gained_B)])
        return loss_sum, counted_B.sum(), told_2
