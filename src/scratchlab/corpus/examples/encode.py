"""Examples as tokens, with a mark for each that says what is learned from it.

Of instructions the tokens that the assistant writes have mark 1, those that are read 0. Of labels the last token has
1 + the number of the label, all others 0. Of pairs the prompt has 0, the chosen answer 1, the rejected one 2; the
answers follow the prompt one after another.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.chat import SPECIALS, TEMPLATES, ChatTemplate, Message
from scratchlab.corpus.examples.rows import Conversation, Labeled, Pair
from scratchlab.corpus.manifest import CHAT_TEMPLATE
from scratchlab.corpus.tokenizer import END_OF_TEXT, Tokenizer
from scratchlab.errors import UsageError

CHOSEN, REJECTED = 1, 2
MOST_LABELS = 255  # a mark is a byte
SPECIAL = re.compile(r"<\|[^|\s]+\|>")
"""What a template of somebody's own names as a special token."""


class Marked(NamedTuple):
    """An example as tokens."""

    ids: npt.NDArray[np.int64]  # (T,)
    marks: npt.NDArray[np.uint8]  # (T,)


class Wording(NamedTuple):
    """A chat template, and what it takes."""

    name: str
    template: ChatTemplate
    specials: tuple[str, ...]
    """Special tokens that the tokenizer must have."""


def open_wording(spec: str) -> Wording:
    """The template called alpaca or chatml, or the one in a file, or in the folder of a run or a corpus.

    UsageError for a name that means nothing, and for a file that is no template.
    """
    if spec in TEMPLATES:
        return Wording(spec, ChatTemplate(TEMPLATES[spec]), SPECIALS[spec])
    path = Path(spec) / CHAT_TEMPLATE if Path(spec).is_dir() else Path(spec)
    try:
        template = ChatTemplate(path.read_bytes().decode())
    except (OSError, UnicodeDecodeError):
        names = ", ".join(TEMPLATES)
        raise UsageError(f"template {spec!r}: expected {names}, or the path of a chat template in Jinja.") from None
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    ends = [END_OF_TEXT] * ("eos_token" in template.source)
    return Wording(path.name, template, tuple(dict.fromkeys([*ends, *SPECIAL.findall(template.source)])))


def encode_conversation(tokenizer: Tokenizer, template: ChatTemplate, example: Conversation) -> Marked:
    """The whole conversation."""
    encoded = template.encode(tokenizer, example.messages)
    return Marked(encoded.ids, encoded.learned.astype(np.uint8))


def encode_labeled(tokenizer: Tokenizer, labels: Sequence[str], example: Labeled) -> Marked:
    """The text alone: its last token is where it is told what it is."""
    ids = tokenizer.encode(example.text).astype(np.int64)
    marks = np.zeros(len(ids), np.uint8)
    marks[-1] = 1 + labels.index(example.label)
    return Marked(ids, marks)


def encode_pair(tokenizer: Tokenizer, template: ChatTemplate, example: Pair) -> Marked:
    """The prompt, the answer that was chosen, and the one that was rejected, each with the end of its turn unless that
    was cut off.

    UsageError for a template that words a prompt otherwise once it is answered.
    """
    prompt = np.array(template.prompt(tokenizer, example.prompt), np.int64)
    chosen, rejected = (
        _answer(tokenizer, template, prompt, example.prompt, answer, name in example.cut_off)
        for name, answer in (("chosen", example.chosen), ("rejected", example.rejected))
    )
    marks = np.repeat([0, CHOSEN, REJECTED], [len(prompt), len(chosen), len(rejected)]).astype(np.uint8)
    return Marked(np.concatenate([prompt, chosen, rejected]), marks)


def _answer(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    prompt: npt.NDArray[np.int64],
    asked: Sequence[Message],
    answer: str,
    cut_off: bool,
) -> npt.NDArray[np.int64]:
    said = template.encode(tokenizer, [*asked, {"role": "assistant", "content": answer}], cut_off=cut_off)
    if not np.array_equal(said.ids[: len(prompt)], prompt) or not said.learned[len(prompt) :].any():
        raise UsageError(
            "the chat template does not word a conversation as its prompt (add_generation_prompt) and then the answer, "
            "in a generation block."
        )
    return said.ids[len(prompt) : int(np.flatnonzero(said.learned)[-1]) + 1]
