"""Opening a corpus of ten billion tokens and drawing batches from it: time, memory, and one order whatever the ranks.

    python benchmarks/corpus_reading.py [--tokens 10200547328] [--batches 1000] [--rounds 5] [--work FOLDER]

The corpus is sparse: it says 20 GB and takes a few kilobytes of disk, so the disk has no part in the figures, and its
tokens are all 0. The order is therefore the hash of the places that were read, in the order they were read. Every round
is a fresh process that has neither PyTorch nor a tokenizer loaded. Beside it stands what nanoGPT does: a memory map
opened for every batch, and windows at random places. Writes benchmarks/results/corpus_reading.json.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What reads corpora is imported by those functions alone that a worker calls, for the worker to time and weigh it.

ROOT = Path(__file__).parent.parent
SHARD_TOKENS = 2**28
TOKENS = 38 * SHARD_TOKENS
DOCUMENTS = 8_000_000
BATCH_SIZE, CONTEXT_LENGTH, SEED = 32, 1024, 1
RANKS = (1, 2, 3, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--batches", type=int, default=1000, help=f"of {BATCH_SIZE} windows of {CONTEXT_LENGTH}")
    parser.add_argument("--rounds", type=int, default=5, help="of fresh processes")
    parser.add_argument("--work", type=Path, help="where the sparse files come to lie for a while")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/corpus_reading.json")
    parser.add_argument("--worker", nargs=3, metavar=("WHAT", "CORPUS", "BATCHES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:  # a child of this program
        what, folder, batches = arguments.worker
        print(json.dumps(WORKERS[what](Path(folder), int(batches))))
        return
    import contest

    with tempfile.TemporaryDirectory(dir=arguments.work) as scratch:
        folder = Path(scratch) / "corpus"
        made = make_sparse_corpus(folder, arguments.tokens, DOCUMENTS)
        rounds = [
            {what: work(what, folder, arguments.batches) for what in ("draw", "memory_map")}
            for _ in range(arguments.rounds)
        ]
        order = work("order", folder, arguments.batches)
    results = {"machine": contest.machine(), "corpus": made, "batches": arguments.batches, "n": arguments.rounds}
    results |= {what: medians([outcome[what] for outcome in rounds]) for what in ("draw", "memory_map")}
    results |= {"order": order, "one_order": len(set(order.values())) == 1}
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


def work(what: str, folder: Path, batches: int) -> dict[str, Any]:
    """What a fresh process finds."""
    command = [sys.executable, __file__, "--worker", what, str(folder), str(batches)]
    outcome = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(outcome.stdout)


def medians(outcomes: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(outcome[name] for outcome in outcomes), 4) for name in outcomes[0]}


def make_sparse_corpus(folder: Path, tokens: int = TOKENS, documents: int = DOCUMENTS) -> dict[str, int]:
    """A corpus of one split of so many tokens, all of them holes. Its hashes are made up: nothing here verifies it."""
    from scratchlab.corpus.manifest import FileRecord, SplitRecord, SplitRuleRecord, TokenizerRecord, write_manifest
    from scratchlab.corpus.tokenizer import train_tokenizer

    def sparse_file(name: str, size: int) -> FileRecord:
        with (folder / name).open("xb") as file:
            file.truncate(size)
        return FileRecord(name=name, size=size, sha256="0" * 64)

    folder.mkdir()
    tokenizer = train_tokenizer("byte", [])
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    shards = [
        sparse_file(f"train-{number:05d}.bin", 2 * min(SHARD_TOKENS, tokens - start))
        for number, start in enumerate(range(0, tokens, SHARD_TOKENS))
    ]
    record = SplitRecord(
        documents=documents,
        characters=tokens,
        bytes=tokens,
        tokens=tokens,
        shards=tuple(shards),
        document_table=sparse_file("train.documents.bin", 8 * (2 * documents + 1)),
    )
    stored = FileRecord(name="tokenizer.json", size=(folder / "tokenizer.json").stat().st_size, sha256=tokenizer.sha256)
    tokenizer_record = TokenizerRecord(
        spec="byte", kind="byte", vocab_size=257, end_of_text=256, dtype="uint16", file=stored
    )
    write_manifest(folder, [], SplitRuleRecord(rule="hash:1,0,0", moved=()), tokenizer_record, {"train": record})
    on_disk = sum(file.stat().st_blocks * 512 for file in folder.iterdir())
    return {"tokens": tokens, "shards": len(shards), "documents": documents, "bytes_on_disk": on_disk}


# What the workers do.


def draw(folder: Path, batches: int) -> dict[str, Any]:
    """Import, open, draw batches; what each took, and the memory that is held at the end."""
    start = time.perf_counter()
    from scratchlab.corpus.loader import Loader
    from scratchlab.corpus.store import open_corpus
    from scratchlab.corpus.windows import Windows

    imported, imported_memory = time.perf_counter(), anonymous_memory()
    corpus = open_corpus(folder)
    loader = Loader(Windows(corpus.split("train"), CONTEXT_LENGTH), BATCH_SIZE, SEED)
    opened, opened_memory, computed = time.perf_counter(), anonymous_memory(), time.process_time()
    for step in scattered(batches):
        loader.batch(step)
    return {
        "seconds_to_import": imported - start,
        "seconds_to_open": opened - imported,
        "seconds_to_draw": time.perf_counter() - opened,
        "cpu_seconds_to_draw": time.process_time() - computed,
        "rss_anon_mb_imported": imported_memory / 1e6,
        "rss_anon_mb_opened": opened_memory / 1e6,
        "rss_anon_mb_drawn": anonymous_memory() / 1e6,
        "heavy_modules": sum(name in sys.modules for name in ("torch", "tokenizers", "tiktoken", "pandas")),
    }


def scattered(batches: int) -> Iterator[int]:
    """Steps in no order, as of a run that is resumed again and again: none is cheaper for the one before it."""
    return (step * 7919 % 100_003 for step in range(batches))


def order(folder: Path, batches: int) -> dict[str, str]:
    """SHA-256 of the places that all ranks together read, step by step and rank by rank, for several numbers of ranks.

    Half the steps are at the beginning of the first epoch; the others go over its end.
    """
    from scratchlab.corpus.loader import Loader
    from scratchlab.corpus.store import open_corpus
    from scratchlab.corpus.windows import Windows

    found: dict[str, str] = {}
    for ranks in RANKS:
        stream = Recorded(open_corpus(folder).split("train"))
        windows = Windows(stream, CONTEXT_LENGTH)
        loaders = [Loader(windows, BATCH_SIZE, SEED, rank=rank, ranks=ranks) for rank in range(ranks)]
        turn = len(windows) // BATCH_SIZE
        for step in [*range(batches // 2), *range(turn - batches // 4, turn + batches // 4)]:
            for loader in loaders:
                loader.batch(step)
        found[str(ranks)] = stream.places.hexdigest()
    return found


@dataclass(frozen=True)
class Recorded:
    """A token stream that remembers, as one hash, where it was read."""

    stream: Any
    places: Any = field(default_factory=hashlib.sha256)

    def __len__(self) -> int:
        return len(self.stream)

    def read(self, start: int, stop: int) -> Any:
        self.places.update(start.to_bytes(8, "little") + stop.to_bytes(8, "little"))
        return self.stream.read(start, stop)

    def expect(self, start: int, stop: int) -> None:
        self.stream.expect(start, stop)


def memory_map(folder: Path, batches: int) -> dict[str, Any]:
    """nanoGPT's way with a file: map it for every batch, copy windows from places drawn at random, with replacement."""
    import numpy as np

    rng = np.random.default_rng(SEED)
    files = sorted(folder.glob("train-*.bin"))
    start, computed = time.perf_counter(), time.process_time()
    for _ in range(batches):
        tokens = np.memmap(files[rng.integers(len(files))], np.uint16, "r")  # it has a single file
        places = rng.integers(0, len(tokens) - CONTEXT_LENGTH, BATCH_SIZE)
        for shift in (0, 1):
            np.stack([tokens[place + shift :][:CONTEXT_LENGTH].astype(np.int64) for place in places])
    return {
        "seconds_to_draw": time.perf_counter() - start,
        "cpu_seconds_to_draw": time.process_time() - computed,
        "rss_anon_mb_drawn": anonymous_memory() / 1e6,
    }


WORKERS = {"draw": draw, "order": order, "memory_map": memory_map}


def anonymous_memory() -> int:
    """Bytes of this process's own memory, without the pages of mapped files (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


if __name__ == "__main__":
    main()
