"""Training a tokenizer on the text that a plan keeps."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from scratchlab.corpus.building.encode import Task, fragments
from scratchlab.corpus.building.tally import Tally
from scratchlab.corpus.building.workers import Map
from scratchlab.corpus.numbers import NoNumberError
from scratchlab.corpus.sources.documents import Document, key_of
from scratchlab.corpus.splits import SPLITS
from scratchlab.corpus.tokenizer import Tokenizer, learns_from_all_splits, parse_tokenizer, train_tokenizer
from scratchlab.errors import CorpusError

TRAINING_BYTES = 2**29
"""Of a larger text BPE learns from a sample of about this size: its counts must fit into memory."""

TRAIN = SPLITS.index("train")

Found = TypeVar("Found")


def learn_tokenizer(
    spec: str,
    tasks: Sequence[Task],
    size: int,
    specials: Sequence[str],
    end_of_text: bool,
    origin: str,
    over: Map,
    report: Callable[[int], None],
) -> Tokenizer:
    """A tokenizer of the kind that `spec` says, from text of `size` bytes, called `origin` in messages.

    BPE must not learn from the text that it will be judged on; characters are those of all splits, or the text of the
    others could not be written. `report` is told, piece by piece, how many bytes of the sources' files were read.
    CorpusError names the document in which something is no number.
    """
    kind, _ = parse_tokenizer(spec)
    train = partial(train_tokenizer, spec, end_of_text=end_of_text, specials=specials, origin=origin)
    if kind == "char":
        return train(_told(over(_characters, tasks), report))
    if learns_from_all_splits(kind):
        pieces = ((_documents(task), task.piece.size) for task in tasks)
    else:
        share = TRAINING_BYTES / size if kind == "bpe" else 1
        pieces = ((_training_documents(task, share), task.piece.size) for task in tasks)
    return _naming_documents(train, itertools.chain.from_iterable(_told(pieces, report)))


def _naming_documents(train: Callable[[Iterable[str]], Tokenizer], documents: Iterable[Document]) -> Tokenizer:
    """What `train` makes of the documents' texts; an error about what one of them holds says which."""
    name = ""

    def texts() -> Iterator[str]:
        nonlocal name
        for document in documents:
            name = document.name
            yield document.text

    try:
        return train(texts())
    except NoNumberError as error:  # it is in the text that was given last
        raise CorpusError(f"{name}: {error}") from error


def _told(pieces: Iterable[tuple[Found, int]], report: Callable[[int], None]) -> Iterator[Found]:
    """What was found in each piece; its size is added to what is reported when the next one is asked for."""
    done = 0
    report(done)
    for found, size in pieces:
        yield found
        done += size
        report(done)


def _characters(task: Task) -> tuple[str, int]:
    """Every character of a piece, once; and the size of the piece."""
    found = set[str]()
    for document in _documents(task):
        found.update(document.text)
    return "".join(sorted(found)), task.piece.size


def _documents(task: Task) -> Iterator[Document]:
    """What is kept of a piece."""
    return (fragment.document for fragment in fragments(task, Tally()))


def _training_documents(task: Task, share: float) -> Iterator[Document]:
    """Its training split, or the `share` of its documents whose keys lie lowest."""
    for fragment in fragments(task, Tally()):
        document = fragment.document
        if fragment.split == TRAIN and (share >= 1 or key_of(document.content())[1] < share * 2**64):
            yield document
