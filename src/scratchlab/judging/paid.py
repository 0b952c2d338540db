"""What judges have replied so far, on disk: asked once, paid once, whatever happens afterwards.

    judgments/openai-gpt-4.1-mini.jsonl     the first line says of whom; then a line for each reply as it came

A reply is kept under the hash of all that it depends on: the judge, its settings, every word of the prompt. So the same
prompt is never sent twice, in this command or in another, and a changed answer is judged anew.
"""

import json
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scratchlab import lines
from scratchlab.errors import ScratchlabError
from scratchlab.files import file_name, sha256_of_json
from scratchlab.judging.judges import Judge, Reply
from scratchlab.judging.prompts import Prompt

FORMAT = 1
KIND = "replies"
WHAT = "the replies of the judge"

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kept:
    """A reply with when it came, in seconds since 1970."""

    reply: Reply
    at: float


class Replies:
    """The replies of one judge. May be used by several threads; one process at a time holds the file."""

    def __init__(self, path: Path, found: dict[str, Kept]) -> None:
        self._path, self._found = path, found
        self._lock = threading.Lock()

    def get(self, key: str) -> Kept | None:
        return self._found.get(key)

    def add(self, key: str, reply: Reply, about: Record) -> Kept:
        """Keep a reply: it is on the disk when this returns. `about` says to people what it is to."""
        with self._lock:
            kept = Kept(reply, round(time.time(), 3))
            line = {
                "key": key,
                "at": kept.at,
                **about,
                "asked": reply.asked,
                "tokens_in": reply.tokens_in,
                "tokens_out": reply.tokens_out,
                "text": reply.text,
            }
            lines.append(self._path, [line], WHAT)
            self._found[key] = kept
            return kept


def key_of(judge: Judge, prompt: Prompt) -> str:
    """SHA-256 of all that a reply depends on."""
    return sha256_of_json([judge.identity, prompt.messages, prompt.schema])


def path_of(folder: Path, judge: str) -> Path:
    """Where the replies of a judge are; two that differ in what no file name can have are told apart by a hash."""
    name = file_name(judge)
    return folder / f"{name if name == judge else f'{name}-{sha256_of_json(judge)[:8]}'}.jsonl"


@contextmanager
def open_replies(folder: Path, judge: Judge) -> Generator[Replies]:
    """The replies of a judge in `folder`, held for writing. UnfinishedError while another process holds them."""
    path = path_of(folder, judge.name)
    with lines.held(path, WHAT):
        lines.begin(path, {"format": FORMAT, "kind": KIND, "judge": judge.name}, WHAT)
        yield Replies(path, read_replies(path))


def read_replies(path: Path) -> dict[str, Kept]:
    """The replies in a file by their keys. ScratchlabError if it is something else, or damaged."""
    found: dict[str, Kept] = {}
    for number, line in enumerate(lines.whole_lines(path), 1):
        try:
            record = json.loads(line)
            if number == 1:
                if (record["kind"], record["format"]) != (KIND, FORMAT):
                    raise ScratchlabError(f"{path} holds no replies that this version of scratchlab can read.")
                continue
            reply = Reply(record["text"], record["tokens_in"], record["tokens_out"], record["asked"])
            found[record["key"]] = Kept(reply, record["at"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ScratchlabError(
                f"{path} is damaged: line {number:,} is no reply. Take that line out: its prompt will be asked again."
            ) from None
    return found
