"""A chat in a terminal: questions are answered as they are written, lines that begin with / are commands."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from scratchlab.errors import ScratchlabError, UsageError
from scratchlab.generation.conversation import Conversation
from scratchlab.generation.engine import Settings

EXAMPLES = {"temperature": "0.7", "top_k": "50", "top_p": "0.9", "seed": "2", "max_tokens": "200"}
NUMBERS: dict[str, Callable[[str], Any]] = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "seed": int,
    "max_tokens": int,
}
"""What /set knows."""
OPTIONAL = ("top_k", "top_p")


class Session:
    """What is said goes to standard output, what is said about it to standard error."""

    def __init__(self, conversation: Conversation, settings: Settings, as_json: bool) -> None:
        self.conversation, self.settings, self.as_json = conversation, settings, as_json
        self.over = False

    def hear_a_person(self, line: str) -> None:
        """The same as `hear`, but what is wrong is said and the conversation goes on; Ctrl-C stops an answer."""
        try:
            self.hear(line)
        except ScratchlabError as error:
            self.note(str(error))
        except KeyboardInterrupt:
            self.note("\n(stopped; what was said is kept. /undo takes it back)")

    def hear(self, line: str) -> None:
        """A line: a question, or a command. An empty one is nothing; two slashes begin a question with one."""
        if not line.strip():
            return
        if line.startswith("/") and not line.startswith("//"):
            self._obey(line)
        else:
            self._answer(line[1:] if line.startswith("//") else line)

    def note(self, text: str) -> None:
        click.secho(text, err=True, dim=True)

    def _answer(self, question: str) -> None:
        pieces = self.conversation.ask(question, self.settings)
        self.settings = replace(self.settings, seed=(self.settings.seed + 1) % 2**63)  # each answer has its own
        with contextlib.closing(pieces):
            first = next(pieces)
            if dropped := self.conversation.dropped:
                oldest = "oldest question and its answer" if dropped == 1 else f"{dropped} oldest questions and answers"
                self.note(f"(forgotten: the {oldest} no longer fit into the context)")
            self._say(first)
            for piece in pieces:
                self._say(piece)
        self._end_answer(question)

    def _say(self, piece: str) -> None:
        if not self.as_json:
            click.echo(piece, nl=False)

    def _end_answer(self, question: str) -> None:
        told = self.conversation
        if self.as_json:
            answer = {"question": question, "answer": told.turns[-1]["content"], "ending": told.ending}
            click.echo(json.dumps({**answer, "forgotten": told.dropped}))
            return
        click.echo()
        if told.ending == "length":
            self.note(f"(cut off after {self.settings.max_tokens} tokens: /set max_tokens 1000 allows more)")
        if told.ending == "context":
            self.note("(cut off: the context is full. /reset begins anew)")

    def _obey(self, line: str) -> None:
        name, _, rest = line[1:].partition(" ")
        if name not in COMMANDS:
            raise UsageError(f"there is no command /{name}; /help lists them.")
        COMMANDS[name][1](self, rest.strip())

    def help(self, rest: str) -> None:
        for usage, _ in COMMANDS.values():
            self.note(f"  {usage}")
        self.note("  //TEXT              a question that begins with a slash")

    def reset(self, rest: str) -> None:
        self.conversation.turns.clear()
        self.note("(a new conversation)")

    def system(self, rest: str) -> None:
        self.conversation.system = rest or None
        self.note("(from the next question on)" if rest else "(no system text any more)")

    def set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        if name:
            if name not in NUMBERS:
                raise UsageError(f"/set {name}: there is no such setting; there are {', '.join(NUMBERS)}.")
            self.settings = replace(self.settings, **{name: _number(name, value.strip())})
        self.note("  ".join(f"{known} = {_shown(getattr(self.settings, known))}" for known in NUMBERS))

    def undo(self, rest: str) -> None:
        question = self.conversation.undo()
        self.note("(nothing was said yet)" if question is None else f"(taken back: {question})")

    def retry(self, rest: str) -> None:
        question = self.conversation.undo()
        if question is None:
            raise UsageError("/retry: nothing was asked yet.")
        self._answer(question)

    def save(self, rest: str) -> None:
        told = self.conversation
        if not rest or not told.turns:
            raise UsageError("/save FILE needs the name of a file, and something that was said.")
        first = [] if told.system is None else [{"role": "system", "content": told.system}]
        try:
            with open(rest, "a", encoding="utf-8") as file:
                file.write(json.dumps({"messages": [*first, *told.turns]}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UsageError(f"/save {rest}: {error.strerror}.") from None
        self.note(f"(saved as a line of {rest})")

    def quit(self, rest: str) -> None:
        self.over = True


COMMANDS: dict[str, tuple[str, Callable[[Session, str], None]]] = {
    "reset": ("/reset              forget all that was said", Session.reset),
    "system": ("/system TEXT        tell the model something else before all; without TEXT, nothing", Session.system),
    "set": ("/set NAME VALUE     temperature, top_k, top_p, seed or max_tokens; without them, show all", Session.set),
    "undo": ("/undo               take the last question and its answer back", Session.undo),
    "retry": ("/retry              the same question again, for another answer", Session.retry),
    "save": ("/save FILE          add the conversation to FILE as a line of JSON, which finetune reads", Session.save),
    "help": ("/help               this", Session.help),
    "quit": ("/quit               end, as Ctrl-D does", Session.quit),
}


def _number(name: str, value: str) -> Any:
    if name in OPTIONAL and value in ("none", "off"):
        return None
    try:
        return NUMBERS[name](value)
    except ValueError:
        kind = "a whole number" if NUMBERS[name] is int else "a number"
        off = ", or none" if name in OPTIONAL else ""
        raise UsageError(f"/set {name} {value}: expected {kind}{off}, as in /set {name} {EXAMPLES[name]}.") from None


def _shown(value: Any) -> str:
    return "none" if value is None else f"{value}"
