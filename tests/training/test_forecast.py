"""Forecasts against real runs, and what they add up to."""

import re
from pathlib import Path
from typing import Any

import pytest

from scratchlab import hardware
from scratchlab.cli.runs import describe, run_text
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.store import open_corpus
from scratchlab.devices import Device, device_table, own_table
from scratchlab.model.count import parameter_count
from scratchlab.recipe import Recipe, recipe_from
from scratchlab.recipe_files import parse_override
from scratchlab.runfolder import RunFolder
from scratchlab.training import timing
from scratchlab.training.chinchilla import choose_size
from scratchlab.training.forecast import Forecast, forecast_here, forecast_there, happened
from scratchlab.training.loop import resume
from scratchlab.training.measurements import Measurement, known_measurement
from scratchlab.training.plan import plan_run
from scratchlab.training.start import create_run
from scratchlab.training.summary import validation_records
from scratchlab.training.work import HOST_RATE, LINK_RATE, Work, split_tokens


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forecast")
    (folder / "text.txt").write_text("every effort moves you toward an ideal. " * 200, encoding="utf-8")
    build_corpus([str(folder / "text.txt")], folder / "corpus", tokenizer="char", split="contiguous:.8,.1,.1")
    return folder


@pytest.fixture(autouse=True)
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    for name in ("MEASURE_SECONDS", "SCORE_SECONDS"):  # how long it takes is not what is tested
        monkeypatch.setattr(timing, name, 0.1)


def recipe_at(place: Path, changes: dict[str, Any] | None = None) -> Recipe:
    base: dict[str, Any] = {
        "corpus": str(place / "corpus"),
        "model": {"n_layer": 2, "n_head": 2, "d_model": 32, "context_length": 16},
        "training": {"steps": 10, "global_batch_size": 4, "precision": "float32", "checkpoint_every": 4},
        "evaluation": {"every": 3, "sample_tokens": 4},
        "execution": {"device": "cpu", "threads": 1, "micro_batch_size": 2, "compile": False},
    }
    return recipe_from(base, "test").replaced(changes or {})


def test_what_is_measured_is_found_by_the_run_and_compared_with_what_happened(place: Path, tmp_path: Path) -> None:
    recipe = recipe_at(place)
    planned = plan_run(recipe, [], lambda text: None, measured=True).here
    assert planned is not None
    assert planned.seconds is not None
    assert planned.peak_memory
    assert known_measurement(recipe, open_corpus(place / "corpus").vocab_size) is not None
    folder = create_run(recipe, tmp_path / "run")
    kept = folder.manifest()["forecast"]
    assert kept["seconds"] == planned.seconds
    result = resume(folder.path)
    beside = result["forecast"]
    assert beside["seconds"]["forecast"] == pytest.approx(sum(planned.seconds.values()))
    assert beside["seconds"]["happened"] == result["cost"]["total_seconds"]
    assert beside["peak_memory"]["forecast"] == planned.peak_memory
    assert not list(tmp_path.glob(".measured-*"))  # the checkpoint that was timed


def test_what_is_spent_is_said_with_who_asks_it_and_when(place: Path, tmp_path: Path) -> None:
    own_table().parent.mkdir(parents=True)
    row = (
        f'match = "{hardware.device_name("cpu")}"\nprice = 36\nprice_source = "electricity"\nprice_date = 2026-11-28\n'
    )
    own_table().write_text(f"[device.mine]\n{row}", encoding="utf-8")
    recipe = recipe_at(place)
    planned = plan_run(recipe, [], lambda text: None, measured=True).here
    assert planned is not None
    assert planned.price == pytest.approx((planned.total_seconds or 0) / 100)
    folder = create_run(recipe, tmp_path / "run")
    cost = resume(folder.path)["cost"]
    assert cost["price_source"] == planned.price_source == "electricity, 2026-11-28"
    told = run_text(describe(folder))
    assert re.search(r"rent +0\.\d\d usd at 36\.00 a device and hour.*\(electricity, 2026-11-28\)", told)


def test_without_a_measurement_memory_is_forecast_and_time_is_not(place: Path, tmp_path: Path) -> None:
    kept = create_run(recipe_at(place, {"model.d_model": 64}), tmp_path / "run").manifest()["forecast"]
    assert kept["seconds"] is None
    assert kept["memory"]["total"] > kept["memory"]["process"] > 0
    assert "--measure" in kept["basis"]
    asked = {"total_seconds": 2.0, "seconds": {"training": 1.5, "suites": 0.5}}
    beside = happened(kept, asked, 100)
    assert beside["seconds"] == {"forecast": None, "happened": 1.5, "error": None}, "tasks are not forecast"
    assert beside["peak_memory"]["error"] == kept["memory"]["total"] / 100 - 1


@pytest.mark.parametrize("changes", [{}, {"training.steps": 12, "training.checkpoint_every": 6}, {"training.steps": 1}])
def test_work_is_what_a_run_does(place: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    recipe = recipe_at(place, changes)
    corpus = open_corpus(place / "corpus")
    work = Work.of(recipe, corpus.vocab_size, split_tokens(corpus))
    folder = create_run(recipe, tmp_path / "run")
    saved: list[int] = []
    save = RunFolder.save_checkpoint
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            RunFolder, "save_checkpoint", lambda self, step, *more: saved.append(step) or save(self, step, *more)
        )
        result = resume(folder.path)
    validated = validation_records(folder.metrics())
    assert work.evaluations == len(validated)
    assert work.checkpoints == len(saved)
    assert work.snapshots == len(folder.snapshot_steps())
    scored = sum(record["validation"]["n_tokens"] for record in validated) + result["test"]["n_tokens"]
    assert work.scored_tokens == pytest.approx(scored, rel=0.01)  # the first token of a stream is not scored
    assert work.steps * work.tokens_per_step == result["cost"]["tokens"]
    assert work.parameters == result["parameters"]


def test_time_by_parts_adds_up_to_what_was_measured(place: Path) -> None:
    recipe, corpus = recipe_at(place), open_corpus(place / "corpus")
    measured = Measurement(2.0, 5.0, 0.001, 0.5, 3.0, 10**9, "2026-11-28")
    forecast = forecast_here(recipe, corpus.vocab_size, split_tokens(corpus), measured, process=10**8)
    work = Work.of(recipe, corpus.vocab_size, split_tokens(corpus))
    assert forecast.seconds == {
        "training": 25.0,
        "evaluation": pytest.approx(work.scored_tokens * 0.001 + 4 * 1.5),
        "checkpoints": 9.0,
        "snapshots": work.snapshots * 1.0,
    }
    assert forecast.tokens_per_second == pytest.approx(10 * 64 / 25.0)
    assert forecast.memory.process == 10**8


# Other devices.

VOCAB, SPLITS = 50_257, {"validation": 10**6, "test": 10**6}
LARGE = {"model.d_model": 512, "model.n_layer": 8, "training.global_batch_size": 4096, "training.precision": "auto"}
XL = LARGE | {"model.d_model": 1600, "model.n_head": 25, "model.n_layer": 48, "model.context_length": 1024}


def on(name: str, recipe: Recipe) -> Forecast:
    free = recipe.replaced({"execution.micro_batch_size": "auto"})
    return forecast_there(free, VOCAB, SPLITS, name, device_table()[name])


def test_another_device_takes_as_long_as_its_share_of_the_peak_says(place: Path) -> None:
    large = recipe_at(place, LARGE | {"training.precision": "float32"})
    fast, slow = on("H100", large), on("V100", large)
    assert fast.precision == slow.precision == "float32"  # as the recipe says
    assert fast.seconds is not None
    assert slow.seconds is not None
    assert slow.seconds["training"] / fast.seconds["training"] == pytest.approx(67 / 15.7, rel=0.01)
    assert fast.price == pytest.approx(3.78 * sum(fast.seconds.values()) / 3600)
    assert slow.price is None


def test_eight_cards_take_an_eighth_of_the_time_and_eight_rents(place: Path) -> None:
    large = recipe_at(place, LARGE)
    one, eight = on("H100", large), on("H100", large.replaced({"execution.processes": 8}))
    assert one.seconds is not None
    assert eight.seconds is not None
    assert (one.mode, one.devices, eight.mode, eight.devices) == (None, 1, "DDP", 8)
    assert eight.seconds["training"] == pytest.approx(one.seconds["training"] / 8, rel=0.01)
    assert eight.seconds["evaluation"] < one.seconds["evaluation"], "each scores its share"
    assert eight.seconds["checkpoints"] == one.seconds["checkpoints"], "the first one writes them"
    assert eight.tokens_per_second == pytest.approx(8 * (one.tokens_per_second or 0), rel=0.01)
    assert eight.price == pytest.approx(8 * 3.78 * (eight.total_seconds or 0) / 3600)


def test_cards_that_do_not_hold_a_copy_share_one(place: Path) -> None:
    xl = recipe_at(place, XL)
    alone, shared = on("RTX 4090", xl), on("RTX 4090", xl.replaced({"execution.processes": 8}))
    assert alone.largest_micro_batch is None
    assert alone.seconds is None
    assert (shared.mode, shared.remedy) == ("FSDP2", None)
    assert shared.memory.total < (shared.room or 0)
    assert shared.memory.optimizer == alone.memory.optimizer // 8
    insisting = on("RTX 4090", xl.replaced({"execution.processes": 8, "execution.shard": False}))
    assert (insisting.mode, insisting.largest_micro_batch) == ("DDP", None)


def test_what_is_open_is_settled_anew_for_each_device(place: Path) -> None:
    """Nothing of it may be what this machine was given: micro-batch, precision, device."""
    card = on("A100 80GB", recipe_at(place, LARGE))
    assert (card.precision, card.micro_batch_size) == ("bf16", card.largest_micro_batch)
    given = forecast_there(recipe_at(place, LARGE), VOCAB, SPLITS, "H100", device_table()["H100"])
    assert given.micro_batch_size == 2, "as the recipe says"


def test_what_saves_memory_takes_time(place: Path) -> None:
    large = recipe_at(place, LARGE)
    plain = on("RTX 3090", large)
    again = on("RTX 3090", large.replaced({"execution.activation_checkpointing": True}))
    away = on("RTX 3090", large.replaced({"execution.optimizer_offload": True}))
    assert plain.seconds is not None
    assert again.seconds is not None
    assert away.seconds is not None
    assert again.seconds["training"] == pytest.approx(4 / 3 * plain.seconds["training"])
    parameters = parameter_count(large.model, VOCAB)
    assert away.main_memory == 16 * parameters
    moved = parameters * (8 / LINK_RATE + 28 / HOST_RATE)  # a gradient there, a weight back; seven numbers
    assert away.seconds["training"] == pytest.approx(plain.seconds["training"] + 10 * moved)


def test_small_models_wait_for_kernels_and_wide_losses_for_memory(place: Path) -> None:
    fast = {"memory_gib": 80, "bf16": 1000, "fp16": 1000}
    free = recipe_at(place, {"training.precision": "bf16"})
    tiny = forecast_there(free, 40, SPLITS, "card", Device(bandwidth=1000, **fast))
    assert tiny.seconds is not None
    assert tiny.seconds["training"] >= 10 * 2 * 60 * 5e-6
    wide = forecast_there(free, 50_000, SPLITS, "card", Device(bandwidth=1, **fast))
    assert wide.seconds is not None
    assert wide.seconds["training"] > 100 * tiny.seconds["training"]


# What does not fit.


def test_what_is_not_there_is_said_with_what_to_do(place: Path) -> None:
    insists = on("T4", recipe_at(place, {"training.precision": "bf16"}))
    assert insists.remedy == "T4 has no bf16: training.precision=fp16"
    assert insists.seconds is None


def remedy_on(name: str, place: Path, changes: dict[str, Any]) -> str:
    return str(on(name, recipe_at(place, changes)).remedy)


@pytest.mark.parametrize(
    ("n_layer", "changes", "found"),
    [
        (36, {}, "execution.activation_checkpointing=true (a third more time)"),
        (48, {}, "execution.optimizer_offload=true (the optimizer in main memory, and slower)"),
        (60, {}, "execution.activation_checkpointing=true execution.optimizer_offload=true (a third more time, "),
        (
            96,
            {},
            "execution.processes=8 execution.shard=true execution.activation_checkpointing=true (FSDP2 on 8 such ",
        ),
        (48, {"execution.processes": 8, "execution.shard": False}, "execution.shard=true (FSDP2)"),
    ],
)
def test_the_least_change_that_fits_is_named(place: Path, n_layer: int, changes: dict[str, Any], found: str) -> None:
    assert remedy_on("RTX 4090", place, XL | {"model.n_layer": n_layer} | changes).startswith(found)


def test_what_no_change_helps_is_said_with_what_it_takes(place: Path) -> None:
    huge = {"model.d_model": 8192, "model.n_layer": 96}
    assert "weights, gradients and moments alone take" in remedy_on("T4", place, huge)
    long = {"model.context_length": 400_000, "model.attention": "explicit"}
    assert "a smaller model or model.context_length" in remedy_on("T4", place, long)


def test_every_change_that_is_named_fits(place: Path) -> None:
    for name in ("GTX 1660", "T4", "RTX 3060", "A100 40GB"):
        for changes in (XL, LARGE, XL | {"model.n_layer": 24}, XL | {"model.context_length": 4096}):
            found = on(name, recipe_at(place, changes)).remedy
            if found and "=" in found:
                overrides = [parse_override(word) for word in found.partition(" (")[0].split()]
                assert on(name, recipe_at(place, changes | dict(overrides))).remedy is None, (name, found)


def test_what_trying_found_is_believed(place: Path) -> None:
    recipe = recipe_at(place, {"execution.micro_batch_size": 4})

    def here(tried: int | None) -> Forecast:
        return forecast_here(recipe, 40, SPLITS, None, process=0, tried=tried)

    assert (here(4).largest_micro_batch, here(4).remedy) == (4, None)
    assert (here(2).largest_micro_batch, here(2).remedy) == (2, "execution.micro_batch_size=2")
    assert here(0).largest_micro_batch is None
    assert here(0).remedy is not None
    assert here(None).largest_micro_batch == 4


def test_processes_of_a_cpu_share_its_memory_and_are_one_device(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "memory", lambda: 8 * 10**9)
    recipe = recipe_at(place, {"execution.processes": 4})
    measured = Measurement(2.0, 0.0, 0.001, 0.5, 3.0, 10**9, "2026-11-28")
    shared = forecast_here(recipe, 40, SPLITS, measured, process=10**8)
    assert (shared.room, shared.devices, shared.mode) == (2 * 10**9, 1, "DDP")
    assert shared.seconds is not None
    assert shared.seconds["training"] == 20.0
    assert shared.peak_memory is None, "measured in one process, without the buckets of several"
    assert forecast_here(recipe, 40, SPLITS, measured, process=10**8, here=2).room == 4 * 10**9


# A budget.


def test_a_budget_buys_the_largest_model_that_its_time_trains(place: Path) -> None:
    recipe = recipe_at(place)
    seen: list[Recipe] = []

    def takes(candidate: Recipe) -> float:
        seen.append(candidate)
        return float(candidate.model.n_layer)

    choice = choose_size(recipe, 40, 20.0, 5.5, takes)
    assert choice is not None
    assert choice.overrides[:3] == ("model.n_layer=5", "model.d_model=80", "model.n_head=5")
    assert choice.tokens == pytest.approx(20 * choice.parameters, rel=0.01)
    chosen = recipe.replaced(dict(map(parse_override, choice.overrides)))
    assert chosen.model == seen[4].model
    assert choose_size(recipe, 40, 20.0, 0.5, takes) is None
    assert choose_size(recipe, 40, 5.0, 5.5, takes).tokens == pytest.approx(5 * choice.parameters, rel=0.01)  # pyright: ignore[reportOptionalMemberAccess]


def test_the_warm_up_of_a_small_size_is_no_longer_than_its_run(place: Path) -> None:
    slow = recipe_at(place, {"training.steps": 5000, "training.warmup_steps": 4000})
    small = choose_size(slow, 40, 20.0, 1.5, lambda candidate: float(candidate.model.n_layer))
    assert small is not None
    steps = dict(map(parse_override, small.overrides))["training.steps"]
    assert steps < 4000
    assert small.overrides[-1] == f"training.warmup_steps={steps}"
    large = choose_size(slow, 40, 20.0, 9.5, lambda candidate: float(candidate.model.n_layer))
    assert large is not None
    assert large.overrides[-1].startswith("training.steps="), "its own warm-up fits"
