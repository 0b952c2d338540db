"""The stages of a build as steps of datatrove pipelines. `scale` imports this once it knows that datatrove is there.

Each stage is a function that does what falls to one rank: the pieces, or shards, whose numbers are its own modulo the
number of ranks. Of each that is not done yet it fetches what is needed, calls the function that `build` calls, puts
back what that made, and yields what was counted. So a rank that was killed goes on where it was.
"""

import contextlib
import functools
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger
from pydantic import TypeAdapter

from scratchlab.corpus import build
from scratchlab.corpus.build import Job
from scratchlab.corpus.building import encode, plan, survey
from scratchlab.corpus.building.join import Run, Shard, describe_split, in_shards, write_shard
from scratchlab.corpus.building.order import Order
from scratchlab.corpus.building.plan import Plan
from scratchlab.corpus.building.shared import PUBLISHING, Here, Shared, here
from scratchlab.corpus.building.work import Piece
from scratchlab.corpus.manifest import TOKENIZER, FileRecord, SplitRecord
from scratchlab.corpus.progress import ignore
from scratchlab.corpus.sources.documents import Spans
from scratchlab.corpus.splits import SPLITS
from scratchlab.corpus.tokenizer import Dtype, Tokenizer
from scratchlab.files import write_atomically

ORDER, PIECES, PLAN = "order.json", "pieces.jsonl", "plan.json"
ARRANGE, JOIN, RUNS = "arrange", "join", "runs"
COUNTED = ("documents", "characters", "bytes", "tokens", "shards")

Counts = Iterator[dict[str, Any]]


# The stages.


def survey_pieces(at: Here, job: Job, rank: int, ranks: int) -> Counts:
    """Read the rank's pieces for the first time."""
    if at.has(at.path / TOKENIZER):  # token sets are checked against it
        at.fetch([at.path / TOKENIZER])
    for piece in job.order.pieces:
        if not at.has(at.work.path(survey.STAGE, piece.number, "json")):
            record = survey.survey_piece(build.survey_task(job, piece))
            _put_piece(at, survey.STAGE, piece.number)
            yield record


def plan_corpus(at: Here, job: Job, rank: int, ranks: int) -> Counts:
    """Decide what is kept of all pieces, and train the tokenizer if there is none."""
    if at.has(at.path / TOKENIZER):
        at.fetch([at.path / TOKENIZER])
    else:
        _fetch_spools(at, job.order.pieces)
    near = job.order.settings.near_duplicates is not None
    kinds = ("json", survey.RECORDS, *[survey.SIGNATURES] * near)
    at.fetch(_paths(at, survey.STAGE, job.order.pieces, *kinds))
    decided = build.decide(job)
    build.settle_tokenizer(job, decided)
    at.put([at.path / TOKENIZER, *_paths(at, plan.STAGE, job.order.pieces, plan.CODES)])
    write_atomically(at.path / PLAN, _to_json(Plan, decided))
    at.put_last(at.path / PLAN)
    yield {"documents": decided.documents, "characters": decided.characters}


def encode_pieces(at: Here, job: Job, rank: int, ranks: int) -> Counts:
    """Read the rank's pieces for the second time."""
    decided = _read_plan(at)
    at.fetch([at.path / TOKENIZER])
    for piece in job.order.pieces:
        if not at.has(at.work.path(encode.STAGE, piece.number, "json")):
            _fetch_spools(at, [piece])
            at.fetch([*_paths(at, survey.STAGE, [piece], survey.RECORDS), *_paths(at, plan.STAGE, [piece], plan.CODES)])
            record = encode.encode_piece(build.encode_task(job, decided, piece))
            _put_piece(at, encode.STAGE, piece.number)
            yield record


def arrange_shards(at: Here, job: Job, rank: int, ranks: int) -> Counts:
    """Write down of what each shard is to be made."""
    at.fetch([at.path / TOKENIZER, *_rows(at)])
    counts = dict.fromkeys(SPLITS, 0)
    for split in SPLITS:
        for runs in in_shards(build.stretches_of(job, split)(), job.order.settings.shard_tokens):
            what = f"{split}.{RUNS}"
            at.work.save(ARRANGE, counts[split], what, np.array([(run.piece, run.start, run.stop) for run in runs]))
            at.put([at.work.path(ARRANGE, counts[split], what)])
            counts[split] += 1
    dtype = Tokenizer.load(at.path / TOKENIZER).dtype_name
    at.work.finish(ARRANGE, 0, {"dtype": dtype, "shards": counts}, files=[])
    at.put_last(at.work.path(ARRANGE, 0, "json"))
    yield {"shards": sum(counts.values())}


def join_shards(at: Here, job: Job, rank: int, ranks: int) -> Counts:
    """Write the rank's shards."""
    dtype, shards = _arranged(at)
    for split, number in shards[rank::ranks]:
        done = _shard_record(at, split, number)
        if not at.has(done):
            at.corpus.mkdir(exist_ok=True)
            shard = Shard(at.work, split, number, _fetch_runs(at, split, number, dtype), dtype, at.corpus)
            record = write_shard(shard)
            at.put([shard.path])
            write_atomically(done, record.model_dump_json())
            at.put_last(done)
            at.forget()
            yield {"bytes": record.size}


def publish_corpus(at: Here, job: Job, rank: int, ranks: int) -> Counts:
    """Write the document tables and the manifest, and put the corpus in its place."""
    if at.shared.is_taken():
        raise build.exists_already(at.shared.name)
    if not at.has(at.path / PUBLISHING):
        _conclude(at, replace(job, folder=at.corpus))
    at.shared.publish()
    yield from ()


def _conclude(at: Here, job: Job) -> None:
    dtype, shards = _arranged(at)
    records = [_shard_record(at, split, number) for split, number in shards]
    at.fetch([at.path / TOKENIZER, *records, *_rows(at)])
    at.fetch(_paths(at, survey.STAGE, job.order.pieces, "json"))
    at.fetch(_paths(at, encode.STAGE, job.order.pieces, "json"))
    decided = _read_plan(at)
    if decided.moved:  # their names are wanted; this is so of a few documents only
        _fetch_spools(at, job.order.pieces)
        at.fetch(_paths(at, survey.STAGE, job.order.pieces, survey.RECORDS))
    at.corpus.mkdir(exist_ok=True)
    shutil.copyfile(at.path / TOKENIZER, at.corpus / TOKENIZER)
    splits: dict[str, SplitRecord] = {}
    for split in SPLITS:
        written = [
            FileRecord.model_validate_json(path.read_bytes())
            for path in records
            if path.parent.name == f"{JOIN}-{split}"
        ]
        if described := describe_split(at.corpus, split, build.stretches_of(job, split), written, dtype):
            splits[split] = described
    at.fetch(at.corpus / file.name for record in splits.values() for file in record.shards)  # to compare them
    build.conclude(job, decided, Tokenizer.load(at.corpus / TOKENIZER), splits)
    at.put(at.corpus.iterdir())


STAGES: dict[str, Callable[[Here, Job, int, int], Counts]] = {
    "survey": survey_pieces,
    "plan": plan_corpus,
    "encode": encode_pieces,
    "arrange": arrange_shards,
    "join": join_shards,
    "publish": publish_corpus,
}


class Stage(PipelineStep):
    """A stage in a pipeline of its own."""

    type = "scratchlab"

    def __init__(self, name: str, shared: Shared) -> None:
        self.name = name
        self.shared = shared
        self.directory = os.getcwd()  # what the paths of sources may be relative to
        super().__init__()

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Any:
        moved = contextlib.chdir(self.directory) if os.path.isdir(self.directory) else contextlib.nullcontext()
        with moved, here(self.shared) as at, self.track_time():
            for record in STAGES[self.name](at, _job(at, rank, world_size), rank, world_size):
                counted = {label: record[label] for label in COUNTED if label in record}
                logger.info(f"{self.name}: {counted}")
                for label, count in counted.items():
                    self.stat_update(label, value=count, unit="piece")
        return data


# What lies in the hidden folder besides what stages of `build` make.


def write_order(at: Here, order: Order, given: Tokenizer | None) -> None:
    """Write down what is to be built; once the order is there, so is the rest."""
    if given:
        build.store_tokenizer(at.path, given)
        at.put([at.path / TOKENIZER])
    with (at.path / PIECES).open("w") as file:
        file.writelines(_to_json(Piece, piece) + "\n" for piece in order.pieces)
    at.put([at.path / PIECES])
    listings = tuple(replace(listing, spans=Spans()) for listing in order.listings)  # they are in the pieces
    write_atomically(at.path / ORDER, _to_json(Order, replace(order, listings=listings, pieces=())))
    at.put_last(at.path / ORDER)


def _job(at: Here, rank: int, ranks: int) -> Job:
    """The build, with the pieces that fall to a rank."""
    at.fetch([at.path / ORDER, at.path / PIECES])
    order = _from_json(Order, (at.path / ORDER).read_text())
    with (at.path / PIECES).open() as lines:
        pieces = tuple(_from_json(Piece, line) for line in itertools.islice(lines, rank, None, ranks))
    return Job(at.path, at.work, replace(order, pieces=pieces), map, ignore)


def _read_plan(at: Here) -> Plan:
    at.fetch([at.path / PLAN])
    return _from_json(Plan, (at.path / PLAN).read_text())


Kind = TypeVar("Kind")


@functools.cache
def _adapter(kind: type[Kind]) -> TypeAdapter[Kind]:
    return TypeAdapter(kind)


def _to_json(kind: type[Kind], value: Kind) -> str:
    return json.dumps(_adapter(kind).dump_python(value))  # in ASCII: names of files may hold what is no Unicode


def _from_json(kind: type[Kind], text: str) -> Kind:
    return _adapter(kind).validate_python(json.loads(text))


def _arranged(at: Here) -> tuple[Dtype, list[tuple[str, int]]]:
    """How tokens are stored, and all shards: the split of each, and its number there."""
    at.fetch([at.work.path(ARRANGE, 0, "json")])
    record = at.work.record(ARRANGE, 0)
    return record["dtype"], [(split, number) for split in SPLITS for number in range(record["shards"][split])]


def _fetch_runs(at: Here, split: str, number: int, dtype: Dtype) -> tuple[Run, ...]:
    """Of what a shard is made; fetches those tokens."""
    at.fetch([at.work.path(ARRANGE, number, f"{split}.{RUNS}")])
    runs = tuple(itertools.starmap(Run, at.work.load(ARRANGE, number, f"{split}.{RUNS}").tolist()))
    size = np.dtype(dtype).itemsize
    ranges: dict[int, list[tuple[int, int]]] = {}
    for run in runs:
        ranges.setdefault(run.piece, []).append((run.start * size, run.stop * size))
    for piece, parts in ranges.items():
        at.fetch_ranges(at.work.path(encode.STAGE, piece, f"{split}.{encode.TOKENS}"), parts)
    return runs


def _shard_record(at: Here, split: str, number: int) -> Path:
    return at.work.path(f"{JOIN}-{split}", number, "json")


def _paths(at: Here, stage: str, pieces: Iterable[Piece], *kinds: str) -> list[Path]:
    return [at.work.path(stage, piece.number, kind) for piece in pieces for kind in kinds]


def _rows(at: Here) -> list[Path]:
    """The rows of all pieces. A piece has some for each split that it gave something to."""
    return [path for path in at.listed(at.work.folder / encode.STAGE) if path.suffix == f".{encode.ROWS}"]


def _fetch_spools(at: Here, pieces: Iterable[Piece]) -> None:
    """What was kept of pieces that came over a network."""
    remote = [piece for piece in pieces if piece.spans[0].format in survey.REMOTE]
    at.fetch(_paths(at, survey.STAGE, remote, survey.SPOOL))


def _put_piece(at: Here, stage: str, number: int) -> None:
    """Give what a stage made of a piece, the record last, and make room for the next."""
    record = at.work.path(stage, number, "json")
    at.put(path for path in record.parent.glob(f"{number:05d}.*") if path != record)
    at.put_last(record)
    at.forget()
