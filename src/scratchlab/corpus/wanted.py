"""The n-grams and documents of a test text, and the search for them in a training text.

They are held as hashes: of a long text, those of a sample. Then the training text is read once.
"""

import hashlib
import threading
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from scratchlab.corpus.ngrams import (
    BLOCK,
    Filter,
    N,
    Stretch,
    around,
    blocks,
    documents_of,
    hashes_at,
    stretches,
    touched,
)
from scratchlab.corpus.progress import Progress, Report, ignore
from scratchlab.corpus.words import CHUNK, Bools, Documents, Ints, Symbols, Uint64s, WordReader, constants, stir

COMPARING = "comparing with the test text"
MOST_NGRAMS = 2**22
MOST_DOCUMENTS = 2**20
"""About how many n-grams and documents are held at most. Of more, a sample is."""

_PIECE = 2**13  # tokens: documents are in the sample or not, longer ones piece by piece
_RANGE = 2**21  # tokens of training text that a thread takes at a time, unless a document is longer
_BYTES_PER_WORD = 4  # with what parts it from the next; English has 5.5. Where it is fewer, more memory is taken
_PIECE_FACTOR = constants("pieces of documents", 1).view(np.int64)


@dataclass(frozen=True, slots=True)
class Text:
    """A token stream with its documents, what the tokens stand for, and the reader of its words."""

    stream: Documents
    symbols: Symbols
    reader: WordReader

    @property
    def documents(self) -> range:
        return range(len(self.stream.document_bytes))

    def pieces(self, start: int, stop: int) -> Iterator[bytes]:
        """The text of tokens `start` to `stop`."""
        for first in range(start, stop, CHUNK):
            tokens = self.stream.read(first, min(first + CHUNK, stop))
            yield b"".join(map(self.symbols.token_bytes, tokens.tolist()))

    def sha256(self, document: int) -> bytes:
        """Of the text of a document."""
        digest = hashlib.sha256()
        for piece in self.pieces(*self.stream.document_starts[document : document + 2].tolist()):
            digest.update(piece)
        return digest.digest()


class Ngrams(NamedTuple):
    """Of every run of N words in a stretch of a test text: ..."""

    documents: Ints
    """The document of its first word."""
    whole: Bools
    """Whether its other words are in the same one, so that it is an n-gram."""
    kept: Bools
    """Whether it is also in the sample, which may be all."""


def ngrams_of(test: Text, documents: range) -> Iterator[tuple[Stretch, Ngrams]]:
    """The stretches of these documents of a test text, and what is known of the n-grams in them."""
    share = MOST_NGRAMS / _most_ngrams(test)
    for stretch in stretches(test.stream, test.reader, documents):
        places = stretch.words.places
        document = documents_of(places, test.stream)
        first, last = document[: 1 - N], document[N - 1 :]
        piece = (places[: 1 - N] - test.stream.document_starts[first]) // _PIECE
        yield stretch, Ngrams(first, first == last, (first == last) & _sampled(first + piece * _PIECE_FACTOR, share))


def _most_ngrams(text: Text) -> int:
    """How many n-grams a text may have, by its size."""
    return int(text.stream.document_bytes.sum()) // _BYTES_PER_WORD + 1


def _sampled(keys: Ints, share: float) -> Bools:
    """Whether each key is in a sample of about this share: the same answer for the same key always."""
    if share >= 1:
        return np.ones(len(keys), np.bool_)
    return stir(stir(keys.astype(np.uint64))) < np.uint64(share * 2**64)


class Wanted:
    """What is looked for, and what of it has been found. Reads the test text once."""

    def __init__(self, test: Text) -> None:
        self._test = test
        count = len(test.documents)
        self._filter = Filter(2 * min(_most_ngrams(test), MOST_NGRAMS) + min(count, MOST_DOCUMENTS))
        ngrams, fingerprints, documents = array("Q"), array("Q"), array("q")  # they grow in place
        for stretch, (_, _, kept) in ngrams_of(test, test.documents):
            ended = np.arange(stretch.ended.start, stretch.ended.stop)
            sample = _sampled(ended, MOST_DOCUMENTS / max(count, 1))
            documents.frombytes(ended[sample].tobytes())
            prints = stretch.fingerprints[sample]
            fingerprints.frombytes(prints.tobytes())
            own = hashes_at(stretch.words.numbers, np.flatnonzero(kept))
            ngrams.frombytes(own.tobytes())
            for numbers in (prints, own, hashes_at(stretch.words.numbers, touched(kept), BLOCK)):
                self._filter.add(numbers)
        self._ngrams = np.asarray(ngrams)
        self._ngrams.sort()
        order = np.argsort(fingerprints)
        self._fingerprints, self._documents = np.asarray(fingerprints)[order], np.asarray(documents)[order]
        self._found = np.zeros(len(self._ngrams), np.bool_)
        self._copied = np.zeros(len(self._documents), np.bool_)
        self._comparing = threading.Lock()

    @property
    def documents(self) -> int:
        """How many are looked for."""
        return len(self._documents)

    @property
    def copied(self) -> int:
        """How many of these have been found: the same text is a document of the training text."""
        return int(self._copied.sum())

    def found(self) -> "Found":
        return Found(self._ngrams[self._found])

    def look_through(self, train: Text, stretch: Stretch) -> None:
        """Find what there is in a stretch of the training text. May be called by several threads at once."""
        numbers, places = stretch.words
        at = around(self._filter.passing(blocks(numbers)), len(numbers))
        ngrams = hashes_at(numbers, at)
        passing = self._filter.passing(ngrams)
        starts, first = train.stream.document_starts, at[passing]
        one = np.searchsorted(starts, places[first], "right") == np.searchsorted(starts, places[first + N - 1], "right")
        held, there = _look_up(ngrams[passing][one], self._ngrams)
        self._found[held[there]] = True
        self._compare_documents(train, stretch)

    def _compare_documents(self, train: Text, stretch: Stretch) -> None:
        """Compare the texts of documents that have the fingerprint of one that is looked for."""
        passing = self._filter.passing(stretch.fingerprints)
        held, there = _look_up(stretch.fingerprints[passing], self._fingerprints)
        for document, place in zip(passing[there].tolist(), held[there].tolist(), strict=True):
            stop = int(np.searchsorted(self._fingerprints, self._fingerprints[place], "right"))
            with self._comparing:
                missing = [at for at in range(place, stop) if not self._copied[at]]
                sha256 = train.sha256(stretch.ended[document]) if missing else b""
                for at in missing:
                    self._copied[at] = self._test.sha256(int(self._documents[at])) == sha256


class Found:
    """N-grams that were found."""

    def __init__(self, ngrams: Uint64s) -> None:
        self._ngrams = ngrams  # sorted

    def among(self, kept: Bools, numbers: Uint64s) -> Bools:
        """Which n-grams they are of those that are `kept` among the runs of these words."""
        found = np.zeros(len(kept), np.bool_)
        if len(self._ngrams):
            at = np.flatnonzero(kept)
            found[at] = _look_up(hashes_at(numbers, at), self._ngrams)[1]
        return found


def _look_up(numbers: Uint64s, table: Uint64s) -> tuple[Ints, Bools]:
    """Where a sorted table holds these numbers first, if it does, and whether it does."""
    if not len(table):
        return np.zeros(len(numbers), np.int64), np.zeros(len(numbers), np.bool_)
    places = np.minimum(np.searchsorted(table, numbers), len(table) - 1)
    return places, table[places] == numbers


def search(train: Text, wanted: Wanted, threads: int = 1, report: Report = ignore) -> None:
    """Read the training text once and find what is wanted in it; threads share it by documents."""
    tokens, total = len(train.stream), int(train.stream.document_bytes.sum())
    done, counting = 0, threading.Lock()

    def look_through(documents: range) -> None:
        nonlocal done
        for stretch in stretches(train.stream, train.reader, documents):
            wanted.look_through(train, stretch)
            with counting:
                done += stretch.tokens
                report(Progress(COMPARING, total * done // max(tokens, 1), total))

    if threads == 1:
        for documents in _ranges(train.stream):
            look_through(documents)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(look_through, _ranges(train.stream)):
            pass


def _ranges(stream: Documents) -> Iterator[range]:
    """All documents, as many at a time as have about _RANGE tokens."""
    starts, first, count = stream.document_starts, 0, len(stream.document_bytes)
    while first < count:
        stop = min(max(int(np.searchsorted(starts, starts[first] + _RANGE)), first + 1), count)
        yield range(first, stop)
        first = stop
