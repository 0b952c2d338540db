"""Snapshots on the way: which, at what price, and that nothing else is changed by them."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from scratchlab.corpus.build import build_corpus
from scratchlab.errors import RunError
from scratchlab.model.build import build_model
from scratchlab.model.load import load_model
from scratchlab.recipe import Recipe, recipe_from
from scratchlab.runfolder import RunFolder, step_name
from scratchlab.training.checkpoint import check_disk, snapshot_steps
from scratchlab.training.loop import train
from tiny import VOCAB, tiny_recipe


def of(steps: int, snapshots: int = 4) -> list[int]:
    return sorted(snapshot_steps(tiny_recipe({"training.steps": steps, "evaluation.snapshots": snapshots})))


def test_they_are_at_like_distances_by_the_logarithm_of_the_step() -> None:
    assert of(2560) == [10, 40, 160, 640]
    assert of(25600) == [100, 400, 1600, 6400]
    gaps = [math.log(b / a) for a, b in itertools.pairwise(of(1_000_000, 7))]
    assert len(gaps) == 6
    assert max(gaps) - min(gaps) < 1e-3


def test_twice_as_many_hold_these_too() -> None:
    assert of(2560, 8) == [10, 20, 40, 80, 160, 320, 640, 1280]
    assert set(of(19_073, 5)) < set(of(19_073, 10))


@pytest.mark.parametrize("snapshots", [0, 1, 4, 300])
@pytest.mark.parametrize("steps", [0, 1, 2, 7, 100])
def test_never_of_what_is_there_anyway(steps: int, snapshots: int) -> None:
    assert all(0 < step < steps for step in of(steps, snapshots)), "neither fresh weights nor the last"
    assert len(of(steps, snapshots)) <= snapshots
    begun = tiny_recipe({"training.steps": steps, "evaluation.snapshots": snapshots, "start.weights": "runs/earlier"})
    assert snapshot_steps(begun) == {*of(steps, snapshots), *([0] if steps and snapshots else [])}


def test_their_place_on_the_disk_is_counted() -> None:
    recipe = tiny_recipe({"training.steps": 2560})
    few = recipe.replaced({"evaluation.snapshots": 0})
    needed, without = check_disk(10**9, recipe, VOCAB), check_disk(10**9, few, VOCAB)
    assert without / 44 == (needed - without) / (4 * 4), "4 bytes a parameter each, where the rest takes 44"
    with pytest.raises(RunError, match=r"keep fewer: evaluation.snapshots=0"):
        check_disk(needed - 1, recipe, VOCAB)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("snapshots")
    (folder / "text.txt").write_text("the cat sat on the mat and purred. " * 200, encoding="utf-8")
    build_corpus([str(folder / "text.txt")], folder / "corpus", tokenizer="char")
    tables: dict[str, Any] = {
        "corpus": str(folder / "corpus"),
        "model": {"n_layer": 1, "n_head": 2, "d_model": 16, "context_length": 16, "dropout": 0.1},
        "training": {"steps": 64, "global_batch_size": 4, "checkpoint_every": 32, "precision": "float32"},
        "evaluation": {"every": 24, "sample_tokens": 8},
        "execution": {"device": "cpu", "threads": 1, "compile": False, "micro_batch_size": 4},
    }
    return recipe_from(tables, where="test")


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    path = tmp_path_factory.mktemp("run") / "run"
    train(recipe, path)
    return RunFolder.open(path)


def test_they_change_nothing_else_and_their_time_is_told_apart(recipe: Recipe, run: RunFolder, tmp_path: Path) -> None:
    train(recipe.replaced({"evaluation.snapshots": 0}), tmp_path / "without")
    without = RunFolder.open(tmp_path / "without")
    assert (run.snapshot_steps(), without.snapshot_steps()) == ([1, 4, 16], [])
    for name in ("metrics.jsonl", "samples.jsonl", "checkpoints/step-00000064/tensors.safetensors"):
        assert (run.path / name).read_bytes() == (without.path / name).read_bytes(), name
    assert run.manifest()["fingerprint"] == without.manifest()["fingerprint"]
    seconds, seconds_without = ((folder.result() or {})["cost"]["seconds"] for folder in (run, without))
    assert seconds["snapshots"] > 0
    assert "snapshots" not in seconds_without


def test_a_snapshot_holds_the_weights_before_its_step(recipe: Recipe, run: RunFolder, tmp_path: Path) -> None:
    shorter = recipe.replaced({"training.steps": 4, "training.schedule": "constant"})
    train(shorter, tmp_path / "short")
    train(shorter.replaced({"training.steps": 64}), tmp_path / "long")
    model = load_model(RunFolder.open(tmp_path / "long"), at=4, device="cpu")
    for name, tensor in load_model(RunFolder.open(tmp_path / "short"), device="cpu").named_parameters():
        assert torch.equal(model.get_parameter(name), tensor), name
    fresh = build_model(recipe.model, run.manifest()["vocab_size"], recipe.seeds.init)
    assert not torch.equal(model.head_weight, fresh.head_weight)
    with pytest.raises(RunError, match="has no step-00000005 snapshot"):
        load_model(run, at=5)


def test_weights_of_another_run_are_kept_before_they_are_lost(recipe: Recipe, run: RunFolder, tmp_path: Path) -> None:
    train(recipe.replaced({"start.weights": str(run.path)}), tmp_path / "tuned")
    tuned = RunFolder.open(tmp_path / "tuned")
    assert tuned.snapshot_steps() == [0, 1, 4, 16]
    begin, source = load_file(tuned.snapshot(step_name(0))[0]), load_file(run.checkpoint(64)[0])
    assert begin.keys() == {name for name in source if source.keys() > {f"{name}.exp_avg"}}
    assert all(torch.equal(tensor, source[name]) for name, tensor in begin.items())
