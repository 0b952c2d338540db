"""Cleaning: small pure filters, each from a text to a text, or to None for one that is to be thrown away.

They run in the order they are given. What each removed is counted, with examples: see `tally.Tally`.
"""

import difflib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from scratchlab.corpus.building.gopher import not_repetitive, prose
from scratchlab.corpus.building.tally import Removal, Tally
from scratchlab.corpus.sources.documents import PART_BYTES, UNPUBLISHED, Document
from scratchlab.errors import CorpusError, UsageError

BLANK = "blank"
DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near duplicate"
NOT_UNICODE = "not Unicode"

Apply = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Filter:
    """A named step of cleaning. It can be pickled."""

    name: str
    """As it was given, such as `short:200`."""
    apply: Apply
    """From a document's text to its new text, or to None if it is thrown away."""
    apply_to_part: Apply
    """The same for a part of a text that is longer than PART_BYTES, of which no filter sees the whole."""


def parse_filters(specs: Sequence[str]) -> tuple[Filter, ...]:
    """The filters that are written as NAME or NAME:N; UsageError, with those there are, for anything else."""
    return tuple(_parse(spec) for spec in specs)


def clean(document: Document, filters: Sequence[Filter], tally: Tally) -> Document | None:
    """The document after all filters, or None if it was thrown away or nothing but white space is left of it.

    Adds what was removed to `tally`, here and by the reader. A text that is read in parts changes as any other, but
    is thrown away by `long` alone. An unpublished one goes before all filters. A token set is left as it is.
    """
    if document.tokens is not None:
        return document
    if UNPUBLISHED in document.removed:  # the whole text: nothing is left that could be blank
        tally.drop(UNPUBLISHED, document.name, document.removed[UNPUBLISHED][0])
        return None
    for kind, pieces in document.removed.items():
        tally.take(kind, document.name, pieces)
    if document.replaced:
        tally.replace(NOT_UNICODE, document.name, document.text, document.replaced)
    part = _is_part(document)
    text = document.text
    for step in filters:
        cleaned = step.apply_to_part(text) if part else step.apply(text)
        if cleaned is None:
            tally.drop(step.name, document.name, text, whole=not document.continues)
            return None
        if cleaned != text:
            tally.change(step.name, document.name, text, cleaned)
            text = cleaned
    if not part and (not text or text.isspace()):
        tally.drop(BLANK, document.name, text)
        return None
    return document if text is document.text else replace(document, text=text)


def _is_part(document: Document) -> bool:
    """Whether a document is one of several parts of a text: all but the last have at least PART_BYTES."""
    if document.continues:
        return True
    return len(document.text) * 4 >= PART_BYTES and len(document.text.encode()) >= PART_BYTES


def nothing_left(removed: Tally, specs: Sequence[str], origin: str) -> CorpusError:
    """The error for sources, called `origin`, of which cleaning by the filters `specs` left no text: what took it."""
    counts = {kind: removal.documents for kind, removal in removed.kinds.items()}
    total, hidden = sum(counts.values()), counts.get(UNPUBLISHED, 0)
    steps = {spec: removed.kinds[spec] for spec in specs if spec in removed.kinds}
    if steps:
        what = _emptied(steps, total, origin)
    else:
        besides = f", besides what is unpublished ({hidden:,} of {total:,})" if hidden else ""
        what = f"{origin} has no character but white space{besides}."
    return CorpusError(f"There is no text to learn from: {what}")


def _emptied(steps: Mapping[str, Removal], total: int, origin: str) -> str:
    whole = f"all {total:,} documents" if total > 1 else "the only document"
    worst = max(steps, key=lambda spec: (steps[spec].documents, steps[spec].characters))
    remedy = "Leave it out, or give it another number." if ":" in worst else "Leave it out."
    if dropped := sum(removal.documents for removal in steps.values()):
        some = f"{dropped:,} of {total:,} documents of {origin}, and the others are blank or unpublished"
        what, most = f"removed {f'{whole} of {origin}' if dropped == total else some}", f"{steps[worst].documents:,}"
    else:
        what = f"left nothing but white space of {whole} of {origin}"
        most = f"{steps[worst].characters:,} characters"
    return f"the filters {what}. {worst} removed the most, {most}. {remedy}"


# Filters that change a text. They do to parts of it what they do to the whole, since it is cut before white space, but
# for several spaces right at a cut, which look like an indentation.

_LINE_ENDS = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
_INVISIBLE = re.compile(
    "[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]+"
)
_EITHER = re.compile(f"[{_INVISIBLE.pattern[1:-2]}\v\f\r\x85\u2028\u2029]")


def plain_unicode(text: str) -> str:
    """Characters in composed form (NFC), every line end as a newline, and nothing that cannot be seen.

    Control characters, soft hyphens, byte-order and direction marks and zero-width spaces go. Tab, newline and the
    joiners U+200C and U+200D stay: emoji, Persian and the scripts of India are written with them.
    """
    if _EITHER.search(text):
        text = _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text))
    return unicodedata.normalize("NFC", text)


_OTHER_SPACES = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_BLANK_LINES = re.compile(r"\n{3,}")
_GAP = re.compile(r"""(?<=[\w.,;:!?'"’”)\]]) {2,}(?=[^\W\d_]|["'“‘(\[])""")


def tidy_spaces(text: str) -> str:
    """No white space at the end of lines, one blank line at most between lines and none at the end, plain spaces.

    Several spaces between words become one, but not in a line that is indented, and not before digits or signs: code,
    verse and tables of numbers keep their columns.
    """
    if not text.isascii():
        text = _OTHER_SPACES.sub(" ", text)
    if " \n" in text or "\t\n" in text or text.endswith((" ", "\t")):
        text = "\n".join([line.rstrip(" \t") for line in text.split("\n")])
    if "\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n", text)
    if text.endswith("\n\n"):
        text = text[:-1]
    return _edit_lines(text, ("  ",), _close_gaps)


def _close_gaps(line: str) -> str:
    return line if line.startswith((" ", "\t")) else _GAP.sub(" ", line)


def _edit_lines(text: str, marks: tuple[str, ...], edit: Callable[[str], str]) -> str:
    """`edit` on every line that holds one of `marks`; they are few, and the rest is left in no time."""
    if not any(mark in text for mark in marks):
        return text
    return "\n".join([edit(line) if any(mark in line for mark in marks) else line for line in text.split("\n")])


_ASCII = {
    "‘": "'", "’": "'", "‚": "'", "‛": "'", "′": "'", "“": '"', "”": '"', "„": '"', "‟": '"', "″": '"',
    "‐": "-", "‑": "-", "‒": "-", "–": "-", "−": "-", "—": "--", "―": "--", "…": "...",
}  # fmt: skip
_PUNCTUATION = re.compile(f"[{''.join(_ASCII)}]")


def ascii_punctuation(text: str) -> str:
    """Curly quotes, dashes and ellipses as a typewriter has them: fewer characters for a small model to learn."""
    return text if text.isascii() else _PUNCTUATION.sub(lambda sign: _ASCII[sign[0]], text)


def _taken_out(address: str) -> re.Pattern[str]:
    """What goes with an address: the space before it, and brackets that hold nothing else."""
    bare = rf"(?<!\w){address}"
    return re.compile(rf" ?(?:<{address}>|\({address}\)|\[{address}\]|{bare})", re.IGNORECASE)


def _markdown_link(start: str) -> re.Pattern[str]:
    """A Markdown link or image to an address that begins with `start`; the group is its words."""
    inside_brackets = r"[^\s()]*(?:\([^\s()]*\)[^\s()]*)*"  # may hold pairs of them, as Wikipedia's do
    return re.compile(rf"!?\[([^\[\]\n]*)\]\({start}{inside_brackets}\)", re.IGNORECASE)


_WEB = r"(?:(?:https?|ftp)://|www\.)"
_URL = _taken_out(rf"""{_WEB}[^\s<>"“”]*[^\s<>"“”.,;:!?'’)\]}}*_]""")  # not the sign after it
_LINK = _markdown_link(_WEB)


def without_urls(text: str) -> str:
    """Web addresses go, with the space before them and brackets around them; a Markdown link keeps its words."""
    return _edit_lines(text, ("://", "www."), lambda line: _URL.sub("", _LINK.sub(r"\1", line)))


_EMAIL = _taken_out(r"(?:mailto:)?(?<![\w.+-])[\w.+-]++@(?:[\w-]+\.)+[^\W\d_]{2,}")
_MAIL_LINK = _markdown_link("mailto:")


def without_emails(text: str) -> str:
    """Addresses for mail go as those of the web do: a model would learn whose they are."""
    return _edit_lines(text, ("@",), lambda line: _EMAIL.sub("", _MAIL_LINK.sub(r"\1", line)))


# Filters that judge a text by its length.


def at_least(characters: int, text: str) -> str | None:
    """Thrown away if it is shorter."""
    return text if len(text) >= characters else None


def at_most(characters: int, text: str) -> str | None:
    """Thrown away if it is longer."""
    return text if len(text) <= characters else None


LONGEST = PART_BYTES // 4
"""Characters that every text has at least which is read in parts, and the most that `long` can ask for."""

_CHANGING: Mapping[str, Apply] = {
    "unicode": plain_unicode,
    "spaces": tidy_spaces,
    "ascii-punctuation": ascii_punctuation,
    "urls": without_urls,
    "emails": without_emails,
}
_JUDGING: Mapping[str, Apply] = {"repetitive": not_repetitive, "prose": prose}
_BY_LENGTH: Mapping[str, Callable[[int, str], str | None]] = {"short": at_least, "long": at_most}

FILTERS = (*_CHANGING, *_JUDGING, *(f"{name}:N" for name in _BY_LENGTH))
"""What can be asked for; N is a number of characters."""


def _parse(spec: str) -> Filter:
    name, colon, argument = spec.partition(":")
    if name in _BY_LENGTH:
        return _parse_length(spec, name, argument)
    if name not in _CHANGING and name not in _JUDGING:
        near = difflib.get_close_matches(name, [known.removesuffix(":N") for known in FILTERS], 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"There is no filter {spec!r}.{hint} Filters: {', '.join(FILTERS)} (N: characters).")
    if colon:
        raise UsageError(f"The filter {spec!r} takes nothing after a colon: write {name}.")
    if name in _CHANGING:
        return Filter(spec, _CHANGING[name], _CHANGING[name])
    return Filter(spec, _JUDGING[name], _keep)


def _parse_length(spec: str, name: str, argument: str) -> Filter:
    most = LONGEST if name == "long" else None
    if not argument.isascii() or not argument.isdigit() or int(argument) < 1 or (most and int(argument) > most):
        limit = f" from 1 to {most}" if most else ", 1 or more"
        raise UsageError(f"The filter {spec!r} needs a number of characters{limit}, as in {name}:200.")
    return Filter(spec, partial(_BY_LENGTH[name], int(argument)), _throw_away if name == "long" else _keep)


def _keep(text: str) -> str | None:
    return text


def _throw_away(text: str) -> str | None:
    return None
