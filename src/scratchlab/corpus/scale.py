"""Beyond one machine: the stages of `build` as `datatrove` pipelines, for its local, Slurm and Ray executors.

    survey, encode    a task for each rank of pieces
    plan              one task: duplicates, splits, the tokenizer
    arrange           one task: of what each shard is to be made
    join              a task for each rank of shards
    publish           one task: the manifest

The result is what `build_corpus` makes of the same sources and settings, to the byte. docs/scale.md shows how.
"""

import contextlib
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scratchlab.corpus.build import exists_already
from scratchlab.corpus.building.order import Order, Settings, prepare
from scratchlab.corpus.building.shared import Shared, here
from scratchlab.corpus.sources.find import Source
from scratchlab.corpus.sources.urls import file_system, is_url
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import CorpusError, ScratchlabError, UsageError
from scratchlab.extras import missing

if TYPE_CHECKING:
    from datatrove.executor.base import PipelineExecutor
    from datatrove.io import DataFolder

ALONE = ("plan", "arrange", "publish")
"""Stages of one task."""


@dataclass(frozen=True, slots=True)
class ScaledBuild:
    """A build that is ready to be run by executors of datatrove. Made by `scaled_build`."""

    shared: Shared
    ranks: int
    """Into how many tasks the other stages are divided."""

    def executors(
        self,
        executor: "Callable[..., PipelineExecutor]",
        stages: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> "list[PipelineExecutor]":
        """An executor for each stage, in order; each depends on the one before, so that running the last runs all.

        `executor` is a class of datatrove or a function with its arguments; `options` are given to each, such as
        `workers=8`, or `time` and `partition` for Slurm; `stages` has those for single stages, by their names.
        Running them again, however they ended, goes on where they were.
        """
        from scratchlab.corpus.scale_steps import STAGES, Stage

        if unknown := (stages or {}).keys() - STAGES.keys():
            raise UsageError(f"There is no stage {unknown.pop()!r}: a build has {', '.join(STAGES)}.")
        made: list[PipelineExecutor] = []
        for number, stage in enumerate(STAGES, 1):
            tasks = 1 if stage in ALONE else self.ranks
            chosen = {**options, **(stages or {}).get(stage, {})}
            if "workers" in chosen:  # more would be started all the same
                chosen["workers"] = min(chosen["workers"], tasks)
            logs = _inside(self.shared.logs, f"{number}-{stage}-of-{tasks}")  # of other ranks, others are done
            depends = made[-1] if made else None
            step = Stage(stage, self.shared)
            made.append(executor(pipeline=[step], tasks=tasks, logging_dir=logs, depends=depends, **chosen))
        return made


def scaled_build(
    sources: Sequence[str | Source],
    out: "str | Path | tuple[str, dict[str, Any]] | DataFolder",
    tasks: int,
    tokenizer: str = "auto",
    split: str = "auto",
    **settings: Any,
) -> ScaledBuild:
    """Check what is asked for as `build_corpus` does, list the sources, and write down what is to be built.

    `out` is a new folder on a file system that all machines share, or a URL such as s3://bucket/corpora/mine (with
    options for fsspec: a pair). Each stage that can be is divided into `tasks`, or fewer if there is less to do. Beside
    `out` there will be a hidden folder, until all is done, and one of logs. Raises what `build_corpus` raises, and
    MissingExtraError without datatrove.
    """
    place = _data_folder(out)
    if tasks < 1:
        raise UsageError(f"tasks {tasks}: expected at least 1.")
    order, given = prepare(sources, Settings(tokenizer=tokenizer, split=split, **settings))
    shared = _shared(place, order.key)
    with _reaching(shared.name):
        _begin(shared, order, given)
    return ScaledBuild(shared, min(tasks, len(order.pieces)))


def _begin(shared: Shared, order: Order, given: Tokenizer | None) -> None:
    from scratchlab.corpus.scale_steps import ORDER, write_order

    if shared.is_taken():
        raise exists_already(shared.name)
    if not shared.folder.isfile(ORDER):
        shared.clear()
        with here(shared) as at:
            write_order(at, order, given)


@contextlib.contextmanager
def _reaching(name: str) -> Generator[None]:
    """Turn what a service or a disk says against writing there into a message."""
    try:
        yield
    except ScratchlabError:
        raise
    except Exception as error:  # the package for each service raises its own
        raise CorpusError(f"{name} could not be written: {type(error).__name__}: {error}.") from error


def _data_folder(out: "str | Path | tuple[str, dict[str, Any]] | DataFolder") -> "DataFolder":
    try:
        from datatrove.io import get_datafolder
    except ImportError:
        raise missing("Building on many machines", "scale") from None
    if isinstance(out, str | Path):
        out = str(out)
        if not is_url(out):
            return get_datafolder(os.path.abspath(out))
        file_system(out)
    return get_datafolder(out)


def _shared(out: "DataFolder", key: str) -> Shared:
    from datatrove.io import DataFolder

    parent, slash, name = out.path.rpartition("/")
    if not slash:
        raise UsageError(f"out {out.resolve_paths('')}: that is a whole bucket. Give a folder in it.")
    hidden = f"{parent}/.{name}.scaled.partial-{key[:16]}"
    return Shared(out, DataFolder(hidden, fs=out.fs), DataFolder(f"{out.path}.logs-{key[:8]}", fs=out.fs))


def _inside(folder: "DataFolder", name: str) -> "DataFolder":
    from datatrove.io import DataFolder

    return DataFolder(f"{folder.path}/{name}", fs=folder.fs)
