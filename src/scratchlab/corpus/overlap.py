"""What of a test text occurs in training text: exact documents, and n-grams of 13 words.

docs/contamination.md says what the figures mean.
"""

import heapq
from collections.abc import Callable, Iterator

import numpy as np

from scratchlab.corpus.manifest import OverlapExampleRecord, OverlapRecord
from scratchlab.corpus.ngrams import N
from scratchlab.corpus.progress import Report, ignore
from scratchlab.corpus.store import Corpus
from scratchlab.corpus.texts import EvaluationText, by_number
from scratchlab.corpus.wanted import Found, Text, Wanted, ngrams_of, search
from scratchlab.corpus.words import LONGEST, WORD, Documents, Ints, Symbols, WordReader
from scratchlab.hardware import usable_cores

EXAMPLES = 3
EXAMPLE_CHARACTERS = 200


def overlap_of(
    corpus: Corpus, test: EvaluationText, *, threads: int | None = None, report: Report = ignore
) -> OverlapRecord:
    """What of `test` the training split of `corpus` contains. `threads` are as many as there are cores, unless given.

    overlap_of(open_corpus("corpora/mine"), evaluation_text("hellaswag_val.jsonl")).share
    """
    return overlap(
        corpus.split("train"),
        corpus.tokenizer,
        test.documents,
        test.symbols,
        name=test.document_name,
        threads=threads or usable_cores(),
        report=report,
    )


def overlap(
    train: Documents,
    train_tokenizer: Symbols,
    test: Documents,
    test_tokenizer: Symbols,
    *,
    name: Callable[[int], str] = by_number,
    threads: int = 1,
    report: Report = ignore,
) -> OverlapRecord:
    """What of the documents of `test` occurs in `train`. The tokenizers may differ: the text is compared.

    `name` says what an example is called, by the number of the document. Memory does not grow with the texts.
    """
    reader = WordReader(test_tokenizer)
    test_text = Text(test, test_tokenizer, reader)
    train_reader = reader if train_tokenizer is test_tokenizer else WordReader(train_tokenizer)
    wanted = Wanted(test_text)
    search(Text(train, train_tokenizer, train_reader), wanted, threads, report)
    return _record(test_text, wanted, name)


def _record(test: Text, wanted: Wanted, name: Callable[[int], str]) -> OverlapRecord:
    """Read the test text once more and count, document by document."""
    found, sums, best = wanted.found(), np.zeros(7, np.int64), list[tuple[int, int, int]]()
    for first, (ngrams, compared, hits) in _counts(test, found):
        some = hits > 0
        cases = (ngrams == 0, compared > 0, some, some & (2 * hits >= compared))
        sums += [ngrams.sum(), compared.sum(), hits.sum(), *(case.sum() for case in cases)]
        most = np.argsort(-hits, kind="stable")[:EXAMPLES]
        best += [(int(hits[at]), -first - at, int(compared[at])) for at in most.tolist() if hits[at]]
        best = heapq.nlargest(EXAMPLES, best)
    ngrams, compared, hits, short, documents, some, half = sums.tolist()
    return OverlapRecord(
        n=N,
        documents=len(test.documents),
        documents_compared=wanted.documents,
        documents_copied=wanted.copied,
        documents_too_short=short,
        ngrams=ngrams,
        ngrams_compared=compared,
        ngrams_found=hits,
        documents_with_ngrams=documents,
        documents_with_any=some,
        documents_with_half=half,
        examples=tuple(
            OverlapExampleRecord(document=name(-at), ngrams=of, found=hits, text=_first_found(test, -at, found))
            for hits, at, of in best
        ),
    )


def _counts(test: Text, found: Found) -> Iterator[tuple[int, Ints]]:
    """The first of some consecutive documents, and for each its n-grams, those in the sample, and those found.

    Counts of shape (3, documents).
    """
    so_far = np.zeros((3, 1), np.int64)  # of the document that is not at its end yet
    for stretch, (documents, whole, kept) in ngrams_of(test, test.documents):
        kinds = (whole, kept, found.among(kept, stretch.words.numbers))
        first, size = stretch.ended.start, len(stretch.ended) + 1
        counts = np.stack([np.bincount(documents[kind] - first, minlength=size) for kind in kinds])
        counts[:, :1] += so_far
        yield first, counts[:, :-1]
        so_far = counts[:, -1:]


def _first_found(test: Text, document: int, found: Found) -> str:
    """The text, or its beginning, of the first n-gram of a document that was found; white space as single spaces."""
    end = int(test.stream.document_starts[document + 1])
    for stretch, (_, _, kept) in ngrams_of(test, range(document, document + 1)):
        hits = np.flatnonzero(found.among(kept, stretch.words.numbers))
        if len(hits):
            first, last = stretch.words.places[hits[0] + np.array([0, N - 1])].tolist()
            text = b"".join(test.pieces(first, min(last + LONGEST, end)))
            words = list(WORD.finditer(text))
            shown = " ".join(text[words[0].start() : words[N - 1].end()].decode(errors="replace").split())
            return shown if len(shown) <= EXAMPLE_CHARACTERS else shown[:EXAMPLE_CHARACTERS] + "..."
    raise AssertionError("a document in which something was found has an n-gram that was found")
