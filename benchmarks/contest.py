"""Taking turns: two programs run side by side, one stopped while the other works, on a machine that is never quiet.

Each program prints a line after every training step. Between turns a program is stopped by a signal, so that both
meet the same weather within seconds, and neither costs the other its caches for longer than a turn.
"""

import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from scratchlab import hardware


@dataclass
class Contestant:
    """A program under way. `step_line` is what its line after a training step matches."""

    name: str
    process: "subprocess.Popen[str]"
    step_line: re.Pattern[str]
    seconds: list[float] = field(default_factory=list)
    """Of each turn, a step."""
    peak_memory: int = 0
    """Bytes: what its step lines say of a GPU's; otherwise the largest resident size, known at the end."""

    def wait_for_steps(self, steps: int) -> None:
        """Let it run until it has printed `steps` more step lines, then stop it."""
        os.kill(self.process.pid, signal.SIGCONT)
        assert self.process.stdout is not None
        while steps:
            line = self.process.stdout.readline()
            if not line:
                raise SystemExit(f"{self.name} ended before its time, with exit code {self.process.wait()}.")
            if found := self.step_line.search(line):
                steps -= 1
                self.peak_memory = int(found.groupdict().get("memory") or 0)
        os.kill(self.process.pid, signal.SIGSTOP)

    def take_turn(self, steps: int) -> None:
        start = time.perf_counter()
        self.wait_for_steps(steps)
        self.seconds.append((time.perf_counter() - start) / steps)

    def end(self) -> None:
        if not self.peak_memory:
            status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
            self.peak_memory = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024
        self.process.kill()
        self.process.wait()


def start(name: str, command: Sequence[str], cwd: Path, step_line: str) -> Contestant:
    """Start a program whose lines on standard output are to be read."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    environment.pop("GOMP_SPINCOUNT", None)  # each sets up its process as it does for its users
    process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True)
    return Contestant(name, process, re.compile(step_line))


def take_turns(contestants: Sequence[Contestant], turns: int, steps_a_turn: int) -> None:
    """Let them alternate; who goes first alternates too."""
    for turn in range(turns):
        for contestant in contestants if turn % 2 else reversed(contestants):
            contestant.take_turn(steps_a_turn)


def speed_ratio(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> dict[str, Any]:
    """How many times faster we are, from the seconds of each turn in each round.

    A round is a pair of fresh processes: where a process comes to lie in memory moves its speed by several percent for
    its whole life, so the 95% t interval is over rounds (of the median turn), not over turns.
    """
    logs = np.array([np.median(np.log(b) - np.log(a)) for a, b in zip(ours, theirs, strict=True)])
    half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)) if len(logs) > 1 else math.nan
    low, high = float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half))
    return {
        "ratio": float(np.exp(logs.mean())),
        "low": low if math.isfinite(low) else None,
        "high": high if math.isfinite(high) else None,
        "rounds": [float(np.exp(log)) for log in logs],
        "turns": sum(len(turns) for turns in ours),
    }


def machine() -> dict[str, str]:
    """What the figures depend on, less the name of the kernel."""
    return {
        name: value
        for name, value in hardware.environment(hardware.choose_device("auto")).items()
        if name != "platform"
    }


def prepare_peer(peer: Path, text: str, folder: Path) -> None:
    """A copy of nanoGPT's three files and its character data set made of `text`, as its prepare.py makes it."""
    characters = sorted(set(text))
    tokens = np.array([characters.index(character) for character in text], np.uint16)
    cut = int(len(text) * 0.9)
    prepare_tokens(peer, tokens[:cut], tokens[cut:], len(characters), folder, "shakespeare_char")


def prepare_tokens(
    peer: Path,
    train: npt.NDArray[np.integer],
    validation: npt.NDArray[np.integer],
    vocab_size: int,
    folder: Path,
    name: str = "tokens",
) -> None:
    """A copy of nanoGPT's three files, and a data set of tokens as they read it."""
    for file in ("model.py", "train.py", "configurator.py"):
        shutil.copy(peer / file, folder / file)
    shutil.copytree(peer / "config", folder / "config")
    data = folder / "data" / name
    data.mkdir(parents=True)
    train.astype(np.uint16).tofile(data / "train.bin")
    validation.astype(np.uint16).tofile(data / "val.bin")
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": vocab_size}))


def edit(file: Path, old: str, new: str) -> None:
    """Change one place of a peer's file. It must be there."""
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{file.name} has {old!r} {text.count(old)} times"
    file.write_text(text.replace(old, new), encoding="utf-8")
