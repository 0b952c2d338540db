"""The second reading of a piece: its documents become tokens, split by split."""

import contextlib
import os
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from scratchlab.corpus.building.filters import Tally
from scratchlab.corpus.building.plan import (
    CODES,
    CONTINUES,
    CUT,
    DUPLICATE,
    GOES_ON,
    NEAR_DUPLICATE,
    WHERE,
    Cuts,
)
from scratchlab.corpus.building.plan import STAGE as PLAN
from scratchlab.corpus.building.survey import read_again, text_size
from scratchlab.corpus.building.work import ROW, Piece, Work, stored_tokenizer
from scratchlab.corpus.sources.documents import Document
from scratchlab.corpus.splits import SPLITS
from scratchlab.corpus.tokenizer import TokenIds, Tokenizer
from scratchlab.errors import CorpusError
from scratchlab.files import disk_errors

STAGE = "encode"
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
            tally.drop("duplicate", document)
        elif where == NEAR_DUPLICATE:
            tally.drop("near duplicate", document)
        elif where != CUT:
            yield Fragment(where, document, continues, goes_on)
        else:
            yield from _cut(document, task.cuts[place], continues, goes_on)


def _cut(document: Document, regions: list[tuple[int, int, int]], continues: bool, goes_on: bool) -> Iterator[Fragment]:
    """The stretches of a document that lie in different splits: each but the last ends there."""
    for number, (split, start, stop) in enumerate(regions):
        part = replace(document, text=document.text[start:stop])
        if document.tokens is not None:
            part = replace(document, tokens=document.tokens[start:stop])
        yield Fragment(split, part, continues and number == 0, goes_on and number == len(regions) - 1)


@dataclass(slots=True)
class _Output:
    """What a piece gives to one split."""

    file: IO[bytes]
    path: Path
    rows: list[tuple[int, int, int, bool]] = field(default_factory=list[tuple[int, int, int, bool]])
    totals: Counter[str] = field(default_factory=Counter[str])


def encode_piece(task: Task) -> dict[str, Any]:
    """Read a piece for the second time and write its tokens; gives its record."""
    tokenizer, tally = stored_tokenizer(task.work), Tally()
    separator = np.array([tokenizer.end_of_text] if task.separate else [], tokenizer.dtype)
    outputs: dict[str, _Output] = {}
    with contextlib.ExitStack() as stack:
        for fragment in fragments(task, tally):
            split = SPLITS[fragment.split]
            if split not in outputs:
                outputs[split] = stack.enter_context(_output(task, split))
            _add(outputs[split], fragment, tokenizer, separator)
    totals = sum((output.totals for output in outputs.values()), Counter[str]())
    record = {
        "documents": totals["documents"],
        "tokens": totals["tokens"],
        "size": task.piece.size,
        "removed": tally.to_json(),
    }
    task.work.finish(STAGE, task.piece.number, record)
    return record


@contextlib.contextmanager
def _output(task: Task, split: str) -> Generator[_Output]:
    """Tokens and rows of a split; they get their names when they are whole."""
    path = task.work.path(STAGE, task.piece.number, f"{split}.{TOKENS}")
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with disk_errors(path, path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb", buffering=2**20) as file:
            output = _Output(file, path)
            yield output
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    task.work.save(STAGE, task.piece.number, f"{split}.{ROWS}", np.array(output.rows, ROW))


def _add(output: _Output, fragment: Fragment, tokenizer: Tokenizer, separator: TokenIds) -> None:
    tokens = _encode(fragment.document, tokenizer)
    characters, size = text_size(fragment.document, tokenizer)
    ending = separator[: 0 if fragment.goes_on else 1]
    for part in (tokens, ending):
        output.file.write(part.astype(part.dtype.newbyteorder("<"), copy=False).data)
    row = (len(tokens) + len(ending), size, characters, fragment.continues)
    output.rows.append(row)
    output.totals.update(documents=not fragment.continues, tokens=row[0])


def _encode(document: Document, tokenizer: Tokenizer) -> TokenIds:
    if document.tokens is not None:
        return document.tokens.astype(tokenizer.dtype)
    try:
        return tokenizer.encode(document.text)
    except CorpusError as error:
        raise CorpusError(f"{document.name}: {error}") from error
