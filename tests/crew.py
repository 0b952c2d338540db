"""Several processes of one run, for the tests: forked from a server that has loaded torch, so each costs little."""

import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from scratchlab.training.world import World, joined

SECONDS = 300
PRELOADED = ["torch", "torch.distributed.fsdp", "scratchlab.training.loop", "tiny"]


def together(size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(world, *arguments)` gives each of `size` processes that can compute together, the first one first."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as place:
        pipes = [context.Pipe(duplex=False) for _ in range(size)]
        members = [
            context.Process(target=_member, args=(rank, size, f"{place}/meeting", theirs, work, arguments))
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for member, (_, theirs) in zip(members, pipes, strict=True):
            member.start()
            theirs.close()
        try:
            answers = [_answer(ours) for ours, _ in pipes]
        finally:
            for member in members:
                member.kill()
                member.join()
    if wrong := [f"process {rank}:\n{trace}" for rank, (_, trace) in enumerate(answers) if trace]:
        pytest.fail("\n".join(wrong))
    return [result for result, _ in answers]


def _answer(connection: Connection) -> tuple[Any, str | None]:
    if not connection.poll(SECONDS):
        return None, f"no answer in {SECONDS} s"
    try:
        return pickle.loads(connection.recv_bytes())
    except EOFError:
        return None, "it ended without an answer"


def _member(
    rank: int, size: int, meeting: str, connection: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    import torch

    torch.set_num_threads(1)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    os.environ |= dict(zip(names, map(str, (rank, size, rank, size)), strict=True))
    world = World.here()
    result, trace = None, None
    try:
        with joined(world, f"file://{meeting}"):
            result = work(world, *arguments)
    except BaseException:
        trace = traceback.format_exc()
    connection.send_bytes(pickle.dumps((result, trace)))


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """The kernel refuses to let a file of this process grow beyond so many bytes: what a full disk does."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def losses(folder: Path) -> list[float]:
    """Of every step of a run."""
    from scratchlab.runfolder import RunFolder

    return [record["loss"] for record in RunFolder(folder).metrics() if "loss" in record]
