"""What of the examples of a corpus fits a model, and what does not."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.shards import Split

Ints = npt.NDArray[np.int64]
SHOWN = 20  # ids of examples that are named


@dataclass(frozen=True, slots=True)
class Fit:
    """What of each example a model of some context can learn from."""

    stops: Ints
    """The place in the stream after the last token that is of use; where the example begins, if none is: (examples,)"""
    cut: Ints
    """The numbers of the examples whose end does not fit and is left off, though something is learned from it."""
    useless: Ints
    """The numbers of those of which nothing that is learned fits, and which are left out."""

    @property
    def useful(self) -> Ints:
        """The numbers of the others."""
        return np.setdiff1d(np.arange(len(self.stops)), self.useless)

    def to_json(self, split: Split) -> dict[str, object]:
        """The counts, and what those that are left out are called."""
        return fit_counts(split, self.cut, self.useless)


def fit_counts(split: Split, cut: Ints, useless: Ints) -> dict[str, object]:
    """How many examples of a split are learned from, cut and left out, and what those that are left out are called."""
    return {
        "examples": len(split.document_starts) - 1 - len(useless),
        "cut": len(cut),
        "left_out": len(useless),
        "left_out_ids": [split.ids[number] for number in useless[:SHOWN].tolist()],
    }


def fit_instructions(split: Split, context_length: int) -> Fit:
    """How they fit a model that reads `context_length` tokens and predicts what follows each.

    A token that is learned needs one before it. What follows the last one that is learned is of no use.
    """
    assert split.marks is not None
    starts, ends = split.document_starts[:-1], split.document_starts[1:]
    learned = np.flatnonzero(split.marks)
    within = np.minimum(ends, starts + context_length + 1)
    before = np.concatenate([[-1], learned])  # by how many are learned up to a place, the last of them
    last_within = before[np.searchsorted(learned, within)]
    last = before[np.searchsorted(learned, ends)]
    useless = last_within <= starts
    stops = np.where(useless, starts, last_within + 1)
    return Fit(stops, np.flatnonzero((last > last_within) & ~useless), np.flatnonzero(useless))


def fit_labels(split: Split, context_length: int) -> Fit:
    """How texts with labels fit a model that reads `context_length` tokens and says what they are at the last of them.

    A longer text is judged by its beginning.
    """
    starts, ends = split.document_starts[:-1], split.document_starts[1:]
    stops = np.minimum(ends, starts + context_length)
    return Fit(stops, np.flatnonzero(stops < ends), np.empty(0, np.int64))
