"""Pairs of answers as rows: a prompt that both answers see, and the two answers, which do not see each other.

A row is one comparison. Of a prompt of P tokens it has the first P - 1, in the document that all others see
(`model/attention.py`), then the chosen answer and the rejected one as documents of their own, each led by the prompt's
last token: that predicts the first token of both, and a place of a row has one target. Positions of both answers go on
from the prompt, so that each is to the model what it is alone.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.examples.encode import CHOSEN, REJECTED
from scratchlab.corpus.examples.fit import fit_counts
from scratchlab.corpus.examples.packing import rows_of_samples
from scratchlab.corpus.shards import Split
from scratchlab.corpus.windows import Batch, Ints, Paired
from scratchlab.errors import CorpusError

Margins = npt.NDArray[np.floating]
SHARED = -1
"""The document that all others see: `model.attention.COMMON`, which a test holds to."""


@dataclass(frozen=True, slots=True)
class PairFit:
    """What of each pair a model of some context can learn from; see `fit_pairs`. Shapes (pairs,)."""

    prompts: Ints
    """The tokens of each prompt."""
    chosen_before_cut: Ints
    chosen: Ints
    """The tokens of each chosen answer that fit; 0 where the pair is left out."""
    rejected: Ints
    cut: Ints
    """The numbers of the pairs of which an answer's end is cut off."""
    useless: Ints
    """The numbers of those that are left out."""

    @property
    def useful(self) -> Ints:
        """The numbers of the others."""
        return np.flatnonzero(self.chosen)

    def to_json(self, split: Split) -> dict[str, object]:
        return fit_counts(split, self.cut, self.useless)


def fit_pairs(split: Split, context_length: int) -> PairFit:
    """How pairs fit rows of `context_length` places: a place for each token but one of the prompt and of both answers.

    Where that is too much the ends of answers are cut off: of the longer one, down to half the room, then of both. A
    pair is left out where nothing of one of the answers fits, and where no token comes before them.
    """
    assert split.marks is not None
    starts = split.document_starts[:-1]
    prompts, chosen, rejected = (
        np.add.reduceat(split.marks == mark, starts, dtype=np.int64) for mark in (0, CHOSEN, REJECTED)
    )
    room = context_length - (prompts - 1)
    left_out = (room < 2) | (prompts < 1)
    half = room // 2
    kept_chosen = np.where(left_out, 0, np.minimum(chosen, np.maximum(half, room - rejected)))
    kept_rejected = np.where(left_out, 0, np.minimum(rejected, room - kept_chosen))
    cut = ~left_out & ((kept_chosen < chosen) | (kept_rejected < rejected))
    return PairFit(prompts, chosen, kept_chosen, kept_rejected, np.flatnonzero(cut), np.flatnonzero(left_out))


class PairTokens(NamedTuple):
    """A pair as far as it fits."""

    prompt: Ints
    chosen: Ints
    rejected: Ints


def read_pair(split: Split, fit: PairFit, number: int) -> PairTokens:
    """The tokens of pair `number`, which is not left out."""
    start, begin = int(split.document_starts[number]), int(split.document_starts[number] + fit.prompts[number])
    second = begin + int(fit.chosen_before_cut[number])
    ends = begin + int(fit.chosen[number]), second + int(fit.rejected[number])
    parts = ((start, begin), (begin, ends[0]), (second, ends[1]))
    return PairTokens(*(split.read(*part).astype(np.int64) for part in parts))


class PairRows:
    """The rows of a split of pairs. `CorpusError` if no pair fits.

    `parted_at` is the token at which the model forgets (`model.document_mask`): what a prompt has before the last of
    them no answer sees. `margins` are those of the model that the run began from, of each pair of the split; without
    them they are 0.
    """

    def __init__(
        self, split: Split, context_length: int, parted_at: int | None = None, margins: Margins | None = None
    ) -> None:
        self.split, self.context_length, self.parted_at = split, context_length, parted_at
        self.fit = fit_pairs(split, context_length)
        self.margins: Margins = np.zeros(len(self.fit.prompts)) if margins is None else margins
        if not len(self.fit.useful):
            raise CorpusError(
                f"None of the {len(self.fit.prompts):,} pairs of the {split.name} split has room for its prompt and "
                f"some of both answers within model.context_length = {context_length} tokens. Use a model with a "
                "longer context, or shorter prompts."
            )

    def __len__(self) -> int:
        """Rows an epoch."""
        return len(self.fit.useful)

    def counts(self) -> dict[str, Any]:
        """For the manifest: how many pairs are learned from, and how full rows are."""
        places = int((self.fit.prompts - 1 + self.fit.chosen + self.fit.rejected)[self.fit.useful].sum())
        padding = 1 - places / (len(self) * self.context_length)
        return {"per_epoch": len(self), **self.fit.to_json(self.split), "padding": padding}

    def batch(self, first_sequence: int, size: int, seed: int) -> Batch:
        """Samples `first_sequence` and the `size` - 1 that follow it: sample k is pair `permute(epoch, k mod n)`."""
        samples = rows_of_samples(first_sequence, size, len(self), seed)
        return self.rows(self.fit.useful[samples], first_sequence)

    def rows(self, numbers: Ints, first_sequence: int = 0) -> Batch:
        """The pairs of these numbers, a row each."""
        tokens, targets, documents, positions = np.zeros((4, len(numbers), self.context_length), np.int64)
        weights = np.zeros((len(numbers), self.context_length), np.float32)
        for place, number in enumerate(numbers.tolist()):
            prompt, chosen, rejected = read_pair(self.split, self.fit, number)
            shared, c, r = len(prompt) - 1, len(chosen), len(rejected)
            here, last = np.s_[place, : shared + c + r], prompt[-1:]
            tokens[here] = np.concatenate([prompt[:-1], last, chosen[:-1], last, rejected[:-1]])
            targets[here] = np.concatenate([np.zeros(shared, np.int64), chosen, rejected])
            weights[here] = np.repeat([0, 1, -1], [shared, c, r])
            positions[here] = np.concatenate([np.arange(shared), shared + np.arange(c), shared + np.arange(r)])
            documents[here] = np.concatenate([self._seen(prompt), np.repeat([1, 2], [c, r])])
        margins = self.margins[numbers].astype(np.float32)
        return Batch(tokens, targets, weights, first_sequence, packing=Paired(documents, positions, margins))

    def _seen(self, prompt: Ints) -> Ints:
        """The documents of a prompt's tokens but the last: what answers see, and what was forgotten before they begin.

        The token at which the model forgets opens the text that follows it.
        """
        if self.parted_at is None:
            return np.full(len(prompt) - 1, SHARED)
        opened = np.cumsum(prompt == self.parted_at)
        return np.where(opened < opened[-1], 3 + opened, SHARED)[:-1]
