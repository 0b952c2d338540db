"""Near duplicates: documents that are nearly the same text, found by MinHash in flat memory.

A document's signature (Broder 1997) is 128 numbers, the smallest hash of its rows of five words under 128 permutations.
Of two documents, the share of numbers that agree estimates how many of their rows they share (the Jaccard index), with
a standard error of 0.035 at 0.8. Only documents are compared that agree in a whole band of numbers (locality-sensitive
hashing: Leskovec et al., Mining of Massive Datasets, chapter 3): bands are sorted on disk, and equal ones meet.

Permutations and the size of bands are those of `datasketch` (extra `data`).
"""

import functools
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.building.external_sort import (
    RECORD,
    Records,
    first_of_each,
    grouped,
    make_records,
    stored_records,
)
from scratchlab.corpus.building.shingles import shingle_hashes, word_hashes
from scratchlab.corpus.shards import OPEN_SHARDS
from scratchlab.errors import MissingExtraError, UsageError
from scratchlab.extras import missing

if TYPE_CHECKING:
    from datasketch import MinHash

PERMUTATIONS: Final = 128
SHINGLE: Final = 5  # words
SEED: Final = 1

THRESHOLD = 0.8
LOWEST, HIGHEST = 0.5, 0.99
NEIGHBORS: Final = 8
"""Each document is compared with so many before it that share a band, besides the first that does."""

Signatures = npt.NDArray[np.uint32]
"""Shape (documents, PERMUTATIONS)."""

Numbers = npt.NDArray[np.int64]
"""Of documents."""

PAIR: Final = np.dtype([("number", np.int64), ("resembles", np.int64)])
"""The number of a document that is to be dropped, and that of the document it resembles."""

Report = Callable[[str, int, int], None]
"""Is told a stage, how much of it is done, and of how much."""

EMPTY: Final = np.uint32(2**32 - 1)
"""Each number of the signature of a text without words."""

READING, SORTING = "reading signatures", "sorting signatures"
COMPARING = "comparing near duplicates"

_FACTORS = (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03)  # odd; sums of their powers make the two halves of a band's key
_HASHED = 1024  # shingles at a time: their permutations, half a megabyte, stay in the processor's cache
_ROWS = 4096  # signatures or pairs at a time


@dataclass(frozen=True, slots=True)
class Bands:
    """How a signature is cut: two documents are compared if all `rows` numbers of one of `count` bands agree."""

    count: int
    rows: int


def signature(text: str) -> Signatures:
    """The MinHash signature of a text's rows of five words, shape (PERMUTATIONS,): the same on every machine.

    A text of fewer words is one row; one without words has a signature of EMPTY, which resembles nothing. Letter case
    and punctuation make no difference. The signature of a text that is read in parts is the minimum of theirs, but for
    the rows across a cut.
    """
    minhash = _minhash()
    minhash.clear()
    words = word_hashes(text)
    if len(words):
        shingles = (shingle_hashes(words, min(SHINGLE, len(words))) >> np.uint64(32)).astype(np.uint32)
        for start in range(0, len(shingles), _HASHED):
            minhash.update_batch([shingles[start : start + _HASHED]])  # one array stands for all its hashes
    return minhash.digest()


def choose_bands(threshold: float) -> Bands:
    """The bands for which fewest pairs at or above `threshold` are missed, within reason.

    `datasketch` weighs what is missed against what is compared in vain. The latter costs little here, since every pair
    is verified, and so has a weight of 0.05. At 0.8 there are 16 bands of 8 numbers: of documents that resemble each
    other by 0.8, 95% are compared; by 0.85, 99.4%. UsageError for a threshold that is not from LOWEST to HIGHEST.
    """
    if not LOWEST <= threshold <= HIGHEST:
        raise UsageError(
            f"Near duplicates: the threshold {threshold} is not from {LOWEST} to {HIGHEST}. It is the share of their "
            f"five-word rows that two documents have in common; {THRESHOLD} is usual. Exact copies always go."
        )
    try:
        from datasketch import MinHashLSH
    except ImportError:
        raise _missing() from None
    index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=(0.05, 0.95))
    return Bands(index.b, index.r)


def near_duplicates(
    signatures: Sequence[Path], threshold: float, work: Path, report: Report | None = None
) -> npt.NDArray[np.void]:
    """The documents that nearly repeat an earlier one: an array of PAIR, sorted by number.

    `signatures` are .npy files of Signatures; documents are numbered across them in order. Two documents resemble each
    other if they agree in at least `threshold` of their numbers and in a band. A document is dropped if it resembles
    an earlier one that is kept: so the first source wins, and of a chain in which each resembles the one before, but
    not the first, every other document stays. Of those that share a band a document is compared with the first and
    with the last NEIGHBORS before it; where there are more, they nearly always all resemble the first.

    The result depends on the order of the documents alone. `work` is a folder of its own: whatever was in it is
    removed, and so is it in the end. It takes 24 bytes a document and band, 384 bytes a document at 0.8, and then 48
    bytes for each pair to compare. Memory: a byte a document, what is returned, and about 100 MB.
    """
    bands = choose_bands(threshold)
    store = _Store(signatures)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        candidates = work / "pairs"
        count = len(store) * bands.count
        records = _told(_band_records(store, bands), READING, count, report)
        with candidates.open("wb") as file:
            for bucket in _told(grouped(records, count, work / "bands"), SORTING, count, report):
                for pairs in _pairs(bucket, len(store)):
                    file.write(pairs.tobytes())
        count = candidates.stat().st_size // RECORD.itemsize
        buckets = grouped(stored_records(candidates), count, work / "sorted")
        return _resolve(store, _told(buckets, COMPARING, count, report), threshold)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _told(parts: Iterable[Records], stage: str, total: int, report: Report | None) -> Iterator[Records]:
    """The records; how many of `total` there were is reported when the next ones are asked for."""
    done = 0
    for part in parts:
        yield part
        done += len(part)
        if report:
            report(stage, done, total)


class _Store:
    """The signatures of all documents, in files of which those that were used last are mapped into memory."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._starts = np.cumsum([0, *(len(_mapped(path)) for path in paths)])
        self._last_used = functools.lru_cache(OPEN_SHARDS)(_mapped)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def blocks(self) -> Iterator[tuple[int, Signatures]]:
        """All signatures, a few at a time, with the number of the first of them."""
        for first, file in zip(self._starts.tolist(), map(_mapped, self._paths), strict=False):
            for start in range(0, len(file), _ROWS):
                yield first + start, np.array(file[start : start + _ROWS])

    def rows(self, numbers: Numbers) -> Signatures:
        """The signatures of some documents."""
        rows = np.empty((len(numbers), PERMUTATIONS), np.uint32)
        places = np.searchsorted(self._starts, numbers, side="right") - 1
        for place in np.unique(places).tolist():
            here = places == place
            rows[here] = self._last_used(self._paths[place])[numbers[here] - self._starts[place]]
        return rows


def _mapped(path: Path) -> Signatures:
    return np.load(path, mmap_mode="r")


def _band_records(store: _Store, bands: Bands) -> Iterator[Records]:
    """For each document with words and each band: a hash of the band's place and numbers, and the document."""
    factors = np.array([[pow(factor, k, 2**64) for factor in _FACTORS] for k in range(1, bands.rows + 2)], np.uint64)
    for first, rows in store.blocks():
        numbers = first + np.flatnonzero((rows != EMPTY).any(axis=1))
        cut = np.empty((len(numbers), bands.count, bands.rows + 1), np.uint64)
        cut[:, :, 0] = np.arange(bands.count)
        cut[:, :, 1:] = rows[numbers - first, : bands.count * bands.rows].reshape(-1, bands.count, bands.rows)
        keys = (cut @ factors).reshape(-1, 2)
        yield make_records(keys[:, 0], keys[:, 1], np.repeat(numbers, bands.count))


def _pairs(bucket: Records, documents: int) -> Iterator[Records]:
    """Of each group with one key, the pairs to compare."""
    first, place = first_of_each(bucket), np.arange(len(bucket))
    for distance in range(1, NEIGHBORS + 1):
        later = np.flatnonzero(place - distance >= first)
        yield _pair_records(bucket["number"][later], bucket["number"][later - distance], documents)
    later = np.flatnonzero(place - NEIGHBORS > first)
    yield _pair_records(bucket["number"][later], bucket["number"][first[later]], documents)


def _pair_records(later: Numbers, earlier: Numbers, documents: int) -> Records:
    """Records that sort by the later document, then by the earlier."""
    shift = np.uint64(64 - documents.bit_length())  # spreads the numbers over all keys, so that buckets are even
    return make_records(later.astype(np.uint64) << shift, earlier, later)


def _resolve(store: _Store, candidates: Iterable[Records], threshold: float) -> npt.NDArray[np.void]:
    """Of the candidates, which come sorted, those that resemble an earlier document that is kept."""
    dropped = np.zeros(len(store), np.bool_)
    found = [np.empty(0, PAIR)]
    for bucket in candidates:
        pairs = bucket[np.unique(first_of_each(bucket))]  # most share several bands
        for start in range(0, len(pairs), _ROWS):
            block = pairs[start : start + _ROWS]
            later, earlier = block["number"], block["low"].astype(np.int64)
            alike = (store.rows(later) == store.rows(earlier)).mean(axis=1) >= threshold
            found.append(_drop(later[alike].tolist(), earlier[alike].tolist(), dropped))
    return np.concatenate(found)


def _drop(later: list[int], earlier: list[int], dropped: npt.NDArray[np.bool_]) -> npt.NDArray[np.void]:
    """Mark in `dropped`, and return, each later document whose earlier one is kept; once each."""
    found: list[tuple[int, int]] = []
    for number, resembled in zip(later, earlier, strict=True):
        if not dropped[number] and not dropped[resembled]:
            dropped[number] = True
            found.append((number, resembled))
    return np.array(found, PAIR)


@functools.cache
def _minhash() -> "MinHash":
    """One for all texts: drawing the permutations anew would take longer than most texts do."""
    try:
        from datasketch import MinHash
    except ImportError:
        raise _missing() from None
    return MinHash(PERMUTATIONS, seed=SEED, hashfunc=_as_it_is, scheme="affine32")


def _as_it_is(hashes: Signatures) -> Signatures:
    return hashes


def _missing() -> MissingExtraError:
    return missing("Finding near duplicates", "data")
