"""Models that tell labels: what they learn, how they are scored, what is asked of them and what is not."""

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from lessons import base_recipe, build_text, write_alpaca
from scratchlab.architecture import GPTSection
from scratchlab.cli.main import cli
from scratchlab.cli.output import loss_text
from scratchlab.corpus.examples.build import build_examples
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.errors import CorpusError, RecipeError, RunError, UsageError
from scratchlab.evaluation.labels import evaluate_labels, label_scores, labeled_texts
from scratchlab.evaluation.loss import UnitLosses
from scratchlab.evaluation.telling import tell_labels
from scratchlab.model.initialize import initial_value
from scratchlab.model.load import load_classifier, load_model
from scratchlab.recipe import Recipe
from scratchlab.recipe_files import load_recipe
from scratchlab.runfolder import RunFolder
from scratchlab.study.definition import METRICS
from scratchlab.study.sections import StudySection
from scratchlab.training.finetuning import finetuning_recipe
from scratchlab.training.loop import train
from scratchlab.training.start import create_run

ROOT = Path(__file__).parents[2]
SMALL = {"training.precision": "float32", "execution.threads": 1, "execution.device": "cpu", "evaluation.snapshots": 0}


def messages(count: int = 80) -> str:
    """Like the SMS spam collection: a label, a tab, a text."""
    rng = random.Random(1)
    kinds = {"spam": ["win", "cash", "prize", "now", "call"], "ham": ["see", "you", "home", "soon", "mum"]}
    labels = [rng.choice(list(kinds)) for _ in range(count)]
    return "".join(f"{label}\t{' '.join(rng.choices(kinds[label], k=4))} {n}\n" for n, label in enumerate(labels))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, texts with labels, and a run of adapters that learned them."""
    folder = tmp_path_factory.mktemp("labels")
    build_text(folder)
    train(base_recipe(folder), folder / "base")
    (folder / "sms.tsv").write_text(messages(), encoding="utf-8")
    build_examples([str(folder / "sms.tsv")], folder / "sms", "labels", None, str(folder / "base"), "hash:.6,.2,.2")
    train(recipe_of(folder), folder / "spam")
    return folder


def recipe_of(folder: Path, changes: dict[str, Any] | None = None) -> Recipe:
    finetuning = {"lora_rank": 4}
    overrides = {"training.learning_rate": 0.02, "training.epochs": 12.0, **SMALL, **(changes or {})}
    corpus = open_corpus(folder / "sms")
    return finetuning_recipe(RunFolder.open(folder / "base"), corpus, finetuning, overrides)


def result_of(folder: Path) -> dict[str, Any]:
    result = RunFolder.open(folder).result()
    assert result is not None
    return result


def by_hand(model: Any, corpus: Corpus, name: str) -> tuple[list[float], list[bool]]:
    """Text by text: the loss of its label at its last token, and whether it is the likeliest."""
    nats, right = list[float](), list[bool]()
    for ids, label in zip(*labeled_texts(corpus.split(name), 64), strict=True):
        with torch.no_grad():
            scores = model(torch.from_numpy(ids[None]))[0][0, -1].log_softmax(-1)
        nats.append(-float(scores[label]))
        right.append(int(scores.argmax()) == int(label))
    return nats, right


def test_it_learns_and_says_how_well(place: Path) -> None:
    model, corpus = load_classifier(RunFolder.open(place / "spam"), device="cpu"), open_corpus(place / "sms")
    for split in ("test", "validation"):
        nats, right = by_hand(model, corpus, split)
        said = result_of(place / "spam")[split]
        assert said["accuracy"] == pytest.approx(np.mean(right))
        assert said["accuracy_error"] == pytest.approx(np.std(right, ddof=1) / len(right) ** 0.5)
        assert said["nats_per_token"] == pytest.approx(np.mean(nats), rel=1e-5)
        assert (said["n_units"], said["n_tokens"], said["unit"]) == (len(nats), len(nats), "texts")
    assert result_of(place / "spam")["test"]["accuracy"] > 0.9
    first = RunFolder.open(place / "spam").metrics()[0]["loss"]
    assert abs(first - np.log(2)) < 0.1
    assert RunFolder.open(place / "spam").samples() == []


def test_its_head_is_drawn_afresh_and_all_else_is_the_bases(place: Path) -> None:
    theirs, own = (
        load_file(RunFolder.open(place / "base").checkpoint(2)[0]),
        load_file(RunFolder.open(place / "spam").snapshot("base")[0]),
    )
    recipe = RunFolder.open(place / "spam").resolved()
    assert isinstance(recipe.model, GPTSection)
    assert recipe.model.labels == 2
    drawn = initial_value("label_head.weight", (2, 32), load_classifier_table(place), recipe.seeds.init)
    assert torch.equal(own.pop("label_head.weight"), drawn)
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    assert set(own) == {name for name in theirs if f"{name}.exp_avg" in theirs}


def load_classifier_table(place: Path) -> Any:
    return load_classifier(RunFolder.open(place / "spam"), device="cpu").initial_table()


def test_the_own_head_of_a_base_is_left_out(place: Path, tmp_path: Path) -> None:
    train(base_recipe(place, {"model.tie_weights": False}), tmp_path / "untied")
    recipe = recipe_of(place, {"start.weights": str(tmp_path / "untied"), "model.tie_weights": False})
    folder = create_run(recipe.replaced({"finetuning.lora_rank": None}), tmp_path / "run")
    tensors = load_file(folder.checkpoint(0)[0])
    assert "head.weight" not in tensors
    assert tensors["label_head.weight"].shape == (2, 32)


def test_without_adapters_all_weights_learn(place: Path, tmp_path: Path) -> None:
    changes = {"finetuning.lora_rank": None, "training.learning_rate": 3e-3, "training.epochs": 6.0}
    train(recipe_of(place, changes), tmp_path / "run")
    assert result_of(tmp_path / "run")["test"]["accuracy"] > 0.9


def test_what_is_scored_does_not_depend_on_what_is_scored_beside_it(place: Path) -> None:
    model, corpus = load_classifier(RunFolder.open(place / "spam"), device="cpu"), open_corpus(place / "sms")
    texts, _ = labeled_texts(corpus.split("test"), 64)
    alone = np.concatenate([label_scores(model, [text]) for text in texts])
    assert label_scores(model, texts) == pytest.approx(alone, abs=1e-5)
    few = evaluate_labels(model, corpus.split("test"), 64, len(texts[0]) + len(texts[1]))
    assert len(few.nats) == 2
    assert len(evaluate_labels(model, corpus.split("test"), 64, 1).nats) == 1
    again = UnitLosses.from_json(few.to_json())
    assert again.summary() == few.summary()
    assert "accuracy" in few.summary().to_json()
    merged = evaluate_labels(model, corpus.split("test"), 64).merged(3)
    assert merged.summary().accuracy == pytest.approx(result_of(place / "spam")["test"]["accuracy"])


def test_a_long_text_is_told_by_its_beginning(place: Path) -> None:
    folder, text = RunFolder.open(place / "spam"), "win cash prize now " * 30
    whole, beginning = tell_labels(folder, [text, text.encode()[:64].decode()], device="cpu")
    assert whole.probabilities == pytest.approx(beginning.probabilities, abs=1e-6)
    assert (whole.cut, beginning.cut) == (True, False)


# The commands.


def run(*words: object) -> Any:
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_classify(place: Path, tmp_path: Path) -> None:
    done = json.loads(
        run("classify", place / "spam", "--json", "--text", "win free cash now", "--text", "see you soon").stdout
    )
    assert [one["label"] for one in done["texts"]] == ["spam", "ham"]
    for one in done["texts"]:
        assert sum(one["probabilities"].values()) == pytest.approx(1)
        assert one["probability"] == max(one["probabilities"].values())
    (tmp_path / "texts.txt").write_text("win free cash now\n\nsee you soon\n", encoding="utf-8")
    table = run("classify", place / "spam", tmp_path / "texts.txt").stdout.splitlines()
    assert [line.split()[0] for line in table] == ["label", "spam", "ham"]
    piped = CliRunner().invoke(cli, ["classify", str(place / "spam"), "-"], input="see you soon\n")
    assert "ham" in piped.stdout
    assert "Give either" in str(run("classify", place / "spam").exception)
    with pytest.raises(UsageError, match="blank"):
        tell_labels(RunFolder.open(place / "spam"), ["x", " "])


def test_the_commands_of_the_page_run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/lora.md, with a tiny base in the place of GPT-2 and a few messages in that of the SMS collection."""
    page = (ROOT / "docs/lora.md").read_text(encoding="utf-8")
    commands = [line[15:].split("  #")[0].split() for line in page.splitlines() if line.startswith("    scratchlab ")]
    train(base_recipe(place, {"model.context_length": 256}), tmp_path / "runs/gpt2")
    (tmp_path / "sms.tsv").write_text(messages(40), encoding="utf-8")
    (tmp_path / "messages.txt").write_text("see you soon\n", encoding="utf-8")
    write_alpaca(tmp_path / "instructions.json", 20)
    monkeypatch.chdir(tmp_path)
    assert {command[0] for command in commands} == {"finetune", "classify", "show", "export", "import"}
    for command in commands:
        words = " ".join(command)
        found = re.findall(r'"[^"]*"|\S+', words)
        done = run(*(word.strip('"') for word in found))
        assert done.exit_code == 0, (words, done.output, done.exception)


def test_the_recipe_of_the_page_is_the_books() -> None:
    recipe = load_recipe(ROOT / "recipes/spam-lora.toml")
    assert isinstance(recipe.model, GPTSection)
    assert (recipe.model.labels, recipe.model.n_layer, recipe.model.d_model) == (2, 12, 768)
    assert (recipe.finetuning.lora_rank, recipe.finetuning.lora_alpha, recipe.finetuning.lora_layers) == (16, 16, "all")


# What is refused.


def test_what_a_model_of_labels_is_not_asked(place: Path, tmp_path: Path) -> None:
    folder = RunFolder.open(place / "spam")
    with pytest.raises(RunError, match=r"tells labels of texts; .* scratchlab classify"):
        load_model(folder)
    for words in (["sample", place / "spam"], ["export", place / "spam", "--to", tmp_path / "x"],
                  ["evaluate", place / "spam", "--corpus", place / "text"]):  # fmt: skip
        assert "tells labels" in str(run(*words).exception), words
    assert "labels = 2" in str(run("export", place / "spam", "--format", "peft", "--to", tmp_path / "x").exception)
    with pytest.raises(RunError, match="tells no labels"):
        load_classifier(RunFolder.open(place / "base"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.labels": None}, "model.labels = 2"),
        ({"model.labels": 3}, "model.labels = 3, and .* has 2"),
        ({"corpus": "text"}, "model.labels = 2, and .* is of no texts with labels"),
        ({"evaluation.corpus": "text"}, "has other labels"),
        ({"finetuning.learn_from": "all"}, "learn_from is for instructions"),
        ({"evaluation.suites": "hellaswag:5"}, "asks which token comes next"),
        ({"evaluation.answers": 3}, "holds labels, and what is answered"),
        ({"start.optimizer": "kept", "finetuning.lora_rank": None}, "knows nothing of labels"),
    ],
)
def test_what_does_not_go_together(place: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    changes = {name: str(place / value) if value == "text" else value for name, value in changes.items()}
    with pytest.raises((RecipeError, CorpusError), match=said):
        create_run(recipe_of(place).replaced(changes), tmp_path / "run")


def test_a_model_of_labels_does_not_become_one_of_language(place: Path, tmp_path: Path) -> None:
    recipe = base_recipe(place, {"start.weights": str(place / "spam")})
    with pytest.raises(RecipeError, match=r"label_head\.weight"):
        create_run(recipe, tmp_path / "run")


# As a metric, and as it is told.


def test_accuracy_is_a_metric_of_studies_of_which_more_is_better() -> None:
    assert "test.accuracy" in METRICS
    assert StudySection(baseline="x", metric="test.accuracy").higher_is_better


def test_it_is_told_as_labels_are(place: Path) -> None:
    said = run("show", place / "spam").stdout
    assert re.search(r"test +accuracy \d\.\d+ ± \d\.\d+, \d\.\d+ ± \d\.\d+ nats/text \(n = \d+ texts\)", said)
    assert "in adapters" in said
    assert "bits/byte" not in loss_text(result_of(place / "spam")["test"])
