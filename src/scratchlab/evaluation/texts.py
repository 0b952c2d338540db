"""Texts to be scored: a split of a corpus or a range of it, or a range of a token set that somebody else made.

A model with another tokenizer is scored on the same text, encoded again with its own.
"""

import codecs
import hashlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scratchlab.corpus.pretrained import KNOWN_TOKENIZERS, open_tokenizer
from scratchlab.corpus.shards import Split
from scratchlab.corpus.sources.token_sets import TokenSet, open_token_set
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.corpus.windows import TokenStream
from scratchlab.errors import CorpusError, RunError, UsageError
from scratchlab.evaluation.loss import (
    FEWEST_DOCUMENTS,
    Units,
    byte_lengths,
    check_length,
    count_bytes,
    steps,
    stretch_edges,
)
from scratchlab.evaluation.subjects import Encoder
from scratchlab.files import disk_errors, sha256_of_json
from scratchlab.runfolder import RunFolder

Ints = npt.NDArray[np.int64]

TOKEN_SETS = (".bin", ".npy", ".safetensors")


@dataclass(frozen=True, slots=True)
class Text:
    """A text as tokens."""

    name: str
    """For people."""
    identity: str
    """SHA-256 of the tokens and of what they mean; of a text that is encoded again, still that of the original."""
    encoder: Encoder
    """Of its tokens."""
    tokens: TokenStream
    documents: Ints
    """Where each document begins, and at the end where the last one ends: (n + 1,). The end of text is the last token
    of the document before it.
    """
    units: Units
    """What errors are clustered by, with exact bytes."""
    reencoded: bool = False
    examples: Split | None = None
    """Of a corpus of instructions: the split. Its units are examples, of which the responses alone are scored."""


def own_corpus(folder: RunFolder) -> Corpus:
    """The corpus that scored a run while it trained. RunError or CorpusError if it has none, or if that has changed."""
    recorded = folder.manifest()["evaluation_corpus"]
    if recorded["path"] is None:
        raise RunError(
            f"{folder.path} was imported: it has no corpus of its own, and of how it was trained nothing is known. To "
            "evaluate it, name a corpus with --corpus (scratchlab corpus build TEXT... --out DIR)."
        )
    corpus = open_corpus(recorded["path"])
    if corpus.sha256 != recorded["sha256"]:
        raise CorpusError(
            f"{corpus.path} is not the corpus that {folder.path} was scored on: its hash is {corpus.sha256[:12]}, the "
            f"run's {recorded['sha256'][:12]}. Put the old corpus back."
        )
    return corpus


def open_text(
    place: str | Path, split: str = "test", tokens: tuple[int, int | None] | None = None, tokenizer: str | None = None
) -> Text:
    """The `split` of a corpus folder, or a file of tokens (.bin, .npy, .safetensors) that `tokenizer` made.

    `tokens` are those from the first number up to, not including, the second. Of a file the tokenizer must be given, as
    in `corpus build --tokenizer`. Raises UsageError for a range that is not there, and CorpusError.
    """
    path = Path(place)
    if path.suffix.lower() in TOKEN_SETS and not path.is_dir():
        return _file_text(path, tokens, tokenizer)
    if tokenizer is not None:
        raise UsageError(f"--made-by {tokenizer} is for a file of tokens. The corpus {path} has its own.")
    corpus = open_corpus(path)
    stream = corpus.split(split)
    if corpus.manifest.examples is not None:
        return _examples(corpus, stream, tokens)
    start, stop = _range(tokens, len(stream), f"{path}, {split}")
    name = f"{path}, {split}" + ("" if tokens is None else f", tokens {start:,} to {stop:,}")
    inside = stream.document_starts[slice(*np.searchsorted(stream.document_starts, [start + 1, stop]))]
    whole = (start, stop) == (0, len(stream))
    return _text(
        name,
        sha256_of_json([corpus.sha256, split, start, stop]),
        corpus.tokenizer,
        _Range(stream, start, stop),
        np.concatenate([[0], inside - start, [stop - start]]),
        stream.document_bytes if whole else None,
    )


def _examples(corpus: Corpus, split: Split, tokens: tuple[int, int | None] | None) -> Text:
    assert corpus.manifest.examples is not None
    if corpus.manifest.examples.kind != "instructions":
        raise UsageError(f"{corpus.path} holds {corpus.manifest.examples.kind}, which are no text to be scored.")
    if tokens is not None:
        raise UsageError(f"--tokens: the responses of {corpus.path} are scored, and no range of tokens.")
    edges = split.document_starts
    units = Units("examples", edges, split.document_bytes)
    identity = sha256_of_json([corpus.sha256, split.name, "responses"])
    return Text(f"{corpus.path}, {split.name}", identity, corpus.tokenizer, split, edges, units, examples=split)


def _file_text(path: Path, tokens: tuple[int, int | None] | None, tokenizer: str | None) -> Text:
    if not path.exists():
        raise CorpusError(f"{path} does not exist: expected a file of tokens.")
    encoder = open_tokenizer(tokenizer) if tokenizer else None
    if encoder is None:
        given = f"{tokenizer!r} is none. " if tokenizer else ""
        raise UsageError(
            f"{path}: {given}Give the tokenizer that made these tokens (--made-by). Known are {KNOWN_TOKENIZERS}."
        )
    found = open_token_set(path)
    start, stop = _range(tokens, found.length, str(path))
    stream = _FileTokens(found, encoder.vocab_size, start, stop)
    ends = [] if encoder.end_of_text is None else found.separators(encoder.end_of_text, start, stop)
    # A document ends with its end of text; where they stand before documents, the first one ends none.
    begins = [place + 1 - start for place in ends if start < place < stop - 1]
    edges = np.array([0, *begins, stop - start], np.int64)
    identity = sha256_of_json([_sha256(stream), encoder.meaning, encoder.end_of_text])
    return _text(f"{path}, tokens {start:,} to {stop:,}", identity, encoder, stream, edges, None)


def _range(tokens: tuple[int, int | None] | None, length: int, name: str) -> tuple[int, int]:
    start, stop = tokens or (0, None)
    stop = length if stop is None else stop
    if not 0 <= start < stop <= length:
        raise UsageError(f"{name} has no tokens {start:,} to {stop:,}: it has {length:,}, of which 0 is the first.")
    return start, stop


def _text(
    name: str, identity: str, encoder: Encoder, tokens: TokenStream, documents: Ints, n_bytes: Ints | None
) -> Text:
    """A text in units: its documents, of `n_bytes` bytes if that is known, or stretches."""
    if len(documents) - 1 >= FEWEST_DOCUMENTS:
        kind, edges = "documents", documents
    else:
        kind, edges, n_bytes = "stretches", stretch_edges(len(tokens)), None
    if n_bytes is None:
        n_bytes = count_bytes(tokens, edges, byte_lengths(encoder))
    check_length(tokens)
    return Text(name, identity, encoder, tokens, documents, Units(kind, edges, n_bytes))


def _sha256(tokens: TokenStream) -> str:
    """The same whatever type the file has them in."""
    found = hashlib.sha256()
    for low, high in steps(0, len(tokens)):
        found.update(tokens.read(low, high).astype("<u4").tobytes())
    return found.hexdigest()


# Token streams.


@dataclass(frozen=True, slots=True)
class _Range:
    """A range of a stream, as a stream."""

    stream: TokenStream
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def read(self, start: int, stop: int) -> npt.NDArray[np.integer]:
        return self.stream.read(self.start + start, self.start + stop)

    def expect(self, start: int, stop: int) -> None:
        self.stream.expect(self.start + start, self.start + stop)


@dataclass(frozen=True, slots=True)
class _FileTokens:
    """A range of a token set, as a stream of tokens of a known vocabulary."""

    found: TokenSet
    vocab_size: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def read(self, start: int, stop: int) -> npt.NDArray[np.integer]:
        tokens = self.found.read(self.start + start, self.start + stop)
        if len(tokens) and int(tokens.max()) >= self.vocab_size:
            place = int((tokens >= self.vocab_size).argmax())
            raise CorpusError(
                f"{self.found.name} has {tokens[place]} at token {self.start + start + place:,}, which the tokenizer's "
                f"vocabulary of {self.vocab_size:,} does not have. Give the tokenizer that made these tokens."
            )
        return tokens

    def expect(self, start: int, stop: int) -> None:
        """Nothing is fetched ahead of files like these."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """Tokens in an array, which may lie on the disk."""

    tokens: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint32]:
        return self.tokens[start:stop]

    def expect(self, start: int, stop: int) -> None:
        """Nothing is fetched ahead: it was written just now."""


# Encoding again.


def text_for(text: Text, encoder: Encoder, scratch: Path) -> Text:
    """`text` as it is if its tokens mean to `encoder` what they should; else encoded again, in a file in `scratch`.

    Units are the same parts of the text, with the same bytes. The file has four bytes a token, and no name: it is gone
    with its process. CorpusError, naming the document, for what `encoder` has no symbol for.
    """
    return text if same_tokens(text.encoder, encoder) else _encoded_again(text, encoder, scratch)


def same_tokens(one: Encoder, other: Encoder) -> bool:
    """Whether two tokenizers make the same tokens of a text's documents and of their ends."""
    return one.meaning == other.meaning and one.end_of_text == other.end_of_text


def _encoded_again(text: Text, encoder: Encoder, scratch: Path) -> Text:
    lengths, by_document = byte_lengths(encoder), text.units.kind == "documents"
    edge_bytes = np.concatenate([[0], np.cumsum(text.units.n_bytes)])
    documents, edges, n_bytes, n_tokens = [0], list[int](), 0, 0
    with disk_errors(scratch, "the encoded text"), tempfile.TemporaryFile(dir=scratch) as file:
        for tokens, ends in _pieces(text, encoder):
            file.write(tokens.astype(np.uint32).tobytes())
            before, n_bytes = n_bytes, n_bytes + int(lengths[tokens].sum())
            if not by_document:  # a stretch begins with the first token that begins where it does, or after it
                low, high = np.searchsorted(edge_bytes, [before, n_bytes])
                edges += (n_tokens + np.searchsorted(before + _starts(lengths[tokens]), edge_bytes[low:high])).tolist()
            n_tokens += len(tokens)
            if ends:
                documents.append(n_tokens)
        file.flush()
        if not n_tokens:
            raise CorpusError(f"{text.name} has no text in it: nothing can be scored.")
        stored = _Stored(np.asarray(np.memmap(file, np.uint32, mode="r")))  # stays when the file is closed
    check_length(stored)
    if not by_document:  # those that the text ends before, and in any case the last
        edges = edges[: len(text.units)] + [n_tokens] * (len(edge_bytes) - min(len(edges), len(text.units)))
    units = Units(text.units.kind, np.array(documents if by_document else edges, np.int64), text.units.n_bytes)
    return Text(text.name, text.identity, encoder, stored, np.array(documents, np.int64), units, reencoded=True)


def _starts(lengths: Ints) -> Ints:
    return np.cumsum(lengths) - lengths


def _pieces(text: Text, encoder: Encoder) -> Iterator[tuple[Ints, bool]]:
    """The text's documents in the tokens of `encoder`, in pieces, and whether a document ends with each.

    Its end of text, if it has one, stands between them, and at the end where the original had one.
    """
    symbols = [text.encoder.token_bytes(token) for token in range(text.encoder.vocab_size)]
    last = len(text.documents) - 2
    closed = int(text.tokens.read(len(text.tokens) - 1, len(text.tokens))[0]) == text.encoder.end_of_text
    for number, (start, stop) in enumerate(zip(text.documents[:-1], text.documents[1:], strict=True)):
        try:
            for piece in _decoded(text.tokens, int(start), int(stop), symbols):
                yield np.asarray(encoder.encode(piece), np.int64), False
        except CorpusError as error:
            raise CorpusError(f"{text.name}, document {number + 1}, in the model's own tokens: {error}") from error
        separated = encoder.end_of_text is not None and (number < last or closed)
        yield np.array([encoder.end_of_text] if separated else [], np.int64), True


def _decoded(tokens: TokenStream, start: int, stop: int, symbols: list[bytes]) -> Iterator[str]:
    """A document's text. A long one comes in pieces, parted where every tokenizer parts words anyway."""
    decoder, rest = codecs.getincrementaldecoder("utf-8")("replace"), ""
    for low, high in steps(start, stop):
        rest += decoder.decode(b"".join([symbols[token] for token in tokens.read(low, high).tolist()]), high == stop)
        cut = len(rest) if high == stop else _seam(rest)
        if cut:
            yield rest[:cut]
            rest = rest[cut:]


SEAM = re.compile(r"(?<=\S)(?:\n| )(?=\S)")
SEAM_WITHIN = 10_000
"""Characters from the end in which a seam is looked for."""


def _seam(text: str) -> int:
    """The last place after a single newline or before a single space; 0 if there is none."""
    begin = max(0, len(text) - SEAM_WITHIN)
    seams = [found.end() if found[0] == "\n" else found.start() for found in SEAM.finditer(text, begin)]
    return seams[-1] if seams else 0
