"""Conversations as text and as tokens: messages, the template that words them, and which of it a model learns from.

A template is Jinja, as Hugging Face stores it (`chat_template.jinja`), with what the assistant writes between
`{% generation %}` and `{% endgeneration %}`. It is rendered in Jinja's sandbox: a template may come from anybody.

What a person writes can never become a special token: where a message says `<|im_end|>`, it is ordinary text.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import jinja2
import numpy as np
import numpy.typing as npt
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from scratchlab.corpus.tokenizer import END_OF_TEXT, Tokenizer
from scratchlab.errors import CorpusError, UsageError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


class Message(TypedDict):
    """What somebody says."""

    role: Role
    content: str


ALPACA = """\
{%- if messages[0].role == 'system' -%}
{{ messages[0].content + '\\n\\n' }}
{%- else -%}
{{ 'Below is an instruction that describes a task. Write a response that appropriately completes the request.\\n\\n' }}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{ '### Instruction:\\n' + message.content + '\\n\\n### Response:\\n' }}
{%- elif message.role == 'assistant' -%}
{%- generation -%}{{ message.content + eos_token }}{%- endgeneration -%}
{{ '' if loop.last else '\\n\\n' }}
{%- endif -%}
{%- endfor -%}
"""
"""Stanford Alpaca's wording (Taori et al. 2023), with its one sentence for all; the book's."""

CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' -%}
{%- generation -%}{{ message.content + '<|im_end|>' }}{%- endgeneration -%}
{%- else -%}
{{ message.content + '<|im_end|>' }}
{%- endif -%}
{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
"""A special token before and after each message."""

TEMPLATES = {"alpaca": ALPACA, "chatml": CHATML}
SPECIALS = {"alpaca": (END_OF_TEXT,), "chatml": (END_OF_TEXT, "<|im_start|>", "<|im_end|>")}
"""The special tokens that each template needs."""

# Noncharacters, which no text has: around each message's words, and around what the assistant writes.
OPEN, CLOSE, BEGIN, END = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"
MARKS = re.compile(f"([{OPEN}{CLOSE}{BEGIN}{END}])")
WORDS = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A conversation as tokens."""

    ids: npt.NDArray[np.int64]  # (T,)
    learned: npt.NDArray[np.bool_]  # (T,)
    """Which of them the assistant writes, the token that ends its turn included."""


class ChatTemplate:
    """How conversations are worded for one model. UsageError for a template that is not Jinja."""

    def __init__(self, source: str) -> None:
        self.source = source
        try:
            self._compiled = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise UsageError(f"the chat template is not valid Jinja: line {error.lineno}: {error.message}.") from None

    def render(self, messages: Sequence[Message], end_of_text: str = END_OF_TEXT, *, prompt: bool = False) -> str:
        """The conversation as text; with `prompt`, up to where the assistant's next answer begins."""
        return MARKS.sub("", self._marked(messages, end_of_text, prompt))

    def encode(
        self, tokenizer: Tokenizer, messages: Sequence[Message], *, prompt: bool = False, cut_off: bool = False
    ) -> Encoded:
        """The conversation as tokens; with `cut_off`, up to the last word: whoever said it did not end the turn.

        A prompt and the answer to it are encoded apart, as they are when a model writes: no token reaches from one into
        the other. CorpusError for what the tokenizer has no symbol for.
        """
        ids: list[npt.NDArray[np.int64]] = []
        learned: list[npt.NDArray[np.bool_]] = []
        marked = self._marked(messages, _end_of_text(tokenizer), prompt)
        for text, is_learned in _parts(marked[: marked.rfind(CLOSE)] if cut_off else marked):
            tokens = _with_specials(tokenizer, text)
            ids.append(tokens)
            learned.append(np.full(len(tokens), is_learned))
        return Encoded(np.concatenate(ids), np.concatenate(learned))

    def prompt(self, tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
        """The tokens after which the assistant's next answer begins."""
        return self.encode(tokenizer, messages, prompt=True).ids.tolist()

    def end_of_turn(self, tokenizer: Tokenizer) -> int:
        """The token with which the assistant ends its turn. UsageError if it is no special token."""
        word = _some_word(tokenizer)
        asked: list[Message] = [{"role": "user", "content": word}, {"role": "assistant", "content": word}]
        encoded = self.encode(tokenizer, asked)
        answer = encoded.ids[encoded.learned].tolist()
        if not answer or answer[-1] not in tokenizer.specials.values():
            raise UsageError(
                "the chat template does not end the assistant's turn with a special token inside its generation block: "
                "a model would not learn where to stop."
            )
        return answer[-1]

    def _marked(self, messages: Sequence[Message], end_of_text: str, prompt: bool) -> str:
        """The conversation as text, with marks. UsageError if the template would word it otherwise without them."""
        plain = self._rendered(messages, end_of_text, prompt)
        marked = self._rendered(
            [{**one, "content": _in_marks(one["content"])} for one in messages], end_of_text, prompt
        )
        said = {message["content"].strip() for message in messages}
        rest, told = WORDS.sub(r"\1", marked), WORDS.findall(marked)
        if rest != plain or not said.issuperset(told):
            raise UsageError(
                "the chat template changes what messages say, or words them by what they say: it may take blank "
                "characters off their ends (| trim), and no more. Take that out of the template, or do it to the "
                "messages."
            )
        return marked

    def _rendered(self, messages: Sequence[Message], end_of_text: str, prompt: bool) -> str:
        try:
            return self._compiled.render(
                messages=messages, add_generation_prompt=prompt, eos_token=end_of_text, raise_exception=_refuse
            )
        except jinja2.TemplateError as error:
            raise UsageError(f"the chat template cannot word this conversation: {error}.") from None


def check_messages(messages: Any) -> list[Message]:
    """Messages as they came, if they are a conversation that a model can answer or learn from; else a UsageError.

    A system message may come first; then user and assistant take turns, the user first.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise UsageError("messages: expected a list of {role, content}, with one at least.")
    checked = [_checked(number, message) for number, message in enumerate(messages)]
    turns = [message["role"] for message in checked]
    after_system = turns[1:] if turns[0] == "system" else turns
    if any(role != ("user", "assistant")[place % 2] for place, role in enumerate(after_system)) or not after_system:
        raise UsageError(
            "messages: user and assistant must take turns, the user first, after at most one system message; these are "
            f"{', '.join(turns)}."
        )
    return checked


def _checked(number: int, message: Any) -> Message:
    role = message.get("role") if isinstance(message, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if role not in ROLES or not isinstance(content, str):
        raise UsageError(
            f"messages[{number}]: expected a role ({', '.join(ROLES)}) and its content as text, not {message!r:.80}."
        )
    return {"role": role, "content": content}


def needed_specials(tokenizer: Tokenizer, names: Iterable[str]) -> list[str]:
    """Those of `names` that the tokenizer lacks. Any token that ends a text will do for `<|endoftext|>`."""
    return [
        name
        for name in names
        if name not in tokenizer.specials and not (name == END_OF_TEXT and tokenizer.end_of_text is not None)
    ]


def _some_word(tokenizer: Tokenizer) -> str:
    """A text that the tokenizer has a symbol for: one of characters may know no digit, and one of numbers no letter."""
    texts = (tokenizer.token_bytes(token).decode(errors="ignore") for token in range(tokenizer.vocab_size))
    return next((text for text in texts if text.isalnum()), "1")


def _end_of_text(tokenizer: Tokenizer) -> str:
    return next((name for name, token in tokenizer.specials.items() if token == tokenizer.end_of_text), END_OF_TEXT)


def _parts(marked: str) -> list[tuple[list[tuple[str, bool]], bool]]:
    """Stretches that are encoded apart, each with whether it is learned from: pieces of text, and whether each is
    somebody's own words."""
    parts: list[tuple[list[tuple[str, bool]], bool]] = [([], False)]
    own = False
    for piece in MARKS.split(marked):
        match piece:
            case "\ufdd0" | "\ufdd1":
                own = piece == OPEN
            case "\ufdd2" | "\ufdd3":
                parts.append(([], piece == BEGIN))
            case _ if piece:
                parts[-1][0].append((piece, own))
            case _:
                pass
    return parts


def _with_specials(tokenizer: Tokenizer, pieces: Sequence[tuple[str, bool]]) -> npt.NDArray[np.int64]:
    """Special tokens where the template names them; all between two of them is encoded as one text."""
    # Without blanks at their ends: those of a message may stand outside its marks.
    names = sorted((name for name in tokenizer.specials if name == name.strip()), key=len, reverse=True)
    named = re.compile(f"({'|'.join(map(re.escape, names))})") if names else None
    ids: list[int] = []
    text = ""
    for piece, own in pieces:
        if own or named is None:
            text += piece
            continue
        for part in named.split(piece):
            if part in tokenizer.specials:
                ids += [*_encoded(tokenizer, text), tokenizer.specials[part]]
                text = ""
            else:
                text += part
    return np.array([*ids, *_encoded(tokenizer, text)], np.int64)


def _encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text).tolist() if text else []


def _in_marks(content: str) -> str:
    """With marks within the blank characters at its ends, which a template may take off."""
    if MARKS.search(content):
        raise CorpusError("a message has a noncharacter (U+FDD0 to U+FDD3) in it, which no text should have.")
    if not (words := content.strip()):
        return content
    before, _, after = content.partition(words)
    return f"{before}{OPEN}{words}{CLOSE}{after}"


def _refuse(message: str) -> None:
    """What templates call to refuse a conversation."""
    raise jinja2.TemplateError(message)


class _Generation(Extension):
    """`{% generation %}`: what is inside is what the assistant writes. As in transformers."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        return f"{BEGIN}{caller()}{END}"


@functools.cache
def _environment() -> ImmutableSandboxedEnvironment:
    """As transformers has it, so that a template means the same there."""
    return ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
