"""Runs of several processes: one folder, one voice, and the curve of one process, however it is cut."""

import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from crew import limited_files, losses, together
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.loader import Loader
from scratchlab.errors import LostError, RecipeError, ScratchlabError, Terminated
from scratchlab.files import sha256_of_file
from scratchlab.recipe import Recipe, recipe_from
from scratchlab.runfolder import RunFolder
from scratchlab.training import loop
from scratchlab.training.progress import Silent
from scratchlab.training.world import World

STEPS = 24


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, and a run of one process."""
    folder = tmp_path_factory.mktemp("runs")
    words = random.Random(1).choices(["the", "cat", "sat", "on", "a", "mat", "and", "purred."], k=4000)
    (folder / "text.txt").write_text(" ".join(words), encoding="utf-8")
    (folder / "tasks.jsonl").write_text(
        "".join(f'{{"query": "the {n % 7}", "choices": ["cat", "mat"], "gold": {n % 2}}}\n' for n in range(9)),
        encoding="utf-8",
    )
    build_corpus([str(folder / "text.txt")], folder / "corpus", tokenizer="byte")
    loop.train(recipe_of(folder), folder / "alone")
    return folder


InPeace = Callable[[bool], tuple[Path, list[Any]]]


@pytest.fixture(scope="module")
def in_peace(place: Path) -> InPeace:
    """Gives a run of two processes that nothing disturbed, by DDP or FSDP2, and what each said of it. Made once."""

    @functools.cache
    def trained(shard: bool) -> tuple[Path, list[Any]]:
        out = place / ("parts" if shard else "copies")
        return out, together(2, training, recipe_of(place, {"execution.shard": shard}), out)

    return trained


@pytest.fixture(scope="module")
def straight(in_peace: InPeace) -> Path:
    """The one with copies of the weights."""
    return in_peace(False)[0]


def recipe_of(place: Path, changes: dict[str, Any] | None = None) -> Recipe:
    """`execution.processes` is left to torchrun."""
    tables = {
        "corpus": str(place / "corpus"),
        "model": {"n_layer": 2, "n_head": 2, "d_model": 16, "context_length": 16},
        "training": {"steps": STEPS, "global_batch_size": 6, "checkpoint_every": 4, "precision": "float32"},
        "evaluation": {
            "every": 8,
            "sample_tokens": 8,
            "snapshots": 1,
            "suites": str(place / "tasks.jsonl"),
            "suites_every": 12,
        },
        "execution": {"device": "cpu", "threads": 1, "compile": False, "micro_batch_size": 2},
    }
    return recipe_from(tables, where="test").replaced(changes or {})


class Listener(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def say(self, text: str) -> None:
        self.heard.append(text)


def bits(folder: Path) -> dict[str, str]:
    """Hashes of all that is a function of the recipe."""
    tensors, _ = RunFolder.open(folder).checkpoint(STEPS)
    files = {name: folder / name for name in ("metrics.jsonl", "samples.jsonl")} | {"weights": tensors}
    return {name: sha256_of_file(path) for name, path in files.items()}


def training(world: World, recipe: Recipe, out: Path) -> tuple[Any, list[str]]:
    report = Listener()
    return loop.train(recipe, out, report), report.heard


@pytest.mark.parametrize("shard", [False, True], ids=["ddp", "fsdp2"])
def test_a_run_of_two_processes_is_that_of_one(place: Path, in_peace: InPeace, shard: bool) -> None:
    out, ((result, heard), (same, nothing)) = in_peace(shard)
    alone, folder = RunFolder.open(place / "alone"), RunFolder.open(out)
    assert losses(out) == pytest.approx(losses(place / "alone"), rel=1e-4)
    assert result == same == folder.result()
    expected = alone.result()
    assert expected is not None
    assert result["test"]["nats_per_token"] == pytest.approx(expected["test"]["nats_per_token"], rel=1e-4)
    assert result["test"]["n_tokens"] == expected["test"]["n_tokens"]
    assert result["cost"]["tokens"] == expected["cost"]["tokens"]
    assert [sorted(record) for record in folder.metrics()] == [sorted(record) for record in alone.metrics()], "once"
    assert [sample["text"] for sample in folder.samples()] == [sample["text"] for sample in alone.samples()]
    assert {(record["processes"], record["processes_per_device"]) for record in folder.meters()} == {(2, 2)}
    assert folder.resolved().execution.processes == 2
    assert folder.snapshot("best")[1]["step"] == alone.snapshot("best")[1]["step"]
    assert len([text for text in heard if "parameters" in text]) == 1
    assert nothing == []


def stopped(world: World, recipe: Recipe, out: Path) -> tuple[str, bool]:
    """One process alone is told to stop."""
    at = Loader.batch

    def batch(self: Loader, step: int) -> Any:
        if step == 9 and world.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)  # torchrun passes on what the terminal has sent already
        return at(self, step)

    Loader.batch = batch
    try:
        loop.train(recipe, out)
    except Terminated as error:
        return str(error), error.told
    raise AssertionError("it went on")


def going_on(world: World, out: Path) -> Any:
    return loop.resume(out)


def test_told_to_stop_all_stop_at_the_same_step_and_others_go_on(place: Path, straight: Path, tmp_path: Path) -> None:
    """With 2 processes to the same bits, with 4 on the same curve."""
    cut = tmp_path / "cut"
    messages = together(2, stopped, recipe_of(place), cut)
    (step,) = RunFolder(cut).checkpoint_steps()[-1:]
    assert 10 <= step <= 12
    assert messages == [(f"Stopped at step {step}. To go on: scratchlab train --resume {cut}", told) for told in (0, 1)]
    more = shutil.copytree(cut, tmp_path / "more")
    assert together(2, going_on, cut)[0]["steps"] == STEPS
    assert bits(cut) == bits(straight)
    fingerprint = RunFolder(more).manifest()["fingerprint"]
    cost = together(4, going_on, more)[0]["cost"]
    assert cost["device_seconds"] == pytest.approx(cost["total_seconds"], abs=0.01), "one processor, whoever shares it"
    assert losses(more) == pytest.approx(losses(straight), rel=1e-4)
    assert RunFolder(more).manifest()["fingerprint"] == fingerprint
    assert [record["processes"] for record in RunFolder(more).meters()][-1] == 4


def failing(world: World, recipe: Recipe, out: Path) -> tuple[str, bool]:
    with limited_files(10_000 if world.first else -1), pytest.raises(ScratchlabError) as caught:
        loop.train(recipe, out)
    return str(caught.value), caught.value.told


def test_a_full_disk_ends_all_with_one_message(place: Path, tmp_path: Path) -> None:
    (message, told), (same, hushed) = together(2, failing, recipe_of(place), tmp_path / "run")
    assert "the checkpoint of step 4 could not be written" in message == same
    assert (told, hushed) == (False, True)


def lost(world: World, recipe: Recipe, out: Path) -> bool:
    step = loop.Run.place

    def place_of(self: loop.Run, number: int) -> int:
        if number == 6 and world.rank == 1:
            time.sleep(0.1)
            raise ZeroDivisionError
        return step(self, number)

    loop.Run.place = place_of
    with pytest.raises(ZeroDivisionError if world.rank else LostError):
        loop.train(recipe, out)
    return True


def test_nobody_waits_for_a_process_that_is_gone(place: Path, tmp_path: Path) -> None:
    assert together(2, lost, recipe_of(place), tmp_path / "run") == [True, True]


def refused(world: World, recipe: Recipe, out: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        loop.train(recipe, out)
    return str(caught.value)


def test_another_number_than_torchrun_started_is_refused(place: Path, tmp_path: Path) -> None:
    recipe = recipe_of(place, {"execution.processes": 3})
    message = "execution.processes = 3, and torchrun started 2"
    assert all(message in said for said in together(2, refused, recipe, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


# torchrun itself.


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def workers(agent: "subprocess.Popen[str]") -> list[psutil.Process]:
    return [child for child in psutil.Process(agent.pid).children() if "scratchlab" in child.cmdline()]


def start(command: list[str]) -> "subprocess.Popen[str]":
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # torchrun would say that it sets it
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(what: Any, agents: list[Any]) -> None:
    deadline = time.monotonic() + 300
    while not what():
        assert time.monotonic() < deadline, "it never came to that"
        assert all(agent.poll() is None for agent in agents), "it ended before"
        time.sleep(0.002)


def test_two_machines_one_process_killed_and_the_right_curve(place: Path, straight: Path, tmp_path: Path) -> None:
    """Two torchruns that meet on the loopback. A worker is killed hard; both begin again, from the last checkpoint."""
    out, recipe = tmp_path / "run", tmp_path / "recipe.toml"
    recipe.write_text(recipe_of(place).to_toml(), encoding="utf-8")
    meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=test"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=2"]
    command = [
        *torchrun,
        *meeting,
        "--local-addr=127.0.0.1",
        "-m",
        "scratchlab",
        "train",
        str(recipe),
        "--out",
        str(out),
    ]
    agents = [start(command) for _ in range(2)]
    try:
        wait_for(lambda: workers(agents[1]) != [], agents)
        (victim,) = workers(agents[1])
        wait_for(lambda: max(RunFolder(out).checkpoint_steps(), default=0) >= 4, agents)
        victim.kill()
        told = [agent.communicate(timeout=300) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    errors = "".join(error for _, error in told)
    assert [agent.returncode for agent in agents] == [0, 0], errors
    assert errors.count("Going on from step") == 1, errors
    assert errors.count("parameters, ") == 1
    assert "Traceback" not in errors
    assert "".join(text for text, _ in told).count("finished, step 24 of 24") == 1
    assert bits(out) == bits(straight)


def kill_a_worker(out: Path) -> None:
    """One of two, hard, once there is a checkpoint."""
    wait_for(lambda: max(RunFolder(out).checkpoint_steps(), default=0) >= 4, [])
    started = [(child, child.cmdline()) for child in psutil.Process().children(recursive=True)]
    names = "scratchlab.training.worker", "torch.distributed.run"  # torchrun's own command line has both
    found = [child for child, words in started if names[0] in words and names[1] not in words]
    assert len(found) == 2
    found[1].kill()


def test_killed_hard_a_run_that_starts_its_own_processes_ends_as_the_undisturbed_one(
    place: Path, in_peace: InPeace, tmp_path: Path
) -> None:
    """FSDP2, two workers on one machine: torchrun begins both again, and they go on from the last checkpoint."""
    out, report = tmp_path / "run", Listener()
    recipe = recipe_of(place, {"execution.shard": True, "execution.processes": 2})
    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_a_worker, out)
        result = loop.train(recipe, out, report)
        killing.result()
    assert result == RunFolder(out).result()
    assert bits(out) == bits(in_peace(True)[0])
    assert len([text for text in report.heard if text.startswith("Going on from step")]) == 1, report.heard
    assert len([text for text in report.heard if "parameters, " in text]) == 1


def test_a_recipe_that_asks_for_processes_needs_no_torchrun(place: Path, tmp_path: Path) -> None:
    """Told to stop, all of it stops, says so once, and exits with 143."""
    out, recipe = tmp_path / "run", tmp_path / "recipe.toml"
    recipe.write_text(recipe_of(place, {"training.steps": 100_000}).to_toml(), encoding="utf-8")
    process = start(
        [sys.executable, "-m", "scratchlab", "train", str(recipe), "--out", str(out), "execution.processes=2"]
    )
    family = psutil.Process(process.pid)
    wait_for(lambda: max(RunFolder(out).checkpoint_steps(), default=0) >= 4, [process])
    children = family.children(recursive=True)
    process.terminate()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 143, errors
    assert errors.count("Stopped at step") == 1
    assert "Traceback" not in errors
    assert len(children) >= 3, "torchrun and two workers"
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert RunFolder(out).checkpoint_steps()[-1] == RunFolder(out).metrics()[-1]["step"] + 1
