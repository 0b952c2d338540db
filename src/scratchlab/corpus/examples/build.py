"""Building a corpus of examples: read, leave out what teaches nothing, split, encode, write.

A corpus like any other, in which a document is an example, with marks beside its tokens. Examples are held in memory:
sets to learn from are small (a million conversations take some gigabytes).
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from scratchlab.corpus.build import exists_already, fitting_tokenizer, store_tokenizer, tokenizer_record
from scratchlab.corpus.building.order import check_new
from scratchlab.corpus.building.survey import text_size
from scratchlab.corpus.chat import Message, needed_specials
from scratchlab.corpus.examples.encode import (
    MOST_LABELS,
    Marked,
    Wording,
    encode_conversation,
    encode_labeled,
    encode_pair,
)
from scratchlab.corpus.examples.kept import Example, Examples, Kept, Places, asked_in_training, gather, in_splits
from scratchlab.corpus.examples.rows import Conversation, Labeled, Pair, refuse
from scratchlab.corpus.manifest import (
    CHAT_TEMPLATE,
    ExampleKind,
    ExampleSplitRecord,
    ExamplesRecord,
    FileRecord,
    RemovedRecord,
    SourceRecord,
    SplitRecord,
    SplitRuleRecord,
    write_manifest,
)
from scratchlab.corpus.pretrained import open_tokenizer
from scratchlab.corpus.shards import SHARD_TOKENS
from scratchlab.corpus.sources.documents import Document, printable
from scratchlab.corpus.splits import SPLITS, parse_split
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.corpus.tokenizer import (
    END_OF_TEXT,
    Tokenizer,
    learns_from_all_splits,
    parse_tokenizer,
    train_tokenizer,
)
from scratchlab.corpus.words import Ints
from scratchlab.errors import CorpusError, UsageError
from scratchlab.files import folder_in_one_piece, sha256_of_file, write_atomically


def build_examples(
    sources: Sequence[str],
    out: str | Path,
    kind: ExampleKind,
    wording: Wording | None = None,
    tokenizer: str = "auto",
    split: str = "auto",
    specials: Sequence[str] = (),
) -> Corpus:
    """Build a corpus of the examples in `sources` (files, or `hf:USER/DATASET`) in the new folder `out`, and open it.

    `wording` is the chat template of instructions and pairs (`open_wording`); labels have none. Special tokens that it
    takes, and `specials`, are added to the `tokenizer` (as of `build_corpus`) where it lacks them. `split` is hash or
    contiguous, or auto. Examples without a response and exact copies are left out and counted. Raises UsageError for a
    mistaken argument, CorpusError for what cannot be learned from.
    """
    if os.path.lexists(out):
        raise exists_already(str(out))
    rule, given = parse_split(split), _given_tokenizer(tokenizer)
    examples = gather(sources, kind)
    labels = _labels(examples.kept) if kind == "labels" else ()
    rule, places, moved = in_splits(rule, examples.kept)
    spec = _spec(tokenizer, examples.kept, wording)
    spoken = _spoken(given, spec, examples.kept, places, wording, specials)
    encoded = _encoded(examples.kept, spoken, wording, labels)
    if wording:
        wording.template.end_of_turn(spoken)
    sizes = np.array([text_size(Document("", "", tokens=one.ids.astype(spoken.dtype)), spoken) for one in encoded])
    with folder_in_one_piece(Path(out), "the corpus") as folder:
        store_tokenizer(folder, spoken)
        if wording:
            write_atomically(folder / CHAT_TEMPLATE, wording.template.source)
        held = {name: np.flatnonzero(places == place) for place, name in enumerate(SPLITS) if (places == place).any()}
        write_manifest(
            folder,
            sources=[_source_record(place, name, examples, sizes) for place, name in enumerate(sources)],
            split=SplitRuleRecord(rule=str(rule), moved=moved),
            tokenizer=tokenizer_record(folder, spec, spoken),
            splits={
                name: _write_split(folder, name, examples.kept, encoded, own, sizes, spoken)
                for name, own in held.items()
            },
            examples=ExamplesRecord(
                kind=kind,
                splits={name: _split_record(name, examples.kept, encoded, places) for name in held},
                template=wording and wording.name,
                template_file=_file(folder / CHAT_TEMPLATE) if wording else None,
                labels=labels,
            ),
        )
    return open_corpus(out)


def _labels(kept: Sequence[Kept]) -> tuple[str, ...]:
    """The names of the labels: numbers in their order, others by the alphabet."""
    found = {one.example.label for one in kept if isinstance(one.example, Labeled)}
    if not 2 <= len(found) <= MOST_LABELS:
        some = ", ".join(sorted(found)[:5])
        raise CorpusError(f"There are {len(found):,} labels ({some}), and there must be 2 to {MOST_LABELS} of them.")
    numbers = all(name.isdecimal() for name in found)
    return tuple(sorted(found, key=lambda name: (int(name) if numbers else 0, name)))


# The tokenizer.


def _given_tokenizer(spec: str) -> Tokenizer | None:
    """The tokenizer that is there already; None if one is to be trained. UsageError for one of numbers."""
    given = None if spec in ("auto", "char", "byte") else open_tokenizer(spec)
    if given is None and spec != "auto":
        check_new(spec)
    if given.numeric if given else spec.partition(":")[0] in ("integers", "bins"):
        raise UsageError(f"tokenizer {spec}: its symbols are numbers, and examples are text.")
    return given


def _spec(spec: str, kept: Sequence[Kept], wording: Wording | None) -> str:
    """What `auto` stands for."""
    if spec != "auto":
        return spec
    return fitting_tokenizer(sum(len(text) for one in kept for text in _texts(one.example, wording)))


def _spoken(
    given: Tokenizer | None,
    spec: str,
    kept: Sequence[Kept],
    places: Places,
    wording: Wording | None,
    specials: Sequence[str],
) -> Tokenizer:
    """The tokenizer with all special tokens that are needed."""
    needed = list(dict.fromkeys([*(wording.specials if wording else ()), *specials]))
    if given is None:
        return _learned(spec, kept, places, wording, [name for name in needed if name != END_OF_TEXT])
    return given.with_specials(needed_specials(given, needed))


def _learned(
    spec: str, kept: Sequence[Kept], places: Places, wording: Wording | None, specials: Sequence[str]
) -> Tokenizer:
    """A new tokenizer; BPE must not learn from the text that a model will be judged on."""
    everything = learns_from_all_splits(parse_tokenizer(spec)[0])
    chosen = (one.example for one, place in zip(kept, places, strict=True) if everything or place == 0)
    texts = (text for example in chosen for text in _texts(example, wording))
    return train_tokenizer(spec, texts, specials=specials, origin="the training examples")


def _texts(example: Example, wording: Wording | None) -> Iterator[str]:
    """The words of an example, between special tokens."""
    if isinstance(example, Labeled):
        yield example.text
        return
    assert wording is not None
    special = "|".join(map(re.escape, wording.specials)) or "(?!)"  # which nothing matches
    for messages in _conversations(example):
        yield from re.split(special, wording.template.render(messages))


def _conversations(example: Conversation | Pair) -> list[Sequence[Message]]:
    if isinstance(example, Conversation):
        return [example.messages]
    answers: list[Message] = [{"role": "assistant", "content": text} for text in (example.chosen, example.rejected)]
    return [[*example.prompt, answer] for answer in answers]


# Tokens.


def _encoded(
    kept: Sequence[Kept], tokenizer: Tokenizer, wording: Wording | None, labels: Sequence[str]
) -> list[Marked]:
    """All examples as tokens. CorpusError with all that the tokenizer has no symbols for."""
    encoded, problems = list[Marked](), list[str]()
    for one in kept:
        try:
            encoded.append(_encode(one.example, tokenizer, wording, labels))
        except CorpusError as error:
            problems.append(f"example {one.name}: {error}")
    refuse("The examples cannot be encoded", problems)
    return encoded


def _encode(example: Example, tokenizer: Tokenizer, wording: Wording | None, labels: Sequence[str]) -> Marked:
    if isinstance(example, Labeled):
        return encode_labeled(tokenizer, labels, example)
    assert wording is not None
    if isinstance(example, Pair):
        return encode_pair(tokenizer, wording.template, example)
    return encode_conversation(tokenizer, wording.template, example)


def _write_split(
    folder: Path,
    name: str,
    kept: Sequence[Kept],
    encoded: Sequence[Marked],
    own: Ints,
    sizes: Ints,
    tokenizer: Tokenizer,
) -> SplitRecord:
    """The files of a split (shards.py), of the examples `own`; `sizes` are the characters and bytes of all: (n, 2)."""
    examples, (characters, n_bytes) = [encoded[number] for number in own], sizes[own].T
    tokens = np.concatenate([one.ids for one in examples]).astype(tokenizer.dtype.newbyteorder("<"))
    shards = [folder / f"{name}-{number:05d}.bin" for number in range(-(-len(tokens) // SHARD_TOKENS))]
    for number, shard in enumerate(shards):
        tokens[number * SHARD_TOKENS : (number + 1) * SHARD_TOKENS].tofile(shard)
    table, marks, ids = (folder / f"{name}.{what}" for what in ("documents.bin", "marks.bin", "ids.json"))
    np.concatenate([[0], np.cumsum([len(one.ids) for one in examples]), n_bytes]).astype("<i8").tofile(table)
    np.concatenate([one.marks for one in examples]).tofile(marks)
    write_atomically(ids, json.dumps([kept[number].name for number in own], ensure_ascii=False))
    return SplitRecord(
        documents=len(own),
        characters=int(characters.sum()),
        bytes=int(n_bytes.sum()),
        tokens=len(tokens),
        shards=tuple(map(_file, shards)),
        document_table=_file(table),
        marks=_file(marks),
        ids=_file(ids),
    )


def _file(path: Path) -> FileRecord:
    return FileRecord(name=path.name, size=path.stat().st_size, sha256=sha256_of_file(path))


# What the manifest says.


def _split_record(name: str, kept: Sequence[Kept], encoded: Sequence[Marked], places: Places) -> ExampleSplitRecord:
    place = SPLITS.index(name)
    own = [one for one, where in zip(encoded, places, strict=True) if where == place]
    return ExampleSplitRecord(
        learned=sum(int((one.marks > 0).sum()) for one in own),
        longest=max(len(one.ids) for one in own),
        asked_in_training=asked_in_training(kept, places, place),
    )


def _source_record(place: int, source: str, examples: Examples, sizes: Ints) -> SourceRecord:
    own = [number for number, one in enumerate(examples.kept) if one.source == place]
    removed = examples.removed[place].to_json()
    return SourceRecord(
        source=printable(source),
        location=printable(source),
        documents=len(own),
        bytes=int(sizes[own, 1].sum()),
        removed={kind: RemovedRecord.model_validate(entry, strict=False) for kind, entry in removed.items()},
        revision=examples.revisions[place],
    )
