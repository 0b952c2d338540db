"""What a card tells of a run that was cut off, and of the runs that a run began from."""

import json
import shutil
from pathlib import Path
from typing import Any

import others
import pytest
from cards import card_of
from click.testing import CliRunner
from huggingface_hub import ModelCard

from lessons import WORDS, base_recipe, build_text, write_alpaca, write_lines
from scratchlab.cli.interop import export_model
from scratchlab.corpus.chat import CHATML
from scratchlab.corpus.examples.build import build_examples
from scratchlab.corpus.examples.encode import open_wording
from scratchlab.interop import exports
from scratchlab.runfolder import RunFolder
from scratchlab.training.loop import train
from tiny_run import make_run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, one that was taught with its weights, and one that learned preferences with those."""
    place = tmp_path_factory.mktemp("story")
    build_text(place)
    longer = {"model.context_length": 256}
    train(base_recipe(place, longer), place / "base")
    wording = open_wording("chatml")
    build_examples(
        [write_alpaca(place / "asked.json")], place / "lessons", "instructions", wording, str(place / "base")
    )
    begin = {**longer, "corpus": str(place / "lessons"), "start.weights": str(place / "base")}
    train(base_recipe(place, {**begin, "evaluation.sample_tokens": 4, "evaluation.every": 1}), place / "taught")
    rows = [{"prompt": f"Say {one}.", "chosen": f"{one}, please", "rejected": f"no {one}"} for one in WORDS]
    pairs = write_lines(place / "pairs.jsonl", rows)
    build_examples([pairs], place / "pairs", "pairs", wording, str(place / "taught"), "contiguous:.6,.2,.2")
    begin = {**longer, "corpus": str(place / "pairs"), "start.weights": str(place / "taught")}
    train(base_recipe(place, begin), place / "preferring")
    return place


def part(card: str, title: str) -> str:
    """What stands below a title."""
    return card.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def row(card: str, name: str) -> str:
    (line,) = [line for line in card.splitlines() if line.startswith(f"| {name} |")]
    return line


def without_result(run: RunFolder, to: Path, planned: int = 1000) -> RunFolder:
    """The run as it would be if it had been cut off."""
    cut = RunFolder(Path(shutil.copytree(run.path, to)))
    (cut.path / "result.json").unlink()
    resolved = cut.path / "resolved.json"
    content = json.loads(resolved.read_text(encoding="utf-8"))
    content["training"]["steps"] = planned
    resolved.write_text(json.dumps(content), encoding="utf-8")
    return cut


def test_what_an_unfinished_run_recorded_is_told(place: Path, tmp_path: Path) -> None:
    finished = RunFolder.open(place / "base")
    run = without_result(finished, tmp_path / "run")
    whole, card = card_of(finished, tmp_path / "whole"), card_of(run, tmp_path / "card")
    how, manifest = part(card, "How it was trained"), run.manifest()
    assert "The run was not finished: its last checkpoint is of step 2, of 1,000 that were planned." in how
    assert "There is no test loss" in how
    assert "scratchlab. The run was not finished:" in card.partition("## Load it")[0]
    assert row(how, "steps") == "| steps | 2 of 4 sequences (1,000 were planned) |"
    for name in ("tokens", "learning rate", "machine", "time", "money", "speed", "FLOPs", "seeds", "software"):
        assert row(how, name) == row(whole, name)
    assert manifest["fingerprint"] in row(how, "fingerprint")
    assert "The run was not finished" not in whole


def test_what_an_unfinished_run_did_not_record_is_said_in_words(tmp_path: Path) -> None:
    card = card_of(make_run(tmp_path / "run", others.make_tokenizer()), tmp_path / "card")
    for name in ("machine", "time", "money", "speed", "FLOPs", "seeds", "software"):
        assert row(card, name) == f"| {name} | not known |"


@pytest.mark.parametrize("finished", [True, False])
def test_export_says_that_a_run_was_not_finished(
    finished: bool, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: Any) -> list[str]:
        return ["model.gguf"]

    monkeypatch.setattr(exports, "OTHERS", {"gguf": nothing})
    run = RunFolder.open(place / "base")
    run = run if finished else without_result(run, tmp_path / "run")
    asked = [str(run.path), "--to", str(tmp_path / "to"), "--format", "gguf"]
    said = CliRunner().invoke(export_model, asked).output
    assert ("The run was not finished: its last checkpoint is of step 2, of 1,000" in said) != finished
    assert json.loads(CliRunner().invoke(export_model, [*asked, "--json"]).output)["finished"] == finished


def test_the_corpora_of_all_runs_are_told(place: Path, tmp_path: Path) -> None:
    card = part(card_of(RunFolder.open(place / "preferring"), tmp_path / "card"), "What it was trained on")
    told = ["### 1. base: text", "The corpus text (SHA-256", "tokenizer: byte,", "| a.txt | 1 |"]
    told += ["### 2. taught: instructions with their answers", "The corpus lessons (SHA-256", "| asked.json | 40 |"]
    told += ["### 3. This run: pairs of answers", "The corpus pairs (SHA-256", "| pairs.jsonl | 10 |"]
    told += ["tokenizer: that of taught,"]
    places = [card.find(one) for one in told]
    assert -1 not in places
    assert places[:-1] == sorted(places[:-1])


@pytest.mark.parametrize("there", [True, False])
def test_older_runs_have_not_recorded_the_corpora(there: bool, place: Path, tmp_path: Path) -> None:
    """They are what the run itself says, where it still is, and else in words: not known."""
    run = RunFolder(Path(shutil.copytree(place / "preferring", tmp_path / "run")))
    manifest = run.manifest()
    for record in manifest["lineage"]:
        del record["corpus"], record["learned_from"]
        record["run"] = record["run"] if there else str(tmp_path / Path(record["run"]).name)
    (run.path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    card = card_of(run, tmp_path / "card")
    assert ("### 1. base: text\n\nThe corpus text (SHA-256" in card) == there
    assert (
        "### 1. base: what it learned from is not recorded\n\nIts corpus is not recorded: the run is" in card
    ) != there
    assert ("1. base began from fresh weights; it learned from text, to step 2" in card) == there
    assert ("1. base began from fresh weights; what it learned from is not recorded, to step 2" in card) != there


def test_the_story_is_told_in_order_and_once(place: Path, tmp_path: Path) -> None:
    run = RunFolder.open(place / "preferring")
    card, (base, taught) = card_of(run, tmp_path / "card"), run.manifest()["lineage"]
    assert (
        "trained with scratchlab from scratch: base (text), then taught (instructions with their answers), then this "
        "run (pairs of answers)." in card
    )
    assert (
        "Its weights came about in this order:\n\n"
        "1. base began from fresh weights; it learned from text, to step 2 (2,048 tokens; fingerprint "
        f"`{base['fingerprint']}`).\n"
        "2. taught began from these; it learned from instructions with their answers, to step 2 (2,048 tokens; "
        f"fingerprint `{taught['fingerprint']}`).\n"
        "3. This run began from these and learned from pairs of answers, to step 2 (2,048 tokens).\n" in card
    )


def test_a_corpus_that_was_told_is_not_told_again(place: Path, tmp_path: Path) -> None:
    train(base_recipe(place, {"model.context_length": 256, "start.weights": str(place / "base")}), tmp_path / "longer")
    card = card_of(RunFolder.open(tmp_path / "longer"), tmp_path / "card")
    assert "### 2. This run: text\n\nThe corpus text once more (SHA-256" in card
    assert card.count("| a.txt | 1 |") == 1


@pytest.mark.parametrize(
    ("name", "scored"),
    [
        ("base", "held-out text"),
        ("taught", "the responses to held-out instructions"),
        ("preferring", "the chosen answers of held-out pairs"),
    ],
)
def test_what_was_scored_is_said(name: str, scored: str, place: Path, tmp_path: Path) -> None:
    card = card_of(RunFolder.open(place / name), tmp_path / "card")
    names = [one.metric_name for one in ModelCard(card).data.eval_results or []]
    assert names == [f"bits per byte of {scored}", f"nats per token of {scored}"]
    assert f"| loss on {scored} | bits per byte |" in card
    assert ("padding between examples included |" in card) == (name != "base")
    sentence = "It is the loss of what the assistant says alone: what it is asked is not scored."
    assert (sentence in card) == (name == "taught")


def test_a_question_is_shown_as_a_person_asked_it(place: Path, tmp_path: Path) -> None:
    card = part(card_of(RunFolder.open(place / "taught"), tmp_path / "card"), "What it writes")
    question = RunFolder.open(place / "taught").samples()[-1]["prompt"]
    assert question.startswith("user\n")  # as it is recorded: the template's words, without its special tokens
    asked = question.removeprefix("user\n").removesuffix("\nassistant\n")
    assert card.startswith(f"\nTo the question:\n\n```text\n{asked}\n```\n")


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("user\nwho?\nassistant\n", "To the question:\n\n```text\nwho?\n```"),
        ("system\nBe brief.\nuser\nwho?\nassistant\n", None),
        ("user\nhello\nassistant\nhi\nuser\nwho?\nassistant\n", None),
    ],
)
def test_a_conversation_is_shown_as_it_is(prompt: str, shown: str | None, tmp_path: Path) -> None:
    tokenizer = others.make_tokenizer().with_specials(["<|im_start|>", "<|im_end|>"])
    run = make_run(tmp_path / "run", tokenizer, CHATML)
    run.append_sample({"step": 0, "prompt": prompt, "text": "nobody"})
    whole = f"After a conversation, in the words of its template without special tokens:\n\n```text\n{prompt}```"
    assert f"{shown or whole}\n\nit answers:\n\n```text\nnobody\n```" in card_of(run, tmp_path / "card")
