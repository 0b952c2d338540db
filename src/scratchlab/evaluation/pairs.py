"""How a model finds two answers to a prompt, one of which was preferred: pair by pair, and as figures."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.examples.pairs import PairTokens, fit_pairs, read_pair
from scratchlab.corpus.shards import Split
from scratchlab.evaluation.loss import Ints, UnitLosses
from scratchlab.evaluation.processes import own_share, summed
from scratchlab.evaluation.scorer import Question, Scorer

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PairLosses:
    """The losses of a model on both answers of pairs, each summed over its tokens. Shapes (pairs,)."""

    numbers: Ints
    """Which pairs of the split: those that are not left out, or the first of them."""
    chosen: UnitLosses
    """Of the chosen answers, as of responses."""
    rejected: Floats
    """Nats of the rejected ones."""

    @property
    def margins(self) -> Floats:
        """By how many nats the chosen answer is likelier than the rejected one."""
        return self.rejected - self.chosen.nats


def score_pairs(
    scorer: Scorer, split: Split, context_length: int, symbol_bytes: Ints, max_tokens: int | None = None
) -> PairLosses:
    """Score both answers of the pairs of a split, each after the prompt alone.

    What does not fit `context_length` is cut off, as in training. With `max_tokens` as many pairs as have no more in
    their answers, in order, and one at least. Where torch.distributed has several processes, all must call this; each
    scores its share, and all get the same figures. `symbol_bytes` are the bytes of each symbol (`byte_lengths`).
    """
    fit = fit_pairs(split, context_length)
    numbers = fit.useful
    if max_tokens is not None:
        sizes = (fit.chosen + fit.rejected)[numbers]
        numbers = numbers[: max(1, int(np.searchsorted(np.cumsum(sizes), max_tokens, side="right")))]
    pairs = [read_pair(split, fit, number) for number in numbers.tolist()]
    share, nats = own_share(), np.zeros((2, len(pairs)))
    own = pairs[share.rank :: share.count]
    nats[:, share.rank :: share.count] = np.array(_nats(scorer, own)).reshape(-1, 2).T
    chosen, rejected = summed(nats)
    n_bytes = np.array([symbol_bytes[pair.chosen].sum() for pair in pairs])
    return PairLosses(numbers, UnitLosses("examples", chosen, fit.chosen[numbers], n_bytes), rejected)


def _nats(scorer: Scorer, pairs: list[PairTokens]) -> list[tuple[float, ...]]:
    questions = [Question(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs]
    return [tuple(float(one.nats.sum(dtype=np.float64)) for one in both) for both in scorer.answers(questions)]


def preferred(gains: Floats, beta: float) -> dict[str, Any]:
    """The figures of pairs whose margins have grown by `gains` nats since the run began, each with its standard error.

    The loss of `model/preferences.py`; accuracy, the share of pairs whose chosen answer gained more than the rejected
    one; and the mean gain. What is not finite becomes null, for JSON knows no NaN.
    """
    found: dict[str, Any] = {"pairs": len(gains)}
    with np.errstate(invalid="ignore"):
        losses = np.logaddexp(0, -beta * gains)
    for name, values in (("loss", losses), ("accuracy", gains > 0), ("margin", gains)):
        error = float(np.std(values, ddof=1)) / math.sqrt(len(gains)) if len(gains) > 1 else None
        figures = {name: float(np.mean(values)), f"{name}_error": error}
        found |= {key: value if value is not None and math.isfinite(value) else None for key, value in figures.items()}
    return found
