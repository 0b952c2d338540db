"""Who judges: a model of OpenAI (`openai:MODEL`), of any OpenAI-compatible server, or a program (`command:...`)."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from scratchlab.errors import UnreachableError, UsageError
from scratchlab.files import sha256_of_file
from scratchlab.interop.waits import WAITS
from scratchlab.judging.client import OPENAI, Client, RefusedError, open_client
from scratchlab.judging.prompts import Prompt

COMMAND = "command:"
KNOWN = f"{OPENAI}MODEL, an address such as http://localhost:11434/v1#MODEL, or {COMMAND}PROGRAM ARGUMENTS"
MOST_TOKENS = 4096
"""Of a reply: room for a model that thinks first, and an end for one that never stops."""
FORMS = ("json_schema", "json_object", "words")
"""How a server is told the form of a reply, the strictest first; the words are in every prompt."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a judge said."""

    text: str
    tokens_in: int | None = None
    tokens_out: int | None = None
    asked: str = ""
    """How: which of FORMS, and what the server would not hear of."""


class Judge(Protocol):
    """May be asked by several threads."""

    @property
    def name(self) -> str:
        """As it was named."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What its replies depend on, beside the prompt: part of the key under which they are kept."""
        ...

    def ask(self, prompt: Prompt, where: str) -> Reply:
        """Its reply, whatever it is. `where` is what errors call the prompt.

        RefusedError if it will not judge this prompt, UnreachableError if it fails again and again, ScratchlabError if
        nothing can be judged by it.
        """
        ...

    def stop(self) -> None:
        """End what it is asked: nothing is waited for, tried again or begun."""
        ...


def open_judge(spec: str, temperature: float | None, timeout: float) -> Judge:
    """The judge that is called `spec`; a server judges at temperature 0 unless another is named.

    UsageError for what is no judge, and for a temperature of a program; MissingExtraError without the openai package.
    """
    if spec.startswith(COMMAND):
        if temperature is not None:
            raise UsageError(f"--temperature {temperature:g} is for servers, and {spec} is a program: leave it out.")
        return _open_program(spec, timeout)
    if spec.startswith((OPENAI, "http://", "https://")):
        return ServerJudge(open_client(spec, timeout), spec, temperature or 0.0)
    raise UsageError(f"--judge {spec}: a judge is {KNOWN}.")


# A server.


@dataclass
class ServerJudge:
    """A model behind the chat protocol. What a server does not know it is asked without, and that is said."""

    client: Client
    name: str
    temperature: float
    form: str = FORMS[0]
    """The strictest that it is known to take."""
    refused: set[str] = field(default_factory=set[str])
    """Settings that it will not hear of."""

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "server": self.client.base,
            "model": self.client.model,
            "temperature": self.temperature,
            "max_tokens": MOST_TOKENS,
        }

    def ask(self, prompt: Prompt, where: str) -> Reply:
        """What a server refuses may be a form or a setting that it does not know: then it is asked without."""
        forms, refused, said = list(FORMS[FORMS.index(self.form) :]), set(self.refused), list[str]()
        while forms:
            settings = {"temperature": self.temperature, "max_tokens": MOST_TOKENS}
            wishes = {name: value for name, value in settings.items() if name not in refused}
            try:
                found = self.client.complete(prompt.messages, where, **wishes, **_form(forms[0], prompt))
            except RefusedError as error:
                said.append(str(error))
                named = {name for name in wishes if name in str(error)}
                refused |= named
                forms = forms if named else forms[1:]
                continue
            self.form, self.refused = forms[0], refused
            without = f" without {', '.join(sorted(refused))}" if refused else ""
            return Reply(found.text, found.tokens_in, found.tokens_out, forms[0] + without)
        at_last = f"; by words alone: {said[-1]}" if said[-1] != said[0] else ""
        raise RefusedError(said[0] + at_last)  # the first may be of a form alone, the last of what a try lacks

    def stop(self) -> None:
        self.client.stopped.set()


def _form(form: str, prompt: Prompt) -> dict[str, Any]:
    match form:
        case "json_schema":
            named = {"name": "scores", "strict": True, "schema": prompt.schema}
            return {"response_format": {"type": form, "json_schema": named}}
        case "json_object":
            return {"response_format": {"type": form}}
        case _:
            return {}


# A program.


def _open_program(spec: str, timeout: float) -> "ProgramJudge":
    try:
        words = shlex.split(spec.removeprefix(COMMAND))
    except ValueError as error:
        raise UsageError(f"--judge {spec}: {error}.") from None
    if not words:
        raise UsageError(f"--judge {spec}: expected a program, as in {COMMAND}'python my_judge.py'.")
    program = shutil.which(words[0])
    if program is None:
        if os.path.isfile(words[0]) and os.sep in words[0]:
            raise UsageError(f"--judge {spec}: {words[0]!r} cannot be executed: chmod +x. {RUN_BY}")
        here = f" It is in this folder: say ./{words[0]}." if os.path.isfile(words[0]) else ""
        raise UsageError(f"--judge {spec}: there is no program {words[0]!r}.{here}")
    return ProgramJudge(spec, tuple(words), timeout, _contents([program, *words[1:]]))


RUN_BY = (
    f"A script must say in its first line what runs it (#!/usr/bin/env python3), or the command must, as in {COMMAND}"
    "'python my_judge.py'."
)


def _contents(words: Sequence[str]) -> tuple[str, ...]:
    """SHA-256 of every file that a command names, by itself or as in --rubric=FILE."""
    named = dict.fromkeys(name for word in words for name in (word, word.partition("=")[2]))
    return tuple(sha256_of_file(Path(name)) for name in named if os.path.isfile(name) and os.access(name, os.R_OK))


@dataclass
class ProgramJudge:
    """A program that reads a prompt as JSON from standard input and writes its reply to standard output."""

    name: str
    words: tuple[str, ...]
    timeout: float
    contents: tuple[str, ...]
    """Of the files that the command names, the program among them: an edited one is another judge."""
    running: set["subprocess.Popen[str]"] = field(default_factory=set["subprocess.Popen[str]"])
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"command": self.words, "contents": self.contents}

    def ask(self, prompt: Prompt, where: str) -> Reply:
        """Ends with its time limit, with all that it started; a program that fails is tried again, as a server is."""
        asked = json.dumps({"messages": prompt.messages, "labels": prompt.labels, "schema": prompt.schema})
        problem, tries = "", 0
        for wait in (*WAITS, None):
            tries += 1
            try:
                return Reply(self._run(asked), asked="command")
            except subprocess.TimeoutExpired:
                problem = f"no reply within {self.timeout:g} s"
            except subprocess.CalledProcessError as error:
                said = " ".join(str(error.stderr).split())[-300:]
                problem = f"it ended with status {error.returncode}" + (f": {said}" if said else "")
            if wait is None or self.stopped.wait(wait):
                break
        raise UnreachableError(
            f"{self.name}, {where}: {problem}, {tries} times. What was done is kept: run the same command again when "
            "it works."
        )

    def stop(self) -> None:
        """Programs that run are killed: nobody reads their replies."""
        self.stopped.set()
        for program in tuple(self.running):
            _kill(program)

    def _run(self, asked: str) -> str:
        with self._started() as program:
            self.running.add(program)
            if self.stopped.is_set():
                _kill(program)
            try:
                reply, said = program.communicate(asked, self.timeout)
            except BaseException:
                _kill(program)
                raise
            finally:
                self.running.discard(program)
        if program.returncode:
            raise subprocess.CalledProcessError(program.returncode, self.words, stderr=said)
        return reply

    def _started(self) -> "subprocess.Popen[str]":
        try:
            return subprocess.Popen(
                self.words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise UsageError(
                f"--judge {self.name}: {self.words[0]!r} cannot be started: {error.strerror}. {RUN_BY}"
            ) from None


def _kill(program: "subprocess.Popen[str]") -> None:
    """End a program with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)
