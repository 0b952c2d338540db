"""Forecasts against real runs, and what they add up to."""

from pathlib import Path
from typing import Any

import pytest

from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.store import open_corpus
from scratchlab.devices import Device, device_table
from scratchlab.recipe import Recipe, recipe_from
from scratchlab.runfolder import RunFolder
from scratchlab.training import timing
from scratchlab.training.chinchilla import choose_size
from scratchlab.training.forecast import Work, forecast_here, forecast_there, happened
from scratchlab.training.loop import resume
from scratchlab.training.measurements import Measurement, known_measurement
from scratchlab.training.plan import plan_run
from scratchlab.training.start import create_run
from scratchlab.training.summary import validation_records


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


def test_without_a_measurement_memory_is_forecast_and_time_is_not(place: Path, tmp_path: Path) -> None:
    kept = create_run(recipe_at(place, {"model.d_model": 64}), tmp_path / "run").manifest()["forecast"]
    assert kept["seconds"] is None
    assert kept["memory"]["total"] > kept["memory"]["process"] > 0
    assert "--measure" in kept["basis"]
    beside = happened(kept, {"total_seconds": 2.0}, 100)
    assert beside["seconds"] == {"forecast": None, "happened": 2.0, "error": None}
    assert beside["peak_memory"]["error"] == kept["memory"]["total"] / 100 - 1


@pytest.mark.parametrize("changes", [{}, {"training.steps": 12, "training.checkpoint_every": 6}, {"training.steps": 1}])
def test_work_is_what_a_run_does(place: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    recipe = recipe_at(place, changes)
    corpus = open_corpus(place / "corpus")
    work = Work.of(recipe, corpus.vocab_size, corpus)
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
    forecast = forecast_here(recipe, corpus.vocab_size, corpus, measured, process=10**8)
    work = Work.of(recipe, corpus.vocab_size, corpus)
    assert forecast.seconds == {
        "training": 25.0,
        "evaluation": pytest.approx(work.scored_tokens * 0.001 + 4 * 1.5),
        "checkpoints": 9.0,
        "snapshots": work.snapshots * 1.0,
    }
    assert forecast.tokens_per_second == pytest.approx(10 * 64 / 25.0)
    assert forecast.memory.process == 10**8


def test_another_device_takes_as_long_as_its_share_of_the_peak_says(place: Path) -> None:
    corpus = open_corpus(place / "corpus")
    large = recipe_at(place, {"model.d_model": 512, "model.n_layer": 8, "training.global_batch_size": 4096})
    fast, slow = (
        forecast_there(large, corpus.vocab_size, corpus, name, device_table()[name]) for name in ("H100", "V100")
    )
    assert fast.precision == slow.precision == "float32"  # as the recipe says
    assert fast.seconds is not None
    assert slow.seconds is not None
    assert slow.seconds["training"] / fast.seconds["training"] == pytest.approx(67 / 15.7, rel=0.01)
    assert fast.price == pytest.approx(3.78 * sum(fast.seconds.values()) / 3600)
    assert slow.price is None


def test_small_models_wait_for_kernels_and_wide_losses_for_memory(place: Path) -> None:
    corpus, card = open_corpus(place / "corpus"), Device(memory_gib=80, bandwidth=1000, bf16=1000, fp16=1000)
    free = recipe_at(place, {"training.precision": "bf16"})
    tiny = forecast_there(free, corpus.vocab_size, corpus, "card", card)
    assert tiny.seconds is not None
    assert tiny.seconds["training"] >= 10 * 2 * 60 * 5e-6
    wide = forecast_there(free, 50_000, corpus, "card", Device(memory_gib=80, bandwidth=1, bf16=1000, fp16=1000))
    assert wide.seconds is not None
    assert wide.seconds["training"] > 100 * tiny.seconds["training"]


def test_what_does_not_fit_or_is_not_there_is_said_with_what_to_do(place: Path) -> None:
    corpus, t4 = open_corpus(place / "corpus"), device_table()["T4"]
    insists = forecast_there(recipe_at(place, {"training.precision": "bf16"}), 40, corpus, "T4", t4)
    assert insists.remedy == "T4 has no bf16: training.precision=fp16"
    assert insists.seconds is None
    huge = recipe_at(place, {"model.d_model": 8192, "model.n_layer": 48})
    assert "weights, gradients and moments alone take" in str(forecast_there(huge, 40, corpus, "T4", t4).remedy)
    long = recipe_at(place, {"model.context_length": 200_000, "model.attention": "explicit"})
    assert "a smaller model.context_length" in str(forecast_there(long, 40, corpus, "T4", t4).remedy)


def test_a_budget_buys_the_largest_model_that_its_time_trains(place: Path) -> None:
    recipe = recipe_at(place)
    seen: list[Recipe] = []

    def takes(candidate: Recipe) -> float:
        seen.append(candidate)
        return float(candidate.model.n_layer)

    choice = choose_size(recipe, 40, 5.5, takes)
    assert choice is not None
    assert choice.overrides[:3] == ("model.n_layer=5", "model.d_model=80", "model.n_head=5")
    assert choice.tokens == pytest.approx(20 * choice.parameters, rel=0.01)
    chosen = recipe.replaced(dict(pair for pair in _pairs(choice.overrides)))
    assert chosen.model == seen[4].model
    assert choose_size(recipe, 40, 0.5, takes) is None
    own_rule = recipe.replaced({"training.tokens_per_parameter": 5.0})
    assert choose_size(own_rule, 40, 5.5, takes).tokens == pytest.approx(5 * choice.parameters, rel=0.01)  # pyright: ignore[reportOptionalMemberAccess]


def _pairs(overrides: tuple[str, ...]) -> list[tuple[str, int]]:
    return [(name, int(value)) for name, _, value in (override.partition("=") for override in overrides)]
