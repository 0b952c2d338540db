"""Documents, and the places they are read from."""

import codecs
import hashlib
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from scratchlab.corpus.tokenizer import TokenIds
from scratchlab.errors import CorpusError

PART_BYTES = 2**23
"""A longer text is handled in parts, so that memory does not grow with it."""

MOST_REPLACED = 0.3
"""Of a text's bytes: with more that are not UTF-8, it is in another encoding, or no text."""

# A space or newline after a character that is no white space, in UTF-8. No token of GPT-2's pattern reaches across it,
# so that a text may be cut there without changing a token. White space beyond ASCII begins with C2, E1, E2 or E3 80 80.
_CUT = re.compile(
    rb"(?:(?<=[!-~])|(?<=[\xc3-\xdf][\x80-\xbf])|(?<=[\xe0\xe4-\xef][\x80-\xbf]{2})|(?<=\xe3[\x81-\xbf][\x80-\xbf])"
    rb"|(?<=\xe3\x80[\x81-\xbf])|(?<=[\xf0-\xf4][\x80-\xbf]{3}))[ \n]"
)


@dataclass(frozen=True, slots=True)
class Document:
    """One text with `\\n` newlines and no byte-order mark, or a part of a text that is longer than PART_BYTES."""

    text: str
    name: str
    """Where it came from, for people: a file, or a file and a line of it."""
    continues: bool = False
    """Whether it goes on from the document before, as the next part of the same text."""
    removed: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """By kind, what reading it took out."""
    replaced: int = 0
    """How many places were not Unicode and became U+FFFD."""
    tokens: TokenIds | None = None
    """Of a token set: its tokens as they are there. The text is empty then."""

    def content(self) -> bytes:
        """What makes two documents the same: the text as UTF-8, or the tokens as uint32."""
        return self.text.encode() if self.tokens is None else self.tokens.astype("<u4").tobytes()


def key_of(content: bytes) -> tuple[int, int]:
    """The first 16 bytes of its SHA-256, as two numbers."""
    high, low = struct.unpack(">QQ", hashlib.sha256(content).digest()[:16])
    return high, low


@dataclass(frozen=True, slots=True)
class Reading:
    """How a source is to be read, where its format leaves a choice."""

    column: str | None = None
    """The field of JSON Lines and the column of Parquet and CSV that holds the text."""
    series: bool = False
    """Whether a file's column is one series of numbers, and so one document, rather than a document a row."""
    separator: int | None = None
    """The token that parts the documents of a token set."""
    code: bool = True
    """Whether the code blocks of a blog's posts are kept."""


@dataclass(frozen=True, slots=True)
class Span:
    """A place that documents can be read from, alone and again and again: a file, or a range of one."""

    path: str
    format: str
    """A key of `formats.FORMATS`."""
    reading: Reading = Reading()
    start: int = 0
    stop: int | None = None
    """The range, counted as the format says: bytes, row groups, tokens. All of the file unless given."""
    continues: bool = False
    """Whether its first document goes on from the span before."""
    member: str | None = None
    """Of a zip archive: the file in it."""
    size: int = 0
    """In bytes, of the file or of the range, as a measure of the work."""
    modified: int = 0
    """When the file was last changed, in nanoseconds: a build that is picked up again must find the same."""
    split: str | None = None
    """The split that a token set's file is, by its name."""

    @property
    def name(self) -> str:
        """For people."""
        return printable(self.path) + (f", {printable(self.member)}" if self.member else "")


def printable(path: Path | str) -> str:
    """A path as text that can always be written as UTF-8 (file names may hold any bytes)."""
    return os.fsencode(path).decode(errors="replace")


def decode(data: bytes, name: str) -> Document:
    """A file's bytes as a document: UTF-8 without a byte-order mark, newlines as `\\n`, U+FFFD where it is not UTF-8.

    CorpusError, naming the file, for what is no UTF-8 text at all.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise CorpusError(f"{name} starts with the byte-order mark of UTF-16 (byte 0). {_CONVERT.format('UTF-16')}")
    nul = data.find(b"\0")
    if nul >= 0:
        raise CorpusError(
            f"{name} is not text: there is a NUL byte at position {nul}. Leave it out, or convert it to plain text."
        )
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text, replaced = data.decode(), 0
    except UnicodeDecodeError as error:
        text = data.decode(errors="replace")
        replaced = text.count("\ufffd") - data.count("\ufffd".encode())
        if replaced > MOST_REPLACED * len(data):
            raise CorpusError(
                f"{name} is not UTF-8: {replaced} of its {len(data)} bytes, the first of them 0x{data[error.start]:02x} "
                f"at position {error.start}. {_CONVERT.format('LATIN1')}"
            ) from error
    return Document(text.replace("\r\n", "\n").replace("\r", "\n"), name, replaced=replaced)


_CONVERT = "If it is text in another encoding, convert it: iconv -f {} -t UTF-8 OLD > NEW (with its true encoding)."


def sound(document: Document) -> Document:
    """The document with U+FFFD for every half of a surrogate pair, which JSON can hold and UTF-8 cannot."""
    try:
        document.text.encode()
    except UnicodeEncodeError:
        text = document.text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return replace(document, text=text, replaced=document.replaced + text.count("\ufffd"))
    return document


def in_parts(document: Document) -> Iterator[Document]:
    """The document, in parts if it is longer than PART_BYTES; the same parts as of a file that holds its text."""
    if len(document.text) * 4 <= PART_BYTES:  # spares encoding nearly all there are
        yield document
        return
    data = document.text.encode()
    start = 0
    while (stop := next_cut(data, start)) < len(data):
        yield replace(document, text=data[start:stop].decode(), continues=document.continues or start > 0)
        start = stop
    yield replace(document, text=data[start:].decode(), continues=document.continues or start > 0)


def next_cut(data: bytes, start: int) -> int:
    """Where the part that begins at `start` ends: the first safe place after PART_BYTES, or the end."""
    found = _CUT.search(data, start + PART_BYTES)
    return found.start() if found else len(data)
