"""Rows of evaluation sets as their makers published them, put into the layouts of items.

The wording is that of EleutherAI's lm-evaluation-harness, so that choices can be compared with its own; where it
puts one space too many (COPA), there is one here. Every function takes a row and gives one in a layout of `items`;
ValueError says which field is missing or wrong.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scratchlab.corpus.sources.rows import Row
from scratchlab.evaluation.items import text_of


@dataclass(frozen=True, slots=True)
class Original:
    """How rows of a set become rows of items."""

    fields: tuple[str, ...]
    """What a row has, for messages."""
    convert: Callable[[Row], Row]


def hellaswag(row: Row) -> Row:
    """A caption or how-to, to be continued. Zellers et al. 2019.

    The second part of the context begins with a capital, where the two parts are there apart.
    """
    context = text_of(row, "ctx")
    if "ctx_a" in row and "ctx_b" in row:
        context = f"{text_of(row, 'ctx_a')} {text_of(row, 'ctx_b').capitalize()}"
    query = _without_tags(f"{text_of(row, 'activity_label')}: {context}")
    endings = [_without_tags(ending) for ending in _texts(row, "endings")]
    return _choices(query, endings, _number(row, "label"))


def _without_tags(text: str) -> str:
    """Without what is left of WikiHow's headings: [title] ends a sentence, [header], [step] and the like go."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def piqa(row: Row) -> Row:
    """A goal and two ways to it. Bisk et al. 2020."""
    ways = [text_of(row, "sol1"), text_of(row, "sol2")]
    return _choices(f"Question: {text_of(row, 'goal')}", ways, _number(row, "label"))


def arc(row: Row) -> Row:
    """A science question with three to five answers. Clark et al. 2018."""
    return _choices(f"Question: {text_of(row, 'question')}", *_lettered(row))


def openbookqa(row: Row) -> Row:
    """The beginning of a sentence, and four ends. Mihaylov et al. 2018."""
    return _choices(text_of(row, "question_stem"), *_lettered(row))


def commonsense_qa(row: Row) -> Row:
    """A question whose five answers are shown, to be answered by letter. Talmor et al. 2019."""
    answers, gold = _lettered(row)
    letters = "ABCDEFGHIJ"[: len(answers)]
    shown = "".join(f"\n{letter}. {answer}" for letter, answer in zip(letters, answers, strict=True))
    return _choices(f"Question: {text_of(row, 'question').strip()}{shown}\nAnswer:", list(letters), gold)


def boolq(row: Row) -> Row:
    """A passage and a question to be answered by no or yes. Clark et al. 2019."""
    query = f"{text_of(row, 'passage')}\nQuestion: {text_of(row, 'question')}?"
    return _choices(query, ["no", "yes"], _number(row, "label"))


def copa(row: Row) -> Row:
    """A sentence, and two that may be its cause or its effect. Roemmele et al. 2011."""
    words = {"cause": "because", "effect": "therefore"}
    if (asked := text_of(row, "question")) not in words:
        raise ValueError(f"question: expected cause or effect, not {asked!r:.80}.")
    query = f"{text_of(row, 'premise').strip()[:-1]} {words[asked]}"  # without its full stop
    ends = [text_of(row, field) for field in ("choice1", "choice2")]
    return _choices(query, [end[:1].lower() + end[1:] for end in ends], _number(row, "label"))


def winogrande(row: Row) -> Row:
    """A sentence with a gap: the rest of it, after each of two names. Sakaguchi et al. 2020."""
    before, gap, after = text_of(row, "sentence").partition("_")
    if not gap:
        raise ValueError("sentence: expected a gap, written as _.")
    options = [before + text_of(row, field) for field in ("option1", "option2")]
    return {"context_options": options, "continuation": after.strip(), "gold": _number(row, "answer") - 1}


def lambada(row: Row) -> Row:
    """A passage whose last word is to be written. Paperno et al. 2016, as OpenAI prepared it."""
    context, _, word = text_of(row, "text").rpartition(" ")
    return {"context": context, "continuation": word}


ORIGINALS: Mapping[str, Original] = {
    "hellaswag": Original(("activity_label", "ctx", "endings", "label"), hellaswag),
    "piqa": Original(("goal", "sol1", "sol2", "label"), piqa),
    "arc": Original(("question", "choices", "answerKey"), arc),
    "openbookqa": Original(("question_stem", "choices", "answerKey"), openbookqa),
    "commonsense_qa": Original(("question", "choices", "answerKey"), commonsense_qa),
    "boolq": Original(("passage", "question", "label"), boolq),
    "copa": Original(("premise", "question", "choice1", "choice2", "label"), copa),
    "winogrande": Original(("sentence", "option1", "option2", "answer"), winogrande),
    "lambada": Original(("text",), lambada),
}


def _choices(query: str, choices: Sequence[str], gold: int) -> Row:
    return {"query": query, "choices": list(choices), "gold": gold}


def _texts(row: Row, field: str) -> list[str]:
    values = row.get(field)
    if not isinstance(values, Sequence) or isinstance(values, str) or not all(isinstance(text, str) for text in values):
        raise ValueError(f"{field}: expected a list of texts, not {values!r:.80}.")
    return list(values)


def _number(row: Row, field: str) -> int:
    """Of a number that may be written as text."""
    value: Any = row.get(field)
    if isinstance(value, bool | int):
        return int(value)
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    raise ValueError(f"{field}: expected a number, not {value!r:.80}.")


def _lettered(row: Row) -> tuple[list[str], int]:
    """Answers that have letters (or numbers) of their own, and the place of the right one."""
    choices, key = row.get("choices"), text_of(row, "answerKey").strip()
    if not isinstance(choices, Mapping):
        raise ValueError(f"choices: expected a table of text and label, not {choices!r:.80}.")
    texts, labels = _texts(choices, "text"), _texts(choices, "label")
    if len(texts) != len(labels) or key not in labels:
        raise ValueError(f"answerKey: expected one of {', '.join(labels)}, not {key!r:.80}.")
    return texts, labels.index(key)
