"""The formats that text comes in: how a file is cut into spans, and how a span is read."""

import itertools
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from scratchlab.corpus.sources import documents
from scratchlab.corpus.sources.documents import UNPUBLISHED, Document, Span, decode, in_parts, next_cut, sound
from scratchlab.corpus.sources.hub_datasets import HUB_FORMAT, read_dataset
from scratchlab.corpus.sources.opened import COMPRESSED, is_plain, opened
from scratchlab.corpus.sources.tables import (
    check_csv,
    cut_lines,
    cut_row_groups,
    read_csv,
    read_json_lines,
    read_parquet,
)
from scratchlab.corpus.sources.token_sets import cut_tokens, read_tokens
from scratchlab.corpus.sources.urls import is_url
from scratchlab.errors import CorpusError
from scratchlab.extras import require

BLOCK_BYTES = 2**20
"""Of a compressed text: what is unpacked at once."""


@dataclass(frozen=True, slots=True)
class Format:
    """`suffixes` of its files; `cut`, from a span of a whole file to spans of it; `read`, from a span to documents."""

    suffixes: tuple[str, ...]
    cut: Callable[[Span], list[Span]]
    read: Callable[[Span], Iterator[Document]]


def read_span(span: Span) -> Iterator[Document]:
    """The documents of a span, in order, long ones in parts; blank ones too.

    Raises CorpusError, naming the file, for what is missing, unreadable, damaged or no text.
    """
    found = FORMATS[span.format].read(span)
    if span.format == "text":  # comes sound and in parts
        yield from found
    else:
        for document in found:
            yield from in_parts(sound(document))


def format_of(path: str) -> str | None:
    """The format that a file's name says, whether it is compressed or not; None for a name that says nothing."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    return next((name for name, form in FORMATS.items() if last in form.suffixes), None)


def _whole(span: Span) -> list[Span]:
    return [span]


def _cut_text(span: Span) -> list[Span]:
    """A plain file that is long becomes a span for each part; but one at a URL would have to be read for that."""
    if not is_plain(span) or is_url(span.path) or span.size <= documents.PART_BYTES:
        return [span]
    edges = [0]
    with opened(span) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        while edges[-1] < len(data):
            edges.append(next_cut(data, edges[-1]))
    return [
        replace(span, start=start, stop=stop, size=stop - start, continues=start > 0)
        for start, stop in itertools.pairwise(edges)
    ]


def _read_text(span: Span) -> Iterator[Document]:
    with opened(span) as file:
        if is_plain(span) and (span.stop is not None or span.size <= documents.PART_BYTES):
            file.seek(span.start)
            parts = iter([file.read(-1 if span.stop is None else span.stop - span.start)])
        else:
            parts = _parts_of_stream(file)
        at = span.start
        for part in parts:
            yield replace(decode(part, span.name, at), continues=at > 0)
            at += len(part)


def _parts_of_stream(file: BinaryIO) -> Iterator[bytes]:
    """The parts that `_cut_text` would cut, of bytes that come one after another."""
    held = bytearray()
    while block := file.read(BLOCK_BYTES):
        held += block
        while (stop := next_cut(held, 0)) < len(held):
            yield bytes(held[:stop])
            del held[:stop]
    yield bytes(held)


def _read_html(span: Span) -> Iterator[Document]:
    require("Reading HTML", "blog", "selectolax")
    from scratchlab.corpus.sources.html_text import Removed, text_of_html

    removed: Removed = {}
    with opened(span) as file:
        page = decode(file.read(), span.name)
    try:
        text = text_of_html(page.text, removed)
    except RecursionError as error:
        raise CorpusError(f"{span.name} has tags too deep inside one another. Leave it out.") from error
    kinds = {kind: tuple(pieces) for kind, pieces in sorted(removed.items()) if pieces}
    yield replace(page, text=text, removed=kinds)


def _read_post(span: Span) -> Iterator[Document]:
    from scratchlab.corpus.sources.jekyll import clean_post

    with opened(span) as file:
        raw = decode(file.read(), span.name)
    post = clean_post(raw.text, span.name, span.reading.code)
    if post.published:
        yield replace(raw, text=post.text, removed=post.removed)
    else:
        yield Document("", span.name, removed={UNPUBLISHED: (post.text,)})


def _read_python_docs(span: Span) -> Iterator[Document]:
    from scratchlab.corpus.sources.pythondocs import python_docs

    for name, text in python_docs():
        yield Document(text, f"{span.path}/{name}")


FORMATS = {
    "text": Format((".txt", ".md", ".markdown", ".text"), _cut_text, _read_text),
    "html": Format((".html", ".htm", ".xhtml"), _whole, _read_html),
    "jsonl": Format((".jsonl", ".ndjson"), cut_lines, read_json_lines),
    "csv": Format((".csv", ".tsv"), check_csv, read_csv),
    "parquet": Format((".parquet",), cut_row_groups, read_parquet),
    "tokens": Format((".bin", ".npy", ".safetensors"), cut_tokens, read_tokens),
    "post": Format((), _whole, _read_post),
    "python-docs": Format((), _whole, _read_python_docs),
    HUB_FORMAT: Format((), _whole, read_dataset),
}

TABLES = ("jsonl", "csv", "parquet", HUB_FORMAT)
"""The formats of which one column is read."""
