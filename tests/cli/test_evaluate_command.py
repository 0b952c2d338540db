"""`scratchlab evaluate` with several models, tasks and texts, and what it says of what is not there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from scratchlab.cli.main import cli
from scratchlab.errors import ScratchlabError, UsageError

RECIPE = """
corpus = "{corpus}"
[model]
n_layer = 1
n_head = 2
d_model = 16
context_length = 32
[training]
steps = 4
global_batch_size = 4
[evaluation]
sample_tokens = 0
snapshots = 0
[execution]
device = "cpu"
threads = 1
"""
WORDS = ("every", "effort", "moves", "you", "toward", "an", "ideal")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on one corpus, one on another, and two small tasks."""
    folder = tmp_path_factory.mktemp("evaluate")
    rng = np.random.default_rng(1)
    for name in ("mine", "other"):
        (folder / name).mkdir()
        for number in range(10):
            text = " ".join(rng.choice(WORDS, 120))
            (folder / name / f"{number}.txt").write_text(text + "\n", encoding="utf-8")
        run(["corpus", "build", f"{folder}/{name}", "--out", f"{folder}/corpora/{name}", "--tokenizer", "byte"])
        (folder / f"{name}.toml").write_text(RECIPE.format(corpus=folder / "corpora" / name), encoding="utf-8")
    for run_name, recipe, seed in (("first", "mine", 1), ("second", "mine", 2), ("third", "other", 1)):
        run(["train", f"{folder}/{recipe}.toml", "--out", f"{folder}/{run_name}", f"seeds.init={seed}"])
    for task in ("colors", "animals"):
        rows = [{"query": f"The {task} {n} moves", "choices": [" you", " an"], "gold": n % 2} for n in range(6)]
        (folder / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where results are kept."""
    monkeypatch.chdir(tmp_path)


def run(arguments: list[str]) -> Result:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def report(arguments: list[str]) -> dict[str, Any]:
    return json.loads(run(["evaluate", *arguments, "--json"]).stdout)


def fail(arguments: list[str]) -> ScratchlabError:
    with pytest.raises(ScratchlabError) as caught:
        CliRunner().invoke(cli, ["evaluate", *arguments], catch_exceptions=False)
    return caught.value


def test_models_stand_side_by_side_in_one_table(place: Path) -> None:
    arguments = [f"{place}/first", f"{place}/second", "--suite", f"{place}/colors.jsonl,{place}/animals.jsonl:3"]
    found = report(arguments)
    assert [one["model"] for one in found["models"]] == arguments[:2]
    assert [[task["n"] for task in one["tasks"]] for one in found["models"]] == [[6, 3], [6, 3]]
    head, *rows = run(["evaluate", *arguments]).stdout.splitlines()
    assert head.count("bits/byte") == 2
    assert all(name in head for name in arguments[:2])
    for row, task in zip(rows, found["models"][0]["tasks"], strict=True):
        assert f"{task['accuracy']['value']:.3f} ± {task['accuracy']['error']:.3f}" in row


def test_what_was_scored_is_not_scored_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scratchlab.evaluation.scorer import ModelScorer

    arguments = [f"{place}/first", "--suite", f"{place}/colors.jsonl", "--corpus", f"{place}/corpora/other"]
    found = report(arguments)
    monkeypatch.setattr(ModelScorer, "answers", lambda self, questions: [] if not questions else pytest.fail("asked"))
    monkeypatch.setattr(ModelScorer, "windows", lambda self, tokens, targets: pytest.fail("scored"))
    assert report(arguments) == found


def test_without_a_corpus_runs_are_scored_on_the_one_that_they_share(place: Path) -> None:
    both = report([f"{place}/first", f"{place}/second"])
    assert both["models"][0]["loss"]["n_tokens"] == both["models"][1]["loss"]["n_tokens"] > 0
    assert "different corpora" in str(fail([f"{place}/first", f"{place}/third"]))


def test_a_stated_range_of_anybodys_tokens(place: Path) -> None:
    np.array([ord(letter) for letter in " ".join(WORDS * 40)], np.uint16).tofile(place / "tokens.bin")
    arguments = [f"{place}/first", "--corpus", f"{place}/tokens.bin", "--made-by", f"{place}/corpora/mine"]
    whole, part = report(arguments), report([*arguments, "--tokens", "100:1_000"])
    assert (whole["models"][0]["loss"]["n_tokens"], part["models"][0]["loss"]["n_tokens"]) == (40 * 39 - 2, 899)


@pytest.mark.parametrize("tokens", ["100", "a:b", "10-20", ":", "1:²"])
def test_a_range_that_is_none_is_refused(place: Path, tokens: str) -> None:
    error = fail([f"{place}/first", "--tokens", tokens])
    assert isinstance(error, UsageError)
    assert f"--tokens {tokens}" in str(error)


def test_a_task_that_is_no_task_and_a_file_that_is_not_there(place: Path) -> None:
    assert "helaswag" in str(fail([f"{place}/first", "--suite", "helaswag"]))
    assert "nowhere.jsonl" in str(fail([f"{place}/first", "--suite", f"{place}/nowhere.jsonl"]))


def test_a_part_of_a_suite_says_what_is_missing(place: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"query": f"It is {n}", "choices": [" so", " not so"], "gold": 0} for n in range(3)]
    (data / "piqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = [f"{place}/first", "--suite", "basic", "--data", str(data)]
    found = report(arguments)
    assert [task["task"] for task in found["models"][0]["tasks"]] == ["piqa"]
    assert "hellaswag" in found["missing"]
    assert "hellaswag" in run(["evaluate", *arguments]).stderr


@pytest.mark.parametrize("suite", ["core:11", "colors.jsonl, core:11", "colors.jsonl:3,core:11"])
def test_core_is_given_wherever_it_stands_in_the_suite(suite: str, place: Path, tmp_path: Path) -> None:
    rows = [{"query": f"It is {n}", "choices": ["so", "not so"], "gold": 0} for n in range(11)]
    (tmp_path / "copa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = [f"{place}/first", "--suite", suite.replace("colors", f"{place}/colors"), "--data", str(tmp_path)]
    assert "CORE over 1 of 22 tasks, 1 of them in part (not comparable)" in run(["evaluate", *arguments]).stdout


@pytest.mark.parametrize(
    "option", [["--split", "test"], ["--tokens", "0:9"], ["--stride", "4"], ["--made-by", "gpt2"], ["--truncate"]]
)
def test_an_option_that_would_mean_nothing_is_refused(option: list[str], place: Path) -> None:
    asked = [] if option == ["--truncate"] else ["--suite", f"{place}/colors.jsonl"]
    error = fail([f"{place}/first", *asked, *option])
    assert isinstance(error, UsageError)
    assert str(error).startswith(f"{option[0]} is for ")


def test_a_row_without_a_field_is_named(place: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"query": "a", "choices": [" b"], "gold": 0}\n{"query": "a", "gold": 0}\n')
    message = str(fail([f"{place}/first", "--suite", "bad.jsonl"]))
    assert "bad.jsonl" in message
    assert "2" in message
    assert "choices" in message


def test_an_item_longer_than_the_context_is_named_or_cut_and_counted(place: Path, tmp_path: Path) -> None:
    long = {"query": "every effort moves you " * 5, "choices": [" a", " b"], "gold": 0}
    (tmp_path / "long.jsonl").write_text(json.dumps({**long, "query": "you"}) + "\n" + json.dumps(long) + "\n")
    message = str(fail([f"{place}/first", "--suite", "long.jsonl"]))
    assert "item 2" in message
    assert "--truncate" in message
    (model,) = report([f"{place}/first", "--suite", "long.jsonl", "--truncate"])["models"]
    assert (model["tasks"][0]["n"], model["tasks"][0]["cut"]) == (2, 1)
