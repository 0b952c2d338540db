"""`scratchlab plan` as a person uses it."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scratchlab.cli.main import cli
from scratchlab.corpus.build import build_corpus
from scratchlab.errors import UsageError
from scratchlab.training import probe

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "text.txt").write_text("every effort moves you toward an ideal. " * 200, encoding="utf-8")
    build_corpus([str(folder / "text.txt")], folder / "corpus", tokenizer="char")
    return folder / "corpus"


@pytest.fixture(autouse=True)
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def plan(corpus: Path, *arguments: str, recipe: str = "nano-char") -> Result:
    settled = [f"corpus={corpus}", "execution.threads=1", "execution.device=cpu"]
    return CliRunner().invoke(cli, ["plan", str(RECIPES / f"{recipe}.toml"), *settled, *arguments])


def test_a_plan_says_what_a_run_takes_here_and_elsewhere(corpus: Path) -> None:
    text = plan(corpus).output
    for said in ("parameters", "FLOPs", "backward twice the forward", "logits", "micro-batch", "disk", "--measure"):
        assert said in text
    for said in ("GTX 1660", "B200", "a rule of thumb: nobody measured it", "as published", "No price known: GTX 1660"):
        assert said in text


def test_json_has_every_figure(corpus: Path) -> None:
    report = json.loads(plan(corpus, "--json", "--device", "T4", "--device", "h100", "training.steps=100").stdout)
    assert [device["device"] for device in report["devices"]] == ["T4", "H100"]
    assert [device["precision"] for device in report["devices"]] == ["fp16", "bf16"]
    assert report["tokens"] == 100 * 12 * 64
    assert report["flops"] == report["tokens"] * report["flops_per_token"]
    memory = report["here"]["memory"]
    assert memory["total"] == sum(amount for part, amount in memory.items() if part != "total")
    assert report["devices"][1]["price_source"].endswith("2026-05-07")


def test_of_several_processes_each_has_its_share_of_the_batch(corpus: Path) -> None:
    outcome = plan(corpus, "--json", "--device", "T4", "execution.processes=2", "execution.micro_batch_size=12")
    assert outcome.exit_code == 0
    assert json.loads(outcome.stdout)["here"]["micro_batch_size"] == 6


def test_a_micro_batch_found_by_trying_is_said(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_trier", lambda recipe, vocab_size: lambda size: size <= 5)
    assert "the largest that fits 12, by trying 4" in plan(corpus, "--probe", "--device", "T4").output


def test_a_budget_gives_a_line_to_paste(corpus: Path) -> None:
    text = plan(corpus, "--budget", "0.5usd", "--device", "T4").output
    line = text.splitlines()[-1]
    assert line.startswith("  scratchlab train ")
    overrides = line.partition("--out DIR ")[2].split()
    again = json.loads(plan(corpus, "--json", "--device", "T4", *overrides).stdout)["devices"][0]
    assert 0.3 < again["price"] <= 0.5
    assert "4.2" not in plan(corpus, "--hours", "0.1", "--device", "T4").output.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "H900"], "'H900'.*the table has no such device"),
        (["--budget", "35eur", "--device", "T4"], "an amount in US dollars"),
        (["--budget", "-3", "--device", "T4"], "an amount in US dollars"),
        (["--budget", "3", "--hours", "2"], "give one of them"),
        (["--budget", "3", "--device", "V100"], "V100: no price known; give one with a file of your own"),
        (["--hours", "2"], "rests on nothing: no steps were timed"),
        (["--hours", "2", "--device", "T4", "--device", "H100"], "one device"),
    ],
)
def test_mistakes_are_named(corpus: Path, arguments: list[str], said: str) -> None:
    result = plan(corpus, *arguments)
    assert isinstance(result.exception, UsageError)
    assert re.search(said, str(result.exception))
