"""Finding what a source holds: files, folders, globs, archives, blogs, datasets on the Hub, and `python-docs`."""

import difflib
import glob
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from scratchlab.corpus.sources.documents import Document, Reading, Span, printable
from scratchlab.corpus.sources.formats import FORMATS, format_of, read_span
from scratchlab.errors import CorpusError, UsageError

PYTHON_DOCS = "python-docs"
HUB = "hf:"
ARCHIVE = ".zip"
IN_FOLDERS = ("text", "html", "jsonl", "parquet")
"""The formats that a folder is searched for; CSV too, if a column is named."""
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
    reading: Reading = Reading()
    weight: float | None = None
    """The share of the training tokens that come from here, before the shares are made to sum to 1."""
    repeat: int = 1
    """How often a document may be used, at most, to reach that share."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What there is to read of a source."""

    spans: list[Span]
    passed_over: Counter[str] = field(default_factory=Counter[str])
    """By extension, files of a folder that are not read."""
    revision: str | None = None
    """Of a dataset on the Hub: its commit."""


def list_source(source: Source) -> Listing:
    """Everything to read of `source`, in order: files sorted by POSIX path, long ones cut into spans.

    A single file may have any extension: one that is not known holds text. Of a folder the known formats are read;
    hidden names and links to folders are passed over. Raises CorpusError where there is nothing to read.
    """
    location = source.location
    if source.blog:
        return _list_blog(source)
    if location.startswith(HUB):
        from scratchlab.corpus.sources.hub_datasets import list_dataset

        return list_dataset(location, source.reading)
    path = Path(location)
    if path.is_dir():
        return _list_folder(path, source.reading)
    if path.is_file():
        return Listing(_spans(path, source.reading))
    if location == PYTHON_DOCS and not path.exists():
        return Listing([Span(PYTHON_DOCS, PYTHON_DOCS)])
    if glob.has_magic(location) and (found := sorted(glob.glob(location, recursive=True))):
        files = [Path(name) for name in found if Path(name).is_file()]
        return Listing([span for file in files for span in _spans(file, source.reading)])
    raise CorpusError(_no_such_source(path))


def read_documents(location: str) -> Iterator[Document]:
    """The documents of a single file or folder, in order, as `list_source` finds them."""
    for span in list_source(Source(location)).spans:
        yield from read_span(span)


def _spans(path: Path, reading: Reading) -> list[Span]:
    """The spans of one file."""
    status = path.stat()
    span = Span(str(path), "text", reading, size=status.st_size, modified=status.st_mtime_ns)
    if path.suffix.lower() == ARCHIVE:
        return _members(span)
    return _cut(span, format_of(path.name) or "text")


def _cut(span: Span, form: str) -> list[Span]:
    stem = Path(span.member or span.path).name.split(".")[0].lower()
    split = next((SPLIT_NAMES[word] for word in reversed(stem.replace("-", "_").split("_")) if word in SPLIT_NAMES), None)
    return FORMATS[form].cut(replace(span, format=form, split=split if form == "tokens" else None))


def _members(span: Span) -> list[Span]:
    """The files of an archive that are in a known format."""
    try:
        with zipfile.ZipFile(span.path) as archive:
            members = sorted((info.filename, info.file_size) for info in archive.infolist() if not info.is_dir())
    except (OSError, zipfile.BadZipFile) as error:
        raise CorpusError(f"{span.name} is no whole .zip archive: {error}. Fetch it again, or leave it out.") from error
    known = [(name, size) for name, size in members if format_of(name) in ("text", "html", "jsonl", "csv")]
    if not known:
        raise CorpusError(f"{span.name} holds no text files; found there: {_extensions(name for name, _ in members)}.")
    return [
        part
        for name, size in known
        for part in _cut(replace(span, member=name, size=size), format_of(name) or "text")
    ]


def _list_folder(folder: Path, reading: Reading) -> Listing:
    files, passed_over = list[Path](), Counter[str]()
    wanted = (*IN_FOLDERS, "csv") if reading.column else IN_FOLDERS
    for parent, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and format_of(name) in wanted:
                files.append(Path(parent, name))
            else:
                passed_over[_extension(name)] += 1
    if not files:
        suffixes = ", ".join(suffix for form in IN_FOLDERS for suffix in FORMATS[form].suffixes)
        found = ", ".join(f"{count} {extension}" for extension, count in passed_over.most_common(8))
        raise CorpusError(
            f"{printable(folder)} holds no text files ({suffixes}); found there: {printable(found or 'no files at all')}. "
            "A single file of any other extension can be given by its own path, CSV by its path and --column."
        )
    files.sort(key=lambda path: path.relative_to(folder).as_posix())
    return Listing([span for file in files for span in _spans(file, reading)], passed_over)


def _list_blog(source: Source) -> Listing:
    from scratchlab.corpus.sources.jekyll import passed_over, posts

    site = Path(source.location)
    others = Counter({reason: len(names) for reason, names in passed_over(site).items()})
    spans = [
        Span(str(path), "post", source.reading, size=path.stat().st_size, modified=path.stat().st_mtime_ns)
        for path in posts(site)
    ]
    return Listing(spans, others)


def _extension(name: str) -> str:
    return "hidden" if name.startswith(".") else Path(name).suffix.lower() or "no extension"


def _extensions(names: Iterator[str]) -> str:
    found = Counter(map(_extension, names)).most_common(8)
    return ", ".join(f"{count} {extension}" for extension, count in found) or "no files at all"


def _unreadable(error: OSError) -> None:
    raise CorpusError(f"{printable(error.filename)} could not be read: {error.strerror}.") from error


def _no_such_source(path: Path) -> str:
    if path.exists():
        return f"{printable(path)} is neither a file nor a folder, and cannot be read twice. Save the text to a file."
    if glob.has_magic(str(path)):
        return f"No file fits {printable(path)}."
    try:
        neighbors = sorted(os.listdir(path.parent))
    except OSError:
        neighbors = []
    near = difflib.get_close_matches(path.name, [*neighbors, PYTHON_DOCS], n=3)
    hint = f" Did you mean {' or '.join(printable(name) for name in near)}?" if near else ""
    return (
        f"{printable(path)} does not exist.{hint} "
        f"Give text files, folders, globs, {HUB}USER/DATASET, or {PYTHON_DOCS} (what comes with Python)."
    )
