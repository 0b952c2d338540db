"""`scratchlab plan` as a person uses it."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from scratchlab import hardware
from scratchlab.cli.main import cli
from scratchlab.corpus.build import build_corpus
from scratchlab.errors import CorpusError, DeviceError, UsageError
from scratchlab.recipe import Recipe
from scratchlab.training import plan as planning
from scratchlab.training import probe, timing

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"


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
    monkeypatch.setattr(hardware, "busy_cores", lambda: 0)  # which is watched for half a second
    monkeypatch.setattr(hardware, "usable_cores", lambda: 1)


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


def test_every_command_of_the_docs_runs(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEASURE_SECONDS", "SCORE_SECONDS"):
        monkeypatch.setattr(timing, name, 0.1)
    monkeypatch.setattr(probe, "_trier", lambda recipe, vocab_size: lambda size: size <= 5)
    (tmp_path / "recipes").symlink_to(RECIPES)
    (tmp_path / "corpora").mkdir()
    for name in ("shakespeare", "large"):
        (tmp_path / "corpora" / name).symlink_to(corpus)
    monkeypatch.chdir(tmp_path)
    docs = (ROOT / "docs/planning.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    scratchlab (plan .*?)(?:\s+#.*)?$", docs, re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        result = CliRunner().invoke(cli, shlex.split(command), catch_exceptions=False)
        assert result.exit_code == 0, command
        assert "parameters" in result.stdout, command


def test_a_micro_batch_found_by_trying_is_said(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_trier", lambda recipe, vocab_size: lambda size: size <= 5)
    text = plan(corpus, "--probe", "--device", "T4").output
    assert "micro-batch 12; the largest that fits is 4, by trying" in text
    assert "to do       execution.micro_batch_size=4" in text
    monkeypatch.setattr(probe, "_trier", lambda recipe, vocab_size: lambda size: size <= 12)
    again = plan(corpus, "--probe", "--device", "T4", "model.n_layer=3").output
    assert "micro-batch 12, the largest that fits, by trying" in again
    assert "to do" not in again
    monkeypatch.setattr(probe, "_trier", lambda recipe, vocab_size: lambda size: False)
    none = plan(corpus, "--probe", "--device", "T4", "model.n_layer=2").output
    assert "not even one sequence fits, by trying" in none
    assert "to do       execution.activation_checkpointing=true" in none


def test_a_card_that_holds_no_sequence_is_planned_with_one(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = planning.resolve

    def as_on_a_card(recipe: Recipe, vocab_size: int, *more: Any) -> Recipe:
        """Of which the micro-batch is tried, as on a GPU."""
        resolved = resolve(recipe, vocab_size, *more)
        if recipe.execution.micro_batch_size == "auto":
            probe.probed_micro_batch(resolved, vocab_size)
        return resolved

    monkeypatch.setattr(planning, "resolve", as_on_a_card)
    monkeypatch.setattr(probe, "_trier", lambda recipe, vocab_size: lambda size: False)
    text = plan(corpus, "--device", "T4").output
    assert "micro-batch 1; not even one sequence fits, by trying" in text


def test_memory_that_runs_out_while_measuring_is_said(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def runs_out(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(planning, "measure", runs_out)
    result = plan(corpus, "--measure", "--device", "T4")
    assert isinstance(result.exception, DeviceError)
    assert "ran out of memory" in str(result.exception)
    assert "execution.micro_batch_size=6" in str(result.exception)


@pytest.mark.parametrize(
    "asked", ["execution.device=cuda", "training.precision=tf32", "execution.optimizer_offload=true"]
)
def test_what_this_machine_cannot_is_planned_for_others(corpus: Path, asked: str) -> None:
    """Which is just what is planned before a card is rented."""
    text = plan(corpus, asked, "execution.processes=8", "--device", "H100").output
    assert "This machine cannot train it: " in text
    assert asked.partition("=")[0].partition(".")[2] in text
    assert re.search(r"^ 8 x H100, DDP \* .* \d+\.\d\d$", text, re.MULTILINE)
    alone = plan(corpus, asked, "--hours", "1")
    assert isinstance(alone.exception, DeviceError)


def test_a_corpus_need_not_be_there(tmp_path: Path) -> None:
    arguments = [str(RECIPES / "gpt2-small.toml"), "--device", "H100", f"corpus={tmp_path}/none", "execution.threads=1"]
    missing = CliRunner().invoke(cli, ["plan", *arguments])
    assert isinstance(missing.exception, CorpusError)
    assert "--vocab-size" in str(missing.exception)
    report = json.loads(CliRunner().invoke(cli, ["plan", *arguments, "--vocab-size", "50257", "--json"]).stdout)
    assert report["parameters"] == 124_439_808
    assert report["epochs"] is None
    assert report["devices"][0]["seconds"]["evaluation"] > 0, "of evaluation.max_tokens"
    epochs = CliRunner().invoke(cli, ["plan", *arguments, "--vocab-size", "50257", "training.epochs=3"])
    assert "training.epochs: how many steps that is depends on the corpus" in str(epochs.exception)


def test_a_budget_gives_a_line_to_paste(corpus: Path) -> None:
    text = plan(corpus, "--budget", "0.5usd", "--device", "T4", "training.steps=900", "model.dropout=0.1").output
    line = text.splitlines()[-1]
    assert line.startswith(f"  scratchlab train {RECIPES}/nano-char.toml --out DIR corpus={corpus} ")
    assert "model.dropout=0.1" in line, "what was given besides goes on"
    assert "training.steps=900" not in line
    assert re.search(r"\(0\.50 usd of rent\) train .* parameter, [\d,.]+ epochs", text)
    overrides = line.partition("--out DIR ")[2].split()
    again = json.loads(plan(corpus, "--json", "--device", "T4", *overrides).stdout)["devices"][0]
    assert 0.3 < again["price"] <= 0.5
    assert "4.2" not in plan(corpus, "--hours", "0.1", "--device", "T4").output.splitlines()[-1]


def test_a_budget_is_for_as_many_cards_as_there_are_processes(corpus: Path) -> None:
    arguments = ["--budget", "2usd", "--device", "H100", "--json"]
    one, eight = (
        json.loads(plan(corpus, *arguments, f"execution.processes={processes}").stdout)["choice"]
        for processes in (1, 8)
    )
    assert eight["hours"] == pytest.approx(one["hours"] / 8)
    assert (eight["devices"], eight["price"]) == (8, pytest.approx(2.0))


def test_a_budget_reads_as_many_tokens_as_the_recipe_says(corpus: Path) -> None:
    arguments = ["--hours", "0.2", "--device", "T4", "--json", "training.tokens_per_parameter=5"]
    assert json.loads(plan(corpus, *arguments).stdout)["choice"]["tokens_per_parameter"] == pytest.approx(5, rel=0.01)


def test_a_budget_finds_a_size_that_fits_where_the_recipes_own_does_not(corpus: Path) -> None:
    large = ["model.n_layer=200", "model.d_model=8192", "model.n_head=64", "--hours", "200", "--device", "T4"]
    choice = json.loads(plan(corpus, *large, "--json").stdout)["choice"]
    assert choice["parameters"] < 10**9


def test_a_budget_here_is_for_what_this_machine_holds(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MEASURE_SECONDS", "SCORE_SECONDS"):
        monkeypatch.setattr(timing, name, 0.1)
    monkeypatch.chdir(corpus.parent)
    arguments = ["--measure", "--hours", "1000000", "--json"]
    most = json.loads(plan(corpus, *arguments).stdout)["choice"]["parameters"]
    monkeypatch.setattr(hardware, "memory", lambda: 2 * 10**9)
    less = json.loads(plan(corpus, *arguments).stdout)["choice"]["parameters"]
    assert 16 * less < 2 * 10**9 < 16 * most


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "H900"], "'H900'.*the table has no such device"),
        (["--budget", "35eur", "--device", "T4"], "an amount in US dollars"),
        (["--budget", "-3", "--device", "T4"], "an amount in US dollars"),
        (["--budget", "3", "--hours", "2"], "give one of them"),
        (["--budget", "3", "--device", "V100"], "V100: no price known; give one with a file of your own"),
        (["--hours", "2"], "no steps were timed here yet: add --measure"),
        (["--hours", "2", "--device", "T4", "--device", "H100"], "one kind of device"),
        (["--hours", "2", "--device", "T4", "training.precision=bf16"], "T4 has no bf16: training.precision=fp16"),
        (["--hours", "1e-9", "--device", "T4"], "do not train even the smallest"),
        (["--measure", "--vocab-size", "65"], "needs the corpus"),
        (["--measure", "execution.processes=2", "execution.shard=true"], "each has a part of the weights alone"),
    ],
)
def test_mistakes_are_named(corpus: Path, arguments: list[str], said: str) -> None:
    result = plan(corpus, *arguments)
    assert isinstance(result.exception, UsageError)
    assert re.search(said, str(result.exception))
