"""Moving a corpus to a folder or to a dataset repository of the Hub, and from there: checked by hash, and resumable.

What arrives lies in a hidden folder of the destination, `.transfer`, until its SHA-256 fits, and the manifest takes its
place last: a destination without it is not a corpus yet. A copy between folders goes on within a file, one from the Hub
at the first file that is missing. On the Hub everything appears in one commit; a push that was interrupted has left
files there under their hashes, which are not sent again.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING

import filelock

from scratchlab.corpus.hub import SCHEME, Location, files_at, hub_errors, is_there, parse_location, send
from scratchlab.corpus.manifest import MANIFEST, FileRecord, Manifest, read_manifest
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.errors import CorpusError, UsageError
from scratchlab.files import disk_errors, sha256_of_file, sync_file, sync_folder, write_atomically

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.hf_api import RepoFile

STAGING = ".transfer"
CARD = "README.md"
OF_THE_HUB = {".gitattributes", CARD}
"""What a repository may hold that is no part of a corpus."""
PIECE_BYTES = 2**22

# Puts files into a folder under their names; what is there of them already may be gone on from.
Fetch = Callable[[Sequence[FileRecord], Path], None]


@dataclass(frozen=True, slots=True)
class Transfer:
    """What was done."""

    source: str
    destination: str
    sha256: str
    """The corpus, as `Corpus.sha256`."""
    moved: tuple[str, ...]
    """The files that were moved, the manifest aside."""
    kept: tuple[str, ...]
    """Those that were there already."""
    moved_bytes: int
    revision: str | None = None
    """Of the Hub: the commit."""


def push_corpus(path: str | Path, destination: str) -> Transfer:
    """Copy the corpus at `path` to a folder, or to the Hub as `hf:USER/NAME`, optionally `?revision=BRANCH`.

    A repository that does not exist is made, private. Run again, it goes on where it stopped. Raises CorpusError for a
    damaged corpus, before anything is moved, and for a destination that holds something else, which is left as it is.
    """
    location = parse_location(destination, ["revision"]) if destination.startswith(SCHEME) else None
    corpus = open_corpus(path)
    corpus.verify()
    return _push_to_hub(corpus, location) if location else _copy_folder(corpus.path, Path(destination))


def pull_corpus(source: str, out: str | Path) -> Transfer:
    """Copy a corpus to the folder `out` from a folder, or from the Hub as `hf:USER/NAME`, optionally `?revision=`.

    Every file is compared with its SHA-256 in the manifest. Run again, it goes on where it stopped, and mends what has
    become damaged since. Raises CorpusError, naming the files, if the source is damaged, and if `out` holds something
    else, which is left as it is.
    """
    if str(out).startswith(SCHEME):
        raise UsageError(f"A corpus is pulled to a folder, and {out} is a place on the Hub: scratchlab corpus push.")
    if source.startswith(SCHEME):
        return _pull_from_hub(parse_location(source, ["revision"]), Path(out))
    return _copy_folder(open_corpus(source).path, Path(out))


# Into a folder.


def _copy_folder(source: Path, out: Path) -> Transfer:
    def fetch(files: Sequence[FileRecord], staging: Path) -> None:
        for file in files:
            _copy_on(source / file.name, staging / file.name)

    return _receive(str(source), source, out, fetch)


def _copy_on(source: Path, partial: Path) -> None:
    """Copy what `partial` lacks."""
    try:
        origin = source.open("rb")
    except OSError as error:
        raise CorpusError(f"{source} could not be read: {error.strerror}.") from error
    with origin, partial.open("ab") as copy:
        origin.seek(copy.tell())
        shutil.copyfileobj(origin, copy, PIECE_BYTES)


def _receive(source: str, arriving: Path, out: Path, fetch: Fetch) -> Transfer:
    """Make `out` the corpus whose manifest lies in the folder `arriving`, with files that `fetch` brings."""
    manifest = read_manifest(arriving)
    _check_names(source, manifest.files)
    _check_destination(out, manifest)
    with disk_errors(out, f"The corpus {source}"), _staging(out) as staging:
        write_atomically(staging / MANIFEST, (arriving / MANIFEST).read_bytes())  # whose files these are
        missing = [file for file in manifest.files if not _is_intact(out / file.name, file)]
        _check_room(out, missing, staging)
        _bring(missing, staging, out, fetch, source)
        os.replace(staging / MANIFEST, out / MANIFEST)
        sync_folder(out)
        shutil.rmtree(staging, ignore_errors=True)
    open_corpus(out)
    return _report(source, str(out), manifest, missing)


def _bring(files: Sequence[FileRecord], staging: Path, out: Path, fetch: Fetch, source: str) -> None:
    for _ in range(2):  # once more from the start: what an earlier run left may be damaged
        fetch(files, staging)
        files = [file for file in files if not _settle(staging / file.name, out, file)]
        if not files:
            return
    raise CorpusError(
        f"{source} is damaged: {', '.join(file.name for file in files)} does not fit the SHA-256 in its manifest. "
        "Put an intact copy there and run the same command again: what was moved is kept."
    )


def _settle(arrived: Path, out: Path, file: FileRecord) -> bool:
    """Move a file that arrived to its place; delete it if it is not what it should be."""
    if not _is_intact(arrived, file):
        arrived.unlink(missing_ok=True)
        return False
    sync_file(arrived)
    os.replace(arrived, out / file.name)
    return True


def _is_intact(path: Path, file: FileRecord) -> bool:
    return path.is_file() and path.stat().st_size == file.size and sha256_of_file(path) == file.sha256


@contextlib.contextmanager
def _staging(out: Path) -> Generator[Path]:
    """The folder for what arrives, held by this process alone; it stays if the transfer does not come to its end."""
    staging = out / STAGING
    staging.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(staging / ".lock", timeout=0):
            yield staging
    except filelock.Timeout:
        raise CorpusError(f"Another process moves a corpus to {out}. Wait for it, or end it.") from None


def _check_names(source: str, files: Iterable[FileRecord]) -> None:
    """A manifest comes from others: it must not say where else to write."""
    for file in files:
        if PureWindowsPath(file.name).name != file.name or file.name in (MANIFEST, "..") or file.name.startswith("."):
            raise CorpusError(f"{source} is no sound corpus: its manifest names a file {file.name!r}. Build it again.")


def _check_destination(out: Path, manifest: Manifest) -> None:
    """CorpusError unless `out` is free, holds this corpus, or a part of it that an earlier transfer left."""
    if out.exists() and not out.is_dir():
        raise CorpusError(f"{out} is a file. Give a folder.")
    if (out / MANIFEST).exists():
        _check_same(str(out), manifest, read_manifest(out))
    elif (out / STAGING / MANIFEST).exists():
        _check_same(f"{out}, unfinished,", manifest, read_manifest(out / STAGING))
    elif out.exists() and (others := [entry.name for entry in out.iterdir() if entry.name != STAGING]):
        raise CorpusError(f"{out} holds other things ({_some(others)}) and no corpus. Give a new folder.")


def _check_same(there: str, arriving: Manifest, present: Manifest) -> None:
    if present.sha256 != arriving.sha256:
        raise CorpusError(
            f"{there} holds another corpus (sha256 {present.sha256[:12]}, not {arriving.sha256[:12]}), which was left "
            "as it is. Give another place, or delete what is there."
        )


def _check_room(out: Path, missing: Iterable[FileRecord], staging: Path) -> None:
    needed = sum(file.size for file in missing)
    begun = sum(file.stat().st_size for file in staging.rglob("*") if file.is_file())
    free = shutil.disk_usage(out).free
    if needed - begun > free:
        raise CorpusError(
            f"{out} has too little room: {needed / 1e6:,.1f} MB are to come, and {free / 1e6:,.1f} MB are free. "
            "Free some space and run the same command again."
        )


def _report(source: str, destination: str, manifest: Manifest, moved: Sequence[FileRecord]) -> Transfer:
    kept = tuple(file.name for file in manifest.files if file not in moved)
    size = sum(file.size for file in moved)
    return Transfer(source, destination, manifest.sha256, tuple(file.name for file in moved), kept, size)


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")


# From the Hub.


def _pull_from_hub(location: Location, out: Path) -> Transfer:
    from huggingface_hub import HfApi

    with hub_errors(location.where):
        commit = HfApi().dataset_info(location.repository, revision=location.parameters.get("revision")).sha
    assert commit

    def fetch(files: Sequence[FileRecord], staging: Path) -> None:
        for file in files:
            _download(location, commit, file.name, staging)

    with _remote_manifest(location, commit) as arriving:
        transfer = _receive(f"{SCHEME}{location.repository}", arriving, out, fetch)
    return replace(transfer, revision=commit)


@contextlib.contextmanager
def _remote_manifest(location: Location, commit: str) -> Generator[Path]:
    """A folder with the manifest that lies on the Hub; CorpusError if it is none."""
    with tempfile.TemporaryDirectory() as name:
        with disk_errors(Path(name), MANIFEST):
            _download(location, commit, MANIFEST, Path(name))
        try:
            read_manifest(Path(name))
        except CorpusError as error:
            raise CorpusError(str(error).replace(name, location.where)) from error
        yield Path(name)


def _download(location: Location, commit: str, name: str, folder: Path) -> None:
    """Fetch a file of the repository into `folder`. The client goes on by itself where a connection broke."""
    from huggingface_hub import hf_hub_download

    with hub_errors(f"{name} of {location.where}"):
        hf_hub_download(location.repository, name, repo_type="dataset", revision=commit, local_dir=folder)


# To the Hub.


def _push_to_hub(corpus: Corpus, location: Location) -> Transfer:
    from huggingface_hub import HfApi

    branch = location.parameters.get("revision", "main")
    with hub_errors(location.where):
        HfApi().create_repo(location.repository, repo_type="dataset", private=True, exist_ok=True)
        head = HfApi().dataset_info(location.repository, revision=branch).sha
        assert head
        there = files_at(location.repository, "dataset", head)
        _check_repository(location, head, there, corpus.manifest)
        lacking = _lacking(corpus, there)
        if lacking:
            files = _operations(corpus, location, lacking, CARD not in there)
            head = send(location.repository, "dataset", branch, head, files, message="Corpus, by scratchlab")
            if wrong := _lacking(corpus, files_at(location.repository, "dataset", head)):
                raise CorpusError(f"{location.where}: {_some(wrong)} did not arrive as sent. Push again.")
    moved = [file for file in corpus.manifest.files if file.name in lacking]
    return replace(_report(str(corpus.path), f"{SCHEME}{location.repository}", corpus.manifest, moved), revision=head)


def _lacking(corpus: Corpus, there: "Mapping[str, RepoFile]") -> list[str]:
    """The files of the corpus, its manifest among them, that a repository with the files `there` has not."""
    hashes = {file.name: file.sha256 for file in corpus.manifest.files}
    hashes[MANIFEST] = sha256_of_file(corpus.path / MANIFEST)
    return [name for name, sha256 in hashes.items() if not is_there(corpus.path / name, sha256, there.get(name))]


def _operations(corpus: Corpus, location: Location, names: Iterable[str], card: bool) -> "list[CommitOperationAdd]":
    from huggingface_hub import CommitOperationAdd

    operations = [CommitOperationAdd(name, corpus.path / name) for name in names]
    if card:
        operations.append(CommitOperationAdd(CARD, _card(location.repository, corpus.manifest).encode()))
    return operations


def _check_repository(location: Location, commit: str, there: Iterable[str], manifest: Manifest) -> None:
    """CorpusError if the repository holds another corpus, or other things."""
    if MANIFEST in there:
        with _remote_manifest(location, commit) as present:
            _check_same(location.where, manifest, read_manifest(present))
    elif others := set(there) - OF_THE_HUB:
        raise CorpusError(f"{location.where} holds other things ({_some(others)}) and no corpus. Give a new name.")


def _card(repository: str, manifest: Manifest) -> str:
    """The page of the repository. A license is for the user to state."""
    table = "\n".join(
        f"| {name} | {split.documents:,} | {split.tokens:,} | {split.bytes:,} |"
        for name, split in manifest.splits.items()
    )
    folder = f"corpora/{repository.partition('/')[2]}"
    tokenizer = manifest.tokenizer
    return f"""---
tags:
- scratchlab
- language-modeling
viewer: false
---
# {repository.partition("/")[2]}

Text for training language models, as tokens: a corpus of scratchlab.

| split | documents | tokens | bytes of text |
| --- | ---: | ---: | ---: |
{table}

Tokenizer: {tokenizer.spec}, {tokenizer.vocab_size:,} symbols (`tokenizer.json`). Hash of the content:
`{manifest.sha256}`; the hash of every file is in `manifest.json`.

In a clone of scratchlab (it is not on PyPI yet):

```
pip install .
scratchlab corpus pull {SCHEME}{repository} {folder}
scratchlab train RECIPE corpus={folder} --out runs/first
```

No license is stated here yet: whoever knows what the text was made of adds it above, as `license:`.
"""
