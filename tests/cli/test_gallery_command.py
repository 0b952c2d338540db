"""`scratchlab gallery` as a person uses it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scratchlab.cli.main import cli
from scratchlab.corpus.build import build_corpus
from scratchlab.errors import ScratchlabError
from scratchlab.recipe import recipe_from
from scratchlab.training.loop import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery-command")
    (folder / "text.txt").write_text("Every effort moves you.\n\n" * 80, encoding="utf-8")
    build_corpus([str(folder / "text.txt")], folder / "corpus", tokenizer="char")
    tables = {
        "corpus": str(folder / "corpus"),
        "model": {"n_layer": 1, "n_head": 1, "d_model": 8, "context_length": 8},
        "training": {"steps": 8, "global_batch_size": 2, "precision": "float32"},
        "evaluation": {"every": 4, "sample_tokens": 0, "max_tokens": 64},
        "execution": {"device": "cpu", "threads": 1, "compile": False, "micro_batch_size": 2},
    }
    train(recipe_from(tables, where="test"), folder / "run")
    return folder / "run"


def ask(run: Path, *options: str) -> Result:
    result = CliRunner().invoke(cli, ["gallery", str(run), "--max-tokens", "5", *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def fail(run: Path, *options: str) -> ScratchlabError:
    with pytest.raises(ScratchlabError) as caught:
        CliRunner().invoke(cli, ["gallery", str(run), *options], catch_exceptions=False)
    return caught.value


def test_pages_lie_in_the_run_unless_told_otherwise(run: Path, tmp_path: Path) -> None:
    said = ask(run)
    assert f"page: {run}/gallery.html" in said.stdout
    assert f"text: {run}/gallery.md" in said.stdout
    assert "step 2: " in said.stderr, "what goes on is told meanwhile"
    assert "Every" in (run / "gallery.md").read_text(encoding="utf-8"), "an opening of the validation split"
    ask(run, "--out", f"{tmp_path}/new/page.html", "--prompt", "you")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"page.html", "page.md"}


def test_json_has_all_that_the_page_has(run: Path) -> None:
    report = json.loads(
        ask(run, "--json", "--losses", "3.1,2", "--prompt", "you", "--prompt", "", "--seed", "9").stdout
    )
    assert report["prompts"] == ["you", ""]
    assert report["settings"]["seed"] == 9
    assert sorted(loss for entry in report["entries"] for loss in entry["asked"]) == [2, 3.1]
    assert all(len(entry["samples"]) == 2 for entry in report["entries"])
    assert all(entry["loss"]["nats_per_token_error"] for entry in report["entries"])
    assert report["pages"] == [f"{run}/gallery.html", f"{run}/gallery.md"]


@pytest.mark.parametrize("losses", ["3,x", "-1", "nan", "3,,2", "inf"])
def test_losses_that_are_none_are_told(run: Path, losses: str) -> None:
    error = fail(run, "--losses", losses)
    assert error.exit_code == 2
    assert f"--losses {losses}: expected losses in nats per token" in str(error)


def test_a_page_has_the_name_of_a_page(run: Path, tmp_path: Path) -> None:
    assert "such as" in str(fail(run, "--out", f"{tmp_path}/pages"))
    assert "is not a run folder" in str(fail(tmp_path))
