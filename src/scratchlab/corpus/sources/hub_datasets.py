"""Datasets on the Hugging Face Hub: `hf:USER/NAME?name=CONFIGURATION&split=SPLIT&text=COLUMN&revision=BRANCH&files=N`.

A span is a range of one file of one commit, so that reading it again, in another process or on another day, gives the
same bytes. It is read in place, by HTTP ranges: of Parquet the row groups of the span, and of those the one column. No
code of a dataset is run.

The library `datasets` would do this too. It is not used because its parts cannot be had apart: importing it takes a
second and 60 MB, listing tells another server which dataset is meant and writes a cache, and what streams from it is
resumed by counting examples, where a span here is found at once.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from scratchlab.corpus.hub import Location, hub_errors, parse_location
from scratchlab.corpus.sources.documents import Document, Listing, Reading, Span, pack
from scratchlab.corpus.sources.hub_splits import files_of_split
from scratchlab.corpus.sources.opened import COMPRESSED
from scratchlab.corpus.sources.remote import RemotePath, open_remote
from scratchlab.corpus.sources.tables import (
    DEFAULT_COLUMN,
    check_csv,
    cut_lines,
    cut_row_groups,
    read_csv,
    read_json_lines,
    read_parquet,
)
from scratchlab.errors import CorpusError, UsageError

HUB_FORMAT = "hub"
WHICH_FILES = ("name", "split", "revision", "files")
PARAMETERS = (*WHICH_FILES, "text")
AT_ONCE = 8
"""Files whose beginnings or ends are looked at together."""

Cut = Callable[[Span], list[Span]]
Read = Callable[[Span], Iterator[Document]]

_BY_SUFFIX: dict[str, tuple[Cut, Read]] = {
    ".parquet": (cut_row_groups, read_parquet),
    ".jsonl": (cut_lines, read_json_lines),
    ".ndjson": (cut_lines, read_json_lines),
    ".json": (cut_lines, read_json_lines),  # by custom it is JSON Lines there
    ".csv": (check_csv, read_csv),
    ".tsv": (check_csv, read_csv),
}


def list_dataset(location: str, reading: Reading) -> Listing:
    """The spans of a split of a dataset at the commit that its revision stands for now, which the listing names.

    `name` chooses a configuration, `split` is train, `text` is `reading.column` or else text, and `revision` is main
    unless given; `files` takes only the first so many files. UsageError for other parameters; CorpusError for what is
    not there, may not be seen or cannot be reached.
    """
    place = parse_location(location, PARAMETERS)
    found = dataset_files(place)
    column = place.parameters.get("text") or reading.column or DEFAULT_COLUMN
    read = replace(reading, column=column)
    files = [Span(path, HUB_FORMAT, read, size=size) for path, size in found.sizes.items()]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        spans = [span for cut in pool.map(_cut, files) for span in cut]
    return Listing(pack(spans), found.passed_over, found.commit)


@dataclass(frozen=True, slots=True)
class DatasetFiles:
    """The files that a split of a dataset is, at one commit, in the format that most of them have."""

    sizes: Mapping[str, int]
    """In bytes, by where they are read from (`open_remote`)."""
    passed_over: Counter[str]
    commit: str


def dataset_files(place: Location) -> DatasetFiles:
    """The files that `place` names, as its card or their names have it; nothing is read of them.

    UsageError for parameters that mean nothing, CorpusError for what is not there, may not be seen or reached.
    """
    parameters = place.parameters
    most = _most_files(place.repository, parameters.get("files"))
    with hub_errors(place.where):
        commit, sizes = _repository(place, parameters.get("revision"))
    card = _card(place, commit) if "README.md" in sizes else {}
    try:
        paths = files_of_split(card, sizes, parameters.get("name"), parameters.get("split", "train"))
    except CorpusError as error:
        raise CorpusError(f"{place.where} {error}") from error
    chosen, passed_over = _of_one_format(place, [path for path in paths if sizes[path]])
    found = {str(RemotePath(place.repository, commit, path)): sizes[path] for path in chosen[:most]}
    return DatasetFiles(found, passed_over, commit)


def read_dataset(span: Span) -> Iterator[Document]:
    """The documents of a span, one a row."""
    return _BY_SUFFIX[_suffix(span.path)][1](span)


def _cut(span: Span) -> list[Span]:
    return _BY_SUFFIX[_suffix(span.path)][0](span)


def _repository(place: Location, revision: str | None) -> tuple[str, dict[str, int]]:
    """The commit, and the size of each of its files by path."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    commit = HfApi().dataset_info(place.repository, revision=revision).sha
    assert commit
    entries = HfApi().list_repo_tree(place.repository, recursive=True, revision=commit, repo_type="dataset")
    return commit, {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}


def _card(place: Location, commit: str) -> Mapping[str, Any]:
    """The metadata at the head of README.md."""
    from huggingface_hub import DatasetCard

    with open_remote(str(RemotePath(place.repository, commit, "README.md"))) as file:
        text = file.read().decode(errors="replace")
    if not text.lstrip().startswith("---"):
        return {}
    try:
        return DatasetCard(text, ignore_metadata_errors=True).data.to_dict()
    except Exception as error:  # of whichever YAML library the client uses
        raise CorpusError(f"{place.where} has a README.md whose head is no YAML: {error}".replace("\n", " ")) from error


def _of_one_format(place: Location, paths: Sequence[str]) -> tuple[list[str], Counter[str]]:
    """The files in the commonest format that can be read (Parquet, if two are), and how many others by extension.

    A repository may hold the same text in several.
    """
    formats = Counter(_BY_SUFFIX[_suffix(path)] for path in paths if _suffix(path) in _BY_SUFFIX)
    if not formats:
        found = ", ".join(sorted({_suffix(path) or "no extension" for path in paths})) or "no files"
        raise CorpusError(
            f"{place.where} holds none of {', '.join(_BY_SUFFIX)} in that split; found there: {found}. Fetch it (`hf "
            f"download {place.repository} --repo-type dataset --local-dir DIR`) and give what of it is text."
        )
    chosen = max(formats, key=lambda form: (formats[form], form == _BY_SUFFIX[".parquet"]))
    kept = [path for path in paths if _BY_SUFFIX.get(_suffix(path)) == chosen]
    return kept, Counter(_suffix(path) or "no extension" for path in paths) - Counter(map(_suffix, kept))


def _suffix(path: str) -> str:
    """Of a file's name, what says its format; `.gz` and `.zst` do not."""
    *before, last = ["", *(suffix.lower() for suffix in PurePosixPath(path).suffixes)]
    return before[-1] if last in COMPRESSED and before else last


def _most_files(repository: str, files: str | None) -> int | None:
    if files is None:
        return None
    if not files.isdecimal() or int(files) < 1:
        raise UsageError(f"{repository}: files= takes a number from 1 on: how many of the files to read.")
    return int(files)
