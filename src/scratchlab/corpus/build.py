"""Building a corpus: read, split, train the tokenizer, encode, write.

The sources are read anew for each of these passes instead of being held, so that memory does not grow with their size;
a source that changes meanwhile is noticed by its hash. Everything is written into a hidden folder that gets its name
at the end: an interrupted build leaves nothing that looks finished.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from scratchlab.corpus.manifest import (
    TOKENIZER,
    FileRecord,
    MoveRecord,
    SplitRecord,
    SplitRuleRecord,
    TokenizerRecord,
    write_manifest,
)
from scratchlab.corpus.pretrained import open_tokenizer
from scratchlab.corpus.shards import SplitWriter
from scratchlab.corpus.splits import ENOUGH_FOR_HASH, SPLITS, Plan, SplitRule, parse_split, plan_splits
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.corpus.survey import Progress, Survey
from scratchlab.corpus.tokenizer import END_OF_TEXT, Tokenizer, parse_tokenizer, train_tokenizer
from scratchlab.errors import CorpusError, UsageError
from scratchlab.files import folder_in_one_piece

# From so many characters on, each subword is met often enough to be learned; characters below them all.
SUBWORDS = {5_000_000: "bpe:4096", 1_000_000: "bpe:2048", 200_000: "bpe:1024"}
SMALLEST_TRAINING = 64  # tokens; less is a mistaken path rather than a text


def fitting_tokenizer(characters: int) -> str:
    """The tokenizer that `auto` stands for."""
    return next((spec for least, spec in SUBWORDS.items() if characters >= least), "char")


def build_corpus(
    sources: Sequence[str],
    out: str | Path,
    tokenizer: str = "auto",
    split: str = "auto",
    progress: Progress | None = None,
) -> Corpus:
    """Build a corpus from `sources` (see `read_documents`) in the new folder `out`, and open it.

    `tokenizer` is char, byte or bpe:N, auto (by the length of the text), or a tokenizer that is there already: a path
    (see `open_tokenizer`), such as that of a run or of another corpus, or gpt2. `split` is hash or contiguous,
    with shares if wanted, or auto: by hash from 8 documents on. Blank documents and exact copies are left out and
    counted. The same sources and arguments give the same bytes. Raises UsageError for a mistaken argument, CorpusError
    for text that cannot become a corpus.
    """
    if isinstance(sources, str) or not sources:
        raise UsageError(
            f"sources {sources!r}: expected a list of files, folders or python-docs, as in ['my-writing/']."
        )
    out = Path(out)
    given = None if tokenizer in ("auto", "char", "byte") else open_tokenizer(tokenizer)
    if tokenizer != "auto" and given is None:
        parse_tokenizer(tokenizer)  # a mistaken argument is better heard of before gigabytes are read
    rule = parse_split(split)
    if os.path.lexists(out):
        raise CorpusError(f"{out} exists already and was left as it is. Choose another place, or delete it first.")
    survey = Survey(sources, progress)
    if tokenizer == "auto":
        tokenizer = fitting_tokenizer(sum(entry.characters for entry in survey.kept))
    rule = rule or SplitRule("hash" if len(survey.kept) >= ENOUGH_FOR_HASH else "contiguous")
    plan = plan_splits(rule, [entry.digest for entry in survey.kept], [entry.characters for entry in survey.kept])
    with folder_in_one_piece(out, "the corpus") as folder:
        trained = given or _train(tokenizer, survey, plan)
        if trained.end_of_text is None and len(survey.kept) > 1:
            raise CorpusError(
                f"{tokenizer} has no {END_OF_TEXT} to put between {len(survey.kept)} documents. Join them into one "
                "file, or use another tokenizer."
            )
        records = _write_splits(folder, survey, plan, trained)
        _check_sizes(rule, records, survey.name)
        moved = tuple(
            MoveRecord(document=survey.kept[move.document].source, origin=move.origin, to=move.to)
            for move in plan.moved
        )
        split_record = SplitRuleRecord(rule=str(rule), moved=moved)
        write_manifest(folder, survey.sources, split_record, _write_tokenizer(folder, tokenizer, trained), records)
    return open_corpus(out)


def _pieces(survey: Survey, plan: Plan, stage: str) -> Iterator[tuple[str, str]]:
    """(split, text) of everything in the corpus, in order: read once more."""
    for document, read in enumerate(survey.read_again(stage)):
        yield from plan.pieces(document, read.text)


def _train(spec: str, survey: Survey, plan: Plan) -> Tokenizer:
    kind, _ = parse_tokenizer(spec)
    # Characters are those of all splits. BPE must not learn from the text that it will be judged on.
    texts = (
        text for split, text in _pieces(survey, plan, "training the tokenizer") if kind == "char" or split == "train"
    )
    return train_tokenizer(spec, texts, end_of_text=len(survey.kept) > 1, origin=f"the training text of {survey.name}")


def _write_splits(folder: Path, survey: Survey, plan: Plan, tokenizer: Tokenizer) -> dict[str, SplitRecord]:
    """Encode and write all splits; those that got no text are not among the records."""
    # A corpus of one document has nothing to separate, even where it is cut into splits.
    separator = [tokenizer.end_of_text] if len(survey.kept) > 1 else []
    with contextlib.ExitStack() as stack:
        writers: dict[str, SplitWriter] = {}
        for split, text in _pieces(survey, plan, "encoding"):
            if split not in writers:
                writers[split] = stack.enter_context(SplitWriter(folder, split, tokenizer.dtype_name))
            writers[split].add(text, np.append(tokenizer.encode(text), np.array(separator, tokenizer.dtype)))
        return {split: writers[split].finish() for split in SPLITS if split in writers}


def _check_sizes(rule: SplitRule, records: dict[str, SplitRecord], name: str) -> None:
    empty = [split for split, share in zip(SPLITS, rule.shares, strict=True) if share and split not in records]
    tokens = records["train"].tokens if "train" in records else 0
    if empty or tokens < SMALLEST_TRAINING:
        reason = f"leaves no text for {' and '.join(empty)}" if empty else f"gives {tokens} tokens to train on"
        raise CorpusError(
            f"{name} is too small: split {rule} {reason}. Training needs at least {SMALLEST_TRAINING} tokens, and each "
            "split whose share is not 0 needs some text. Give more text."
        )


def _write_tokenizer(folder: Path, spec: str, tokenizer: Tokenizer) -> TokenizerRecord:
    stored = tokenizer.to_json().encode()
    (folder / TOKENIZER).write_bytes(stored)
    return TokenizerRecord(
        spec=spec,
        kind=tokenizer.kind,
        vocab_size=tokenizer.vocab_size,
        end_of_text=tokenizer.end_of_text,
        dtype=tokenizer.dtype_name,
        file=FileRecord(name=TOKENIZER, size=len(stored), sha256=tokenizer.sha256),
    )
