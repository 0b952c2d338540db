"""Work on many pieces at the same time, in processes."""

import contextlib
import ctypes
import gc
import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, Protocol, TypeVar

from scratchlab.errors import UnfinishedError
from scratchlab.processes import end_with_parent

M_MMAP_THRESHOLD = -3  # of mallopt(3)

Task = TypeVar("Task")
Result = TypeVar("Result")


class Map(Protocol):
    """Applies a function of a module to every task, in any order; results come as they are ready."""

    def __call__(self, function: Callable[[Task], Result], tasks: Iterable[Task], /) -> Iterator[Result]: ...


@contextlib.contextmanager
def workers(count: int) -> Generator[Map]:
    """A map over `count` processes; in this one, in order, for a count of 1.

    Raises what a task raised, and UnfinishedError if a process died.
    """
    if count == 1:
        yield map
        return
    # Spawned: a fork would copy the threads' locks of this process, and its memory page by page.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, initializer=_begin)

    def run(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        waiting = iter(tasks)
        running = {pool.submit(function, task) for task in islice(waiting, 2 * count)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(function, task) for task in islice(waiting, len(done))}
            yield from map(_result, done)

    try:
        yield run
    except BaseException:
        for process in list((pool._processes or {}).values()):  # pyright: ignore[reportPrivateUsage]
            process.terminate()  # what they are at would be thrown away
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _result(future: "Future[Any]") -> Any:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise UnfinishedError(
            "A process of the build died, most likely for want of memory (or, called from a script of your own, "
            'because the call does not stand under `if __name__ == "__main__":`). What was done is kept: run the same '
            "command again and it goes on; with fewer processes at a time, if you like, by --workers."
        ) from error


def _begin() -> None:
    """Before a worker's first task."""
    gc.freeze()  # what was imported need not be looked through again and again
    _give_memory_back()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends them
    end_with_parent()


def _give_memory_back() -> None:
    """The C library keeps what was freed of long texts, more and more of it, unless large blocks are mapped alone."""
    with contextlib.suppress(OSError, AttributeError):  # where it is not glibc
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)
