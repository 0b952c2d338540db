"""`scratchlab finetune` as a person uses it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lessons import alpaca, base_recipe, build_text, write_alpaca, write_lines
from scratchlab.cli.main import cli
from scratchlab.corpus.store import open_corpus
from scratchlab.errors import ScratchlabError
from scratchlab.recipe_files import load_recipe
from scratchlab.runfolder import RunFolder
from scratchlab.training.loop import train

QUICK = ["execution.device=cpu", "execution.threads=1", "training.precision=float32", "evaluation.sample_tokens=4"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetune")
    build_text(folder)
    train(base_recipe(folder), folder / "base")
    write_alpaca(folder / "data.json", 60)
    return folder


def run(arguments: list[Any]) -> Result:
    result = CliRunner().invoke(cli, ["finetune", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def refused(arguments: list[Any]) -> str:
    with pytest.raises(ScratchlabError) as caught:
        CliRunner().invoke(cli, ["finetune", *map(str, arguments)], catch_exceptions=False)
    return str(caught.value)


@pytest.fixture
def common(place: Path) -> list[Any]:
    return [place / "base", "--data", place / "data.json", "--template", "chatml"]


def test_masks_are_shown_in_brackets_where_there_is_no_color(place: Path, common: list[Any]) -> None:
    shown = run([*common, "--split", "contiguous:.8,.1,.1", "--show-mask", "2"]).output
    asked, answered = alpaca(1)["instruction"], alpaca(1)["output"]
    assert f"example 2\n<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n⟦{answered}<|im_end|>⟧" in shown
    assert "example 3" not in shown
    assert not (place / "base-corpus").exists()
    whole = json.loads(run([*common, "--show-mask", "1", "--learn-from", "all", "--json"]).stdout)
    (example,) = whole["examples"]
    assert [piece["learned"] for piece in example["pieces"]] == [False, True]
    assert example["pieces"][0]["text"] == "<|im_start|>"
    assert len(json.loads(run([*common, "--json", "--show-mask"]).stdout)["examples"]) == 3


def test_what_does_not_fit_is_shown_so(place: Path, tmp_path: Path) -> None:
    rows = [{"instruction": "Go on. " * 20, "output": "x"}, {"instruction": "Go.", "output": "on " * 40}]
    path = write_lines(tmp_path / "long.jsonl", rows + [alpaca(n) for n in range(20)])
    shown = run([place / "base", "--data", path, "--template", "chatml", "--split", "contiguous:.8,.1,.1",
                 "--show-mask", "2"]).output  # fmt: skip
    assert "example 1: left out, for nothing of its response fits" in shown
    assert "example 2 (its end does not fit the model's context, and is cut off)" in shown


def test_it_is_prepared_taught_and_taught_again(place: Path, common: list[Any], tmp_path: Path) -> None:
    out = tmp_path / "taught"
    prepared = json.loads(run([*common, "--out", out, "--prepare", "--json", *QUICK]).stdout)
    assert prepared == {"corpus": f"{out}-corpus", "left_out": {}, "recipe": f"{out}.toml"}
    assert not out.exists()
    recipe, corpus = load_recipe(prepared["recipe"]), open_corpus(prepared["corpus"])
    assert recipe.start.weights == str(place / "base")
    assert (recipe.training.epochs, recipe.training.schedule) == (3.0, "cosine")
    assert recipe.training.learning_rate == pytest.approx(0.1 * 1e-3), "a tenth of that run's"
    run([*common, "--out", out, *QUICK])
    folder = RunFolder.open(out)
    counts = folder.manifest()["examples"]["train"]
    per_step = recipe.training.global_batch_size * counts["examples"] / counts["per_epoch"]
    assert per_step == pytest.approx(16, abs=2)
    steps = folder.resolved().settled.steps
    assert steps == -(-3 * counts["per_epoch"] // recipe.training.global_batch_size)
    assert (recipe.training.warmup_steps, recipe.evaluation.every) == (round(0.1 * steps), max(1, steps // 10))
    assert folder.manifest()["corpus"]["sha256"] == corpus.sha256, "that which was prepared"
    run([out, "--data", place / "data.json", "--out", tmp_path / "again", "--prepare"])
    template = open_corpus(tmp_path / "again-corpus").chat_template
    assert template is not None
    assert template.source == folder.chat_template_path.read_text(encoding="utf-8"), "its own, where none is named"


def test_overrides_come_last(common: list[Any], tmp_path: Path) -> None:
    given = ["training.steps=7", "training.warmup_steps=0", "training.global_batch_size=3", "training.patience=2"]
    run([*common, "--out", tmp_path / "o", "--prepare", "--lora", "r=4,alpha=8", *given])
    recipe = load_recipe(tmp_path / "o.toml")
    assert (recipe.training.steps, recipe.training.warmup_steps, recipe.training.global_batch_size) == (7, 0, 3)
    assert (recipe.training.patience, recipe.evaluation.every) == (2, 1)
    assert (recipe.finetuning.lora_rank, recipe.finetuning.lora_alpha) == (4, 8.0)
    assert recipe.training.learning_rate == pytest.approx(1e-3), "ten times what all weights would have"


def test_the_rate_is_one_that_people_would_write(
    common: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scratchlab.training.finetuning.LORA_TIMES", 3)
    run([*common, "--out", tmp_path / "o", "--prepare", "--lora", "r=4"])
    assert load_recipe(tmp_path / "o.toml").training.learning_rate == 0.0003 != 3 * (0.1 * 1e-3)


def test_a_corpus_of_examples_is_taken_as_it_is(place: Path, common: list[Any], tmp_path: Path) -> None:
    run([*common, "--out", tmp_path / "a", "--prepare"])
    run([place / "base", "--data", tmp_path / "a-corpus", "--out", tmp_path / "b", "--prepare"])
    assert load_recipe(tmp_path / "b.toml").corpus == str(tmp_path / "a-corpus")
    words = refused([place / "base", "--data", tmp_path / "a-corpus", "--template", "chatml", "--out", tmp_path / "c"])
    assert "whose examples are worded and split already" in words


def test_what_is_there_is_not_overwritten(place: Path, common: list[Any], tmp_path: Path) -> None:
    run([*common, "--out", tmp_path / "a", "--prepare"])
    (tmp_path / "a.toml").unlink()
    run([*common, "--out", tmp_path / "a", "--prepare"])
    assert "a.toml exists already" in refused([*common, "--out", tmp_path / "a", "--prepare"])
    others = write_alpaca(tmp_path / "others.json", 50)
    message = refused([place / "base", "--data", others, "--out", tmp_path / "a", "--prepare"])
    assert "a-corpus is there, and is of other examples or worded otherwise" in message
    shutil.copytree(place / "base", tmp_path / "run")
    assert "To go on with it: scratchlab train --resume" in refused([*common, "--out", tmp_path / "run"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "o", "--lora", "alpha=3"], "say the rank of the adapters"),
        (["--out", "o", "--lora", "rang=3"], "there is no rang"),
        ([], "Missing option '--out'"),
        (["--out", "o", "training.rate=1"], "training.rate: there is no such field"),
        (["--out", "o", "--template", "chatlm"], "expected alpaca, chatml, or the path"),
    ],
)
def test_mistakes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refused([place / "base", "--data", place / "data.json", *arguments])


def test_what_cannot_be_taught(place: Path, tmp_path: Path) -> None:
    assert "is not a run folder" in refused([place / "text", "--data", place / "data.json", "--out", tmp_path / "o"])
    changes = {"model": {"architecture": "rnn", "n_layer": 1, "d_model": 8}, "training.order": "streams"}
    train(base_recipe(place, changes), tmp_path / "rnn")
    message = refused([tmp_path / "rnn", "--data", place / "data.json", "--out", tmp_path / "o"])
    assert "model.architecture = 'rnn' cannot learn from examples" in message
