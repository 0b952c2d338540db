"""Taking turns: two programs run side by side, one stopped while the other works, on a machine that is never quiet.

Each program prints a line after every training step. Between turns a program is stopped by a signal, so that both
meet the same weather within seconds, and neither costs the other its caches for longer than a turn.
"""

import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import stats


@dataclass
class Contestant:
    """A program under way. `step_line` is what its line after a training step matches."""

    name: str
    process: "subprocess.Popen[str]"
    step_line: re.Pattern[str]
    seconds: list[float] = field(default_factory=list)
    """Of each turn, a step."""

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

    def peak_memory(self) -> int:
        """Bytes: the largest resident size so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def start(name: str, command: Sequence[str], cwd: Path, step_line: str) -> Contestant:
    """Start a program whose lines on standard output are to be read."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True)
    return Contestant(name, process, re.compile(step_line))


def take_turns(ours: Contestant, theirs: Contestant, turns: int, steps_a_turn: int, warmup_steps: int) -> None:
    """Warm both up, then let them alternate; who goes first alternates too."""
    for contestant in (ours, theirs):
        contestant.wait_for_steps(warmup_steps)
    for turn in range(turns):
        for contestant in (ours, theirs) if turn % 2 else (theirs, ours):
            contestant.take_turn(steps_a_turn)


def speed_ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """How many times faster we are: the geometric mean over turns with its 95% t interval, and the ratio of medians."""
    logs = np.log(theirs) - np.log(ours)
    half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
    return {
        "ratio": float(np.exp(logs.mean())),
        "low": float(np.exp(logs.mean() - half)),
        "high": float(np.exp(logs.mean() + half)),
        "ratio_of_medians": statistics.median(theirs) / statistics.median(ours),
        "turns": len(logs),
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
