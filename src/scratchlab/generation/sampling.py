"""Choosing the next token."""

import torch
from torch import Tensor

from scratchlab.errors import RunError

NOT_FINITE = "The model's scores are not finite: it has diverged, and cannot write."


def choose(
    logits_BV: Tensor, temperature: float, top_k: int | None, top_p: float | None, *generators: torch.Generator
) -> Tensor:
    """One token a row, shape (B,). Temperature 0 takes the likeliest.

    `top_k` keeps the k likeliest tokens; `top_p` the fewest whose probabilities sum to at least p (Holtzman et al.
    2020, nucleus sampling). Both apply after the temperature. There is one generator for all rows, or one for each.
    Draws on the CPU, so that a seed gives the same text for the same logits on every device.
    """
    logits_BV = logits_BV.float().cpu()
    if not bool(torch.isfinite(logits_BV).all()):
        raise RunError(NOT_FINITE)
    if temperature == 0:
        return logits_BV.argmax(-1)
    probabilities_BV = _probabilities(logits_BV, temperature, top_k, top_p)
    rows = [probabilities_BV] if len(generators) == 1 else probabilities_BV.split(1)
    drawn = [torch.multinomial(row, 1, generator=own) for row, own in zip(rows, generators, strict=True)]
    return torch.cat(drawn).squeeze(-1)


def _probabilities(logits_BV: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    logits_BV = (logits_BV - logits_BV.amax(-1, keepdim=True)) / temperature  # at most 0: no overflow, however cold
    if top_k is not None and top_k < logits_BV.shape[-1]:
        smallest_kept = logits_BV.topk(top_k).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < smallest_kept, -torch.inf)
    probabilities_BV = logits_BV.softmax(-1)
    return _nucleus(probabilities_BV, top_p) if top_p is not None and top_p < 1 else probabilities_BV


def _nucleus(probabilities_BV: Tensor, top_p: float) -> Tensor:
    ordered, places = probabilities_BV.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    kept = ordered.masked_fill(before >= top_p, 0.0)
    return torch.zeros_like(probabilities_BV).scatter(-1, places, kept)
