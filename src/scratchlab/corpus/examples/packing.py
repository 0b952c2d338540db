"""Examples packed into rows of a model's context, none of which sees another.

Of an example of n tokens the first n - 1 are read and the last n - 1 predicted, so that it takes n - 1 places of a row.
Rows are filled once, whatever the seed: the longest example first, each into the fullest row that has room for it
(best fit decreasing). Sample k of a run is row `permute(epoch, k mod n)` of epoch k div n, as of windows of a text: a
function of the data seed and k alone.
"""

import bisect
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.examples.fit import Fit, fit_instructions, fit_labels
from scratchlab.corpus.shards import Split
from scratchlab.corpus.windows import Batch, Ints, Packing
from scratchlab.errors import CorpusError
from scratchlab.seeds import permute

Learned = Literal["responses", "all", "labels"]


class PackedRows:
    """The rows of a split of examples. `CorpusError` if no example has anything to learn from.

    Learned are the responses of instructions; all of them, each token but the first; or labels, which are told at a
    text's last token. With responses and with all it is the same examples: those of whose response something fits.
    `parted_at` is the token at which the model forgets (`model.document_mask`), within an example too.
    """

    def __init__(self, split: Split, context_length: int, learned: Learned, parted_at: int | None = None) -> None:
        self.split, self.context_length, self.learned, self.parted_at = split, context_length, learned, parted_at
        self.fit: Fit = (fit_labels if learned == "labels" else fit_instructions)(split, context_length)
        self._sizes = np.maximum(self.fit.stops - split.document_starts[:-1] - (learned != "labels"), 0)
        useful = np.flatnonzero(self._sizes)
        if not len(useful):
            raise CorpusError(
                f"None of the {len(self._sizes):,} examples of the {split.name} split has any of what is to be learned "
                f"within model.context_length = {context_length} tokens. Use a model with a longer context, or shorter "
                "examples."
            )
        rows = best_fit(self._sizes[useful].tolist(), context_length)
        self._examples = useful[np.array(list(itertools.chain.from_iterable(rows)))]
        self._edges = np.cumsum([0, *map(len, rows)])

    def __len__(self) -> int:
        """Rows an epoch."""
        return len(self._edges) - 1

    def counts(self) -> dict[str, Any]:
        """For the manifest: how many examples are learned from, and how full rows are."""
        places = len(self) * self.context_length
        return {"per_epoch": len(self), **self.fit.to_json(self.split), "padding": 1 - int(self._sizes.sum()) / places}

    def batch(self, first_sequence: int, size: int, seed: int) -> Batch:
        """Samples `first_sequence` and the `size` - 1 that follow it."""
        rows = rows_of_samples(first_sequence, size, len(self), seed)
        tokens, targets, documents, positions = np.zeros((4, size, self.context_length), np.int64)
        weights = np.zeros((size, self.context_length), np.float32)
        for place, row in enumerate(rows.tolist()):
            edges = self._places(row)
            for number, start, stop in zip(self._in_row(row), edges[:-1], edges[1:], strict=True):
                here = np.s_[place, start:stop]
                tokens[here], targets[here], weights[here] = self._lesson(int(number))
            documents[place], positions[place] = self._packing(tokens[place], edges)
        return Batch(tokens, targets, weights, first_sequence, packing=Packing(documents, positions))

    def tokens_of(self, number: int) -> tuple[list[int], list[bool]]:
        """The tokens of an example that are in a row, the last of them as what is predicted alone, and which of them
        are learned. None of one that is left out.
        """
        if not self._sizes[number]:
            return [], []
        read, targets, weights = self._lesson(number)
        if self.learned == "labels":
            return read.tolist(), (weights > 0).tolist()
        return [int(read[0]), *targets.tolist()], [False, *(weights > 0).tolist()]

    def _in_row(self, row: int) -> Ints:
        """The numbers of the examples of a row."""
        return self._examples[self._edges[row] : self._edges[row + 1]]

    def _places(self, row: int) -> list[int]:
        """Where each of them begins, and where the last one ends."""
        return np.cumsum([0, *self._sizes[self._in_row(row)]]).tolist()

    def _lesson(self, number: int) -> tuple[Ints, Ints, npt.NDArray[np.float32]]:
        """What is read of an example, what is to be predicted at each place, and how much that counts."""
        split, marks = self.split, self.split.marks
        assert marks is not None
        start, end = split.document_starts[number : number + 2].tolist()
        stop = start + int(self._sizes[number])
        read = split.read(start, stop).astype(np.int64)
        if self.learned == "labels":
            last = np.arange(start, stop) == stop - 1
            return read, np.where(last, int(marks[end - 1]) - 1, 0), last.astype(np.float32)
        counted = np.ones(len(read)) if self.learned == "all" else marks[start + 1 : stop + 1] > 0
        return read, split.read(start + 1, stop + 1).astype(np.int64), counted.astype(np.float32)

    def _packing(self, tokens: Ints, edges: Sequence[int]) -> tuple[Ints, Ints]:
        """To which text each token of a row belongs, and its place there. What is left of the row is a text as well."""
        places = np.arange(self.context_length)
        begins = np.zeros(self.context_length + 1, np.bool_)
        begins[edges] = True
        begins = begins[:-1]
        positions = places - np.maximum.accumulate(np.where(begins, places, 0))
        parted = begins if self.parted_at is None else begins | (tokens == self.parted_at)
        return np.cumsum(parted, dtype=np.int64), positions


def rows_of_samples(first_sequence: int, size: int, rows: int, seed: int) -> Ints:
    """Which of so many `rows` sample `first_sequence` and the `size` - 1 that follow it are."""
    epochs, places = np.divmod(np.arange(first_sequence, first_sequence + size), rows)
    of_epochs = [permute(places[epochs == epoch], rows, seed, "data", epoch) for epoch in np.unique(epochs).tolist()]
    return np.concatenate(of_epochs or [places])


def best_fit(sizes: Sequence[int], room: int) -> list[list[int]]:
    """The places of `sizes`, each at most `room`, gathered into rows of that room: few, so that little is left over."""
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # what each row has left, and its number, in order
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        found = bisect.bisect_left(free, (sizes[place], -1))
        if found == len(free):
            rows.append([])
            left, row = room, len(rows) - 1
        else:
            left, row = free.pop(found)
        rows[row].append(place)
        bisect.insort(free, (left - sizes[place], row))
    return rows
