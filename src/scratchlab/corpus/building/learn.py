"""Training a tokenizer on the text that a plan keeps."""

from collections.abc import Iterator, Sequence

from scratchlab.corpus.building.encode import Task, fragments
from scratchlab.corpus.building.tally import Tally
from scratchlab.corpus.building.workers import Map
from scratchlab.corpus.sources.documents import key_of
from scratchlab.corpus.splits import SPLITS
from scratchlab.corpus.tokenizer import Tokenizer, learns_from_all_splits, parse_tokenizer, train_tokenizer

TRAINING_BYTES = 2**29
"""Of a larger text BPE learns from a sample of about this size: its counts must fit into memory."""

TRAIN = SPLITS.index("train")


def learn_tokenizer(
    spec: str, tasks: Sequence[Task], size: int, specials: Sequence[str], end_of_text: bool, origin: str, over: Map
) -> Tokenizer:
    """A tokenizer of the kind that `spec` says, from text of `size` bytes, called `origin` in messages.

    BPE must not learn from the text that it will be judged on; characters are those of all splits, or the text of the
    others could not be written.
    """
    kind, _ = parse_tokenizer(spec)
    if kind == "char":
        texts: Iterator[str] = over(_characters, tasks)
    elif learns_from_all_splits(kind):
        texts = (fragment.document.text for task in tasks for fragment in fragments(task, Tally()))
    else:
        texts = _training_texts(tasks, TRAINING_BYTES / size if kind == "bpe" else 1)
    return train_tokenizer(spec, texts, end_of_text=end_of_text, specials=specials, origin=origin)


def _characters(task: Task) -> str:
    """Every character of a piece, once."""
    found = set[str]()
    for fragment in fragments(task, Tally()):
        found.update(fragment.document.text)
    return "".join(sorted(found))


def _training_texts(tasks: Sequence[Task], share: float) -> Iterator[str]:
    """The training split, or the `share` of its documents whose keys lie lowest."""
    for task in tasks:
        for fragment in fragments(task, Tally()):
            document = fragment.document
            if fragment.split == TRAIN and (share >= 1 or key_of(document.content())[1] < share * 2**64):
                yield document.text
