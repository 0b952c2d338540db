"""Finding what a source holds: files, folders, globs, archives, blogs, datasets on the Hub, and `python-docs`."""

import difflib
import glob
import os
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from scratchlab.corpus.hub import SCHEME
from scratchlab.corpus.sources.documents import Document, Listing, Reading, Span, pack, printable
from scratchlab.corpus.sources.formats import FORMATS, format_of, read_span
from scratchlab.corpus.sources.hub_datasets import list_dataset
from scratchlab.corpus.sources.opened import COMPRESSED
from scratchlab.corpus.sources.urls import files_at, is_url
from scratchlab.errors import CorpusError

PYTHON_DOCS = "python-docs"
ARCHIVE = ".zip"
PACKED = (".tar", ".tgz", ".tbz2", ".txz", ".bz2", ".xz", ".7z", ".rar")
"""What is not unpacked here."""
IN_FOLDERS = ("text", "html", "jsonl", "parquet")
"""The formats that a folder is searched for; CSV too, if a column is named."""
IN_ARCHIVES = ("text", "html", "jsonl", "csv")
"""The formats that need not be read in place, and so can be in an archive."""
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where text comes from, and what part of a mixture it is to be."""

    location: str
    """A file, a folder, a glob, a .zip archive, `python-docs`, or `hf:USER/DATASET`."""
    name: str = ""
    """What it is called in the manifest: its location unless given."""
    blog: bool = False
    """Whether it is a Jekyll site."""
    reading: Reading = field(default_factory=Reading)
    weight: float | None = None
    """The share of the training tokens that come from here, before the shares are made to sum to 1."""
    repeat: int = 1
    """How often a document may be used, at most, to reach that share."""


def list_source(source: Source) -> Listing:
    """Everything to read of `source`, in order: files sorted by POSIX path, long ones cut into spans.

    A single file, or one that a glob fits, may have any extension: one that is not known holds text. Of a folder the
    known formats are read; hidden names, links to folders and archives are passed over. Raises CorpusError where there
    is nothing to read.
    """
    location = source.location
    if source.blog:
        return _list_blog(source)
    if location.startswith(SCHEME):
        return list_dataset(location, source.reading)
    if is_url(location):
        return _list_url(location, source.reading)
    if os.path.isdir(location):
        return _list_folder(Path(location), source.reading)
    if os.path.isfile(location):
        return _list_files([location], source.reading)
    if location == PYTHON_DOCS:
        return Listing(pack([Span(PYTHON_DOCS, PYTHON_DOCS)]))
    if glob.has_magic(location) and (found := sorted(filter(os.path.isfile, glob.glob(location, recursive=True)))):
        return _list_files(found, source.reading)
    raise CorpusError(_no_such_source(location))


def read_documents(location: str) -> Iterator[Document]:
    """The documents of a single source, in order, as `list_source` finds them."""
    for span in list_source(Source(location)).spans:
        yield from read_span(span)


# Files.


def _list_files(paths: Iterable[str], reading: Reading) -> Listing:
    passed_over = Counter[str]()

    def spans() -> Iterator[Span]:
        for path in paths:
            span = _whole(path, reading)
            yield from _list_members(span, passed_over) if _suffix(path) == ARCHIVE else _cut(span)

    return Listing(pack(spans()), passed_over)


def _whole(path: str, reading: Reading) -> Span:
    """The span of one file."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise _unreadable(error) from error
    if not stat.S_ISREG(status.st_mode):
        raise CorpusError(_no_such_source(path))
    return Span(path, "text", reading, size=status.st_size, modified=status.st_mtime_ns)


def _cut(span: Span) -> list[Span]:
    path = span.member or span.path
    form = format_of(path) or "text"
    unpacked = path[: -len(_suffix(path))] if _suffix(path) in COMPRESSED else path
    if form == "text" and _suffix(unpacked) in (*PACKED, ARCHIVE):
        raise CorpusError(f"{span.name} is packed in a way that is not read here. Unpack it, and give what was in it.")
    return FORMATS[form].cut(replace(span, format=form, split=_split(path) if form == "tokens" else None))


def _split(path: str) -> str | None:
    """The split that a file is by its name, as train.bin or fineweb_val_000000.npy."""
    words = re.findall("[a-z]+", Path(path).stem.lower())
    return next((SPLIT_NAMES[word] for word in reversed(words) if word in SPLIT_NAMES), None)


def _list_members(span: Span, passed_over: Counter[str]) -> list[Span]:
    """The files of an archive that are in a known format."""
    try:
        with zipfile.ZipFile(span.path) as archive:
            members = sorted(
                {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}.items()
            )
    except zipfile.BadZipFile as error:
        raise CorpusError(f"{span.name} is no whole .zip archive: {error}. Fetch it again, or leave it out.") from error
    except OSError as error:
        raise _unreadable(error) from error
    wanted = set(_wanted(span.reading)) & set(IN_ARCHIVES)
    spans: list[Span] = []
    for name, size in members:
        hidden = any(part.startswith(".") for part in name.split("/"))
        if not hidden and format_of(name) in wanted and _suffix(name) not in COMPRESSED:
            spans += _cut(replace(span, member=name, size=size))
        else:
            passed_over["hidden" if hidden else _extension(name)] += 1
    if not spans:
        raise CorpusError(f"{span.name} holds no text files; found there: {_found(passed_over)}.")
    return spans


# Folders.


def _list_folder(folder: Path, reading: Reading) -> Listing:
    files, passed_over = list[str](), Counter[str]()  # by their POSIX paths in the folder, the least that tells them
    wanted = _wanted(reading)
    for parent, folders, names in os.walk(folder, onerror=_raise_unreadable):
        passed_over["hidden"] += sum(name.startswith(".") for name in folders)
        folders[:] = [name for name in folders if not name.startswith(".")]
        passed_over["link to a folder"] += sum(os.path.islink(os.path.join(parent, name)) for name in folders)
        within = Path(parent).relative_to(folder)
        for name in names:
            if not name.startswith(".") and format_of(name) in wanted:
                files.append((within / name).as_posix())
            else:
                passed_over[_extension(name)] += 1
    passed_over = +passed_over  # without the zeros
    if not files:
        suffixes = ", ".join(suffix for form in IN_FOLDERS for suffix in FORMATS[form].suffixes)
        raise CorpusError(
            f"{printable(folder)} holds no text files ({suffixes}); found there: {_found(passed_over)}. "
            "Files of any other extension can be given by their own path or a glob, CSV with --column."
        )
    files.sort()
    return replace(_list_files((str(folder / file) for file in files), reading), passed_over=passed_over)


def _wanted(reading: Reading) -> tuple[str, ...]:
    """The formats that a folder or an archive is searched for."""
    return (*IN_FOLDERS, "csv") if reading.column else IN_FOLDERS


def _list_url(url: str, reading: Reading) -> Listing:
    """Of a folder at a URL is read what would be read of one here."""
    spans, passed_over = list[Span](), Counter[str]()
    for file in files_at(url):
        name, form = file.url.rsplit("/", 1)[-1], format_of(file.url)
        if file.below is not None and (form not in _wanted(reading) or "/." in f"/{file.below}"):
            passed_over[_extension(name)] += 1
        elif form == "tokens" or name.lower().endswith(ARCHIVE):
            raise CorpusError(f"{file.url} is of a format that is read in place. Fetch it, and give its path here.")
        else:
            spans += _cut(Span(file.url, "text", reading, size=file.size, modified=file.modified))
    if not spans:
        raise CorpusError(f"{url} holds no text files; found there: {_found(passed_over)}.")
    return Listing(pack(spans), passed_over)


def _list_blog(source: Source) -> Listing:
    from scratchlab.corpus.sources.jekyll import passed_over, posts

    site = Path(source.location)
    others = Counter({reason: len(names) for reason, names in passed_over(site).items()})
    spans = (
        Span(str(path), "post", source.reading, size=path.stat().st_size, modified=path.stat().st_mtime_ns)
        for path in posts(site)
    )
    return Listing(pack(spans), others)


# Names, and what to say of them.


def _suffix(path: str) -> str:
    return Path(path).suffix.lower()


def _extension(name: str) -> str:
    return "hidden" if name.startswith(".") else _suffix(name) or "no extension"


def _found(passed_over: Counter[str]) -> str:
    return printable(", ".join(f"{count} {what}" for what, count in passed_over.most_common(8)) or "no files at all")


def _unreadable(error: OSError) -> CorpusError:
    return CorpusError(f"{printable(error.filename)} could not be read: {error.strerror}.")


def _raise_unreadable(error: OSError) -> None:
    raise _unreadable(error) from error


def _no_such_source(location: str) -> str:
    path = Path(location)
    if os.path.exists(location):
        return f"{printable(path)} is neither a file nor a folder, and cannot be read twice. Save the text to a file."
    if glob.has_magic(location):
        return f"No file fits {printable(path)}."
    try:
        neighbors = sorted(os.listdir(path.parent))
    except OSError:
        neighbors = []
    near = difflib.get_close_matches(path.name, [*neighbors, PYTHON_DOCS], n=3)
    hint = f" Did you mean {' or '.join(printable(name) for name in near)}?" if near else ""
    return (
        f"{printable(path)} does not exist.{hint} "
        f"Give text files, folders, globs, {SCHEME}USER/DATASET, or {PYTHON_DOCS} (what comes with Python)."
    )
