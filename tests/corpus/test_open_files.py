"""However many files a corpus or a build has, few are open at a time: a process may have 256 on a Mac."""

import subprocess
import sys

import numpy as np
import pytest

from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.building.mixture import Mixture
from scratchlab.corpus.shards import OPEN_SHARDS
from scratchlab.corpus.sources.find import Source
from scratchlab.corpus.store import Corpus, open_corpus

FILES = 256
MANY = FILES + 20


def run(program: str, *arguments: object) -> str:
    """What a program prints that may have FILES files open."""
    limit = f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))\n"
    command = [sys.executable, "-c", f"import sys\n{limit}{program}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus of three splits, each of fewer shards than may be open, all together of more."""
    folder = tmp_path_factory.mktemp("sharded")
    for number in range(60):
        (folder / f"{number:02d}.txt").write_text(f"story {number} " * 100)
    return build_corpus([str(folder)], folder / "out", "byte", "hash:.4,.3,.3", shard_tokens=100)


READ = """
from scratchlab.corpus.store import open_corpus
corpus = open_corpus(sys.argv[1])
held = [split.read(0, len(split)) for split in map(corpus.split, corpus.manifest.splits)]
for _ in range(2):
    for split in map(corpus.split, corpus.manifest.splits):
        for start in range(0, len(split) - 150, 70):
            split.expect(start, start + 150)
            split.read(start, start + 150)
        print(len(split), int(split.read(0, len(split)).sum()))
"""


def test_a_corpus_of_more_shards_than_may_be_open_is_read(sharded):
    shards = [len(record.shards) for record in sharded.manifest.splits.values()]
    assert sum(shards) > FILES > 2 * OPEN_SHARDS - 1
    splits = [sharded.split(name) for name in sharded.manifest.splits]
    expected = [f"{len(split)} {int(split.read(0, len(split)).sum())}" for split in splits] * 2
    assert run(READ, sharded.path).splitlines() == expected


def test_what_was_read_stays_when_its_shard_is_no_longer_mapped(sharded):
    split = open_corpus(sharded.path).split("train")
    first = split.read(0, 50)
    before = first.tolist()
    split.read(0, len(split))
    for other in map(sharded.split, ("validation", "test")):
        other.read(0, len(other))
    assert first.tolist() == before


def test_a_corpus_that_was_built_anew_in_the_same_place_is_not_read_from_the_old_ones_maps(tmp_path):
    for text in ("first ", "other "):
        (tmp_path / "a.txt").write_text(text * 100)
        for file in (tmp_path / "out").glob("*"):
            file.unlink()
        if (tmp_path / "out").exists():
            (tmp_path / "out").rmdir()
        corpus = build_corpus([str(tmp_path / "a.txt")], tmp_path / "out", "byte", "contiguous:1,0,0")
        assert corpus.text("train") == text * 100


NEAR = """
from pathlib import Path
from scratchlab.corpus.building import near_duplicates as module
from functools import partial
module.grouped = partial(module.grouped, bucket_bytes=24 * 50)
folder = Path(sys.argv[1])
found = module.near_duplicates(sorted(folder.glob("*.npy")), 0.8, folder / "work")
print(found.tolist())
"""


def test_near_duplicates_are_found_among_more_files_than_may_be_open(tmp_path):
    rows = np.random.default_rng(0).integers(0, 2**32, (MANY // 2, 3, 128), np.uint32)
    for number in range(MANY):
        np.save(tmp_path / f"{number:04d}.npy", rows[number % len(rows)])
    documents = 3 * len(rows)
    expected = [(number + documents, number) for number in range(documents)]
    assert run(NEAR, tmp_path) == f"{expected}\n"


MIX = """
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.building import work
from scratchlab.corpus.building.mixture import Mixture
from scratchlab.corpus.sources.find import Source
work.PIECE_SPANS = 1
build_corpus([Source(sys.argv[1], weight=1)], sys.argv[2], "byte", "hash:1,0,0", workers_at_once=1, mixture=Mixture())
"""


def test_a_mixture_is_drawn_from_more_pieces_than_may_be_open(tmp_path):
    (tmp_path / "texts").mkdir()
    for number in range(MANY):
        (tmp_path / "texts" / f"{number:04d}.txt").write_text(f"text {number}")
    run(MIX, tmp_path / "texts", tmp_path / "out")
    source = Source(str(tmp_path / "texts"), weight=1)
    whole = build_corpus([source], tmp_path / "whole", "byte", "hash:1,0,0", mixture=Mixture())
    assert open_corpus(tmp_path / "out").sha256 == whole.sha256
