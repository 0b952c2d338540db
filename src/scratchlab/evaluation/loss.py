"""Loss on held-out text: nats per token, bits per byte, and the standard error of both.

Non-overlapping windows; every token but the stream's first is a target exactly once. `<|endoftext|>` counts in the
nats and as zero bytes, so that models with different tokenizers are scored on the same bytes.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.windows import TokenStream, consecutive_batches, parallel_batches
from scratchlab.errors import CorpusError
from scratchlab.evaluation.scorer import ScoreWindows

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# Fewer documents than this say too little about the spread between documents; stretches of text stand in for them.
FEWEST_DOCUMENTS = 8
STRETCHES = 32
TOKENS_AT_ONCE = 16_384
STREAMS = 16  # stretches that a model which remembers reads side by side; each begins with nothing remembered


class ScoredText(TokenStream, Protocol):
    """A token stream with its documents: where each begins (n + 1 places) and how many UTF-8 bytes each has (n)."""

    @property
    def document_starts(self) -> Ints: ...
    @property
    def document_bytes(self) -> Ints: ...


@dataclass(frozen=True, slots=True)
class LossResult:
    """Loss of one model on one text. Errors are standard errors of the figure above them, over `n_units` units."""

    nats_per_token: float
    nats_per_token_error: float | None
    bits_per_byte: float
    bits_per_byte_error: float | None
    n_tokens: int
    n_bytes: int
    n_units: int
    unit: str
    """What the errors are clustered by: documents, or stretches of text where there are fewer than 8 documents."""

    def to_json(self) -> dict[str, Any]:
        """What is not finite becomes null, for JSON knows no NaN."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def evaluate_loss(
    score: ScoreWindows,
    text: ScoredText,
    context_length: int,
    max_tokens: int | None = None,
    remembers: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LossResult:
    """Score `text` (its first `max_tokens` targets if given) with `score(tokens_BT, targets_BT) -> nats_BT`.

    A scorer that remembers gets the text in 16 stretches side by side, and is given each in order.
    """
    if len(text) < 2:
        raise CorpusError("A split of a single token cannot be scored: nothing is left to predict. Add text.")
    n_targets = len(text) - 1 if max_tokens is None else min(max_tokens, len(text) - 1)
    nats = np.zeros(n_targets)
    if remembers:
        batches = parallel_batches(text, context_length, min(STREAMS, n_targets), n_targets)
    else:
        batches = consecutive_batches(text, context_length, max(1, TOKENS_AT_ONCE // context_length), n_targets)
    done = 0
    for places, batch in batches:
        counted = batch.weights > 0
        nats[places[counted] - 1] = score(batch.tokens, batch.targets)[counted]
        progress(done := done + int(counted.sum()), n_targets)
    return _summarize(nats, text)


def _summarize(nats: Floats, text: ScoredText) -> LossResult:
    unit, edges, n_bytes = _units(text, len(nats) + 1)
    # Target i is token i + 1; the unit that holds the stream's first token has one target fewer.
    cuts = np.maximum(edges - 1, 0)
    sums = np.diff(np.append(0.0, np.cumsum(nats))[cuts])
    tokens = np.diff(cuts)
    total_nats, total_bytes = float(nats.sum()), float(n_bytes.sum())
    return LossResult(
        nats_per_token=total_nats / len(nats),
        nats_per_token_error=ratio_error(sums, tokens),
        bits_per_byte=total_nats / math.log(2) / total_bytes,
        bits_per_byte_error=ratio_error(sums / math.log(2), n_bytes),
        n_tokens=len(nats),
        n_bytes=round(total_bytes),
        n_units=len(tokens),
        unit=unit,
    )


def _units(text: ScoredText, n_tokens: int) -> tuple[str, Ints, Floats]:
    """What errors are clustered by, the token places where units begin (n + 1), and the bytes of each (n)."""
    starts = text.document_starts
    n_documents = int(np.searchsorted(starts, n_tokens, side="left"))
    edges = np.append(starts[:n_documents], n_tokens)
    # Of a document that is cut off by `max_tokens`, the share of its tokens that was scored.
    shares = np.diff(edges) / np.diff(starts[: n_documents + 1])
    n_bytes = text.document_bytes[:n_documents] * shares
    if n_documents >= FEWEST_DOCUMENTS:
        return "documents", edges, n_bytes
    stretches = np.unique(np.linspace(0, n_tokens, min(STRETCHES, n_tokens) + 1).astype(np.int64))
    bytes_before = np.interp(stretches, edges, np.append(0, np.cumsum(n_bytes)))
    return "stretches", stretches, np.diff(bytes_before)


def ratio_error(numerators: Floats, denominators: npt.NDArray[Any]) -> float | None:
    """Standard error of sum(numerators) / sum(denominators) over independent units; None for a single unit.

    Linearized (Cochran 1977, "Sampling Techniques", section 6.4).
    """
    n = len(numerators)
    if n < 2:
        return None
    residuals = numerators - numerators.sum() / denominators.sum() * denominators
    return float(np.sqrt(n / (n - 1) * np.square(residuals).sum()) / denominators.sum())
