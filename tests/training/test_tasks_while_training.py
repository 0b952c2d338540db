"""Tasks that are asked while a run trains: they are seen in its metrics, and in nothing else."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import scratchlab
from scratchlab.corpus.build import build_corpus
from scratchlab.errors import RecipeError, RunError, UsageError
from scratchlab.evaluation.running import evaluate_task
from scratchlab.evaluation.subjects import run_subject
from scratchlab.evaluation.suites import load_task
from scratchlab.recipe import recipe_from
from scratchlab.runfolder import RunFolder
from scratchlab.training.loop import resume
from scratchlab.training.start import create_run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "text.txt").write_text("every effort moves you toward an ideal. " * 60, encoding="utf-8")
    build_corpus([str(folder / "text.txt")], folder / "corpus", tokenizer="byte")
    write_items(folder / "efforts.jsonl", 12)
    return folder


def write_items(path: Path, count: int) -> None:
    rows = [{"query": f"effort {n}", "choices": ["moves", "ideal", "you"], "gold": n % 3} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def recipe(place: Path, changes: dict[str, Any] | None = None) -> Any:
    base: dict[str, Any] = {
        "corpus": str(place / "corpus"),
        "model": {"n_layer": 1, "n_head": 2, "d_model": 16, "context_length": 32, "dropout": 0.2},
        "training": {"steps": 8, "global_batch_size": 3, "precision": "float32", "checkpoint_every": 3},
        "evaluation": {"every": 4, "sample_tokens": 0},
        "execution": {"device": "cpu", "threads": 1, "compile": False, "micro_batch_size": 3},
    }
    return recipe_from(base, "r").replaced(changes or {})


def asked(place: Path, **more: Any) -> dict[str, Any]:
    return {"evaluation.suites": f"{place}/efforts.jsonl", "evaluation.suites_every": 3} | more


def test_metrics_with_and_without_are_identical(place):
    results = {
        name: scratchlab.train(recipe(place, changes), place / name)
        for name, changes in {"without": {}, "with": asked(place)}.items()
    }
    without, watched = (RunFolder.open(place / name) for name in ("without", "with"))
    suites = [record for record in watched.metrics() if "suites" in record]
    assert [record["step"] for record in suites] == [3, 6, 8]
    assert [record for record in watched.metrics() if "suites" not in record] == without.metrics()
    assert watched.manifest()["fingerprint"] == without.manifest()["fingerprint"]
    assert results["with"]["test"] == results["without"]["test"]
    assert results["with"]["cost"]["seconds"]["suites"] > 0
    assert "suites" not in results["without"]["cost"]["seconds"]


def test_a_run_that_has_diverged_is_finished_without(place, tmp_path):
    """No figures are made up for it, and it does not fail over them."""
    changes = asked(place, **{"training.learning_rate": 1e30, "training.warmup_steps": 0})
    scratchlab.train(recipe(place, changes), tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run")
    assert folder.result() is not None
    assert not [record for record in folder.metrics() if "suites" in record]


def test_the_last_figures_are_those_that_evaluate_gives(place, tmp_path):
    scratchlab.train(recipe(place, asked(place)), tmp_path / "run")
    (*_, last) = (record for record in RunFolder.open(tmp_path / "run").metrics() if "suites" in record)
    result = evaluate_task(run_subject(tmp_path / "run"), load_task(f"{place}/efforts.jsonl"), tmp_path / "kept")
    told = last["suites"]["efforts"]
    assert told["n"] == 12
    assert told["accuracy"]["value"] == result.accuracy.value
    assert told["bits_per_byte"]["value"] == pytest.approx(result.bits_per_byte.value, rel=1e-5)


def test_a_run_that_was_interrupted_asks_the_same_again(place, tmp_path):
    whole = scratchlab.train(recipe(place, asked(place)), tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    (tmp_path / "parts/result.json").unlink()
    shutil.rmtree(tmp_path / "parts/checkpoints/step-00000008")
    assert resume(tmp_path / "parts")["test"] == whole["test"]
    whole_run, parts = (
        [record for record in RunFolder.open(tmp_path / name).metrics() if "suites" in record]
        for name in ("whole", "parts")
    )
    assert parts == whole_run


def test_other_items_than_it_began_with_are_refused(place, tmp_path):
    write_items(tmp_path / "efforts.jsonl", 12)
    folder = create_run(recipe(place, asked(tmp_path)), tmp_path / "run")
    write_items(tmp_path / "efforts.jsonl", 11)
    with pytest.raises(RunError, match="the items of efforts are not those that the run was started with"):
        resume(folder.path)


def test_what_cannot_be_asked_is_known_before_anything_is_trained(place, tmp_path):
    with pytest.raises(UsageError, match="helaswag"):
        create_run(recipe(place, {"evaluation.suites": "helaswag"}), tmp_path / "run")
    changes = {"evaluation.suites": f"piqa,{place}/efforts.jsonl", "evaluation.suites_data": str(place / "corpus")}
    with pytest.raises(RecipeError, match=r"(?s)evaluation.suites: .*piqa"):
        create_run(recipe(place, changes), tmp_path / "run")
    with pytest.raises(UsageError, match=r"efforts, item \d+: it has \d+ tokens, and this model sees 8 at once"):
        create_run(recipe(place, asked(place, **{"model.context_length": 8})), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    scratchlab.train(
        recipe(place, asked(place, **{"model.context_length": 8, "evaluation.truncate": True})), tmp_path / "run"
    )
    (*_, last) = (record for record in RunFolder.open(tmp_path / "run").metrics() if "suites" in record)
    assert last["suites"]["efforts"]["cut"] == 12
