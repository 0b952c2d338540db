"""Examples out of files: conversations, texts with labels, and answers of which one is preferred.

What is wrong in a file is told at once, each mistake by its line or item.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from scratchlab.corpus.chat import Message, Role, check_messages
from scratchlab.corpus.hub import SCHEME
from scratchlab.corpus.sources.documents import Span, decode, printable
from scratchlab.corpus.sources.opened import COMPRESSED, opened
from scratchlab.corpus.sources.rows import Row, Rows, file_rows, hub_files, rows_of
from scratchlab.corpus.sources.tables import csv_rows
from scratchlab.errors import CorpusError, UsageError

SHOWN = 20  # problems of a file that are named in one message
INPUT = "\n\n### Input:\n"
"""What stands between Alpaca's instruction and its input, in the user's words."""
SHAREGPT: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
}


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages, of which the last, if it is the assistant's, is the reference answer to all before it."""

    messages: tuple[Message, ...]
    id: str
    """What the file calls it, or its place there, from 1."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What is to be answered."""
        return self.messages if self.reference is None else self.messages[:-1]

    @property
    def reference(self) -> str | None:
        last = self.messages[-1]
        return last["content"] if last["role"] == "assistant" else None


@dataclass(frozen=True, slots=True)
class Labeled:
    """A text and what it is."""

    text: str
    label: str
    id: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to a prompt, of which one was preferred."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    id: str
    cut_off: tuple[str, ...] = ()
    """Those of `chosen` and `rejected` that were cut off: their turns did not end."""


Example = TypeVar("Example", Conversation, Labeled, Pair)


@dataclass(frozen=True, slots=True)
class Gathered(Generic[Example]):
    """What a source holds."""

    examples: list[Example]
    revision: str | None = None
    """Of a dataset on the Hub: its commit."""


def read_conversations(path: str | Path) -> list[Conversation]:
    """The conversations of a JSON list or JSON Lines file, or of a dataset on the Hub (`hf:USER/NAME?split=SPLIT`).

    A row is Alpaca's (instruction, input, output), chat messages (`messages`: role, content) or ShareGPT's
    (`conversations`: from, value). CorpusError tells everything that is wrong, by line or item.
    """
    return gather_conversations(path).examples


def gather_conversations(path: str | Path) -> Gathered[Conversation]:
    """What `read_conversations` gives, with the commit of what comes from the Hub."""
    return _gathered(path, _conversation)


def gather_pairs(path: str | Path) -> Gathered[Pair]:
    """The pairs of a file or a dataset, as `read_conversations` has them: rows of prompt, chosen and rejected.

    A prompt is a text or messages; an answer a text, or messages of which the last one is it. `cut_off` names those of
    chosen and rejected that were cut off. A label that prefers neither answer (`scratchlab label`) is a pair without a
    prompt.
    """
    return _gathered(path, _pair)


def gather_labeled(path: str | Path) -> Gathered[Labeled]:
    """The texts with labels of a file or a dataset.

    JSON and CSV name them `text` and `label`. So may a TSV; without such a header a line is a label, a tab and a text,
    as in the SMS spam collection. A TSV has no quotes.
    """
    if str(path).startswith(SCHEME) or not (table := _table_suffix(str(path))):
        return _gathered(path, _labeled)
    span = Span(str(path), "csv")
    return Gathered(_understood(span.name, _csv(span) if table == ".csv" else _tsv(span), _labeled))


# Rows.


def _gathered(path: str | Path, understand: Callable[[Row, str], Example]) -> Gathered[Example]:
    location = str(path)
    if location.startswith(SCHEME):
        files = hub_files(location)
        return Gathered(_understood(location, rows_of(files), understand), files.commit)
    _check_there(location)
    return Gathered(_understood(printable(location), file_rows(location), understand))


def _check_there(location: str) -> None:
    if not Path(location).is_file():
        raise CorpusError(
            f"{printable(location)}: there is no such file. Give a file of examples, or a dataset on the Hub "
            f"({SCHEME}USER/DATASET)."
        )


def _understood(name: str, rows: Rows, understand: Callable[[Row, str], Example]) -> list[Example]:
    """The examples of a source called `name`, or a CorpusError with all that is wrong in it."""
    listed = list(rows)
    found, problems = list[Example](), list[str]()
    for (place, row), own in zip(listed, _ids([row for _, row in listed]), strict=True):
        try:
            if isinstance(row, ValueError):
                raise row
            found.append(understand(row, own))
        except (ValueError, UsageError) as error:
            problems.append(f"{place}: {error}")
    refuse(name, problems)
    if not found:
        raise CorpusError(f"{name} holds no examples.")
    return found


def refuse(name: str, problems: Sequence[str]) -> None:
    """CorpusError with the problems of a source, if there are any."""
    if problems:
        more = [f"and {len(problems) - SHOWN:,} more"] if len(problems) > SHOWN else []
        heading = f"{name}: {len(problems):,} problem{'s' * (len(problems) > 1)}"
        raise CorpusError("\n  ".join([heading, *problems[:SHOWN], *more]))


def _ids(rows: Sequence[Row | ValueError]) -> list[str]:
    """The rows' own ids, where all have one and no two the same; else their places."""
    own = [row.get("id") for row in rows if not isinstance(row, ValueError)]
    named = [str(name) for name in own if isinstance(name, str | int)]
    if len(set(named)) == len(rows):
        return named
    return [str(number) for number in range(1, len(rows) + 1)]


# Conversations.


def _conversation(row: Row, own: str) -> Conversation:
    if "messages" in row:
        return Conversation(tuple(check_messages(row["messages"])), own)
    if "conversations" in row:
        return Conversation(tuple(check_messages(_by_sharegpt(row["conversations"]))), own)
    if "instruction" in row:
        return Conversation(tuple(_by_alpaca(row)), own)
    raise ValueError(
        "expected instruction, input and output (Alpaca), messages (role, content) or conversations (from, value); it "
        f"has {_fields(row)}."
    )


def _by_alpaca(row: Row) -> Iterable[Message]:
    instruction, context = _text(row, "instruction"), _text(row, "input", needed=False)
    if not (instruction + context).strip():
        raise ValueError("its instruction is empty.")
    yield {"role": "user", "content": f"{instruction}{INPUT}{context}" if context.strip() else instruction}
    if row.get("output") is not None:
        yield {"role": "assistant", "content": _text(row, "output")}


def _by_sharegpt(said: Any) -> list[dict[str, Any]]:
    if not isinstance(said, list):
        raise ValueError("conversations: expected a list of {from, value}.")
    return [
        {"role": SHAREGPT.get(str(turn.get("from"))), "content": turn.get("value")} if isinstance(turn, dict) else turn
        for turn in said
    ]


# Pairs.


def _pair(row: Row, own: str) -> Pair:
    if row.get("preferred") == "neither" and "prompt" not in row:
        return Pair((), "", "", own)
    given = row.get("prompt")
    prompt = check_messages([{"role": "user", "content": given}] if isinstance(given, str) else given)
    if prompt[-1]["role"] != "user":
        raise ValueError("prompt: its last message must be the user's.")
    cut_off = row.get("cut_off") or []
    if not isinstance(cut_off, list) or not all(answer in ("chosen", "rejected") for answer in cut_off):
        raise ValueError(f"cut_off: expected a list of chosen and rejected, not {cut_off!r:.60}.")
    answers = _answer(row, "chosen", prompt), _answer(row, "rejected", prompt)
    return Pair(tuple(prompt), *answers, own, tuple(cut_off))


def _answer(row: Row, field: str, prompt: list[Message]) -> str:
    """An answer that is a text, or messages: the assistant's alone, or the whole conversation."""
    given = row.get(field)
    if not isinstance(given, list):
        return _text(row, field)
    messages = check_messages([*prompt, *given] if len(given) == 1 else given)
    if messages[:-1] != prompt:
        raise ValueError(f"{field}: its messages do not begin with the prompt.")
    return messages[-1]["content"]


# Labels.


def _labeled(row: Row, own: str) -> Labeled:
    label = row.get("label")
    if not isinstance(label, str | int) or not str(label).strip():
        raise ValueError(f"expected text and label; it has {_fields(row)}.")
    return Labeled(_text(row, "text"), str(label).strip(), own)


def _table_suffix(path: str) -> str | None:
    """`.csv` or `.tsv`, which a file without a suffix is too; None for JSON."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes if suffix.lower() not in COMPRESSED]
    last = suffixes[-1] if suffixes else ".tsv"
    return last if last in (".csv", ".tsv") else None


def _csv(span: Span) -> Rows:
    _check_there(span.path)
    with opened(span) as file:
        rows = csv_rows(file, span)
        _, header = next(rows, (0, list[str]()))
        names = [name.strip().lower() for name in header]
        if not {"text", "label"} <= set(names):
            raise CorpusError(
                f"{span.name}: its first line must name the columns text and label; it has {', '.join(header)}."
            )
        for line, row in rows:
            whole = len(row) == len(names)
            problem = ValueError(f"it has {len(row)} fields, and the header {len(names)}.")
            yield f"line {line:,}", dict(zip(names, row, strict=True)) if whole else problem


def _tsv(span: Span) -> Rows:
    _check_there(span.path)
    with opened(span) as file:
        lines = decode(file.read(), span.name).text.split("\n")
    first = [name.strip().lower() for name in lines[0].split("\t")]
    named = {"text", "label"} <= set(first)
    names = first if named else ["label", "text"]
    for number, line in enumerate(lines, 1):
        if not line.strip() or (named and number == 1):
            continue
        fields = line.split("\t", len(names) - 1)
        whole = len(fields) == len(names)
        problem = ValueError(f"expected {' and '.join(names)} with a tab between them, not {line!r:.60}.")
        yield f"line {number:,}", dict(zip(names, fields, strict=True)) if whole else problem


def _text(row: Row, field: str, needed: bool = True) -> str:
    value = row.get(field)
    if value is None and not needed:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{field}: expected text, not {value!r:.60}." if field in row else f"it has no {field}.")
    return value


def _fields(row: Row) -> str:
    return ", ".join(map(str, row)) or "no fields"
