"""Building a corpus: read, clean, find duplicates, split, train the tokenizer, encode, join.

The sources are read twice, piece by piece, in as many processes as there are cores: first to learn what is there, then
to encode it. Between the two readings a few numbers are kept of each document, on disk, so that memory does not grow
with the corpus. What is done of a piece is kept too: a build that was killed goes on where it was, to the same bytes.
Everything lies in a hidden folder that gets its name at the end, so that nothing unfinished looks finished.
"""

import bisect
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scratchlab.corpus.building import encode, survey
from scratchlab.corpus.building.filters import nothing_left
from scratchlab.corpus.building.join import Stretches, whole_pieces, write_split
from scratchlab.corpus.building.learn import learn_tokenizer
from scratchlab.corpus.building.mixture import Drawn, Mixture, count_drawn, draw, in_mixed_order, supplies
from scratchlab.corpus.building.order import Order, Settings, prepare
from scratchlab.corpus.building.plan import Plan, make_plan
from scratchlab.corpus.building.tally import Tally
from scratchlab.corpus.building.work import Piece, Work
from scratchlab.corpus.building.workers import Map, workers
from scratchlab.corpus.manifest import (
    TOKENIZER,
    CleaningRecord,
    DrawnRecord,
    FileRecord,
    MoveRecord,
    OverlapRecord,
    RemovedRecord,
    SourceRecord,
    SplitRecord,
    SplitRuleRecord,
    TokenizerRecord,
    write_manifest,
)
from scratchlab.corpus.overlap import overlap as find_overlap
from scratchlab.corpus.progress import Progress, Report, ignore
from scratchlab.corpus.shards import Split
from scratchlab.corpus.sources.documents import printable
from scratchlab.corpus.sources.find import Source
from scratchlab.corpus.splits import SPLITS, SplitRule, parse_split
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.corpus.tokenizer import END_OF_TEXT, Tokenizer
from scratchlab.errors import CorpusError
from scratchlab.files import sync_file, unfinished_folder, write_atomically
from scratchlab.hardware import usable_cores

# From so many characters on, each subword is met often enough to be learned; characters below them all.
SUBWORDS = {5_000_000: "bpe:4096", 1_000_000: "bpe:2048", 200_000: "bpe:1024"}
SMALLEST_TRAINING = 64  # tokens; less is a mistaken path rather than a text
WORTH_PROCESSES = 2**24  # bytes of sources; starting processes takes longer than reading less

WORK = "work"  # a folder in that of the corpus, while it is built
READING, PLANNING = "reading", "looking for duplicates"
LEARNING, TRAINING = "reading for the tokenizer", "training the tokenizer"
ENCODING, JOINING = "encoding", "joining"


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
    out = Path(out)
    if os.path.lexists(out):
        raise exists_already(str(out))
    order, given = prepare(sources, Settings(tokenizer=tokenizer, split=split, **settings))
    processes = workers_at_once or usable_cores()
    worth = sum(piece.size for piece in order.pieces) > WORTH_PROCESSES
    with unfinished_folder(out, "the corpus", order.key, WORK) as folder, workers(processes if worth else 1) as over:
        _build(Job(folder, Work(folder / WORK), order, over, report or ignore), given)
    return open_corpus(out)


def exists_already(out: str) -> CorpusError:
    """The error for a place that is taken."""
    return CorpusError(f"{out} exists already and was left as it is. Choose another place, or delete it first.")


@dataclass(frozen=True, slots=True)
class Job:
    """A build under way."""

    folder: Path
    work: Work
    order: Order
    over: Map
    report: Report

    @property
    def size(self) -> int:
        """In bytes of the sources' files."""
        return sum(piece.size for piece in self.order.pieces)


def _build(job: Job, given: Tokenizer | None) -> None:
    """All stages, each going on where it was. `scale` has the same ones on many machines."""
    pieces = job.order.pieces
    if given:
        store_tokenizer(job.folder, given)
    surveys = [survey_task(job, piece) for piece in pieces]
    _over_pieces(job, READING, survey.STAGE, survey.survey_piece, surveys)
    job.report(Progress(PLANNING, 0, 0, 0, 0))
    plan = decide(job)
    tokenizer = settle_tokenizer(job, plan)
    encodings = [encode_task(job, plan, piece) for piece in pieces]
    _over_pieces(job, ENCODING, encode.STAGE, encode.encode_piece, encodings)
    job.report(Progress(JOINING, 0, 0, plan.documents, 0))
    splits = {split: record for split in SPLITS if (record := _join(job, split, tokenizer))}
    conclude(job, plan, tokenizer, splits)


def survey_task(job: Job, piece: Piece) -> survey.Task:
    """The first reading of a piece."""
    settings = job.order.settings
    return survey.Task(job.work, piece, settings.filters, settings.near_duplicates is not None)


def encode_task(job: Job, plan: Plan, piece: Piece) -> encode.Task:
    """The second reading of a piece."""
    cuts = plan.cuts_within(piece.number)
    return encode.Task(job.work, piece, job.order.settings.filters, cuts, separate=plan.documents > 1)


def decide(job: Job) -> Plan:
    """What is kept of all that was read, and where it goes. CorpusError if that is nothing."""
    settings = job.order.settings
    rule, mixed = parse_split(settings.split), settings.mixture is not None

    def report(stage: str, done: int, total: int) -> None:
        job.report(Progress(stage, job.size * done // max(total, 1), job.size, 0, 0))

    plan = make_plan(job.work, job.order.pieces, rule, settings.near_duplicates, mixed, report)
    if not plan.documents:
        raise nothing_left(_removed(job, job.order.pieces, [survey.STAGE]), settings.filters, job.order.name)
    return plan


def settle_tokenizer(job: Job, plan: Plan) -> Tokenizer:
    """The tokenizer in the folder, trained now if it was not there. CorpusError if it cannot separate documents."""
    path = job.folder / TOKENIZER
    if not path.exists():  # it was not given, and this build was not killed after it
        store_tokenizer(job.folder, _learn(job, plan))
    tokenizer = Tokenizer.load(path)
    if plan.documents > 1 and tokenizer.end_of_text is None:
        raise CorpusError(
            f"{_spec(job, plan)} has no {END_OF_TEXT} to put between {plan.documents} documents. Join them into one "
            "file, or use another tokenizer."
        )
    return tokenizer


def _learn(job: Job, plan: Plan) -> Tokenizer:
    def report(done: int) -> None:
        job.report(Progress(LEARNING, done, job.size, plan.documents, 0))
        if done == job.size:  # pairs are merged when all is read, and it cannot be told how long that takes
            job.report(Progress(TRAINING, 0, 0, plan.documents, 0))

    return learn_tokenizer(
        _spec(job, plan),
        [encode_task(job, plan, piece) for piece in job.order.pieces],
        plan.bytes,
        job.order.settings.specials,
        end_of_text=plan.documents > 1,
        origin=f"the training text of {job.order.name}",
        over=job.over,
        report=report,
    )


def _spec(job: Job, plan: Plan) -> str:
    spec = job.order.settings.tokenizer
    return fitting_tokenizer(plan.characters) if spec == "auto" else spec


def store_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Write tokenizer.json, and remove what a kill left of an earlier attempt."""
    for left in folder.glob(f".{TOKENIZER}.*"):
        left.unlink()
    write_atomically(folder / TOKENIZER, tokenizer.to_json())


def _over_pieces(job: Job, name: str, stage: str, function: Callable[[Any], Any], tasks: Sequence[Any]) -> None:
    """Do a stage of every piece that it is not done of yet."""
    total = job.size
    finished = {task.piece.number for task in tasks if job.work.is_done(stage, task.piece.number)}
    ahead = [task for task in tasks if task.piece.number not in finished]
    before = [job.work.record(stage, number) for number in finished]
    done, documents, tokens = (
        sum(record.get(what, 0) for record in before) for what in ("size", "documents", "tokens")
    )
    if before:
        job.report(Progress(name, done, total, documents, tokens))
    for record in job.over(function, ahead):
        done += record["size"]
        documents += record["documents"]
        tokens += record.get("tokens", 0)
        job.report(Progress(name, done, total, documents, tokens))


def _join(job: Job, split: str, tokenizer: Tokenizer) -> SplitRecord | None:
    stretches, shard_tokens = stretches_of(job, split), job.order.settings.shard_tokens
    return write_split(job.folder, job.work, split, stretches, tokenizer.dtype_name, shard_tokens, job.over)


def stretches_of(job: Job, split: str) -> Stretches:
    """What a split is made of, in order: whole pieces, or the documents that a mixture draws."""
    order, mixture = job.order, job.order.settings.mixture
    if mixture is None:
        return lambda: whole_pieces(job.work, split, [piece.number for piece in order.pieces])
    drawn = _draw(job, split, mixture)
    return lambda: in_mixed_order(drawn, split, mixture.seed)


def _draw(job: Job, split: str, mixture: Mixture) -> Drawn:
    return draw(supplies(job.work, split, job.order.pieces, job.order.sources), split, mixture)


# What the manifest says.


def conclude(job: Job, plan: Plan, tokenizer: Tokenizer, splits: Mapping[str, SplitRecord]) -> None:
    """Write the manifest, which makes the folder a corpus. CorpusError if there is too little to train on."""
    settings = job.order.settings
    _check_sizes(plan.rule, splits, job.order.name)
    with ThreadPoolExecutor(1) as disk:  # which is slower than comparing the splits: both at the same time
        written = [file.name for record in splits.values() for file in record.files]
        syncing = [disk.submit(sync_file, job.folder / name) for name in written]
        overlap = _test_in_training(job, tokenizer, splits)
        for sync in syncing:
            sync.result()
    mixture = settings.mixture
    drawn = {split: count_drawn(_draw(job, split, mixture)) for split in splits} if mixture else {}
    write_manifest(
        job.folder,
        sources=tuple(_source_record(job, plan, place, drawn) for place in range(len(job.order.sources))),
        split=SplitRuleRecord(rule=str(plan.rule), moved=_moves(job, plan)),
        tokenizer=tokenizer_record(job.folder, _spec(job, plan), tokenizer),
        splits=splits,
        cleaning=CleaningRecord(filters=settings.filters, near_duplicates=settings.near_duplicates),
        overlap=overlap,
    )


def _test_in_training(job: Job, tokenizer: Tokenizer, splits: Mapping[str, SplitRecord]) -> OverlapRecord | None:
    """What of the test split is in the training split; numbers repeat themselves, and would say nothing."""
    if "test" not in splits or tokenizer.numeric:
        return None
    train, test = (
        Split(job.folder, split, splits[split], tokenizer.dtype_name, tokenizer.vocab_size)
        for split in ("train", "test")
    )

    def report(progress: Progress) -> None:
        job.report(replace(progress, documents=splits["train"].documents, tokens=splits["train"].tokens))

    return find_overlap(train, tokenizer, test, tokenizer, threads=usable_cores(), report=report)


def _source_record(job: Job, plan: Plan, place: int, drawn: Mapping[str, Mapping[str, DrawnRecord]]) -> SourceRecord:
    order = job.order
    source, listing = order.sources[place], order.listings[place]
    pieces = [piece for piece in order.pieces if piece.source == place]
    removed = _removed(job, pieces, [survey.STAGE, encode.STAGE])
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
        drawn={split: records[source.name] for split, records in drawn.items() if source.name in records},
    )


def _removed(job: Job, pieces: Sequence[Piece], stages: Sequence[str]) -> Tally:
    removed = Tally()
    for piece in pieces:
        for stage in stages:
            removed.merge(Tally.from_json(job.work.record(stage, piece.number)["removed"]))
    return removed


def _moves(job: Job, plan: Plan) -> tuple[MoveRecord, ...]:
    return tuple(
        MoveRecord(document=_name_of(job, plan, move.record), origin=SPLITS[move.origin], to=SPLITS[move.to])
        for move in plan.moved
    )


def _name_of(job: Job, plan: Plan, record: int) -> str:
    """What the document that a record stands for is called: read once more."""
    piece = bisect.bisect_right(plan.first_records, record) - 1
    documents = survey.read_again(job.work, job.order.pieces[piece], job.order.settings.filters)
    return next(itertools.islice(documents, record - plan.first_records[piece], None)).name


def tokenizer_record(folder: Path, spec: str, tokenizer: Tokenizer) -> TokenizerRecord:
    """The tokenizer that was stored in `folder`; `spec` is how it was asked for."""
    path = folder / TOKENIZER
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
