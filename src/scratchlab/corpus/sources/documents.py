"""Documents, and the places they are read from."""

import base64
import codecs
import functools
import hashlib
import json
import mmap
import os
import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, overload

from scratchlab.corpus.tokenizer import TokenIds
from scratchlab.errors import CorpusError

PART_BYTES = 2**23
"""A longer text is handled in parts, so that memory does not grow with it."""

BLOCK_SPANS = 2_000
"""So many spans are compressed together."""

MOST_REPLACED = 0.3
"""In a text, of U+FFFD to a byte: with more it is in another encoding, or no text."""

UNPUBLISHED = "unpublished"
"""What `removed` calls a whole text that its author does not show."""

# A space or newline after a character that is no white space, in UTF-8 (the lists: ASCII, U+0085 and U+00A0, U+1680,
# U+2000 to U+200A, U+2028, U+2029 and U+202F, U+205F, U+3000). No token of GPT-2's pattern reaches from such a
# character into white space, so that a text may be cut there without changing a token.
_CUT = re.compile(
    rb"[ \n](?<![\t-\r\x1c- ][ \n])(?<!\xc2[\x85\xa0][ \n])(?<!\xe1\x9a\x80[ \n])"
    rb"(?<!\xe2\x80[\x80-\x8a\xa8\xa9\xaf][ \n])(?<!\xe2\x81\x9f[ \n])(?<!\xe3\x80\x80[ \n])"
)
_HALVES = re.compile("[\ud800-\udfff]+")


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


@dataclass(frozen=True, slots=True)
class Spans(Sequence[Span]):
    """Spans in order, compressed: there may be millions of small files, and as objects each would take 450 bytes.

    They are met from the first to the last, a block at a time; to ask for one here and one there is slow.
    """

    blocks: tuple[str, ...] = ()
    """Each is base64 of compressed JSON, which holds up to BLOCK_SPANS spans."""
    length: int = 0
    size: int = 0
    """In bytes, of all of them together, as a measure of the work."""
    sha256: str = ""
    """Of the JSON, so that it does not depend on who compressed it."""

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Span]:
        for block in self.blocks:
            yield from _unpack(block)

    @overload
    def __getitem__(self, place: int) -> Span: ...
    @overload
    def __getitem__(self, place: slice) -> list[Span]: ...
    def __getitem__(self, place: int | slice) -> Span | list[Span]:
        if isinstance(place, slice):
            return list(self)[place]
        block, within = divmod(range(self.length)[place], BLOCK_SPANS)
        return _unpack(self.blocks[block])[within]


def pack(spans: Iterable[Span]) -> Spans:
    """The spans in little memory, taken a block at a time."""
    blocks, digest = list[str](), hashlib.sha256()
    length = size = 0
    waiting = iter(spans)
    while some := list(islice(waiting, BLOCK_SPANS)):
        content = json.dumps(some, default=_values).encode()  # in ASCII: names of files may hold what is no Unicode
        digest.update(content)
        blocks.append(base64.b64encode(zlib.compress(content)).decode())
        length += len(some)
        size += sum(span.size for span in some)
    return Spans(tuple(blocks), length, size, digest.hexdigest())


def _values(record: Any) -> list[Any]:
    """What a Span, or the Reading in it, is made of."""
    return [getattr(record, name) for name in record.__slots__]


@functools.lru_cache(maxsize=1)  # who asks for one of a block's spans asks for others
def _unpack(block: str) -> tuple[Span, ...]:
    rows = json.loads(zlib.decompress(base64.b64decode(block)))
    return tuple(Span(path, form, Reading(*reading), *others) for path, form, reading, *others in rows)


@dataclass(frozen=True, slots=True)
class Listing:
    """What there is to read of a source."""

    spans: Spans
    passed_over: Counter[str] = field(default_factory=Counter[str])
    """By extension, files of a folder that are not read."""
    revision: str | None = None
    """Of a dataset on the Hub: its commit."""


def printable(path: Path | str) -> str:
    """A path as text that can always be written as UTF-8 (file names may hold any bytes)."""
    return os.fsencode(path).decode(errors="replace")


def decode(data: bytes, name: str, at: int = 0) -> Document:
    """A file's bytes as a document: UTF-8 without a byte-order mark, newlines as `\\n`, U+FFFD where it is not UTF-8.

    `at` is where in the file they begin. CorpusError, naming the file, for what is no UTF-8 text at all.
    """
    if at == 0:
        marked = len(data)
        data = without_mark(data, name)
        at = marked - len(data)
    if (nul := data.find(b"\0")) >= 0:
        raise CorpusError(
            f"{name} is not text: there is a NUL byte at position {at + nul}. Leave it out, or convert it to text."
        )
    try:
        text, replaced = data.decode(), 0
    except UnicodeDecodeError as error:
        text = data.decode(errors="replace")
        replaced = text.count("\ufffd") - data.count("\ufffd".encode())
        if replaced > MOST_REPLACED * len(data):
            raise CorpusError(
                f"{name} is not UTF-8: {replaced} places of its {len(data)} bytes, the first of them "
                f"0x{data[error.start]:02x} at position {at + error.start}. {_CONVERT.format('LATIN1')}"
            ) from error
    return Document(_newlines(text), name, replaced=replaced)


def without_mark(data: bytes, name: str) -> bytes:
    """The first bytes of a file without the byte-order mark of UTF-8; CorpusError if they have that of UTF-16."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise CorpusError(f"{name} starts with the byte-order mark of UTF-16 (byte 0). {_CONVERT.format('UTF-16')}")
    return data.removeprefix(codecs.BOM_UTF8)


_CONVERT = "If it is text in another encoding, convert it: iconv -f {} -t UTF-8 OLD > NEW (with its true encoding)."


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def sound(document: Document) -> Document:
    """The document as `Document` promises it, whatever the text of a row was.

    Halves of surrogate pairs become U+FFFD, which is counted: JSON can hold them and UTF-8 cannot. Bytes that are not
    UTF-8 come as such halves, too, from rows that were decoded with `surrogateescape`: so they are counted in the field
    that is read alone, and not in the row's others.
    """
    text = _newlines(document.text)
    if not document.continues:
        text = text.removeprefix("\ufeff")
    try:
        text.encode()
    except UnicodeEncodeError:
        before, text = text.count("\ufffd"), _HALVES.sub(_replaced, text)
        return replace(document, text=text, replaced=document.replaced + text.count("\ufffd") - before)
    return document if text is document.text else replace(document, text=text)


def _replaced(halves: re.Match[str]) -> str:
    """What U+FFFD stands for a run of halves: as many as `decode` would put where they are bytes, else one each."""
    try:
        return halves[0].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return "\ufffd" * len(halves[0])


def in_parts(document: Document) -> Iterator[Document]:
    """The document, in parts if it is longer than PART_BYTES; the same parts as of a file that holds its text."""
    if len(document.text) * 4 <= PART_BYTES:  # spares encoding nearly all there are
        yield document
        return
    data = document.text.encode()
    stop = next_cut(data, 0)
    yield replace(document, text=data[:stop].decode()) if stop < len(data) else document
    while stop < len(data):
        start, stop = stop, next_cut(data, stop)
        yield Document(data[start:stop].decode(), document.name, continues=True)


def next_cut(data: bytes | bytearray | mmap.mmap, start: int) -> int:
    """Where the part of UTF-8 text that begins at `start` ends: at the first safe place after PART_BYTES.

    Digits of pi have no such place: after twice as many bytes, a text is cut between any two characters.
    """
    middle, far = start + PART_BYTES, start + 2 * PART_BYTES
    if found := _CUT.search(data, middle, far):
        return found.start()
    return len(data) if len(data) <= far else _between_characters(data, far)


def _between_characters(data: bytes | bytearray | mmap.mmap, stop: int) -> int:
    """The last place up to `stop` that is within no character, and not within `\\r\\n`."""
    back = next((back for back in range(4) if data[stop - back] & 0xC0 != 0x80), 0)  # 4: more is no UTF-8
    stop -= back
    return stop - 1 if data[stop - 1 : stop + 1] == b"\r\n" else stop
