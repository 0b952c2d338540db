"""The place of a run: who may write there.

    runs/<name>/             the run
    runs/.locks/<name>       held by the process that is at it, from before the folder is made until the run has ended

The lock is the system's (flock), so it is let go when its process ends, however it ends. It keeps processes of one
machine apart, and those of several on a network folder whose file system passes locks on: NFS does (since Linux 2.6.12;
the lock of a machine that vanished goes with its lease, after 90 seconds as a rule), Lustre if mounted with `flock`.
Where locks reach one machine only, coordinators on two may train the same run at the same time, and spoil it.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import filelock

from scratchlab.errors import RunBusyError
from scratchlab.files import disk_errors


@contextmanager
def held(out: Path) -> Generator[None]:
    """Hold the place of a run, whether there is a folder yet or not. `RunBusyError` if another process does."""
    path = out.parent / ".locks" / out.name
    lock = filelock.FileLock(path)
    with disk_errors(path, "the lock of the run"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RunBusyError(f"Another process is at {out}.") from None
    try:
        yield
    finally:
        lock.release()


def is_held(out: Path) -> bool:
    """Whether a process is at the run now. Engines ask before they begin a job, and spare a worker's start."""
    try:
        with held(out):
            return False
    except RunBusyError:
        return True
