"""What the processes of a run tell whoever launched them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scratchlab.errors import DivergedError, RunError
from scratchlab.runfolder import RunFolder
from scratchlab.training import launch as module
from scratchlab.training.launch import Relay, _Ear, _follow
from scratchlab.training.progress import Silent
from scratchlab.training.signals import StopRequest
from tiny import tiny_recipe

TELL = "import json, sys, time; pipe = open(sys.argv[1], 'w'); print(*sys.argv[2:], sep='\\n', file=pipe, flush=True)"


class Listener(Silent):
    def __init__(self) -> None:
        self.heard: list[object] = []

    def say(self, text: str) -> None:
        self.heard.append(text)

    def at(self, step: int, steps: int, loss: float | None, tokens_per_second: float) -> None:
        self.heard.append((step, steps, loss, tokens_per_second))


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[Path, _Ear]]:
    """A named pipe, and an ear at its end."""
    os.mkfifo(tmp_path / "told")
    with open(os.open(tmp_path / "told", os.O_RDWR), "rb", buffering=0) as told:
        yield tmp_path / "told", _Ear(told.fileno())


def telling(pipe: Path, more: str, *records: object) -> "subprocess.Popen[bytes]":
    """A process that tells these records, and then does something more."""
    return subprocess.Popen([sys.executable, "-c", f"{TELL}; {more}", str(pipe), *map(json.dumps, records)])


def test_all_is_passed_on_to_the_last_word(pipe: tuple[Path, _Ear]) -> None:
    listener = Listener()
    process = telling(pipe[0], "pass", {"say": "begun: ü"}, {"at": [3, 9, None, 5.0]}, {"say": "done\n"})
    assert _follow(process, pipe[1], listener, StopRequest()) is None
    assert listener.heard == ["begun: ü", (3, 9, None, 5.0), "done\n"]


def test_an_error_is_the_same_error_here_and_nothing_begins_again(pipe: tuple[Path, _Ear]) -> None:
    process = telling(pipe[0], "time.sleep(60)", {"error": ["DivergedError", "it has diverged"]})
    error = _follow(process, pipe[1], Silent(), StopRequest())
    assert type(error) is DivergedError
    assert str(error) == "it has diverged"
    assert process.wait(timeout=20) == -15


def test_a_request_to_stop_is_handed_on(pipe: tuple[Path, _Ear]) -> None:
    process = telling(pipe[0], "time.sleep(60)", {"say": "on my way"})
    assert _follow(process, pipe[1], Silent(), StopRequest(requested=True)) is None
    assert process.returncode == -15


@pytest.mark.parametrize("finished", [True, False])
def test_a_result_counts_whatever_torchrun_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], finished: bool
) -> None:
    recipe = tiny_recipe()
    folder = RunFolder.create(tmp_path / "run", recipe, recipe, {}, "{}")
    if finished:
        folder.finish({"steps": 8})
    failing = [sys.executable, "-c", "print('it says why', flush=True); raise SystemExit(1)"]
    monkeypatch.setattr(module, "_start", lambda folder, processes, pipe, log: subprocess.Popen(failing, stdout=log))
    if finished:
        assert module.launch(folder, 2, Silent()) == {"steps": 8}
    else:
        with pytest.raises(RunError, match="its 2 processes came to no result, begun again 3 times at most"):
            module.launch(folder, 2, Silent())
        assert "it says why" in capsys.readouterr().err


def test_a_relay_is_a_reporter(pipe: tuple[Path, _Ear]) -> None:
    relay = Relay(str(pipe[0]))
    relay.say("hello")
    relay.at(1, 2, 3.5, 4.0)
    relay.fail(RunError("no"))
    expected = [{"say": "hello"}, {"at": [1, 2, 3.5, 4.0]}, {"error": ["RunError", "no"]}]
    assert list(pipe[1].records(1.0)) == expected


def test_where_nobody_listens_nothing_goes_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "told")
    with pytest.raises(OSError, match="No such device"):
        Relay(str(tmp_path / "told"))
