"""Scoring: tokens in, the loss of each target out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from scratchlab.model.build import Model
from scratchlab.model.loss import token_losses

# (tokens_BT, targets_BT) -> losses_BT in nats. Disturbs no random stream.
Scorer = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.float32]]


def model_scorer(model: Model) -> Scorer:
    """Scores with a model, chunk by chunk, without gradients.

    A recurrent one remembers: each call goes on, row by row, from the one before.
    """
    state: Any = None

    @torch.no_grad()
    def score(tokens_BT: npt.NDArray[np.int64], targets_BT: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        nonlocal state
        device = model.head_weight.device
        hidden_BTC, state = model.hidden(torch.from_numpy(np.ascontiguousarray(tokens_BT)).to(device), state)
        targets_N = torch.from_numpy(np.ascontiguousarray(targets_BT)).to(device).flatten()
        hidden_NC, head_VC = (x.to(model.head_dtype) for x in (hidden_BTC.flatten(0, 1), model.head_weight))
        losses_N = token_losses(hidden_NC, head_VC, targets_N, model.readout)
        return losses_N.view(targets_BT.shape).cpu().numpy()

    return score
