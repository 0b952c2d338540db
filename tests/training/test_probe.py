"""The largest micro-batch, found with less memory than there is."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scratchlab import hardware
from scratchlab.errors import DeviceError
from scratchlab.model.count import parameter_count
from scratchlab.recipe import Recipe
from scratchlab.training import probe
from scratchlab.training.memory import divisors
from scratchlab.training.probe import fits_in_process, largest_that_fits, probed_micro_batch
from tiny import VOCAB, tiny_recipe


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "scratchlab/probes"


def limited(most: int, tried: list[int]) -> Callable[[int], bool]:
    """Fits up to `most` numbers."""
    return lambda size: tried.append(size) or size <= most


@pytest.mark.parametrize("most", [0, 1, 2, 5, 6, 11, 12, 59, 60, 1000])
def test_bisection_finds_the_last_that_fits_in_few_tries(most: int) -> None:
    sizes, tried = divisors(60), list[int]()
    found = largest_that_fits(sizes, lambda size: tried.append(size) or size <= most)
    assert found == max((size for size in sizes if size <= most), default=None)
    assert len(tried) <= 4  # of twelve
    assert len(set(tried)) == len(tried)


def test_what_was_found_is_kept_by_recipe(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(probe, "_trier", lambda recipe, vocab_size: limited(5, tried))
    recipe = tiny_recipe({"training.global_batch_size": 12})
    assert probed_micro_batch(recipe, VOCAB) == 4
    first = len(tried)
    assert probed_micro_batch(recipe.replaced({"training.learning_rate": 0.5}), VOCAB) == 4
    assert len(tried) == first  # the learning rate takes no memory
    assert probed_micro_batch(recipe.replaced({"model.d_model": 16}), VOCAB) == 4
    assert len(tried) > first
    assert len(list(cache.glob("*.json"))) == 2


def test_before_it_takes_its_time_it_says_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(probe, "_trier", lambda recipe, vocab_size: limited(1, []))
    for _ in range(2):
        probed_micro_batch(tiny_recipe(), VOCAB, said.append)
    assert len(said) == 1, "what is known takes none"
    assert "Trying how many sequences" in said[0]


def test_a_cpu_offers_what_others_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "available_memory", lambda: 10**9)
    assert probe._room(tiny_recipe(), VOCAB) == 9 * 10**8
    of_three = probe._room(tiny_recipe({"execution.processes": 3, "execution.shard": True}), VOCAB)
    assert of_three == pytest.approx(3 * 10**8, abs=10**5), "each has its part"


# Cards that are not here.

Answer = Callable[[dict[str, Any]], int]


def on_a_card(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    """A card of 10 GB, about which each try's process gives this exit code; this process must not touch it."""
    monkeypatch.setattr(hardware, "device_memory", lambda device: 10**10)
    monkeypatch.setattr(hardware, "environment", lambda device: {})
    monkeypatch.setattr(hardware, "device_name", lambda device: "a card")
    monkeypatch.setattr(probe, "_take_steps", lambda *asked: pytest.fail("a context of CUDA would stay"))

    def run(command: list[str], input: str, **more: Any) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess(command, answer(json.loads(input)), "", "it says why")

    monkeypatch.setattr(subprocess, "run", run)


@pytest.mark.parametrize(("processes", "buckets"), [(1, False), (2, True)])
def test_a_card_is_tried_in_processes_of_their_own_with_room_for_ddps_buckets(
    cache: Path, monkeypatch: pytest.MonkeyPatch, processes: int, buckets: bool
) -> None:
    orders: list[dict[str, Any]] = []
    on_a_card(monkeypatch, lambda order: orders.append(order) or probe.TOO_MUCH * (order["size"] > 4))
    fields = {"execution.device": "cuda", "execution.processes": processes, "training.global_batch_size": 12}
    recipe = tiny_recipe(fields)
    assert probed_micro_batch(recipe, VOCAB) == (4 if processes == 1 else 3)
    assert len(orders) == (3 if processes == 1 else 2)
    left = 4 * parameter_count(recipe.model, VOCAB) if buckets else 0
    assert {order["room"] for order in orders} == {round(10**10 * 0.95) - left}
    assert {order["recipe"]["execution"]["processes"] for order in orders} == {1}
    assert {order["recipe"]["training"]["global_batch_size"] for order in orders} == {12 // processes}


def test_a_try_that_fails_otherwise_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_card(monkeypatch, lambda order: 1)
    with pytest.raises(DeviceError, match="could not be tried in a process of its own: it says why"):
        probed_micro_batch(tiny_recipe({"execution.device": "cuda"}), VOCAB)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (torch.OutOfMemoryError("CUDA out of memory."), probe.TOO_MUCH),
        (RuntimeError("something else"), None),
    ],
)
def test_a_process_that_tries_says_whether_memory_ran_out(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None, code: int | None
) -> None:
    asked: list[int] = []

    def take_steps(recipe: Recipe, vocab_size: int, size: int, margin: int) -> None:
        asked.extend([size, margin])
        if error is not None:
            raise error

    recipe = tiny_recipe({"execution.device": "cuda"})
    order = {"recipe": recipe.model_dump(exclude_unset=True), "vocab_size": VOCAB, "size": 2, "room": 7 * 10**9}
    monkeypatch.setattr(hardware, "device_memory", lambda device: 10**10)
    monkeypatch.setattr(probe, "_take_steps", take_steps)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(order)))
    if code is None:
        with pytest.raises(RuntimeError, match="something else"):
            probe._main()
    else:
        assert probe._main() == code
    assert asked == [2, 3 * 10**9], "what is to be left alone is held meanwhile"


def test_a_device_that_holds_no_sequence_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_trier", lambda recipe, vocab_size: limited(0, []))
    with pytest.raises(DeviceError, match="does not hold a single sequence"):
        probed_micro_batch(tiny_recipe(), VOCAB)


def test_a_margin_is_left_free_while_it_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **more: taken.append(size[0]) or empty(*size, **more))
    probe._take_steps(tiny_recipe({"execution.micro_batch_size": 2}), VOCAB, 2, margin=12_345)
    assert taken[0] == 12_345


def test_on_a_cpu_a_process_of_its_own_runs_out_of_what_it_was_given() -> None:
    recipe = tiny_recipe({"model.d_model": 64, "model.context_length": 256})
    assert fits_in_process(recipe, VOCAB, 4, room=2**30)
    assert not fits_in_process(recipe, VOCAB, 1024, room=2**28)
