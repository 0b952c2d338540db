"""How well a model tells labels: the loss and the share of texts that it is right about."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from scratchlab.corpus.examples.fit import fit_labels
from scratchlab.corpus.shards import Split
from scratchlab.evaluation.batches import rows_in_batches
from scratchlab.evaluation.loss import UnitLosses
from scratchlab.evaluation.processes import own_share, summed
from scratchlab.evaluation.scorer import Floats, Ids, padded
from scratchlab.model.build import Model


@torch.no_grad()
def label_scores(model: Model, texts: Sequence[Ids]) -> Floats:
    """What a model of labels says of each text at its last token: log-probabilities (texts, labels).

    A text is its tokens, one at least, and no more than the model sees at once.
    """
    device = model.head_weight.device
    scores = np.empty((len(texts), len(model.head_weight)), np.float32)
    for batch in rows_in_batches([len(text) for text in texts], device.type):
        hidden_BTC, _ = model.hidden(padded([texts[place] for place in batch], device))
        lasts = torch.tensor([len(texts[place]) - 1 for place in batch], device=device)
        logits = model.logits(hidden_BTC[torch.arange(len(batch), device=device), lasts])
        scores[batch] = F.log_softmax(logits, -1).cpu().numpy()
    return scores


def evaluate_labels(model: Model, split: Split, context_length: int, max_tokens: int | None = None) -> UnitLosses:
    """Score the texts of a split of labels, each by its beginning if the model does not see all of it.

    A text is a unit and its label the one target that it has. With `max_tokens` the first texts of so many tokens, and
    one at least. Where torch.distributed has several processes, all must call this; each scores its share, and all get
    the same figures.
    """
    texts, labels = labeled_texts(split, context_length)
    most = len(texts)
    if max_tokens is not None:
        most = max(1, int(np.searchsorted(np.cumsum([len(text) for text in texts]), max_tokens, side="right")))
    share, nats, right = own_share(), np.zeros(most), np.zeros(most)
    own = slice(share.rank, most, share.count)
    if own_texts := texts[own]:
        scores = label_scores(model, own_texts)
        nats[own] = -scores[np.arange(len(own_texts)), labels[own]].astype(np.float64)
        right[own] = scores.argmax(-1) == labels[own]
    return UnitLosses("texts", summed(nats), np.ones(most, np.int64), split.document_bytes[:most], right=summed(right))


def labeled_texts(split: Split, context_length: int) -> tuple[list[Ids], npt.NDArray[np.int64]]:
    """The tokens of each text that a model of this context sees, and the number of its label."""
    assert split.marks is not None
    starts, stops = split.document_starts, fit_labels(split, context_length).stops
    texts = [split.read(int(start), int(stop)).astype(np.int64) for start, stop in zip(starts[:-1], stops, strict=True)]
    return texts, split.marks[starts[1:] - 1].astype(np.int64) - 1
