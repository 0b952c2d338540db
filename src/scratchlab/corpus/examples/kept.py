"""Which examples of the sources a corpus keeps, and in which split each is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.building.tally import Tally
from scratchlab.corpus.examples.rows import (
    Conversation,
    Gathered,
    Labeled,
    Pair,
    gather_conversations,
    gather_labeled,
    gather_pairs,
)
from scratchlab.corpus.manifest import ExampleKind, MoveRecord
from scratchlab.corpus.sources.documents import key_of, printable
from scratchlab.corpus.splits import ENOUGH_FOR_HASH, SPLITS, SplitRule, fill_empty, regions, split_by_hash
from scratchlab.errors import CorpusError, UsageError
from scratchlab.files import canonical_json

Example = Conversation | Labeled | Pair
Places = npt.NDArray[np.uint8]
"""The place in SPLITS of each example."""

GATHER: Mapping[ExampleKind, Callable[[str], Gathered[Conversation] | Gathered[Labeled] | Gathered[Pair]]] = {
    "instructions": gather_conversations,
    "labels": gather_labeled,
    "pairs": gather_pairs,
}
EMPTY = "empty response"


@dataclass(frozen=True, slots=True)
class Kept:
    """An example that is kept."""

    example: Example
    source: int
    """The place of its source among all."""
    name: str
    """For people, and by which answers to it are told apart: its id, with its source where there are several."""

    @property
    def key(self) -> int:
        """Of what is asked, whatever the answer."""
        example = self.example
        question = example.text if isinstance(example, Labeled) else example.prompt
        return key_of(canonical_json(question).encode(errors="surrogatepass"))[0]


@dataclass(frozen=True, slots=True)
class Examples:
    """What the sources hold, less what teaches nothing."""

    kept: tuple[Kept, ...]
    removed: tuple[Tally, ...]
    """By source."""
    revisions: tuple[str | None, ...]


def gather(sources: Sequence[str], kind: ExampleKind) -> Examples:
    """The examples of all sources, without those of which nothing can be learned and without exact copies.

    CorpusError for a file in which something is wrong, and where nothing is left.
    """
    kept, seen, tallies = list[Kept](), set[str](), [Tally() for _ in sources]
    gathered = [GATHER[kind](source) for source in sources]
    for place, (source, found) in enumerate(zip(sources, gathered, strict=True)):
        for example in found.examples:
            name = example.id if len(sources) == 1 else f"{printable(source)}: {example.id}"
            content = canonical_json(_content(example))
            if reason := _lacks(example) or ("duplicate" if content in seen else None):
                tallies[place].drop(reason, name, content)
            else:
                kept.append(Kept(example, place, name))
            seen.add(content)
    if not kept:
        reasons = ", ".join(sorted({reason for tally in tallies for reason in tally.kinds}))
        raise CorpusError(f"{', '.join(map(printable, sources))}: no example is left ({reasons}).")
    return Examples(tuple(kept), tuple(tallies), tuple(found.revision for found in gathered))


def _lacks(example: Example) -> str | None:
    """Why nothing can be learned from an example."""
    match example:
        case Labeled(text=text):
            return None if text.strip() else "blank"
        case Conversation(reference=None):
            return "no response"
        case Conversation(reference=response):
            return None if str(response).strip() else EMPTY
        case Pair(prompt=()):
            return "neither preferred"
        case Pair(chosen=chosen, rejected=rejected):
            chosen, rejected = chosen.strip(), rejected.strip()
            return "equal answers" if chosen == rejected else None if chosen and rejected else EMPTY


def _content(example: Example) -> object:
    """What makes two examples the same."""
    match example:
        case Conversation():
            return example.messages
        case Labeled():
            return [example.text, example.label]
        case Pair():
            return [example.prompt, example.chosen, example.rejected]


def in_splits(rule: SplitRule | None, kept: Sequence[Kept]) -> tuple[SplitRule, Places, tuple[MoveRecord, ...]]:
    """The rule (one that suits them, if none is given), where each example goes, and what was moved lest a split that
    is wanted be empty.

    By hash, examples of one question are in one split. Contiguous regions are counted in examples.
    """
    rule = rule or SplitRule("hash" if len(kept) >= ENOUGH_FOR_HASH else "contiguous")
    moved: tuple[MoveRecord, ...] = ()
    match rule.kind:
        case "names":
            raise UsageError("split names: it is for token sets. Examples are split by hash or contiguous.")
        case "contiguous":
            places = np.empty(len(kept), np.uint8)
            for split, start, stop in regions(rule, len(kept)):
                places[start:stop] = split
        case "hash":
            keys = np.array([one.key for one in kept], np.uint64)
            questions, firsts, of_question = np.unique(keys, return_index=True, return_inverse=True)
            found = split_by_hash(rule, questions)
            moved = tuple(
                MoveRecord(document=kept[firsts[question]].name, origin=SPLITS[origin], to=SPLITS[found[question]])
                for question, origin in fill_empty(rule, found, questions)
            )
            places = found[of_question]
    if empty := [SPLITS[place] for place in rule.wanted if not (places == place).any()]:
        raise CorpusError(
            f"Split {rule} leaves none of {len(kept)} examples for {' and '.join(empty)}. Give more, or set its share "
            "to 0."
        )
    return rule, places, moved


def asked_in_training(kept: Sequence[Kept], places: Places, split: int) -> int:
    """How many examples of a split that does not train have a question that the training split has too."""
    trained = {one.key for one, place in zip(kept, places, strict=True) if place == 0}
    return sum(one.key in trained for one, place in zip(kept, places, strict=True) if place == split) if split else 0
