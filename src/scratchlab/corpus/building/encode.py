"""The second reading of a piece: its documents become tokens, split by split."""

import contextlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np

from scratchlab.corpus.building import filters
from scratchlab.corpus.building.plan import (
    CODES,
    CONTINUES,
    CUT,
    DUPLICATE,
    GOES_ON,
    NEAR_DUPLICATE,
    WHERE,
    Cuts,
    Regions,
)
from scratchlab.corpus.building.plan import STAGE as PLAN
from scratchlab.corpus.building.survey import read_again, text_size
from scratchlab.corpus.building.tally import Tally
from scratchlab.corpus.building.work import ROW, Piece, Work, stored_tokenizer
from scratchlab.corpus.sources.documents import Document
from scratchlab.corpus.splits import SPLITS
from scratchlab.corpus.tokenizer import TokenIds, Tokenizer
from scratchlab.errors import CorpusError

STAGE = "encode"
BETWEEN_NUMBERS = re.compile(r"[\s,]")
TOKENS, ROWS = "tokens", "rows"


@dataclass(frozen=True, slots=True)
class Task:
    """A piece to be encoded, and how."""

    work: Work
    piece: Piece
    filters: tuple[str, ...]
    cuts: Cuts
    """Those within the piece, by the place of the record in it."""
    separate: bool
    """Whether documents are separated by `<|endoftext|>`."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """What goes into one split at once: a document, or a part of one."""

    split: int
    document: Document
    continues: bool
    """Whether it goes on from the fragment before it in the same split."""
    goes_on: bool


def fragments(task: Task, tally: Tally) -> Iterator[Fragment]:
    """What the plan keeps of a piece, in order; duplicates go to the tally."""
    codes = task.work.load(PLAN, task.piece.number, CODES).tolist()
    documents = read_again(task.work, task.piece, task.filters)
    for place, (code, document) in enumerate(zip(codes, documents, strict=True)):
        where, continues, goes_on = code & WHERE, bool(code & CONTINUES), bool(code & GOES_ON)
        if where == DUPLICATE:
            tally.drop(filters.DUPLICATE, document.name, document.text, whole=not document.continues)
        elif where == NEAR_DUPLICATE:
            tally.drop(filters.NEAR_DUPLICATE, document.name, document.text)
        elif where != CUT:
            yield Fragment(where, document, continues, goes_on)
        else:
            regions = task.cuts[place]
            if task.piece.spans[0].reading.series and document.tokens is None:
                regions = between_numbers(document.text, regions)
            yield from _cut(document, regions, continues, goes_on)


def between_numbers(text: str, regions: Regions) -> Regions:
    """The regions of a text of numbers, each cut moved on to where a number ends."""
    edges = [0, *(_end_of_number(text, stop) for _, _, stop in regions)]
    splits = [split for split, _, _ in regions]
    return [(split, *edge) for split, edge in zip(splits, itertools.pairwise(edges), strict=True)]


def _end_of_number(text: str, place: int) -> int:
    found = BETWEEN_NUMBERS.search(text, place)
    return found.start() if found else len(text)


def _cut(document: Document, regions: Regions, continues: bool, goes_on: bool) -> Iterator[Fragment]:
    """The stretches of a document that lie in different splits: each but the last ends there."""
    for number, (split, start, stop) in enumerate(regions):
        name = f"{document.name}, from character {start:,} on" if start else document.name  # positions count from there
        part = replace(document, text=document.text[start:stop], name=name)
        if document.tokens is not None:
            part = replace(document, tokens=document.tokens[start:stop])
        yield Fragment(split, part, continues and number == 0, goes_on and number == len(regions) - 1)


@dataclass(frozen=True, slots=True)
class _Output:
    """What a piece gives to one split."""

    file: IO[bytes]
    rows: list[tuple[int, int, int, bool]]


def encode_piece(task: Task) -> dict[str, Any]:
    """Read a piece for the second time and write its tokens; gives its record."""
    tokenizer, tally = stored_tokenizer(task.work), Tally()
    stored = tokenizer.dtype.newbyteorder("<")
    separator = np.array([tokenizer.end_of_text] if task.separate else [], stored)
    outputs: dict[str, _Output] = {}
    with contextlib.ExitStack() as stack:
        for fragment in fragments(task, tally):
            split = SPLITS[fragment.split]
            if split not in outputs:
                file = task.work.new_file(STAGE, task.piece.number, f"{split}.{TOKENS}")
                outputs[split] = _Output(stack.enter_context(file), [])
            _add(outputs[split], fragment, tokenizer, separator)
    for split, output in outputs.items():
        task.work.save(STAGE, task.piece.number, f"{split}.{ROWS}", np.array(output.rows, ROW))
    rows = [row for output in outputs.values() for row in output.rows]
    record = {
        "documents": sum(not continues for *_, continues in rows),
        "tokens": sum(tokens for tokens, *_ in rows),
        "size": task.piece.size,
        "removed": tally.to_json(),
    }
    made = [f"{split}.{what}" for split in outputs for what in (TOKENS, ROWS)]
    task.work.finish(STAGE, task.piece.number, record, made)
    return record


def _add(output: _Output, fragment: Fragment, tokenizer: Tokenizer, separator: TokenIds) -> None:
    tokens = _encode(fragment.document, tokenizer)
    characters, size = text_size(fragment.document, tokenizer)
    output.file.write(tokens.astype(separator.dtype, copy=False).data)
    if not fragment.goes_on:
        output.file.write(separator.data)
    length = len(tokens) + (0 if fragment.goes_on else len(separator))
    output.rows.append((length, size, characters, fragment.continues))


def _encode(document: Document, tokenizer: Tokenizer) -> TokenIds:
    if document.tokens is not None:
        return document.tokens.astype(tokenizer.dtype)
    try:
        return tokenizer.encode(document.text)
    except CorpusError as error:
        raise CorpusError(f"{document.name}: {error}") from error
