"""A corpus on disk: token shards, document tables, a tokenizer and a manifest with hashes.

    manifest.json           everything about the corpus, with the size and SHA-256 of each other file
    tokenizer.json          Hugging Face `tokenizers` format
    train-00000.bin ...     token ids                  } and the same for validation and test
    train.documents.bin     where each document starts }
    train.marks.bin, train.ids.json, chat_template.jinja    of a corpus of examples (`corpus/examples`)

`<|endoftext|>` follows every document of a text corpus that is made of several. Opening reads the manifest and compares
sizes, which takes milliseconds; `verify` reads everything and compares hashes.
"""

import difflib
import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from scratchlab.corpus.chat import ChatTemplate
from scratchlab.corpus.manifest import CHAT_TEMPLATE, MANIFEST, REBUILD, TOKENIZER, FileRecord, Manifest, read_manifest
from scratchlab.corpus.shards import Split
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import CorpusError
from scratchlab.files import sha256_of_file

PARTIAL = ".partial-"  # in the name of a folder that is being built (files.folder_in_one_piece)


class Corpus:
    """An opened corpus. Made by `open_corpus`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.sha256 = manifest.sha256
        """Identity of the content: a hash over tokenizer, shards and document tables, whatever the paths."""
        self.vocab_size = manifest.tokenizer.vocab_size
        self._splits = {
            name: Split(path, name, record, manifest.tokenizer.dtype, self.vocab_size)
            for name, record in manifest.splits.items()
        }

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Read when first used, and compared with its hash."""
        tokenizer = Tokenizer.load(self.path / TOKENIZER)
        if tokenizer.sha256 != self.manifest.tokenizer.file.sha256:
            raise CorpusError(
                f"{self.path / TOKENIZER} is not the tokenizer that {self.path} was built with. {REBUILD}"
            )
        return tokenizer

    @functools.cached_property
    def chat_template(self) -> ChatTemplate | None:
        """How the conversations of a corpus of examples were worded, compared with its hash."""
        record = self.manifest.examples and self.manifest.examples.template_file
        if record is None:
            return None
        if problem := _size_problem(self.path, record) or _hash_problem(self.path, record):
            raise CorpusError(f"The corpus {self.path} is damaged: {problem}. {REBUILD}")
        return ChatTemplate((self.path / CHAT_TEMPLATE).read_bytes().decode())

    def split(self, name: str) -> Split:
        """The split `name`; CorpusError lists those there are."""
        if name not in self._splits:
            raise CorpusError(f"{self.path} has no split {name!r}; it has {', '.join(self._splits)}.")
        return self._splits[name]

    def documents(self, name: str) -> Iterator[str]:
        """The texts of a split's documents in their order, decoded; exact."""
        split = self.split(name)
        for start, stop in itertools.pairwise(map(int, split.document_starts)):  # a table of millions stays on disk
            yield self.tokenizer.decode(split.read(start, stop))

    def text(self, name: str) -> str:
        """A split's text, without special symbols: its documents with exactly one blank line between them.

        A single document is exact; of several, newlines where two meet are replaced by that blank line.
        """
        first, *others = self.documents(name)
        return "\n\n".join([first.rstrip("\n"), *(text.strip("\n") for text in others)]) + "\n" if others else first

    def verify(self) -> tuple[FileRecord, ...]:
        """Read every file and compare its SHA-256; returns the files, or raises CorpusError naming all damaged ones."""
        problems = [_size_problem(self.path, file) or _hash_problem(self.path, file) for file in self.manifest.files]
        _raise_problems(self.path, problems)
        return self.manifest.files


def open_corpus(path: str | Path) -> Corpus:
    """Open the corpus folder at `path` in milliseconds: its manifest is read and all sizes are checked, hashes are not.

    Raises CorpusError for a missing folder, a damaged manifest, and files missing or of a wrong size (all are named).
    """
    path = Path(path)
    if PARTIAL in path.absolute().name:
        raise CorpusError(f"{path} is what an interrupted build left behind. Delete it and build again.")
    try:
        manifest = read_manifest(path)
    except (FileNotFoundError, NotADirectoryError):
        raise CorpusError(_no_corpus(path)) from None
    _raise_problems(path, [_size_problem(path, file) for file in manifest.files])
    return Corpus(path, manifest)


def _no_corpus(path: Path) -> str:
    """Why there is no corpus at `path`, with the names of those beside it."""
    reason = f"is not a corpus: it has no {MANIFEST}" if path.exists() else "does not exist"
    corpora = sorted(found.parent.name for found in path.absolute().parent.glob(f"*/{MANIFEST}"))
    near = difflib.get_close_matches(path.name, corpora) or corpora[:5]
    hint = f" Corpora there: {', '.join(str(path.parent / name) for name in near)}." if near else ""
    return f"{path} {reason}.{hint} Build one with: scratchlab corpus build TEXT... --out {path}"


def _size_problem(folder: Path, file: FileRecord) -> str | None:
    try:
        size = (folder / file.name).stat().st_size
    except OSError:
        return f"{file.name} is missing"
    return f"{file.name} has {size} bytes instead of {file.size}" if size != file.size else None


def _hash_problem(folder: Path, file: FileRecord) -> str | None:
    try:
        intact = sha256_of_file(folder / file.name) == file.sha256
    except OSError as error:
        return f"{file.name} could not be read ({error.strerror})"
    return None if intact else f"{file.name} has changed: its SHA-256 does not fit"


def _raise_problems(path: Path, problems: Sequence[str | None]) -> None:
    if found := [problem for problem in problems if problem]:
        raise CorpusError(f"The corpus {path} is damaged: {'; '.join(found)}. {REBUILD}")
