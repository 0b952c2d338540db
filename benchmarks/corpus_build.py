"""Building a corpus beside bare tiktoken and `tokenizers` on the same text, in turns; its memory; and kills.

    python benchmarks/corpus_build.py DATA [--scratch DIR] [--rounds 5] [--memory 1000 5000] [--kills 10]

DATA is the folder of real texts (English novels and GPT-2's vocabulary are taken from it). Texts of any size are made
by repeating the novels, a page of about 3,000 characters at a time, as JSON Lines; every seventh word gets the page's
number, so that pages are as unlike each other as those of real text are. Needs tens of gigabytes of scratch space for
the largest. Writes benchmarks/results/corpus_build.json.
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import contest
from scratchlab.corpus.pretrained import open_tokenizer
from scratchlab.corpus.store import open_corpus

ROOT = Path(__file__).parent.parent
PAGE = 3_000  # characters
PROCESSES = 2  # and threads, of the library that has its own
TIKTOKEN, OURS = "tiktoken, bare, two processes", "scratchlab corpus build"
TOKENIZERS = "tokenizers, bare, two threads, a twentieth of the text"  # it is slow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--scratch", type=Path, default=ROOT / "build" / "corpus")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--memory", type=int, nargs="*", default=[1_000, 5_000])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/corpus_build.json")
    arguments = parser.parse_args()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"machine": contest.machine(), "processes": PROCESSES}
    vocabulary = arguments.data / "gpt2_bpe"
    if arguments.rounds:
        results["speed"] = measure_speed(arguments, vocabulary)
    if arguments.memory:
        results["memory"] = [measure_memory(arguments, vocabulary, size) for size in arguments.memory]
    if arguments.kills:
        results["kills"] = measure_kills(arguments, vocabulary)
    if arguments.out.exists():
        results = json.loads(arguments.out.read_text(encoding="utf-8")) | results
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


def pages(data: Path, megabytes: int) -> Iterator[str]:
    """Pages of novels with a salt each, until there are so many megabytes of text."""
    with (data / "english_novels" / "english_novels.jsonl").open(encoding="utf-8") as lines:
        novels = [json.loads(line)["text"] for line in lines]
    left, number = megabytes * 1_000_000, 0
    while True:
        for novel in novels:
            for start in range(0, len(novel), PAGE):
                words = novel[start : start + PAGE].split(" ")
                words[::7] = [f"{word}{number}" for word in words[::7]]
                page = " ".join(words)
                number += 1
                left -= len(page.encode())
                yield page
                if left <= 0:
                    return


def make_text(arguments: argparse.Namespace, megabytes: int) -> Path:
    """A JSON Lines file of so much text, made once."""
    path = arguments.scratch / f"{megabytes}.jsonl"
    if not path.exists():
        with path.with_suffix(".partial").open("w", encoding="utf-8") as file:
            for page in pages(arguments.data, megabytes):
                file.write(json.dumps({"text": page}, ensure_ascii=False) + "\n")
        path.with_suffix(".partial").rename(path)
    return path


# Speed.


def measure_speed(arguments: argparse.Namespace, vocabulary: Path) -> dict[str, Any]:
    """Megabytes of text a second, each in turn in every round."""
    path = make_text(arguments, arguments.megabytes)
    texts = list(pages(arguments.data, arguments.megabytes))
    halves, twentieth = [texts[half::PROCESSES] for half in range(PROCESSES)], texts[::20]
    with (
        Encoders(_by_tiktoken, vocabulary, halves) as tiktoken,
        Encoders(_by_tokenizers, vocabulary, [twentieth]) as tokenizers,
    ):
        turns: dict[str, Callable[[], float]] = {
            TIKTOKEN: tiktoken.seconds,
            TOKENIZERS: tokenizers.seconds,
            OURS: lambda: build(path, arguments.scratch / "built", vocabulary)[0],
        }
        seconds: dict[str, list[float]] = {name: [] for name in turns}
        for number in range(arguments.rounds):
            for name in sorted(turns, reverse=number % 2 == 1):
                seconds[name].append(turns[name]())
    sizes = {TIKTOKEN: megabytes_of(texts), TOKENIZERS: megabytes_of(twentieth), OURS: megabytes_of(texts)}
    ratios = [theirs / ours for theirs, ours in zip(seconds[TIKTOKEN], seconds[OURS], strict=True)]
    return {
        "rounds": arguments.rounds,
        "megabytes": sizes,
        "megabytes_per_second": {name: sizes[name] / statistics.median(times) for name, times in seconds.items()},
        "build_times_bare_tiktoken": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
    }


def megabytes_of(texts: list[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


def build(path: Path, out: Path, vocabulary: Path) -> tuple[float, str]:
    """Seconds of a whole build as a command, started and ended; and the corpus's hash."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    subprocess.run(command(path, out, vocabulary), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start, open_corpus(out).sha256


def command(path: Path, out: Path, vocabulary: Path) -> list[str]:
    program = [sys.executable, "-m", "scratchlab", "corpus", "build", str(path), "--out", str(out)]
    return [*program, "--tokenizer", str(vocabulary), "--workers", str(PROCESSES)]


class Encoders:
    """A library alone: processes that hold their share of the text already and keep nothing of what they make.

    `encode` is a function of this module: from the vocabulary's path to what encodes some texts.
    """

    def __init__(self, encode: "Opener", vocabulary: Path, shares: list[list[str]]) -> None:
        context = multiprocessing.get_context("spawn")  # they must not share what this process has imported
        self._ends: list[Any] = []
        self._processes: list[Any] = []
        for share in shares:
            ours, theirs = context.Pipe()
            process = context.Process(target=_encode_on_request, args=(encode, vocabulary, share, theirs))
            process.start()
            self._ends.append(ours)
            self._processes.append(process)
        for end in self._ends:
            end.recv()

    def __enter__(self) -> "Encoders":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def seconds(self) -> float:
        start = time.perf_counter()
        for end in self._ends:
            end.send("go")
        for end in self._ends:
            end.recv()
        return time.perf_counter() - start


Opener = Callable[[Path], Callable[[list[str]], None]]


def _encode_on_request(opener: Opener, vocabulary: Path, texts: list[str], requests: Any) -> None:
    encode = opener(vocabulary)
    encode(["ready"])
    requests.send("ready")
    while requests.recv():
        encode(texts)
        requests.send("done")


def _by_tiktoken(vocabulary: Path) -> Callable[[list[str]], None]:
    import tiktoken

    from scratchlab.corpus.tokenizer import GPT2_PATTERN

    tokenizer = open_tokenizer(str(vocabulary))
    assert tokenizer is not None
    symbols = {tokenizer.token_bytes(token): token for token in range(tokenizer.vocab_size) if token != 50_256}
    encoding = tiktoken.Encoding("gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=symbols, special_tokens={})

    def encode(texts: list[str]) -> None:
        for text in texts:
            encoding.encode_ordinary(text)

    return encode


def _by_tokenizers(vocabulary: Path) -> Callable[[list[str]], None]:
    os.environ["RAYON_NUM_THREADS"] = str(PROCESSES)  # read when its threads are first wanted, once a process
    from tokenizers import Tokenizer

    tokenizer = open_tokenizer(str(vocabulary))
    assert tokenizer is not None
    batch = Tokenizer.from_str(tokenizer.to_json()).encode_batch_fast

    def encode(texts: list[str]) -> None:
        for place in range(0, len(texts), 1_000):
            batch(texts[place : place + 1_000], add_special_tokens=False)

    return encode


# Memory.


def measure_memory(arguments: argparse.Namespace, vocabulary: Path, megabytes: int) -> dict[str, Any]:
    """The most memory of its own (RssAnon) that a build has, over all of its processes together."""
    path, out = make_text(arguments, megabytes), arguments.scratch / "built"
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    process = subprocess.Popen(command(path, out, vocabulary), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    most, each = 0, 0
    while process.poll() is None:
        sizes = [anonymous_memory(pid) for pid in family(process.pid)]
        most, each = max(most, sum(sizes)), max(each, *sizes)
        time.sleep(0.2)
    assert process.returncode == 0
    seconds = time.perf_counter() - start
    shutil.rmtree(out)
    return {
        "megabytes": megabytes,
        "seconds": seconds,
        "megabytes_per_second": megabytes / seconds,
        "peak_anonymous_megabytes": {"all_processes": most / 1e6, "largest_process": each / 1e6},
    }


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [pid, *(member for child in children for member in family(int(child)))]


def anonymous_memory(pid: int) -> int:
    """RssAnon in bytes; 0 for a process that has just ended."""
    try:
        found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


# Kills.


def measure_kills(arguments: argparse.Namespace, vocabulary: Path) -> dict[str, Any]:
    """Kill a build at random moments, each time going on, until it is through, to the bytes of a whole one."""
    path = make_text(arguments, 100)
    seconds, expected = build(path, arguments.scratch / "whole", vocabulary)
    files = {file.name: file.sha256 for file in open_corpus(arguments.scratch / "whole").verify()}
    out = arguments.scratch / "killed"
    moments: list[float] = []
    shutil.rmtree(out, ignore_errors=True)
    while len(moments) < arguments.kills:
        process = subprocess.Popen(command(path, out, vocabulary), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        moment = random.uniform(0, seconds)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            moments.append(moment)
        if out.exists():  # it was through: begin anew
            assert {file.name: file.sha256 for file in open_corpus(out).verify()} == files
            shutil.rmtree(out)
    if not out.exists():
        subprocess.run(command(path, out, vocabulary), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = {file.name: file.sha256 for file in open_corpus(out).verify()}
    assert found == files
    assert open_corpus(out).sha256 == expected
    shutil.rmtree(out)
    return {"kills": len(moments), "seconds": moments, "identical": found == files, "sha256": expected}


if __name__ == "__main__":
    main()
