"""Runs that learn which answer of two is better: where they begin, what is kept and measured, what is refused."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors

from crew import together
from lessons import HERE, MODEL, WORDS, base_recipe, build_text, write_alpaca, write_lines
from scratchlab.cli.main import cli
from scratchlab.corpus.examples.build import build_examples
from scratchlab.corpus.examples.encode import open_wording
from scratchlab.corpus.store import open_corpus
from scratchlab.errors import CorpusError, RecipeError, RunError
from scratchlab.evaluation.loss import byte_lengths
from scratchlab.evaluation.pairs import preferred, score_pairs
from scratchlab.evaluation.scorer import ModelScorer
from scratchlab.model.load import load_model
from scratchlab.recipe import Recipe, recipe_from
from scratchlab.runfolder import RunFolder
from scratchlab.training.data import training_sequences
from scratchlab.training.loop import resume, train
from scratchlab.training.progress import Silent
from scratchlab.training.resolve import resolve
from scratchlab.training.start import create_run, pick_up
from scratchlab.training.step import TorchBackend
from scratchlab.training.summary import validation_records
from scratchlab.training.world import World


def pair(number: int) -> dict[str, Any]:
    """Asked for a word, it is better to say it politely."""
    word = f"{WORDS[number % 10]} {number // 10}"
    return {"id": f"p{number}", "prompt": f"Say {word}.", "chosen": f"{word}, please", "rejected": f"no {word}"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a corpus of pairs worded for it, and a run that learned from them."""
    folder = tmp_path_factory.mktemp("pairs")
    build_text(folder)
    train(base_recipe(folder), folder / "base")
    build(folder, [pair(number) for number in range(60)], "pairs")
    path = write_alpaca(folder / "data.json")
    build_examples(
        [path],
        folder / "talk",
        "instructions",
        open_wording(str(folder / "short.jinja")),
        str(folder / "base"),
        "hash:.6,.2,.2",
    )
    train(recipe(folder), folder / "run")
    return folder


def build(folder: Path, rows: list[Any], name: str, base: str = "base") -> None:
    path, spoken = write_lines(folder / f"{name}.jsonl", rows), str(folder / base)
    (folder / "short.jinja").write_text(SHORT, encoding="utf-8")
    build_examples([path], folder / name, "pairs", open_wording(str(folder / "short.jinja")), spoken, "hash:.7,.15,.15")


SHORT = """{% for m in messages %}{% if m.role == "user" %}Q: {{ m.content }}
A: {% else %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"""


def recipe(folder: Path, changes: dict[str, Any] | None = None) -> Recipe:
    tables: dict[str, Any] = {
        "corpus": "",
        "model": MODEL,
        "training": {
            "steps": 24,
            "global_batch_size": 8,
            "learning_rate": 3e-3,
            "precision": "float32",
            "checkpoint_every": 10,
        },
        "evaluation": {"every": 8, "sample_tokens": 4, "snapshots": 1},
        "start": {"weights": str(folder / "base")},
        "execution": HERE,
    }
    changes = {"corpus": "pairs", **(changes or {})}
    if "evaluation.corpus" in changes:
        changes["evaluation.corpus"] = str(folder / changes["evaluation.corpus"])
    return recipe_from(tables, "test").replaced({**changes, "corpus": str(folder / changes["corpus"])})


def steps_of(folder: Path) -> list[dict[str, Any]]:
    return [record for record in RunFolder.open(folder).metrics() if "loss" in record]


def result_of(folder: Path) -> dict[str, Any]:
    result = RunFolder.open(folder).result()
    assert result is not None
    return result


def margins_by_hand(model: Any, corpus: Any, name: str) -> list[float]:
    """Of each pair of a split, a forward pass for each answer."""
    split, found = corpus.split(name), list[float]()
    for start, stop in zip(split.document_starts, split.document_starts[1:], strict=False):
        ids, marks = split.read(start, stop).astype(np.int64), split.marks[start:stop]
        nats = []
        for mark in (1, 2):
            own = torch.from_numpy(ids[(marks == 0) | (marks == mark)])[None]
            with torch.no_grad():
                logits, _ = model(own[:, :-1])
            answer = int((marks == mark).sum())
            losses = torch.nn.functional.cross_entropy(logits[0, -answer:], own[0, -answer:], reduction="sum")
            nats.append(float(losses))
        found.append(nats[1] - nats[0])
    return found


# Where it begins, and what it comes to.


def test_it_begins_at_ln_2_and_learns(place: Path) -> None:
    steps, result = steps_of(place / "run"), result_of(place / "run")
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert steps[0]["margin"] == pytest.approx(0, abs=1e-4)
    assert steps[-1]["loss"] < 0.5 * math.log(2)
    assert steps[-1]["accuracy"] == 1
    assert result["test"]["accuracy"] == 1
    assert result["test"]["loss"] < 0.6 * math.log(2)
    assert (
        result["test"]["pairs"]
        == result["test"]["n_units"]
        == open_corpus(place / "pairs").manifest.splits["test"].documents
    )


def test_the_reference_is_what_the_start_makes_of_each_pair(place: Path) -> None:
    model, corpus = load_model(RunFolder.open(place / "base"), device="cpu"), open_corpus(place / "pairs")
    kept = load_file(RunFolder.open(place / "run").reference())
    assert kept.keys() == {"train", "validation", "test"}
    for name, margins in kept.items():
        assert margins == pytest.approx(margins_by_hand(model, corpus, name), abs=1e-4)


def test_what_is_measured_is_how_far_each_pair_has_come(place: Path) -> None:
    folder, corpus = RunFolder.open(place / "run"), open_corpus(place / "pairs")
    model, kept = load_model(folder, device="cpu"), load_file(folder.reference())
    gains = np.array(margins_by_hand(model, corpus, "test")) - kept["test"]
    test = result_of(place / "run")["test"]
    assert test["accuracy"] == (gains > 0).mean()
    assert test["margin"] == pytest.approx(gains.mean(), rel=1e-4)
    assert test["margin_error"] == pytest.approx(gains.std(ddof=1) / math.sqrt(len(gains)), rel=1e-4)
    assert test["loss"] == pytest.approx(np.log1p(np.exp(-0.1 * gains)).mean(), rel=1e-4)
    losses = [record["validation"]["loss"] for record in validation_records(folder.metrics())]
    best = result_of(place / "run")["best_validation"]
    assert best["loss"] == min(losses)
    assert folder.snapshot("best")[1]["step"] == best["step"]


def test_figures_have_their_errors() -> None:
    gains = np.array([2.0, -1.0, 0.0, 3.0])
    found = preferred(gains, 0.5)
    assert found["accuracy"] == 0.5, "what has not gained is not counted"
    assert found["accuracy_error"] == pytest.approx(np.std([1, 0, 0, 1], ddof=1) / 2)
    assert found["loss"] == pytest.approx(np.mean([math.log1p(math.exp(-0.5 * gain)) for gain in gains]))
    assert preferred(gains[:1], 0.5)["loss_error"] is None
    assert preferred(np.array([np.nan, 1.0]), 0.5)["loss"] is None


def test_few_tokens_are_the_first_pairs(place: Path) -> None:
    corpus, scorer = open_corpus(place / "pairs"), ModelScorer(load_model(RunFolder.open(place / "run"), device="cpu"))
    split, sizes = corpus.split("validation"), byte_lengths(corpus.tokenizer)
    whole = score_pairs(scorer, split, 64, sizes)
    few = score_pairs(scorer, split, 64, sizes, 1)
    assert few.numbers.tolist() == whole.numbers[:1].tolist()
    assert few.margins == pytest.approx(whole.margins[:1], rel=1e-4)
    three = int(
        sum(
            np.sum(split.marks[s:e] > 0)
            for s, e in zip(split.document_starts[:3], split.document_starts[1:4], strict=True)
        )
    )
    assert len(score_pairs(scorer, split, 64, sizes, three).numbers) == 3
    assert len(score_pairs(scorer, split, 64, sizes, three - 1).numbers) == 2


def test_precision_leaves_the_beginning_where_it_is(place: Path, tmp_path: Path) -> None:
    for precision in ("bf16",):
        train(recipe(place, {"training.precision": precision, "training.steps": 1}), tmp_path / precision)
        assert steps_of(tmp_path / precision)[0]["loss"] == pytest.approx(math.log(2), abs=5e-3)


def test_show_and_diff_say_it(place: Path) -> None:
    shown = CliRunner().invoke(cli, ["show", str(place / "run")]).output
    assert "test       accuracy 1.000" in shown
    assert "chosen answers:" in shown
    assert "nats/pair at step" in shown


# What is kept.


def test_it_is_resumed_against_the_same_reference(place: Path, tmp_path: Path) -> None:
    cut = shutil.copytree(place / "run", tmp_path / "cut")
    (cut / "result.json").unlink()
    shutil.rmtree(cut / "checkpoints/step-00000024")
    reference = (cut / "reference/tensors.safetensors").read_bytes()
    resume(cut)
    assert (cut / "metrics.jsonl").read_bytes() == (place / "run/metrics.jsonl").read_bytes()
    assert (cut / "reference/tensors.safetensors").read_bytes() == reference
    assert result_of(cut)["test"] == result_of(place / "run")["test"]


def test_a_lost_reference_is_named_and_before_the_first_step_made_again(place: Path, tmp_path: Path) -> None:
    cut = shutil.copytree(place / "run", tmp_path / "cut")
    (cut / "result.json").unlink()
    shutil.rmtree(cut / "checkpoints/step-00000024")
    (cut / "reference/tensors.safetensors").write_bytes(b"no")
    with pytest.raises(RunError, match=r"reference.*is damaged.*is lost: make the run anew"):
        resume(cut)
    create_run(recipe(place), tmp_path / "new")
    assert not RunFolder.open(tmp_path / "new").has_reference()
    for _ in range(2):
        run = pick_up(RunFolder.open(tmp_path / "new"), Silent())
        assert run.reference["test"] == pytest.approx(load_file(RunFolder.open(place / "run").reference())["test"])
        (tmp_path / "new/reference/tensors.safetensors").write_bytes(b"no")


def test_micro_batches_do_not_matter(place: Path, tmp_path: Path) -> None:
    train(recipe(place, {"execution.micro_batch_size": 3, "training.steps": 6}), tmp_path / "small")
    train(recipe(place, {"execution.micro_batch_size": 8, "training.steps": 6}), tmp_path / "large")
    for small, large in zip(steps_of(tmp_path / "small"), steps_of(tmp_path / "large"), strict=True):
        assert {name: small[name] for name in ("loss", "margin", "accuracy")} == pytest.approx(
            {name: large[name] for name in ("loss", "margin", "accuracy")}, rel=1e-4, abs=1e-4
        )


def test_fp16_is_scaled(place: Path) -> None:
    """What the objective gives in fp16 is scaled by the factor of the loss, and told without it."""
    corpus = open_corpus(place / "pairs")
    resolved = resolve(recipe(place, {"start": {}}), corpus.vocab_size, range(30), None, print)
    batch = training_sequences(resolved, corpus).batch(0, 8, 1)
    found: dict[str, Any] = {}
    for precision in ("float32", "fp16"):
        given = resolved.replaced({"training.precision": precision})
        backend = TorchBackend(given, corpus.vocab_size, corpus.tokenizer.end_of_text, pairs=True)
        state = backend.init()
        scale = float(state.loss_scale)
        metrics = backend._accumulate_gradients(state, backend.send(batch), 0)
        norm = torch.nn.utils.get_total_norm([p.grad for p in state.parameters.values() if p.grad is not None]) / scale
        found[precision] = [*(float(value) for value in metrics.values()), float(norm)]
    assert found["fp16"] == pytest.approx(found["float32"], rel=2e-2, abs=2e-2)


# What is refused, and counted.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"start": {}}, "start.weights: .*holds pairs, which are judged against the model"),
        ({"finetuning.learn_from": "all"}, "finetuning.learn_from is for instructions, and .*pairs holds pairs"),
        ({"corpus": "talk", "finetuning.beta": 0.2}, "finetuning.beta is for pairs"),
        ({"corpus": "talk", "evaluation.corpus": "pairs"}, "by which only runs that learn from pairs are scored"),
        ({"evaluation.answers": 3}, "evaluation.answers: .* holds pairs"),
        ({"model": {"architecture": "rnn", "n_layer": 1, "d_model": 8}}, "'rnn' cannot learn from examples"),
    ],
)
def test_what_does_not_go_together(place: Path, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        train(recipe(place, changes), tmp_path / "run")


def test_what_does_not_fit_is_counted(place: Path, tmp_path: Path) -> None:
    long = {"prompt": "Say it. " * 9, "chosen": "a", "rejected": "b"}
    build(
        tmp_path_of(place, tmp_path),
        [*(pair(number) for number in range(40)), *({**long, "prompt": long["prompt"] + str(n)} for n in range(9))],
        "long",
    )
    said: list[str] = []

    class Heard(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    with pytest.raises(CorpusError, match="None of the"):
        train(
            recipe(tmp_path, {"corpus": "long", "model.context_length": 5, "start": {"weights": "x"}}), tmp_path / "no"
        )
    train(recipe(tmp_path, {"corpus": "long", "training.steps": 1}), tmp_path / "run", Heard())
    counts = RunFolder.open(tmp_path / "run").manifest()["examples"]
    assert sum(counts[name]["left_out"] for name in counts) == 9
    assert any("examples have no room to answer in model.context_length = 64" in text for text in said)


def tmp_path_of(place: Path, tmp_path: Path) -> Path:
    """A folder with the run that others begin from."""
    shutil.copytree(place / "base", tmp_path / "base")
    return tmp_path


def test_instructions_may_score_a_run_of_pairs(place: Path, tmp_path: Path) -> None:
    changes = {"evaluation.corpus": "talk", "evaluation.answers": 3, "training.steps": 2}
    result = train(recipe(place, changes), tmp_path / "run")
    assert result["answers"]["n"] == 3
    assert "accuracy" not in result["test"]
    assert load_file(RunFolder.open(tmp_path / "run").reference()).keys() == {"train"}


# Several processes.


def training(world: World, recipe: Recipe, out: Path) -> Any:
    return train(recipe, out)


@pytest.mark.parametrize("shard", [False, True])
def test_several_processes_are_as_one(place: Path, tmp_path: Path, shard: bool) -> None:
    few = {"training.steps": 5, "training.global_batch_size": 7, "execution.micro_batch_size": 2}
    train(recipe(place, few), tmp_path / "alone")
    one, other = together(2, training, recipe(place, {**few, "execution.shard": shard}), tmp_path / "run")
    assert one == other == result_of(tmp_path / "run")
    for ours, theirs in zip(steps_of(tmp_path / "run"), steps_of(tmp_path / "alone"), strict=True):
        for name in ("loss", "margin", "accuracy", "gradient_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-4)
    kept = [load_file(RunFolder.open(tmp_path / name).reference())["train"] for name in ("run", "alone")]
    assert kept[0] == pytest.approx(kept[1], abs=1e-4)
    weights = [load_tensors(RunFolder.open(tmp_path / name).checkpoint(5)[0]) for name in ("run", "alone")]
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], rtol=1e-3, atol=1e-5), name


def test_json_has_no_more_than_it_may(place: Path) -> None:
    json.dumps(result_of(place / "run"), allow_nan=False)
