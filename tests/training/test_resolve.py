"""What `auto` is settled to."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from scratchlab import hardware
from scratchlab.corpus.windows import Windows
from scratchlab.errors import DeviceError, RecipeError
from scratchlab.model.kept import layer_bytes_per_sequence
from scratchlab.recipe import Recipe
from scratchlab.recipe_files import load_recipe
from scratchlab.training import resolve as resolving
from scratchlab.training.memory import memory_of, sequences_a_process
from scratchlab.training.resolve import (
    CPU_ACTIVATION_BYTES,
    _micro_batch_size,
    _processes,
    _shard,
    _threads,
    lacks_to_compile,
    resolve,
)
from scratchlab.training.world import ALONE, World
from tiny import VOCAB, random_stream, tiny_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_micro_batch_divides_the_batch_and_fits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "memory", lambda: 16 * 2**30)
    recipe = load_recipe(path)
    size = _micro_batch_size(recipe)
    assert size is not None
    assert recipe.training.global_batch_size % size == 0
    taken = size * layer_bytes_per_sequence(recipe.model, 4)
    assert size == 1 or taken <= CPU_ACTIVATION_BYTES or size * recipe.model.context_length <= 2048
    assert size == 1 or taken <= 4 * 2**30


def test_a_deep_model_gets_enough_tokens_at_once_where_there_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(next(path for path in RECIPES if path.stem == "blog-10m"))
    sizes = []
    for gigabytes in (16, 2):
        monkeypatch.setattr(hardware, "memory", lambda gigabytes=gigabytes: gigabytes * 2**30)
        sizes.append(_micro_batch_size(recipe) or 0)
    assert sizes[0] * recipe.model.context_length == 2048
    assert sizes[1] < sizes[0]
    assert _micro_batch_size(recipe.replaced({"execution.micro_batch_size": 3})) == 3


def test_half_the_bytes_a_number_let_a_micro_batch_be_larger() -> None:
    recipe = load_recipe(next(path for path in RECIPES if path.stem == "shakespeare-char"))
    recipe = recipe.replaced({"training.global_batch_size": 16, "model.dropout": 0.0})
    sizes = [_micro_batch_size(recipe.replaced({"training.precision": name})) for name in ("float32", "bf16")]
    assert sizes == [8, 16]


# Several processes.


def test_a_micro_batch_fits_the_share_of_a_process() -> None:
    recipe = tiny_recipe({"training.global_batch_size": 10, "execution.micro_batch_size": 8})
    sizes = [_micro_batch_size(recipe.replaced({"execution.processes": n})) for n in (1, 2, 3, 4, 16)]
    assert sizes == [8, 5, 4, 3, 1]
    recipe = recipe.replaced({"execution.micro_batch_size": "auto"})
    assert [_micro_batch_size(recipe.replaced({"execution.processes": n})) for n in (1, 2, 3)] == [10, 5, 4]


def test_the_processes_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "usable_cores", lambda: 8)
    monkeypatch.setattr(hardware, "busy_cores", lambda: 0)
    said: list[str] = []
    assert [_threads("cpu", here, said.append) for here in (1, 2, 3, 16)] == [8, 4, 2, 1]
    assert said == []
    monkeypatch.setattr(hardware, "busy_cores", lambda: 4)
    assert _threads("cpu", 2, said.append) == 2
    assert "so this run uses 2 threads in each process (execution.threads=4 to insist)" in said[0]


def test_weights_are_shared_out_where_a_device_does_not_hold_them(monkeypatch: pytest.MonkeyPatch) -> None:
    large = load_recipe(next(path for path in RECIPES if path.stem == "gpt2-xl"))  # 1.56 billion: 25 GB and more
    monkeypatch.setattr(hardware, "memory", lambda: 80 * 2**30)

    def shard(processes: int, wanted: bool | None = None) -> bool | None:
        fields = {"execution.device": "cpu", "execution.processes": processes, "training.precision": "float32"}
        given = large.replaced(fields if wanted is None else fields | {"execution.shard": wanted})
        return _shard(given, 50_257, processes)

    assert [shard(processes) for processes in (1, 2, 4)] == [None, None, True]
    assert shard(4, False) is False
    assert shard(2, True) is True
    with pytest.raises(RecipeError, match="one process has nobody to share with"):
        shard(1, True)


def test_a_recurrent_network_is_not_sharded() -> None:
    rnn = Recipe.model_validate(
        tiny_recipe({"execution.shard": True}).model_dump() | {"model": {"architecture": "rnn"}}
    )
    with pytest.raises(RecipeError, match="a recurrent network is not sharded"):
        _shard(rnn, VOCAB, 2)


def test_the_processes_are_torchruns_or_those_that_the_recipe_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    of_torchrun = World(rank=0, size=4, local_rank=0, local_size=2, started=True)
    assert _processes(tiny_recipe(), "cpu", ALONE) == (1, 1)
    assert _processes(tiny_recipe(), "cpu", of_torchrun) == (4, 2)
    asked = tiny_recipe({"execution.processes": 3})
    monkeypatch.setattr(hardware, "cuda_devices", lambda: 3)
    assert _processes(asked, "cuda", ALONE) == (3, 3)
    with pytest.raises(RecipeError, match="processes = 3, and torchrun started 4"):
        _processes(asked, "cpu", of_torchrun)
    for device, remedy in (("cuda:1", "if it says cuda"), ("mps", "one trains there")):
        with pytest.raises(RecipeError, match=remedy):
            _processes(asked, device, ALONE)


def test_more_processes_than_cards_are_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cuda_devices", lambda: 2)
    asked, of_torchrun = tiny_recipe({"execution.processes": 8}), World(0, 16, 0, 8, started=True)
    with pytest.raises(DeviceError, match=r"execution.processes = 8, .* this machine has 2: execution.processes=2, or"):
        _processes(asked, "cuda", ALONE)
    with pytest.raises(DeviceError, match=r"torchrun started 8, .* this machine has 2: --nproc-per-node=2, or more"):
        _processes(tiny_recipe(), "cuda", of_torchrun)
    assert _processes(asked, "cpu", ALONE) == (8, 8)
    assert _processes(tiny_recipe(), "cuda", World(0, 16, 0, 2, started=True)) == (16, 2), "eight machines"


# Cards that are not here.


def on_cards(monkeypatch: pytest.MonkeyPatch, gigabytes: float, most: int | None = None) -> list[Recipe]:
    """Eight cards of so much memory, on which trying finds `most` sequences; gives the recipes that were tried."""
    tried: list[Recipe] = []
    monkeypatch.setattr(hardware, "choose_device", lambda name: "cuda")
    monkeypatch.setattr(hardware, "precisions_of", lambda device: ["float32", "tf32", "bf16", "fp16"])
    monkeypatch.setattr(hardware, "cuda_devices", lambda: 8)
    monkeypatch.setattr(hardware, "device_name", lambda device: "a card")
    monkeypatch.setattr(hardware, "device_memory", lambda device: round(gigabytes * 1e9))
    monkeypatch.setattr(resolving, "lacks_to_compile", lambda device: None)
    monkeypatch.setattr(resolving, "probed_micro_batch", lambda recipe, *more: tried.append(recipe) or most)
    return tried


def settled_on_cards(changes: dict[str, Any] | None = None) -> Recipe:
    """GPT-2 XL for eight processes: 25 GB of weights, gradients and moments."""
    large = load_recipe(next(path for path in RECIPES if path.stem == "gpt2-xl"))
    fields = {"execution.processes": 8, "execution.threads": 1, "execution.micro_batch_size": "auto"}
    windows = Windows(random_stream(3 * 1025), 1024)
    return resolve(large.replaced(fields | (changes or {})), 50_257, windows, None, lambda text: None)


def test_cards_that_hold_a_copy_each_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = on_cards(monkeypatch, 80, most=3)
    resolved = settled_on_cards()
    assert (resolved.execution.shard, resolved.settled.micro_batch_size) == (None, 3)
    assert [recipe.execution.processes for recipe in tried] == [8]


@pytest.mark.parametrize("asked", [{}, {"execution.shard": True}], ids=["by itself", "asked for"])
def test_cards_that_do_not_hold_a_copy_have_parts_and_are_not_tried(
    monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    """One process alone has nobody to share with: trying would find that nothing fits."""
    tried = on_cards(monkeypatch, 24)
    resolved = settled_on_cards(asked)
    assert (resolved.execution.shard, tried) == (True, [])
    size = resolved.settled.micro_batch_size
    assert memory_of(resolved, 50_257).total <= 0.9 * 24e9
    assert sequences_a_process(resolved) % size == 0


def test_a_copy_leaves_as_much_of_a_card_alone_as_a_plan_does(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cards(monkeypatch, 80, most=1)
    needed = memory_of(settled_on_cards(), 50_257).total / 1e9
    for gigabytes, shard in ((needed / 0.9 + 0.1, None), (needed / 0.9 - 0.1, True)):
        on_cards(monkeypatch, gigabytes, most=1)
        assert settled_on_cards().execution.shard is shard


def test_cards_that_hold_no_part_either_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cards(monkeypatch, 4)
    with pytest.raises(DeviceError, match=r"a card does not hold a single sequence .* 8 processes share .*\(FSDP2\)"):
        settled_on_cards()


def test_what_compiling_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GTX 1080")
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/c++" if name == "c++" else None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert lacks_to_compile("cpu") is None
    assert lacks_to_compile("cuda") == "GTX 1080 is of compute capability 6.1, and Triton needs 7.0"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert lacks_to_compile("cuda") is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "Triton" in str(lacks_to_compile("cuda"))
    assert lacks_to_compile("cpu") is None
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "no C++ compiler" in str(lacks_to_compile("cpu"))


def test_each_process_has_a_card_of_its_own() -> None:
    world = World(rank=5, size=8, local_rank=1, local_size=4, started=True)
    assert [world.device(name) for name in ("cuda", "cpu")] == ["cuda:1", "cpu"]
    assert ALONE.device("cuda") == "cuda"


def test_a_gpu_is_asked_what_it_holds() -> None:
    assert _micro_batch_size(load_recipe(RECIPES[0], ["execution.device=cuda"])) is None


@pytest.mark.parametrize(("bf16", "chosen"), [(0.7e9, "float32"), (110e9, "float32"), (400e9, "bf16")])
def test_a_cpu_takes_bf16_only_where_it_is_measured_to_be_faster(
    monkeypatch: pytest.MonkeyPatch, bf16: float, chosen: str
) -> None:
    """Emulated (measured on AVX2: 0.7 GFLOP/s), no better than float32, and in hardware."""
    rates = {"float32": 100e9, "bf16": bf16}
    monkeypatch.setattr(hardware, "matmul_rate", lambda device, precision, size: rates[precision])
    assert hardware.choose_precision("cpu") == chosen
