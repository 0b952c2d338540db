"""Taking turns: two programs run side by side, one stopped while the other works, on a machine that is never quiet.

Each program prints a line after every training step. Between turns a program is stopped by a signal, so that both
meet the same weather within seconds, and neither costs the other its caches for longer than a turn.
"""

import math
import os
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
    """Bytes: the largest resident size, known at the end."""

    def wait_for_steps(self, steps: int) -> None:
        """Let it run until it has printed `steps` more step lines, then stop it."""
        os.kill(self.process.pid, signal.SIGCONT)
        assert self.process.stdout is not None
        while steps:
            line = self.process.stdout.readline()
            if not line:
                raise SystemExit(f"{self.name} ended before its time, with exit code {self.process.wait()}.")
            steps -= bool(self.step_line.search(line))
        os.kill(self.process.pid, signal.SIGSTOP)

    def take_turn(self, steps: int) -> None:
        start = time.perf_counter()
        self.wait_for_steps(steps)
        self.seconds.append((time.perf_counter() - start) / steps)

    def end(self) -> None:
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


def take_turns(ours: Contestant, theirs: Contestant, turns: int, steps_a_turn: int) -> None:
    """Let both alternate; who goes first alternates too."""
    for turn in range(turns):
        for contestant in (ours, theirs) if turn % 2 else (theirs, ours):
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
    for name in ("model.py", "train.py", "configurator.py"):
        shutil.copy(peer / name, folder / name)
    shutil.copytree(peer / "config", folder / "config")
    characters = sorted(set(text))
    tokens = np.array([characters.index(character) for character in text], np.uint16)
    data = folder / "data" / "shakespeare_char"
    data.mkdir(parents=True)
    cut = int(len(text) * 0.9)
    tokens[:cut].tofile(data / "train.bin")
    tokens[cut:].tofile(data / "val.bin")
    import pickle

    with (data / "meta.pkl").open("wb") as file:
        pickle.dump({"vocab_size": len(characters)}, file)
