"""Several processes for a run that says so, where torchrun has not started this one: torchrun is started here.

So neither a person with a laptop nor the engine of a study needs to know of it. The first process tells what happens
through a named pipe, a JSON record a line, and this one passes it on, as if it trained itself.
"""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from scratchlab import errors
from scratchlab.errors import RunError, ScratchlabError, Terminated
from scratchlab.runfolder import Record, RunFolder
from scratchlab.training.progress import Reporter
from scratchlab.training.signals import StopRequest, stop_on_signals

RESTARTS = 3  # of all processes, after one was killed
POLL_SECONDS = 0.2
GRACE_SECONDS = "600"  # for a checkpoint, once the processes are told to stop


def launch(folder: RunFolder, processes: int, report: Reporter) -> Record:
    """Train the run at `folder` with so many processes of this machine; gives its result.

    Raises what the run raises. One whose processes are killed goes on from its last checkpoint, three times at most.
    """
    with tempfile.TemporaryDirectory() as place, stop_on_signals() as stop:
        pipe, log = Path(place) / "told", Path(place) / "log"
        os.mkfifo(pipe)
        with open(os.open(pipe, os.O_RDWR), "rb", buffering=0) as told, log.open("wb") as output:
            torchrun = _start(folder, processes, pipe, output)
            try:
                error = _follow(torchrun, _Ear(told.fileno()), report, stop)
                torchrun.wait()
            finally:
                torchrun.kill()  # if it is still there: its processes notice that nobody listens
        if error is not None:
            raise error
        if stop.requested:
            raise Terminated(f"Stopped before it went on. To go on: scratchlab train --resume {folder.path}")
        result = folder.result()  # whatever torchrun's exit code: one that is there is whole
        if result is None:
            sys.stderr.write(log.read_text(encoding="utf-8", errors="replace"))
            raise RunError(
                f"{folder.path}: its {processes} processes came to no result, begun again {RESTARTS} times at most; "
                "what they said is above. If they were killed (signal 9), most likely for want of memory, try fewer of "
                "them, or a smaller execution.micro_batch_size."
            )
        return result


def _start(folder: RunFolder, processes: int, pipe: Path, output: IO[bytes]) -> "subprocess.Popen[bytes]":
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    worker = [f"--max-restarts={RESTARTS}", "-m", "scratchlab.training.worker", str(folder.path), str(pipe)]
    # Threads are the run's own affair, of which torchrun would warn.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": GRACE_SECONDS}
    return subprocess.Popen([*torchrun, *worker], stdout=output, stderr=output, env=environment)


def _follow(
    torchrun: "subprocess.Popen[bytes]", ear: "_Ear", report: Reporter, stop: StopRequest
) -> ScratchlabError | None:
    """Pass on what the run tells until it ends; gives what ended it, if it says so."""
    asked = ended = False
    while not ended:
        ended = torchrun.poll() is not None  # asked first, so that its last words are heard
        if stop.requested and not asked:
            asked = True
            torchrun.terminate()
        for record in ear.records(POLL_SECONDS * (not ended)):
            if error := _pass_on(record, report):
                if not asked:
                    torchrun.terminate()  # or it would begin the processes again
                return error
    return None


class _Ear:
    """Hears the records that come through a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._rest = descriptor, b""

    def records(self, seconds: float) -> Iterator[Record]:
        """Those that are there, waiting so long for the first."""
        while select.select([self._descriptor], [], [], seconds)[0]:
            *lines, self._rest = (self._rest + os.read(self._descriptor, 2**16)).split(b"\n")
            yield from map(json.loads, lines)
            seconds = 0.0


def _pass_on(record: Record, report: Reporter) -> ScratchlabError | None:
    match record:
        case {"say": text}:
            report.say(text)
        case {"at": progress}:
            report.at(*progress)
        case {"error": [name, message]}:
            return getattr(errors, name)(message)
        case _:
            raise AssertionError(record)
    return None


class Relay:
    """The other end: a `Reporter` that tells whoever launched this process."""

    def __init__(self, pipe: str) -> None:
        self._descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)  # which fails where nobody listens any more
        os.set_blocking(self._descriptor, True)

    def say(self, text: str) -> None:
        self._tell({"say": text})

    def at(self, step: int, steps: int, loss: float | None, tokens_per_second: float) -> None:
        self._tell({"at": [step, steps, loss, tokens_per_second]})

    def fail(self, error: ScratchlabError) -> None:
        self._tell({"error": [type(error).__name__, str(error)]})

    def _tell(self, record: Record) -> None:
        os.write(self._descriptor, json.dumps(record).encode() + b"\n")
