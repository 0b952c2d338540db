"""Building a corpus: read, clean, find duplicates, split, train the tokenizer, encode, join.

The sources are read twice, piece by piece, in as many processes as there are cores: first to learn what is there, then
to encode it. Between the two readings a few numbers are kept of each document, on disk, so that memory does not grow
with the corpus. What is done of a piece is kept too: a build that was killed goes on where it was, to the same bytes.
Everything lies in a hidden folder that gets its name at the end, so that nothing unfinished looks finished.
"""

import bisect
import itertools
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scratchlab.corpus.building import encode, survey
from scratchlab.corpus.building.filters import parse_filters
from scratchlab.corpus.building.join import Stretch, whole_pieces, write_split
from scratchlab.corpus.building.learn import learn_tokenizer
from scratchlab.corpus.building.mixture import Mixture, draw, in_mixed_order, supplies
from scratchlab.corpus.building.plan import Plan, make_plan
from scratchlab.corpus.building.tally import Tally
from scratchlab.corpus.building.work import Piece, Work, in_pieces
from scratchlab.corpus.building.workers import Map, workers
from scratchlab.corpus.manifest import (
    TOKENIZER,
    CleaningRecord,
    FileRecord,
    MoveRecord,
    RemovedRecord,
    SourceRecord,
    SplitRecord,
    SplitRuleRecord,
    TokenizerRecord,
    write_manifest,
)
from scratchlab.corpus.pretrained import open_tokenizer
from scratchlab.corpus.shards import SHARD_TOKENS
from scratchlab.corpus.sources.documents import Reading, printable
from scratchlab.corpus.sources.find import Listing, Source, list_source
from scratchlab.corpus.splits import SPLITS, SplitRule, parse_split
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.corpus.tokenizer import END_OF_TEXT, NUMERIC, Tokenizer, parse_tokenizer
from scratchlab.errors import CorpusError, UsageError
from scratchlab.files import sha256_of_json, unfinished_folder, write_atomically

# From so many characters on, each subword is met often enough to be learned; characters below them all.
SUBWORDS = {5_000_000: "bpe:4096", 1_000_000: "bpe:2048", 200_000: "bpe:1024"}
SMALLEST_TRAINING = 64  # tokens; less is a mistaken path rather than a text
WORTH_PROCESSES = 2**24  # bytes of sources; starting processes takes longer than reading less

WORK = "work"  # a folder in that of the corpus, while it is built
READING, LEARNING, ENCODING, JOINING = "reading", "training the tokenizer", "encoding", "joining"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a build is. Bytes are those of the sources' files."""

    stage: str
    done: int
    total: int
    documents: int
    tokens: int


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a corpus is to be built."""

    tokenizer: str = "auto"
    split: str = "auto"
    filters: tuple[str, ...] = ()
    near_duplicates: float | None = None
    """The likeness (Jaccard, of word 5-grams) from which on the later of two documents is left out."""
    specials: tuple[str, ...] = ()
    """Special tokens besides `<|endoftext|>`, for a tokenizer that is trained here."""
    mixture: Mixture | None = None
    shard_tokens: int = SHARD_TOKENS


def fitting_tokenizer(characters: int) -> str:
    """The tokenizer that `auto` stands for."""
    return next((spec for least, spec in SUBWORDS.items() if characters >= least), "char")


def build_corpus(
    sources: Sequence[str | Source],
    out: str | Path,
    tokenizer: str = "auto",
    split: str = "auto",
    report: Report | None = None,
    workers_at_once: int | None = None,
    **settings: Any,
) -> Corpus:
    """Build a corpus from `sources` (see `list_source`) in the new folder `out`, and open it.

    `tokenizer` is char, byte, bpe:N, integers or bins:N, auto (by the length of the text), or one that is there
    already: a path (see `open_tokenizer`), such as that of a run or of another corpus, or gpt2. `split` is hash,
    contiguous or names, or auto (see `SplitRule`). For the rest see `Settings`. Blank documents and exact copies are
    left out and counted. The same sources and settings give the same bytes, whatever the number of workers, and
    however often the build was killed and called again. Raises UsageError for a mistaken argument, CorpusError for text
    that cannot become a corpus.
    """
    if isinstance(sources, str) or not sources:
        raise UsageError(
            f"sources {sources!r}: expected a list of files, folders or python-docs, as in ['my-writing/']."
        )
    named = _named(sources)
    chosen = Settings(tokenizer=tokenizer, split=split, **settings)
    given = _check(chosen, named)
    out = Path(out)
    if os.path.lexists(out):
        raise CorpusError(f"{out} exists already and was left as it is. Choose another place, or delete it first.")
    listings = [list_source(replace(source, reading=_reading(source, chosen, given))) for source in named]
    pieces = in_pieces([listing.spans for listing in listings])
    key = sha256_of_json([given and given.sha256, *map(asdict, [chosen, *named, *pieces])])
    processes = workers_at_once or len(os.sched_getaffinity(0))
    worth = sum(piece.size for piece in pieces) > WORTH_PROCESSES
    with unfinished_folder(out, "the corpus", key, WORK) as folder, workers(processes if worth else 1) as over:
        _build(
            Job(
                folder, Work(folder / WORK), named, listings, pieces, chosen, over, report or (lambda progress: None)
            ),
            given,
        )
    return open_corpus(out)


@dataclass(frozen=True, slots=True)
class Job:
    """A build under way."""

    folder: Path
    work: Work
    sources: Sequence[Source]
    listings: Sequence[Listing]
    pieces: Sequence[Piece]
    settings: Settings
    over: Map
    report: Report

    @property
    def name(self) -> str:
        """The sources in a few words, for messages."""
        return enumerate_names([printable(source.name) for source in self.sources])


def _build(job: Job, given: Tokenizer | None) -> None:
    """All stages, each going on where it was."""
    settings = job.settings
    if given:
        _store_tokenizer(job, given)
    _survey(job)
    plan = make_plan(
        job.work, job.pieces, parse_split(settings.split), settings.near_duplicates, mixed=settings.mixture is not None
    )
    if not plan.documents:
        raise CorpusError(f"There is no text to learn from: {job.name} has no character but white space.")
    separate = plan.documents > 1
    tasks = [
        encode.Task(job.work, piece, settings.filters, plan.cuts_within(piece.number), separate) for piece in job.pieces
    ]
    spec = fitting_tokenizer(plan.characters) if settings.tokenizer == "auto" else settings.tokenizer
    tokenizer = given or _learn(job, spec, plan, tasks)
    if separate and tokenizer.end_of_text is None:
        raise CorpusError(
            f"{spec} has no {END_OF_TEXT} to put between {plan.documents} documents. Join them into one file, or use "
            "another tokenizer."
        )
    _over_pieces(job, ENCODING, encode.STAGE, encode.encode_piece, tasks)
    splits = {split: record for split in SPLITS if (record := _join(job, split, tokenizer))}
    _check_sizes(plan.rule, splits, job.name)
    write_manifest(
        job.folder,
        sources=tuple(_source_record(job, plan, place) for place in range(len(job.sources))),
        split=SplitRuleRecord(rule=str(plan.rule), moved=_moves(job, plan)),
        tokenizer=_tokenizer_record(job, spec, tokenizer),
        splits=splits,
        cleaning=CleaningRecord(filters=job.settings.filters, near_duplicates=job.settings.near_duplicates),
    )


def _survey(job: Job) -> None:
    tasks = [
        survey.Task(job.work, piece, job.settings.filters, job.settings.near_duplicates is not None)
        for piece in job.pieces
    ]
    _over_pieces(job, READING, survey.STAGE, survey.survey_piece, tasks)


def _learn(job: Job, spec: str, plan: Plan, tasks: Sequence[encode.Task]) -> Tokenizer:
    path = job.folder / TOKENIZER
    if path.exists():  # this build was killed after it
        return Tokenizer.load(path)
    job.report(Progress(LEARNING, 0, 0, plan.documents, 0))
    tokenizer = learn_tokenizer(
        spec,
        tasks,
        plan.bytes,
        job.settings.specials,
        end_of_text=plan.documents > 1,
        origin=f"the training text of {job.name}",
        over=job.over,
    )
    _store_tokenizer(job, tokenizer)
    return tokenizer


def _store_tokenizer(job: Job, tokenizer: Tokenizer) -> None:
    write_atomically(job.folder / TOKENIZER, tokenizer.to_json())


def _over_pieces(job: Job, name: str, stage: str, function: Callable[[Any], Any], tasks: Sequence[Any]) -> None:
    """Do a stage of every piece that it is not done of yet."""
    total = sum(piece.size for piece in job.pieces)
    finished = [task.piece.number for task in tasks if job.work.is_done(stage, task.piece.number)]
    ahead = [task for task in tasks if task.piece.number not in set(finished)]
    before = (job.work.record(stage, number) for number in finished)
    done, documents, tokens = 0, 0, 0
    for record in itertools.chain(before, job.over(function, ahead)):
        done += record["size"]
        documents += record["documents"]
        tokens += record.get("tokens", 0)
        job.report(Progress(name, done, total, documents, tokens))


def _join(job: Job, split: str, tokenizer: Tokenizer) -> SplitRecord | None:
    mixture = job.settings.mixture
    if mixture is None:
        numbers = [piece.number for piece in job.pieces]

        def stretches() -> Iterator[Stretch]:
            return whole_pieces(job.work, split, numbers)
    else:
        drawn = draw(supplies(job.work, split, job.pieces, job.sources), split, mixture)

        def stretches() -> Iterator[Stretch]:
            return in_mixed_order(drawn, split, mixture.seed)

    return write_split(
        job.folder, job.work, split, stretches, tokenizer.dtype_name, job.settings.shard_tokens, job.over
    )


def _overlap(job: Job, splits: Mapping[str, SplitRecord], tokenizer: Tokenizer) -> None:
    return None


# What the manifest says.


def _source_record(job: Job, plan: Plan, place: int) -> SourceRecord:
    source, listing, removed = job.sources[place], job.listings[place], Tally()
    pieces = [piece for piece in job.pieces if piece.source == place]
    for piece in pieces:
        for stage in (survey.STAGE, encode.STAGE):
            removed.merge(Tally.from_json(job.work.record(stage, piece.number)["removed"]))
    kept = [plan.kept[piece.number] for piece in pieces]
    return SourceRecord(
        source=printable(source.name),
        location=printable(source.location),
        documents=sum(some.documents for some in kept),
        bytes=sum(some.bytes for some in kept),
        removed={kind: RemovedRecord.model_validate(entry, strict=False) for kind, entry in removed.to_json().items()},
        passed_over=dict(sorted(listing.passed_over.items())),
        revision=listing.revision,
        weight=source.weight,
        repeat=source.repeat,
    )


def _moves(job: Job, plan: Plan) -> tuple[MoveRecord, ...]:
    return tuple(
        MoveRecord(document=_name_of(job, plan, move.record), origin=SPLITS[move.origin], to=SPLITS[move.to])
        for move in plan.moved
    )


def _name_of(job: Job, plan: Plan, record: int) -> str:
    """What the document that a record stands for is called: read once more."""
    piece = bisect.bisect_right(plan.first_records, record) - 1
    documents = survey.read_again(job.work, job.pieces[piece], job.settings.filters)
    return next(itertools.islice(documents, record - plan.first_records[piece], None)).name


def _tokenizer_record(job: Job, spec: str, tokenizer: Tokenizer) -> TokenizerRecord:
    path = job.folder / TOKENIZER
    return TokenizerRecord(
        spec=spec,
        kind=tokenizer.kind,
        vocab_size=tokenizer.vocab_size,
        end_of_text=tokenizer.end_of_text,
        dtype=tokenizer.dtype_name,
        file=FileRecord(name=TOKENIZER, size=path.stat().st_size, sha256=tokenizer.sha256),
    )


def _check_sizes(rule: SplitRule, records: Mapping[str, SplitRecord], name: str) -> None:
    empty = [SPLITS[place] for place in rule.wanted if SPLITS[place] not in records]
    tokens = records["train"].tokens if "train" in records else 0
    if empty or tokens < SMALLEST_TRAINING:
        reason = f"leaves no text for {' and '.join(empty)}" if empty else f"gives {tokens} tokens to train on"
        raise CorpusError(
            f"{name} is too small: split {rule} {reason}. Training needs at least {SMALLEST_TRAINING} tokens, and each "
            "split whose share is not 0 needs some text. Give more text."
        )


# What was asked for.


def enumerate_names(names: Sequence[str], most: int = 3) -> str:
    """`a, b, c and 4 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _named(sources: Sequence[str | Source]) -> tuple[Source, ...]:
    """The sources, each with a name; UsageError if two have the same."""
    given = [Source(source) if isinstance(source, str) else source for source in sources]
    named = tuple(replace(source, name=source.name or source.location) for source in given)
    twice = [name for name, count in Counter(source.name for source in named).items() if count > 1]
    if twice:
        raise UsageError(
            f"Two sources are called {twice[0]}. Give each once; in a mixture, give each a name of its own, and let a "
            "source be used more than once by its `repeat`."
        )
    return named


def _check(settings: Settings, sources: Sequence[Source]) -> Tokenizer | None:
    """Hear of mistaken settings before gigabytes are read; gives the tokenizer if it is there already."""
    parse_split(settings.split)
    parse_filters(settings.filters)
    _check_mixture(settings.mixture, sources)
    spec = settings.tokenizer
    given = None if spec in ("auto", "char", "byte") else open_tokenizer(spec)
    if spec != "auto" and given is None:
        parse_tokenizer(spec)
    if given and settings.specials:
        return given.with_specials(settings.specials)
    return given


def _check_mixture(mixture: Mixture | None, sources: Sequence[Source]) -> None:
    weighted = [source for source in sources if source.weight is not None]
    for source in weighted:
        if not (source.weight and 0 < source.weight < math.inf):
            raise UsageError(f"{source.name}: weight {source.weight} is not above 0. Leave the source out instead.")
    for source in sources:
        if source.repeat < 1:
            raise UsageError(f"{source.name}: repeat {source.repeat} is below 1: how often may a document be used?")
    if (mixture is not None) != bool(weighted) or (weighted and len(weighted) < len(sources)):
        raise UsageError("In a mixture every source has a weight, and weights make a mixture. Give them all or none.")


def _reading(source: Source, settings: Settings, given: Tokenizer | None) -> Reading:
    """How a source is read, which depends on the tokenizer too."""
    return replace(
        source.reading,
        series=settings.tokenizer.split(":")[0] in NUMERIC or (given is not None and given.numeric),
        separator=given.end_of_text if given else None,
    )
