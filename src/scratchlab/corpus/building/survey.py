"""The first reading of a piece: what documents it holds, and what cleaning takes out of them.

Their text is not kept. Of each document 33 bytes are, by which duplicates are found and splits are made.
"""

import contextlib
import functools
import gzip
import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from scratchlab.corpus.building.filters import Filter, clean, parse_filters
from scratchlab.corpus.building.tally import Tally
from scratchlab.corpus.building.work import SURVEYED, Array, Piece, Work, stored_tokenizer
from scratchlab.corpus.sources.documents import Document, key_of
from scratchlab.corpus.sources.formats import read_span
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import CorpusError

STAGE = "survey"
RECORDS, SIGNATURES, SPOOL = "records", "signatures", "spool.gz"
REMOTE = ("hub",)
"""Formats that come over a network: what was read is kept for the second reading."""


@dataclass(frozen=True, slots=True)
class Task:
    """A piece to be surveyed, and how."""

    work: Work
    piece: Piece
    filters: tuple[str, ...]
    near_duplicates: bool


def survey_piece(task: Task) -> dict[str, Any]:
    """Read a piece for the first time and keep what later stages need to know of it; gives its record."""
    tally, records, signatures = Tally(), list[tuple[Any, ...]](), list[Any]()
    with _spool(task) as spool:
        for document in _clean_documents(task.piece, parse_filters(task.filters), tally):
            records.append(_record(document, task.work))
            if task.near_duplicates:
                signatures.append(_signature(document.text))
            if spool:
                spool.write(json.dumps([document.name, document.text, document.continues]) + "\n")
    found = np.array(records, SURVEYED)
    task.work.save(STAGE, task.piece.number, RECORDS, found)
    if task.near_duplicates:
        task.work.save(STAGE, task.piece.number, SIGNATURES, np.array(signatures, np.uint32).reshape(len(found), -1))
    record = {
        "documents": int((~found["continues"]).sum()),
        "bytes": int(found["bytes"].sum()),
        "characters": int(found["characters"].sum()),
        "size": task.piece.size,
        "removed": tally.to_json(),
    }
    made = [RECORDS, *[SIGNATURES] * task.near_duplicates, *[SPOOL] * _is_remote(task.piece)]
    task.work.finish(STAGE, task.piece.number, record, made)
    return record


def read_again(work: Work, piece: Piece, filters: tuple[str, ...]) -> Iterator[Document]:
    """The documents of a piece as the survey found them, in the same order; CorpusError if they are not the same."""
    surveyed = work.load(STAGE, piece.number, RECORDS)
    expected = iter(zip(surveyed["high"].tolist(), surveyed["low"].tolist(), strict=True))
    for document in _documents_again(work, piece, filters):
        if key_of(document.content()) != next(expected, None):
            raise _changed(document.name)
        yield document
    if next(expected, None):
        raise _changed(piece.spans[-1].name)


def _documents_again(work: Work, piece: Piece, filters: tuple[str, ...]) -> Iterator[Document]:
    if not _is_remote(piece):
        yield from _clean_documents(piece, parse_filters(filters), Tally())
        return
    with gzip.open(work.path(STAGE, piece.number, SPOOL), "rt", encoding="utf-8") as lines:
        for line in lines:
            name, text, continues = json.loads(line)
            yield Document(text, name, continues)


def _clean_documents(piece: Piece, filters: tuple[Filter, ...], tally: Tally) -> Iterator[Document]:
    for span in piece.spans:
        for document in read_span(span):
            if kept := clean(document, filters, tally):
                yield kept


def _record(document: Document, work: Work) -> tuple[Any, ...]:
    content = document.content()
    if document.tokens is None:
        return *key_of(content), len(document.text), len(content), document.continues
    # Regions of token sets are counted in tokens.
    return *key_of(content), len(document.tokens), text_size(document, stored_tokenizer(work))[1], document.continues


def text_size(document: Document, tokenizer: Tokenizer) -> tuple[int, int]:
    """Characters and UTF-8 bytes of a document. CorpusError if its tokens are of another tokenizer."""
    if document.tokens is None:
        return len(document.text), len(document.text.encode())
    if (largest := int(document.tokens.max(initial=0))) >= tokenizer.vocab_size:
        raise CorpusError(
            f"{document.name} holds token {largest}, and the tokenizer has {tokenizer.vocab_size} symbols. Give the "
            "tokenizer that these tokens were made with (--tokenizer)."
        )
    characters, sizes = _symbol_sizes(tokenizer)
    return int(characters[document.tokens].sum()), int(sizes[document.tokens].sum())


@functools.lru_cache(maxsize=1)
def _symbol_sizes(tokenizer: Tokenizer) -> tuple[Array, Array]:
    """Of each symbol, how many characters begin in it, and its bytes."""
    symbols = [np.frombuffer(tokenizer.token_bytes(token), np.uint8) for token in range(tokenizer.vocab_size)]
    begins = [int((symbol & 0xC0 != 0x80).sum()) for symbol in symbols]  # a byte 10...... goes on with a character
    return np.array(begins), np.array([len(symbol) for symbol in symbols])


def _signature(text: str) -> Any:
    from scratchlab.corpus.building.near_duplicates import signature

    return signature(text)


def _is_remote(piece: Piece) -> bool:
    return piece.spans[0].format in REMOTE


@contextlib.contextmanager
def _spool(task: Task) -> Generator[IO[str] | None]:
    """Where the documents of a remote piece are kept."""
    if not _is_remote(task.piece):
        yield None
        return
    with (
        task.work.new_file(STAGE, task.piece.number, SPOOL) as file,
        gzip.open(file, "wt", compresslevel=1, encoding="utf-8") as spool,
    ):
        yield spool


def _changed(name: str) -> CorpusError:
    return CorpusError(
        f"The text changed while the corpus was being built: {name} is not what it was when first read, or a file near "
        "it came or went. Nothing was kept; build again."
    )
