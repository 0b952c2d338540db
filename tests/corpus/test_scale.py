"""Builds by datatrove's executors: the bytes of `build_corpus`, wherever they lie, however often they are killed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dill
import fsspec
import pytest
from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
from datatrove.io import DataFolder
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from letters import story

from scratchlab.corpus import build
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.building import shared, survey, work
from scratchlab.corpus.building.mixture import Mixture
from scratchlab.corpus.scale import ScaledBuild, scaled_build
from scratchlab.corpus.sources.find import Source
from scratchlab.corpus.store import open_corpus
from scratchlab.errors import CorpusError, MissingExtraError, UnfinishedError, UsageError

Write = Callable[[str, str | bytes], str]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pieces of a small text, no waiting for the disk, and no log of each task, which takes as long as most."""
    monkeypatch.setattr(work, "SMALLEST_PIECE", 2_000)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    for name in ("add_task_logger", "close_task_logger"):
        monkeypatch.setattr(f"datatrove.executor.base.{name}", lambda *_, **__: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(built: ScaledBuild, **options: Any) -> None:
    built.executors(LocalPipelineExecutor, workers=1, **options)[-1].run()


def at_url(folder: Path) -> DataFolder:
    """A folder that is spoken to as one at a URL, although it lies on this disk."""
    return DataFolder(f"/{folder.name}", fs=DirFileSystem(path=str(folder.parent), fs=LocalFileSystem()))


PLACES = {"path": lambda folder: folder, "url": at_url}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer": "char", "split": "hash", "shard_tokens": 1_000},
        {"tokenizer": "bpe:300", "split": "contiguous:.5,.3,.2"},
    ],
)
def test_the_bytes_are_those_of_a_build_on_one_machine(letters, tmp_path, place, settings):
    expected = build_corpus([letters], tmp_path / "expected", **settings)
    run(scaled_build([letters], PLACES[place](tmp_path / "out"), 3, **settings))
    assert contents(tmp_path / "out") == contents(expected.path)
    [logs] = tmp_path.glob("out.logs-*")
    assert {path.name for path in tmp_path.iterdir()} == {"letters", "expected", "out", logs.name}


def test_a_mixture_at_a_url_with_a_tokenizer_that_was_there(letters, write, tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "NEAR_BYTES", 1)  # documents are fetched one by one
    for number in range(20):
        write(f"notes/{number}.txt", f"note {number}\n" * 9)
    tokenizer = build_corpus([letters], tmp_path / "other", "bpe:300").path
    sources = [Source(letters, weight=0.7), Source(f"{tmp_path}/notes", weight=0.3, repeat=4)]
    settings = {"tokenizer": str(tokenizer), "split": "contiguous:1,0,0", "mixture": Mixture(), "shard_tokens": 300}
    expected = build_corpus(sources, tmp_path / "expected", **settings)
    memory, home = fsspec.filesystem("memory"), f"/{tmp_path.name}"
    run(scaled_build(sources, f"memory:/{home}/mixed", 2, **settings))
    memory.get(f"{home}/mixed/", str(tmp_path / "fetched"), recursive=True)
    assert contents(tmp_path / "fetched") == contents(expected.path)
    assert not [path for path in memory.find(home) if "partial" in path]


def test_what_the_manifest_tells_of_cleaning_is_the_same(write, tmp_path):
    """Blank documents and copies, files passed over, and a document moved to a split that was empty."""
    for number in range(3):
        write(f"mine/{number}.txt", story(number) * 3)
    for name, text in {"copy.txt": story(1) * 3, "blank.md": "\n", "photo.jpg": "..."}.items():
        write(f"mine/{name}", text)
    settings = {"tokenizer": "byte", "split": "hash:.98,.01,.01"}
    expected = build_corpus([f"{tmp_path}/mine"], tmp_path / "expected", **settings)
    assert expected.manifest.split.moved
    run(scaled_build([f"{tmp_path}/mine"], at_url(tmp_path / "out"), 2, **settings))
    assert contents(tmp_path / "out") == contents(expected.path)


def test_sources_at_a_url(letters, tmp_path):
    fsspec.filesystem("memory").put(letters, f"/{tmp_path.name}", recursive=True)
    expected = build_corpus([letters], tmp_path / "expected", "byte", "hash")
    run(scaled_build([f"memory://{tmp_path.name}"], tmp_path / "out", 2, "byte", "hash"))
    assert open_corpus(tmp_path / "out").sha256 == expected.sha256


# Kills.


KILLED = """
import contextlib, os, random, signal, sys
import tokenizers, tiktoken
from datatrove.executor import LocalPipelineExecutor
from datatrove.io import DataFolder
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from scratchlab.corpus.building import work
from scratchlab.corpus.scale import scaled_build

_, letters, folder, place = sys.argv
work.SMALLEST_PIECE = 2_000
os.fsync = lambda descriptor: None
out = f"{folder}/out" if place == "path" else DataFolder("/out", fs=DirFileSystem(path=folder, fs=LocalFileSystem()))

def build(last, workers):
    '''In a process, which is killed at some of the moments that audit hooks report; says how many there were.'''
    process = os.fork()
    if process == 0:
        os.setpgid(0, 0)
        sys.stderr = open(os.devnull, "w")
        events = 0

        def count(event, arguments):
            nonlocal events
            if os.getpid() == own:  # not one that it started
                events += 1
                if events == last:
                    os.kill(own, signal.SIGKILL)

        own = os.getpid()
        sys.addaudithook(count)
        built = scaled_build([letters], out, 2, "bpe:300", "hash", shard_tokens=500)
        built.executors(LocalPipelineExecutor, workers=workers, start_method="fork")[-1].run()
        with open(f"{folder}/events", "w") as file:
            file.write(str(events))
        os._exit(0)
    status = os.waitpid(process, 0)[1]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)  # those it had started
    return status

assert build(0, workers=1) == 0
os.rename(f"{folder}/out", f"{folder}/whole")
moments = int(open(f"{folder}/events").read())
for _ in range(3):
    print(build(random.randint(1, moments // 2), workers=1), os.path.exists(f"{folder}/out/manifest.json"))
print(build(0, workers=2))
"""


@pytest.mark.parametrize("place", PLACES)
def test_a_build_that_is_killed_goes_on_to_the_same_bytes(letters, tmp_path, place):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), letters, str(tmp_path), place]
    with TemporaryDirectory() as scratch:  # for what the killed leave behind; sockets want short paths
        environment = os.environ | {"TMPDIR": scratch}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.splitlines() == 3 * ["9 False"] + ["0"], done.stderr
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list(tmp_path.glob(".*")), "nothing of the interrupted builds is left"


def test_a_piece_that_is_done_is_not_read_again_by_other_ranks(letters, tmp_path, monkeypatch):
    read: list[int] = []

    def until_the_disk_is_full(task: survey.Task) -> dict[str, Any]:
        if len(read) == 3:
            raise UnfinishedError("the disk is full")
        read.append(task.piece.number)
        return survey_piece(task)

    survey_piece = survey.survey_piece
    built = scaled_build([letters], tmp_path / "out", 2, "byte")
    with monkeypatch.context() as patch:
        patch.setattr(survey, "survey_piece", until_the_disk_is_full)
        with pytest.raises(UnfinishedError):
            run(built)
    again: list[int] = []
    monkeypatch.setattr(survey, "survey_piece", lambda task: again.append(task.piece.number) or survey_piece(task))
    run(scaled_build([letters], tmp_path / "out", 3, "byte"))
    pieces = len(build.prepare([letters], build.Settings("byte"))[0].pieces)
    assert sorted(read + again) == list(range(pieces))
    assert again


def test_a_corpus_that_was_deleted_is_built_again(letters, tmp_path):
    run(scaled_build([letters], tmp_path / "out", 2, "byte"))
    before = contents(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "before")
    run(scaled_build([letters], tmp_path / "out", 2, "byte"))
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("place", PLACES)
def test_a_kill_while_the_corpus_gets_its_place(letters, tmp_path, place, monkeypatch):
    """Once the manifest is there, and then again once the corpus is."""
    expected = build_corpus([letters], tmp_path / "expected", "byte")

    def killed(*_: object, **__: object) -> None:
        raise UnfinishedError("killed")

    for kind, what in ((shared.Shared, "_move"), (DataFolder, "rm")):
        built = scaled_build([letters], PLACES[place](tmp_path / "out"), 2, "byte")
        with monkeypatch.context() as patch:
            patch.setattr(kind, what, killed)
            with pytest.raises(UnfinishedError):
                run(built)
        assert list(tmp_path.glob(".out.*"))
    run(scaled_build([letters], PLACES[place](tmp_path / "out"), 2, "byte"))
    assert contents(tmp_path / "out") == contents(expected.path)
    assert not list(tmp_path.glob(".out.*"))


def test_a_record_that_was_put_in_part_is_not_there(letters, tmp_path, monkeypatch):
    def half(self: LocalFileSystem, here: str, there: str, **_: object) -> None:
        Path(there).write_bytes(Path(here).read_bytes()[:5])
        raise OSError("the connection was lost")

    built = scaled_build([letters], at_url(tmp_path / "out"), 2, "byte")
    with shared.here(built.shared) as at:
        record = at.path / "record.json"
        record.write_text("{}" * 9)
        with monkeypatch.context() as patch:
            patch.setattr(LocalFileSystem, "put_file", half)
            with pytest.raises(OSError, match="lost"):
                at.put_last(record)
        assert not at.has(record)
        at.put_last(record)
        assert at.has(record)


# Clusters.


def test_slurm_runs_what_was_pickled_somewhere_else(letters, tmp_path, monkeypatch):
    """The test is the cluster: jobs are accepted, and their tasks run one after another from what was pickled."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, says in {"sbatch": "Submitted batch job 7", "scontrol": "node1"}.items():
        (programs / name).write_text(f"#!/bin/sh\necho {says}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.chdir(tmp_path)
    built = scaled_build(["letters"], "out", 2, "char", "hash")
    executors = built.executors(SlurmPipelineExecutor, {"plan": {"mem_per_cpu_gb": 8}}, partition="cpu", time="1:00:00")
    assert [executor.mem_per_cpu_gb for executor in executors] == [2, 8, 2, 2, 2, 2]
    executors[-1].run()
    monkeypatch.chdir("/")
    monkeypatch.setenv("SLURM_NODELIST", "node1")
    for executor in executors:
        for task in range(executor.tasks):
            monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
            with executor.logging_dir.open("executor.pik", "rb") as file:
                dill.load(file).run()
    monkeypatch.chdir(tmp_path)
    assert contents(Path("out")) == contents(build_corpus(["letters"], "expected", "char", "hash").path)


def test_ray_gets_its_executors(letters, tmp_path):
    executors = scaled_build([letters], tmp_path / "out", 2, "byte").executors(RayPipelineExecutor, cpus_per_task=2)
    assert [executor.depends for executor in executors] == [None, *executors[:-1]]
    assert [executor.tasks for executor in executors] == [2, 1, 2, 1, 2, 1]
    assert dill.loads(dill.dumps(executors[0])).pipeline[0].shared.name == str(tmp_path / "out")


# Mistakes.


def test_mistakes_are_heard_of_before_anything_runs(letters, tmp_path):
    with pytest.raises(UsageError, match="tokenizer 'word'"):
        scaled_build([letters], tmp_path / "out", 2, "word")
    with pytest.raises(CorpusError, match="lettres does not exist"):
        scaled_build([f"{tmp_path}/lettres"], tmp_path / "out", 2)
    with pytest.raises(CorpusError, match="letters exists already and was left as it is"):
        scaled_build([letters], letters, 2, "byte")
    with pytest.raises(UsageError, match="tasks 0: expected at least 1"):
        scaled_build([letters], tmp_path / "out", 0)
    with pytest.raises(UsageError, match="bucket: that is a whole bucket"):
        scaled_build([letters], DataFolder("bucket", fs=at_url(tmp_path / "s3").fs), 2)
    with pytest.raises(UsageError, match="Protocol not known: s4"):
        scaled_build([letters], "s4://bucket/out", 2)
    with pytest.raises(UsageError, match="no stage 'encoding': a build has survey, plan, encode"):
        scaled_build([letters], tmp_path / "out", 2, "byte").executors(LocalPipelineExecutor, {"encoding": {}})


def test_text_that_cannot_be_read_is_named_as_on_one_machine(letters, write, tmp_path):
    sources = [letters, write("bad.txt", b"\xff\xff")]
    with pytest.raises(CorpusError) as expected:
        build_corpus(sources, tmp_path / "out")
    with pytest.raises(CorpusError) as caught:
        run(scaled_build(sources, tmp_path / "out", 2))
    assert str(caught.value) == str(expected.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", PLACES)
def test_filters_that_leave_nothing_are_named_as_on_one_machine(letters, tmp_path, place):
    with pytest.raises(CorpusError, match=r"removed all 30 documents of .*letters\. short:9999 removed the most, 30\."):
        run(scaled_build([letters], PLACES[place](tmp_path / "out"), 3, filters=("short:9999",)))


def test_without_datatrove_the_message_says_how_to_get_it(letters, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datatrove.io", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[scale\]"):
        scaled_build([letters], tmp_path / "out", 2)


def test_another_corpus_that_came_there_meanwhile_is_left_as_it_is(letters, tmp_path):
    built = scaled_build([letters], tmp_path / "out", 2, "byte")
    other = contents(build_corpus([letters], tmp_path / "out", "char").path)
    with pytest.raises(CorpusError, match="out exists already"):
        run(built)
    assert contents(tmp_path / "out") == other
