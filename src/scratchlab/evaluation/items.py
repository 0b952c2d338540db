"""The items of a task: read from rows of three layouts, checked, and put into words with examples before them."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scratchlab.corpus.sources.rows import Row
from scratchlab.errors import CorpusError


@dataclass(frozen=True, slots=True)
class Item:
    """A question with its candidates: pairs of a text and what may follow it, of which one is right."""

    number: int
    """Its place in the file, from 1."""
    contexts: tuple[str, ...]
    """One for each continuation; they differ where the text before a common ending is what is asked for."""
    continuations: tuple[str, ...]
    gold: int
    """The place of the right one. A single candidate is right where the model would write it."""


LAYOUTS: Mapping[frozenset[str], str] = {
    frozenset({"query", "choices", "gold"}): "choices",
    frozenset({"context_options", "continuation", "gold"}): "schema",
    frozenset({"context", "continuation"}): "completion",
}
"""The fields of a row, as llm-foundry and DCLM lay them out, and what kind of item it is."""


def read_items(rows: Iterable[tuple[str, Row | ValueError]]) -> list[Item]:
    """The items of a file, each given with the place it has there, for messages; or with why it cannot be read.

    CorpusError with every row that is no item, and if there is none at all or their kinds differ.
    """
    items, problems, kinds = list[Item](), list[str](), set[str]()
    for number, (place, row) in enumerate(rows, start=1):
        try:
            if isinstance(row, ValueError):
                raise row
            kind, item = _item(number, row)
        except ValueError as error:
            problems.append(f"{place} (item {number:,}): {error}")
        else:
            kinds.add(kind)
            items.append(item)
    if problems:
        shown, more = problems[:10], len(problems) - 10
        raise CorpusError("\n".join([*shown, *([f"and {more:,} more like these."] if more > 0 else [])]))
    if not items:
        raise CorpusError("there is no item in it.")
    if len(kinds) > 1:
        raise CorpusError(f"its items are of several kinds ({', '.join(sorted(kinds))}): make a file of each.")
    return items


def is_laid_out(row: Row) -> bool:
    """Whether a row has the fields of one of the layouts."""
    return any(fields <= row.keys() for fields in LAYOUTS)


def _item(number: int, row: Row) -> tuple[str, Item]:
    kind = _kind(row)
    if kind == "completion":
        return kind, Item(number, (text_of(row, "context"),), (text_of(row, "continuation"),), 0)
    many, one = ("choices", "query") if kind == "choices" else ("context_options", "continuation")
    options, common, gold = row[many], text_of(row, one), row["gold"]
    if not isinstance(options, Sequence) or isinstance(options, str) or len(options) < 2:
        raise ValueError(f"{many}: expected a list of two texts or more, not {options!r:.80}.")
    for option in options:
        if not isinstance(option, str) or not option.strip():
            raise ValueError(f"{many}: expected texts, not {option!r:.80}.")
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(options):
        raise ValueError(f"gold: expected a number from 0 to {len(options) - 1}, not {gold!r:.80}.")
    same, options = (common,) * len(options), tuple(options)
    return kind, Item(number, *((same, options) if kind == "choices" else (options, same)), gold)


def _kind(row: Row) -> str:
    for fields, kind in LAYOUTS.items():
        if fields <= row.keys():
            return kind
    likeliest = max(LAYOUTS, key=lambda fields: (len(fields & row.keys()), -len(fields)))
    missing = ", ".join(sorted(likeliest - row.keys()))
    layouts = "; or ".join(", ".join(sorted(fields)) for fields in LAYOUTS)
    raise ValueError(f"{missing} is missing. Expected the fields {layouts}.")


def text_of(row: Row, field: str) -> str:
    """The text in a field. ValueError if it holds something else, or is not there."""
    if field not in row:
        raise ValueError(f"{field} is missing.")
    text = row[field]
    if not isinstance(text, str) or (not text.strip() and field == "continuation"):
        raise ValueError(f"{field}: expected a text, not {text!r:.80}.")
    return text


@dataclass(frozen=True, slots=True)
class Wording:
    """How items become prompts."""

    shots: int = 0
    """So many other items, with their right answers, come before each."""
    delimiter: str = " "
    """Between a context and what follows it."""
    separator: str = "\n\n"
    """Between one example and the next."""
    prelude: str = ""
    """What stands before all else."""


def worded(items: Sequence[Item], place: int, wording: Wording) -> Item:
    """The item at `place` as it is asked: examples before it, and the delimiter before what follows.

    The examples are drawn anew for each item, always the same ones: from Python's random.Random(1234 + place), as
    nanochat does (nanochat/core_eval.py). The texts are put together as they are, but what is completed loses the white
    space around it: some sets have a space at its end, which would be a token of its own before the answer.
    """
    examples = "".join(
        f"{_context(example, example.gold)}{wording.delimiter}{example.continuations[example.gold]}{wording.separator}"
        for example in (items[other] for other in drawn(len(items), place, wording.shots))
    )
    item, before = items[place], wording.prelude + examples
    contexts = tuple(f"{before}{_context(item, choice)}{wording.delimiter}" for choice in range(len(item.contexts)))
    return Item(item.number, contexts, item.continuations, item.gold)


def drawn(n: int, place: int, shots: int) -> list[int]:
    """The places of the examples for the item at `place`, among n items. CorpusError if there are too few."""
    if n - 1 < shots:
        raise CorpusError(f"{shots} examples cannot be drawn from {n - 1} other items: ask more items of this task.")
    others = random.Random(1234 + place).sample(range(n - 1), shots)  # by length alone: as from a list of the others
    return [other + (other >= place) for other in others]


def _context(item: Item, choice: int) -> str:
    context = item.contexts[choice]
    return context.strip() if len(item.contexts) == 1 else context
