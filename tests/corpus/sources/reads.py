"""Reading whole sources, as a build would: each span goes to another process, and is read there alone."""

import pickle
from pathlib import Path

import pytest

from scratchlab.corpus.sources.documents import Document, Reading, Span
from scratchlab.corpus.sources.find import Listing, Source, list_source
from scratchlab.corpus.sources.formats import read_span
from scratchlab.errors import CorpusError


def listing(location: str | Path, reading: Reading | None = None) -> Listing:
    return list_source(Source(str(location), reading=reading or Reading()))


def documents_of(spans: list[Span]) -> list[Document]:
    found = [list(read_span(pickle.loads(pickle.dumps(span)))) for span in spans]
    again = [list(read_span(span)) for span in reversed(spans)]
    assert [[doc.content() for doc in docs] for docs in found] == [
        [doc.content() for doc in docs] for docs in again[::-1]
    ]
    return [document for documents in found for document in documents]


def read(location: str | Path, reading: Reading | None = None) -> list[Document]:
    return documents_of(listing(location, reading).spans)


def texts(location: str | Path, reading: Reading | None = None) -> list[str]:
    return [document.text for document in read(location, reading)]


def refusal(location: str | Path, reading: Reading | None = None) -> str:
    """The message of the error; it names the file."""
    with pytest.raises(CorpusError) as caught:
        read(location, reading)
    assert Path(location).name in str(caught.value)
    return str(caught.value)
