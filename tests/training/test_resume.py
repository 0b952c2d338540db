"""A run that was killed, stopped, or met a broken disk ends as the uninterrupted run does, to the bit."""

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.windows import Batch
from scratchlab.errors import CorpusError, DeviceError, RunError, Terminated
from scratchlab.evaluation.scorer import ModelScorer
from scratchlab.recipe import Recipe, recipe_from
from scratchlab.runfolder import RunFolder
from scratchlab.training.lighter import lighter_fields, memory_told
from scratchlab.training.loop import finish, resume, train, train_steps
from scratchlab.training.progress import Silent
from scratchlab.training.signals import StopRequest
from scratchlab.training.start import Run, create_run, pick_up
from scratchlab.training.step import TorchBackend

STEPS = 48


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("resume")
    text = folder / "text.txt"
    words = random.Random(1).choices(["the", "cat", "sat", "on", "a", "mat", "and", "purred."], k=4000)
    text.write_text(" ".join(words), encoding="utf-8")
    build_corpus([str(text)], folder / "corpus", tokenizer="char")
    tables = {
        "corpus": str(folder / "corpus"),
        "model": {"n_layer": 2, "n_head": 2, "d_model": 32, "context_length": 32, "dropout": 0.1},
        "training": {"steps": STEPS, "global_batch_size": 8, "checkpoint_every": 4, "precision": "float32"},
        "evaluation": {"every": 12, "sample_tokens": 8},
        "execution": {"device": "cpu", "threads": 1, "compile": False, "micro_batch_size": 4},
    }
    return recipe_from(tables, where="test")


@pytest.fixture(scope="module")
def reference(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, left in peace."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    train(recipe, folder)
    return folder


def outcome(folder: Path) -> dict[str, bytes]:
    """Everything of a finished run that is a function of its recipe."""
    last = RunFolder.open(folder).checkpoint(STEPS)[0]
    files = {"metrics": folder / "metrics.jsonl", "samples": folder / "samples.jsonl", "weights": last}
    files |= {path.name: path / "tensors.safetensors" for path in folder.glob("snapshots/*")}
    assert len(files) == 7, "three snapshots on the way, and the best"
    return {name: path.read_bytes() for name, path in files.items()}


def start(folder: Path, limit: Callable[[], None] | None = None) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "scratchlab", "train", "--resume", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit)


def wait_for_checkpoint(folder: Path, step: int, process: "subprocess.Popen[str]") -> None:
    while process.poll() is None and max(RunFolder(folder).checkpoint_steps(), default=0) < step:
        time.sleep(0.001)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments(recipe: Recipe, reference: Path, tmp_path: Path, seed: int) -> None:
    folder, rng = tmp_path / "run", random.Random(seed)
    create_run(recipe, folder)
    kills = 0
    for target in sorted(rng.sample(range(0, STEPS, 4), 2)):
        process = start(folder)
        wait_for_checkpoint(folder, target, process)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        process.communicate()
    assert kills, "no process was caught alive; the test needs slower steps"
    resume(folder)
    assert outcome(folder) == outcome(reference)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_saves_a_checkpoint_and_exits_143(
    recipe: Recipe, reference: Path, tmp_path: Path, number: signal.Signals
) -> None:
    folder = tmp_path / "run"
    create_run(recipe, folder)
    process = start(folder)
    wait_for_checkpoint(folder, 8, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    stopped_at = RunFolder(folder).checkpoint_steps()[-1]
    assert f"Stopped at step {stopped_at}" in errors
    assert f"scratchlab train --resume {folder}" in errors
    assert "Traceback" not in errors
    resume(folder)
    assert outcome(folder) == outcome(reference)


@pytest.mark.parametrize("where", ["TorchBackend.step", "ModelScorer.windows", "TorchBackend.init"])
def test_memory_that_runs_out_is_told_with_what_to_do_and_costs_nothing(
    recipe: Recipe, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """In a step, while text is scored, or before the first one: as PyTorch says it of a GPU."""

    def lacking(*asked: Any, **more: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has " + "much more " * 99)

    folder, (part, _, name) = create_run(recipe, tmp_path / "run"), where.partition(".")
    with monkeypatch.context() as patch:
        patch.setattr(TorchBackend if part == "TorchBackend" else ModelScorer, name, lacking)
        with pytest.raises(DeviceError) as caught:
            resume(folder.path)
    said = str(caught.value)
    assert "ran out of memory (CUDA out of memory. Tried to allocate 2.00 GiB." in said
    assert f"scratchlab train --resume {folder.path}" in said
    assert "execution.micro_batch_size=2 or execution.activation_checkpointing=true" in said
    assert len(said) < 500
    resume(folder.path)
    assert outcome(folder.path) == outcome(reference)


def test_other_faults_are_not_taken_for_a_lack_of_memory(recipe: Recipe) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), memory_told(recipe):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({}, ["execution.micro_batch_size=2", "execution.activation_checkpointing=true"]),
        ({"execution.micro_batch_size": 1, "execution.activation_checkpointing": True}, []),
        (
            {"execution.device": "cuda", "execution.micro_batch_size": 1, "execution.processes": 2},
            ["execution.activation_checkpointing=true", "execution.shard=true", "execution.optimizer_offload=true"],
        ),
        (
            {"execution.device": "cuda", "execution.processes": 2, "execution.shard": True},
            ["execution.micro_batch_size=2", "execution.activation_checkpointing=true"],
        ),
    ],
)
def test_what_takes_less_is_named_where_it_can_be_had(
    recipe: Recipe, changes: dict[str, Any], fields: list[str]
) -> None:
    assert lighter_fields(recipe.replaced(changes)) == [*fields, "a smaller model"]


def asking_to_stop(batches: Iterator[Any], steps: int, stop: StopRequest) -> Iterator[Any]:
    """The same batches; after so many steps it is as if SIGTERM had come."""
    for number, batch in enumerate(batches, start=1):
        stop.requested = number == steps
        yield batch


def as_on_a_gpu(folder: RunFolder) -> Run:
    """A run on the CPU that takes its batches as one on a GPU does: ahead of their step, from another thread."""
    run = pick_up(folder, Silent())
    run.recipe = run.recipe.replaced({"execution.device": "cuda"})
    return run


@pytest.mark.parametrize("steps", [1, 14, STEPS])
def test_batches_read_ahead_change_nothing_wherever_it_is_stopped(
    recipe: Recipe, reference: Path, tmp_path: Path, steps: int
) -> None:
    folder, stop = create_run(recipe, tmp_path / "run"), StopRequest()
    run = as_on_a_gpu(folder)
    with closing(run.batches()) as batches, contextlib.suppress(Terminated):
        train_steps(run, asking_to_stop(batches, steps, stop), stop)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
    run = as_on_a_gpu(folder)
    assert run.step == steps
    with closing(run.batches()) as batches:
        train_steps(run, batches, StopRequest())
    run.recipe = folder.resolved()
    finish(run)
    assert outcome(folder.path) == outcome(reference)


def test_a_batch_that_cannot_be_read_is_told_by_the_step_that_needed_it(recipe: Recipe, tmp_path: Path) -> None:
    folder = create_run(recipe, tmp_path / "run")
    run = as_on_a_gpu(folder)
    backend, failing = run.backend, 9

    def step(state: Any, batch: Any, place: int) -> Any:
        assert place < failing
        steps.append(place)
        return type(backend).step(backend, state, batch, place)

    def send(batch: Batch) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        if batch.first_sequence == 8 * failing:
            raise CorpusError("train-00000.bin could not be opened")
        return type(backend).send(backend, batch)

    steps: list[int] = []
    backend.step, backend.send = step, send
    with pytest.raises(CorpusError, match=r"train-00000.bin could"), closing(run.batches()) as batches:
        train_steps(run, batches, StopRequest())
    assert steps == list(range(failing))
    assert folder.checkpoint_steps()[-1] == 8


def test_on_a_cpu_no_thread_takes_its_time(recipe: Recipe, tmp_path: Path) -> None:
    run = pick_up(create_run(recipe, tmp_path / "run"), Silent())
    with closing(run.batches()) as batches:
        next(batches)
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_full_disk_is_told_and_nothing_is_lost(recipe: Recipe, reference: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    create_run(recipe, folder)
    # The kernel refuses to let a file of this process grow: what a full disk does, without one.
    process = start(folder, limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000)))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the checkpoint of step 4 could not be written" in errors
    assert "Free some space" in errors
    assert "Traceback" not in errors
    assert RunFolder(folder).checkpoint_steps() == []
    resume(folder)
    assert outcome(folder) == outcome(reference)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture(scope="module")
def cut_off(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed somewhere after step 12."""
    folder = tmp_path_factory.mktemp("cut-off") / "run"
    create_run(recipe, folder)
    process = start(folder)
    wait_for_checkpoint(folder, 12, process)
    process.kill()
    process.communicate()
    return folder


class Listener(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.heard = ""

    def say(self, text: str) -> None:
        self.heard += text + "\n"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("tensors.safetensors", truncate),
        ("tensors.safetensors", flip_a_bit),
        ("tensors.safetensors", Path.unlink),
        ("state.json", truncate),
        ("state.json", Path.unlink),
    ],
)
def test_damaged_checkpoint_is_named_and_the_one_before_is_used(
    cut_off: Path, reference: Path, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    folder, listener = tmp_path / "run", Listener()
    shutil.copytree(cut_off, folder)
    before, last = RunFolder(folder).checkpoint_steps()[-2:]
    broken = folder / f"checkpoints/step-{last:08d}" / name
    damage(broken)
    resume(folder, listener)
    assert str(broken) in listener.heard
    assert f"Going on from step {before}." in listener.heard
    assert outcome(folder) == outcome(reference)


def test_without_a_good_checkpoint_it_begins_again(cut_off: Path, reference: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(cut_off, folder)
    for tensors in folder.glob("checkpoints/step-*/tensors.safetensors"):
        truncate(tensors)
    resume(folder)
    assert outcome(folder) == outcome(reference)


def test_two_processes_never_write_one_run(recipe: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    create_run(recipe, folder)
    with RunFolder(folder).locked():
        process = start(folder)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "being written by another process" in errors


def test_another_corpus_in_the_same_place_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("another text " * 500, encoding="utf-8")
    build_corpus([str(text)], tmp_path / "corpus", tokenizer="char")
    folder = create_run(recipe.replaced({"corpus": str(tmp_path / "corpus")}), tmp_path / "run")
    (tmp_path / "corpus").rename(tmp_path / "old")
    text.write_text("something else entirely " * 500, encoding="utf-8")
    build_corpus([str(text)], tmp_path / "corpus", tokenizer="char")
    with pytest.raises(RunError, match="not the corpus this run was started on"):
        resume(folder.path)


def test_finished_run_is_left_alone(reference: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in reference.rglob("*") if path.name != ".lock"}
    result = resume(reference)
    assert result["steps"] == STEPS
    assert {path: path.stat().st_mtime_ns for path in reference.rglob("*") if path.name != ".lock"} == before
