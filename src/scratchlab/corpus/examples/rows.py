"""Conversations out of files: Alpaca's rows, and chat messages, as a JSON list or as JSON Lines."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scratchlab.corpus.chat import Message, check_messages
from scratchlab.errors import CorpusError, UsageError

SHOWN = 20  # problems of a file that are named in one message
INPUT = "\n\n### Input:\n"
"""What stands between Alpaca's instruction and its input, in the user's words."""

Row = dict[str, Any]


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


def read_conversations(path: str | Path) -> list[Conversation]:
    """The conversations of a JSON list or JSON Lines file.

    A row is Alpaca's (instruction, input, output) or chat messages (`messages`: role, content). CorpusError tells
    everything that is wrong, by line or item.
    """
    listed = list(_rows(Path(path)))
    found, problems = list[Conversation](), list[str]()
    for (place, row), own in zip(listed, _ids([row for _, row in listed]), strict=True):
        try:
            if isinstance(row, ValueError):
                raise row
            found.append(_conversation(row, own))
        except (ValueError, UsageError) as error:
            problems.append(f"{place}: {error}")
    if problems:
        more = [f"and {len(problems) - SHOWN:,} more"] if len(problems) > SHOWN else []
        heading = f"{path}: {len(problems):,} problem{'s' * (len(problems) > 1)}"
        raise CorpusError("\n  ".join([heading, *problems[:SHOWN], *more]))
    if not found:
        raise CorpusError(f"{path} holds no examples.")
    return found


def _rows(path: Path) -> Iterator[tuple[str, Row | ValueError]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise CorpusError(f"{path}: there is no such file. Give a file of examples.") from None
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not text in UTF-8 ({error.reason}).") from None
    if text.lstrip().startswith("["):
        yield from _listed(path, text)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"line {number:,}", _row(line)


def _listed(path: Path, text: str) -> Iterator[tuple[str, Row | ValueError]]:
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{path} is not JSON: {error}.") from None
    for number, item in enumerate(items, 1):
        yield f"item {number:,}", item if isinstance(item, dict) else ValueError(f"it is no object: {item!r:.60}.")


def _row(line: str) -> Row | ValueError:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return ValueError(f"it is not JSON: {error}.")
    return row if isinstance(row, dict) else ValueError(f"it is no object: {row!r:.60}.")


def _ids(rows: Sequence[Row | ValueError]) -> list[str]:
    """The rows' own ids, where all have one and no two the same; else their places."""
    own = [row.get("id") for row in rows if not isinstance(row, ValueError)]
    named = [str(name) for name in own if isinstance(name, str | int)]
    if len(set(named)) == len(rows):
        return named
    return [str(number) for number in range(1, len(rows) + 1)]


def _conversation(row: Row, own: str) -> Conversation:
    if "messages" in row:
        return Conversation(tuple(check_messages(row["messages"])), own)
    if "instruction" in row:
        return Conversation(tuple(_by_alpaca(row)), own)
    raise ValueError(f"expected instruction, input and output, or messages; it has {', '.join(row) or 'no fields'}.")


def _by_alpaca(row: Row) -> Iterator[Message]:
    instruction, context = _text(row, "instruction"), _text(row, "input", needed=False)
    if not (instruction + context).strip():
        raise ValueError("its instruction is empty.")
    yield {"role": "user", "content": f"{instruction}{INPUT}{context}" if context.strip() else instruction}
    if row.get("output") is not None:
        yield {"role": "assistant", "content": _text(row, "output")}


def _text(row: Row, field: str, needed: bool = True) -> str:
    value = row.get(field)
    if value is None and not needed:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{field}: expected text, not {value!r:.60}." if field in row else f"it has no {field}.")
    return value
