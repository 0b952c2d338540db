"""Where text comes from: files, folders, and the built-in `python-docs`.

Reading is deterministic and can be repeated: a build reads its sources more than once instead of holding them.
"""

import codecs
import difflib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scratchlab.errors import CorpusError

PYTHON_DOCS = "python-docs"
EXTENSIONS = (".txt", ".md", ".markdown", ".text")


@dataclass(frozen=True, slots=True)
class Document:
    """One text, with `\\n` newlines and no byte-order mark, and the name of where it came from."""

    text: str
    source: str


def read_documents(sources: Sequence[str]) -> Iterator[Document]:
    """The documents of all `sources`, in the order given.

    A source is a file (of any extension: one document), a folder (walked recursively: one document for every text or
    Markdown file, sorted by POSIX relative path; hidden names and links to folders are passed over), or `python-docs`
    unless a path of that name exists. Blank documents are yielded too.

    Raises CorpusError, naming the file, for what is missing, unreadable, binary or not UTF-8.
    """
    for source in sources:
        path = Path(source)
        if path.is_dir():
            for file in _text_files(path):
                yield _read(file)
        elif path.is_file():
            yield _read(path)
        elif source == PYTHON_DOCS and not path.exists():
            from scratchlab.corpus.pythondocs import python_docs

            for name, text in python_docs():
                yield Document(text, f"{PYTHON_DOCS}/{name}")
        else:
            raise CorpusError(_no_such_source(path))


def printable(path: Path | str) -> str:
    """A path as text that can always be written as UTF-8 (file names may hold any bytes)."""
    return os.fsencode(path).decode(errors="replace")


def _no_such_source(path: Path) -> str:
    if path.exists():
        return f"{printable(path)} is neither a file nor a folder, and cannot be read twice. Save the text to a file."
    try:
        neighbors = sorted(os.listdir(path.parent))
    except OSError:
        neighbors = []
    near = difflib.get_close_matches(path.name, [*neighbors, PYTHON_DOCS], n=3)
    hint = f" Did you mean {' or '.join(printable(name) for name in near)}?" if near else ""
    return (
        f"{printable(path)} does not exist.{hint} "
        f"Give text files, folders, or {PYTHON_DOCS} (the documentation that comes with Python)."
    )


def _text_files(folder: Path) -> list[Path]:
    """Text files of `folder`, sorted by POSIX relative path; if there are none, an error lists what was there."""
    files, others = list[Path](), Counter[str]()
    for parent, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if path.suffix.lower() in EXTENSIONS and not name.startswith("."):
                files.append(path)
            else:
                others["hidden" if name.startswith(".") else path.suffix.lower() or "no extension"] += 1
    if not files:
        found = ", ".join(f"{count} {extension}" for extension, count in others.most_common(8)) or "no files at all"
        raise CorpusError(
            f"{printable(folder)} holds no text files ({', '.join(EXTENSIONS)}); found there: {printable(found)}. "
            "A single file of any other extension can be given by its own path."
        )
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


def _unreadable(error: OSError) -> None:
    raise CorpusError(f"{printable(error.filename)} could not be read: {error.strerror}.") from error


def _read(path: Path) -> Document:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{printable(path)} could not be read: {error.strerror}.") from error
    return Document(_decode(data, printable(path)), printable(path))


def _decode(data: bytes, name: str) -> str:
    """UTF-8 without a byte-order mark, all newlines as `\\n`; positions in errors count from the start of the file."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise CorpusError(f"{name} starts with the byte-order mark of UTF-16 (byte 0). {_CONVERT.format('UTF-16')}")
    nul = data.find(b"\0")
    if nul >= 0:
        raise CorpusError(
            f"{name} is not text: there is a NUL byte at position {nul}. Leave it out, or convert it to plain text."
        )
    skipped = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    try:
        text = data[skipped:].decode("utf-8")
    except UnicodeDecodeError as error:
        position = error.start + skipped
        raise CorpusError(
            f"{name} is not UTF-8: byte 0x{data[position]:02x} at position {position}. {_CONVERT.format('LATIN1')}"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


_CONVERT = "If it is text in another encoding, convert it: iconv -f {} -t UTF-8 OLD > NEW (with its true encoding)."
