"""Runs that learn from examples: what is measured, what is kept, what is refused, and when they stop."""

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from crew import together
from lessons import HERE, MODEL, alpaca, base_recipe, build_text, write_alpaca, write_lines
from scratchlab.architecture import GPTSection
from scratchlab.cli.main import cli
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.examples.asked import read_asked
from scratchlab.corpus.examples.build import build_examples
from scratchlab.corpus.examples.encode import open_wording
from scratchlab.corpus.store import open_corpus
from scratchlab.errors import CorpusError, MissingExtraError, RecipeError
from scratchlab.evaluation.examples import evaluate_examples
from scratchlab.evaluation.loss import byte_lengths
from scratchlab.evaluation.scorer import ModelScorer
from scratchlab.files import sha256_of_file
from scratchlab.model.build import build_model
from scratchlab.model.initialize import initial_value
from scratchlab.model.load import load_model
from scratchlab.recipe import Recipe, recipe_from
from scratchlab.runfolder import RunFolder
from scratchlab.training import data
from scratchlab.training.loop import resume, train
from scratchlab.training.progress import Silent
from scratchlab.training.schedule import learning_rate
from scratchlab.training.start import create_run
from scratchlab.training.summary import out_of_patience, validation_records
from scratchlab.training.world import World


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text and a run on it; examples worded for that run; and a run that was taught."""
    folder = tmp_path_factory.mktemp("examples")
    build_text(folder)
    train(base_recipe(folder), folder / "base")
    build(folder, write_alpaca(folder / "data.json", 60), "talk")
    train(recipe(folder, {"evaluation.answers": 5}), folder / "taught")
    letters = random.Random(1)  # answers that can be learned by heart alone
    rows = [{**alpaca(n), "output": "".join(letters.choices("abcdefgh", k=9))} for n in range(40)]
    build(folder, write_lines(folder / "noise.jsonl", rows), "noise")
    return folder


def build(folder: Path, path: str, name: str, template: str = "chatml", tokenizer: str = "") -> None:
    spoken = tokenizer or str(folder / "base")
    build_examples([path], folder / name, "instructions", open_wording(template), spoken, "hash:.7,.15,.15")


def recipe(folder: Path, changes: dict[str, Any] | None = None) -> Recipe:
    tables: dict[str, Any] = {
        "corpus": "",
        "model": MODEL,
        "training": {
            "steps": 40,
            "global_batch_size": 4,
            "learning_rate": 1e-2,
            "precision": "float32",
            "checkpoint_every": 15,
        },
        "evaluation": {"every": 20, "sample_tokens": 8, "snapshots": 1},
        "start": {"weights": str(folder / "base")},
        "execution": HERE,
    }
    changes = {"corpus": "talk", **(changes or {})}
    return recipe_from(tables, "test").replaced({**changes, "corpus": str(folder / changes["corpus"])})


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def losses_of(folder: Path) -> list[float]:
    return [record["loss"] for record in RunFolder.open(folder).metrics() if "loss" in record]


def result_of(folder: Path) -> dict[str, Any]:
    result = RunFolder.open(folder).result()
    assert result is not None
    return result


# What is measured.


def by_hand(model: Any, corpus: Any, name: str) -> tuple[list[float], list[int], list[int]]:
    """Of each example the nats, tokens and bytes of what the assistant says, one forward pass each."""
    split, nats, tokens, sizes = corpus.split(name), list[float](), list[int](), list[int]()
    for start, stop in zip(split.document_starts, split.document_starts[1:], strict=False):
        ids, learned = split.read(start, stop).astype(np.int64), split.marks[start:stop] > 0
        with torch.no_grad():
            logits, _ = model(torch.from_numpy(ids[None, :-1]))
        losses = torch.nn.functional.cross_entropy(logits[0], torch.from_numpy(ids[1:]), reduction="none")
        nats.append(float(losses[torch.from_numpy(learned[1:])].sum()))
        tokens.append(int(learned.sum()))
        sizes.append(len(corpus.tokenizer.decode(ids[learned]).encode()))
    return nats, tokens, sizes


def test_responses_alone_are_measured_example_by_example(place: Path) -> None:
    model, corpus = load_model(RunFolder.open(place / "taught"), device="cpu"), open_corpus(place / "talk")
    for name, said in (("test", result_of(place / "taught")["test"]), ("validation", None)):
        said = said or result_of(place / "taught")["validation"]
        nats, tokens, sizes = by_hand(model, corpus, name)
        assert said["nats_per_token"] == pytest.approx(sum(nats) / sum(tokens), rel=1e-5)
        assert said["bits_per_byte"] == pytest.approx(sum(nats) / math.log(2) / sum(sizes), rel=1e-5)
        assert (said["n_tokens"], said["n_units"], said["unit"]) == (sum(tokens), len(tokens), "examples")
    units = RunFolder.open(place / "taught").test_units()
    assert units is not None
    assert units["unit"] == "examples"


@pytest.mark.parametrize("template", ["chatml", "alpaca"])
def test_all_responses_of_a_conversation_are_measured_and_none_of_the_words_between(
    place: Path, tmp_path: Path, template: str
) -> None:
    said = [[f"Say {n}.", f"{n}!", "Again?", f"{n}, {n}!"] for n in range(12)]
    roles = ["user", "assistant"] * 2
    talks = [[{"role": role, "content": text} for role, text in zip(roles, one, strict=True)] for one in said]
    build(
        tmp_path, write_lines(tmp_path / "a.jsonl", [{"messages": talk} for talk in talks]), "talks", template, "byte"
    )
    corpus = open_corpus(tmp_path / "talks")
    model = build_model(GPTSection(**{**MODEL, "context_length": 200}), corpus.vocab_size, seed=1).eval()
    found = evaluate_examples(ModelScorer(model), corpus.split("train"), 200, byte_lengths(corpus.tokenizer))
    nats, tokens, sizes = by_hand(model, corpus, "train")
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert (found.n_tokens.tolist(), found.n_bytes.tolist()) == (tokens, sizes)
    number = int(corpus.split("train").ids[0]) - 1
    assert corpus.tokenizer.decode(read_asked(corpus.split("train"), 0).response) == said[number][3]


def test_it_learned(place: Path, tmp_path: Path) -> None:
    before = train(recipe(place, {"training.steps": 0}), tmp_path / "untaught")
    assert result_of(place / "taught")["test"]["nats_per_token"] < 0.6 * before["test"]["nats_per_token"]
    assert result_of(place / "taught")["test"]["n_tokens"] == before["test"]["n_tokens"]


def test_evaluate_says_the_same(place: Path, tmp_path: Path) -> None:
    def said(arguments: list[str]) -> Any:
        return CliRunner().invoke(cli, ["evaluate", *arguments, "--json", "--out", str(tmp_path)])

    for _ in range(2):  # the second time it was scored already
        loss = json.loads(said([str(place / "taught")]).stdout)["models"][0]["loss"]
        assert loss["nats_per_token"] == result_of(place / "taught")["test"]["nats_per_token"]
        assert (loss["unit"], loss["n_units"]) == ("examples", result_of(place / "taught")["test"]["n_units"])
    for arguments, words in (
        (["--stride", "3"], "scored one by one"),
        (["--tokens", "0:9"], "no range of tokens"),
    ):
        assert words in str(said([str(place / "taught"), *arguments]).exception)
    refused = said([str(place / "base"), "--corpus", str(place / "talk")])
    assert "worded for another tokenizer" in str(refused.exception)


def test_what_was_learned_from_changes_the_weights_and_not_the_measure(place: Path, tmp_path: Path) -> None:
    result = train(recipe(place, {"finetuning.learn_from": "all"}), tmp_path / "all")
    taught = result_of(place / "taught")
    assert result["test"]["n_tokens"] == taught["test"]["n_tokens"]
    assert result["test"]["nats_per_token"] != taught["test"]["nats_per_token"]


def test_few_tokens_are_the_first_examples(place: Path) -> None:
    corpus = open_corpus(place / "talk")
    scorer = ModelScorer(load_model(RunFolder.open(place / "taught"), device="cpu"))
    split, sizes = corpus.split("validation"), byte_lengths(corpus.tokenizer)
    whole = evaluate_examples(scorer, split, 64, sizes)
    room = int(whole.n_tokens[:3].sum())
    for most, count in ((room, 3), (room + 1, 3), (room - 1, 2), (1, 1), (10_000, len(whole.nats))):
        few = evaluate_examples(scorer, split, 64, sizes, most)
        assert few.n_tokens.tolist() == whole.n_tokens[:count].tolist()
        assert few.nats == pytest.approx(whole.nats[:count], rel=1e-5)


# What is kept.


def test_the_folder_says_how_it_is_spoken_to_and_what_it_answered(place: Path) -> None:
    folder, corpus = RunFolder.open(place / "taught"), open_corpus(place / "talk")
    assert corpus.chat_template is not None
    assert folder.chat_template_path.read_text(encoding="utf-8") == corpus.chat_template.source
    assert not RunFolder.open(place / "base").chat_template_path.exists()
    answers = folder.answers()
    assert [record["id"] for record in answers] == list(corpus.split("test").ids[:5])
    assert all(record["prompt"].endswith("assistant\n") for record in answers)
    assert [record["reference"] for record in answers] == [
        alpaca(int(record["id"]) - 1)["output"] for record in answers
    ]
    scores = [record["chrf"] for record in answers]
    assert result_of(place / "taught")["answers"] == {
        "chrf": pytest.approx(np.mean(scores)),
        "chrf_error": pytest.approx(np.std(scores, ddof=1) / math.sqrt(5)),
        "n": 5,
    }
    samples = folder.samples()
    first = alpaca(int(corpus.split("validation").ids[0]) - 1)
    assert all(first["instruction"] in sample["prompt"] and "assistant" not in sample["text"] for sample in samples)
    shown = CliRunner().invoke(cli, ["show", str(place / "taught")]).output
    assert "answers    chrF" in shown
    assert "n = 5 questions" in shown


def test_the_manifest_counts_what_fits(place: Path, tmp_path: Path) -> None:
    manifest = RunFolder.open(place / "taught").manifest()
    assert "windows" not in manifest
    assert manifest["examples"]["train"]["examples"] == open_corpus(place / "talk").manifest.splits["train"].documents
    assert {name: counts["left_out"] for name, counts in manifest["examples"].items()} == dict.fromkeys(
        ("train", "validation", "test"), 0
    )
    report = Heard()
    short = {"model.context_length": 33, "start": {}, "training.steps": 1}
    train(recipe(place, short), tmp_path / "short", report)
    train_counts = RunFolder.open(tmp_path / "short").manifest()["examples"]["train"]
    assert train_counts["cut"] > 0
    assert train_counts["left_out"] > 0
    said = "\n".join(report.said)
    total = train_counts["examples"] + train_counts["left_out"]
    assert f"train: {train_counts['cut']} of {total} examples reach beyond model.context_length = 33" in said
    assert f"left out ({', '.join(train_counts['left_out_ids'])})" in said
    assert np.isfinite(losses_of(tmp_path / "short")).all()
    with pytest.raises(CorpusError, match=r"None of the .* examples of the train split"):
        train(recipe(place, {**short, "model.context_length": 8}), tmp_path / "shorter")


def test_it_resumes_and_goes_on_exactly(place: Path, tmp_path: Path) -> None:
    cut = shutil.copytree(place / "taught", tmp_path / "cut")
    (cut / "result.json").unlink()
    shutil.rmtree(cut / "checkpoints/step-00000040")
    again = resume(cut)
    assert again["answers"] == result_of(place / "taught")["answers"]
    assert (cut / "metrics.jsonl").read_bytes() == (place / "taught/metrics.jsonl").read_bytes()
    half = {"training.steps": 8, "training.schedule": "constant"}
    train(recipe(place, half), tmp_path / "half")
    on = {"start.weights": str(tmp_path / "half"), "start.optimizer": "kept", "start.schedule": "extended"}
    train(recipe(place, {**half, **on, "start.data": "continued"}), tmp_path / "on")
    train(recipe(place, {**half, "training.steps": 16}), tmp_path / "whole")
    assert losses_of(tmp_path / "on") == losses_of(tmp_path / "whole")[8:]


# What is refused.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corpus": "text", "finetuning.learn_from": "all"}, "finetuning.learn_from: .*text is text, not examples"),
        ({"corpus": "text", "finetuning.beta": 0.2}, "finetuning.beta: .*text is text"),
        ({"corpus": "text", "evaluation.answers": 3}, "evaluation.answers: .*text is text"),
        ({"finetuning.beta": 0.2}, "finetuning.beta is for pairs"),
        ({"training.order": "streams"}, "training.order = 'streams' reads a text on"),
        ({"model": {"architecture": "rnn"}, "start": {}}, "model.architecture = 'rnn' cannot learn from examples"),
        ({"corpus": "labels"}, r"holds texts with 2 labels, .* set model\.labels = 2"),
        ({"evaluation.corpus": "labels"}, "has other labels"),
        ({"evaluation.corpus": "trained", "training.patience": 2}, "has no validation split to tell when to stop"),
        ({"evaluation.corpus": "trained", "evaluation.answers": 2}, "has no test split"),
    ],
)
def test_what_would_be_ignored_or_cannot_be_is_refused(
    place: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    if not (place / "labels").exists():
        rows = [{"text": f"text {number}", "label": number % 2} for number in range(30)]
        path = write_lines(place / "labels.jsonl", rows)
        build_examples([path], place / "labels", "labels", None, str(place / "talk"))
        whole = str(place / "data.json"), place / "trained", "instructions", open_wording("chatml")
        build_examples([whole[0]], *whole[1:], str(place / "base"), "hash:1,0,0")
    located = {key: str(place / value) if key.endswith("corpus") else value for key, value in changes.items()}
    with pytest.raises(RecipeError, match=words):
        train(recipe(place, located), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_what_is_missing_for_chrf_is_told_when_the_run_is_made(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[judge\]"):
        train(recipe(place, {"evaluation.answers": 1}), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_text_may_score_examples_and_examples_text(place: Path, tmp_path: Path) -> None:
    talk, text = str(place / "talk"), str(place / "worded")
    build_corpus([str(place / "a.txt"), str(place / "b.txt")], text, tokenizer=talk, split="contiguous:.8,.1,.1")
    few = {"training.steps": 1}
    by_text = train(recipe(place, {**few, "evaluation.corpus": text}), tmp_path / "by-text")
    by_talk = train(recipe(place, {**few, "corpus": text, "evaluation.corpus": talk}), tmp_path / "by-talk")
    assert by_text["test"]["unit"] == "stretches"
    assert by_talk["test"]["unit"] == "examples"
    assert "windows" in RunFolder.open(tmp_path / "by-talk").manifest()


# A vocabulary that grows.


@pytest.mark.parametrize("model", [{}, {"tie_weights": False, "vocab_multiple": 64}, {"initialization": "book"}])
def test_new_tokens_begin_as_the_mean_of_the_known_ones(place: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    changes = {f"model.{name}": value for name, value in model.items()}
    train(base_recipe(place, {**changes, "training.steps": 0}), tmp_path / "base")
    start = {"start.weights": str(tmp_path / "base"), "training.steps": 0, "seeds.init": 7}
    create_run(recipe(place, {**changes, **start}), tmp_path / "grown")
    (path, _), _ = RunFolder.open(tmp_path / "base").last_good_checkpoint()
    before, after = load_file(path), load_file(RunFolder.open(tmp_path / "grown").checkpoint(0)[0])
    assert open_corpus(place / "talk").vocab_size == 259
    names = ["token_embedding.weight", *(["head.weight"] if "tie_weights" in model else [])]
    grown = load_model(RunFolder.open(tmp_path / "grown"), device="cpu")
    for name in names:
        assert len(after[name]) == (320 if "vocab_multiple" in model else 259)
        assert torch.equal(after[name][:257], before[name][:257])
        drawn = initial_value(name, tuple(after[name].shape), grown.initial_table(), seed=7)
        assert torch.allclose(after[name][257:259], before[name][:257].mean(0) + drawn[257:259])
    assert all(torch.equal(after[name], before[name]) for name in after if name not in names)
    with torch.no_grad():
        logits, _ = grown(torch.tensor([[65, 257, 66]]))
    assert logits.shape[-1] == 259
    if "initialization" not in model:
        assert float(logits.softmax(-1)[..., 257:].max()) < 2 / 259, "no new token takes more than its share"


def test_a_fingerprint_knows_the_weights_and_the_tokens(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "base", tmp_path / "moved")
    create_run(recipe(place, {"start.weights": str(tmp_path / "moved")}), tmp_path / "again")
    taught, again = (RunFolder.open(path).manifest() for path in (place / "taught", tmp_path / "again"))
    assert taught["fingerprint"] == again["fingerprint"]
    assert (taught["vocab_size"], taught["lineage"][0]["step"]) == (259, 2)


def test_other_vocabularies_and_kept_moments_are_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="knows nothing of the tokens that are new"):
        train(recipe(place, {"start.optimizer": "kept"}), tmp_path / "refused")
    build(tmp_path, str(place / "data.json"), "other", tokenizer="bpe:300")
    with pytest.raises(RecipeError, match="has another tokenizer"):
        train(recipe(place, {"corpus": str(tmp_path / "other")}), tmp_path / "refused")


# Early stopping.

EARLY = {
    "corpus": "noise",
    "training.patience": 2,
    "training.steps": 90,
    "training.learning_rate": 0.02,
    "training.schedule": "constant",
    "training.checkpoint_every": 7,
    "evaluation.every": 6,
    "evaluation.snapshots": 0,
}


@pytest.mark.parametrize(
    ("losses", "patience", "stops"),
    [
        ([], 1, False),
        ([3.0], 1, False),
        ([3.0, 3.0], 1, True),
        ([3.0, 2.0, 2.5], 2, False),
        ([3.0, 2.0, 2.5, 2.1], 2, True),
        ([3.0, 2.0, 2.5, 1.9], 2, False),
        ([math.inf, math.inf], 2, True),
        ([math.inf, 2.0], 2, False),
        ([3.0, 4.0, 5.0], None, False),
    ],
)
def test_patience_counts_evaluations_without_a_new_best(losses: list[float], patience: int | None, stops: bool) -> None:
    assert out_of_patience(losses, patience) is stops


@pytest.fixture(scope="module")
def stopped(place: Path) -> Path:
    result = train(recipe(place, EARLY), place / "stopped")
    assert result["early_stopping"]["stopped_at"] is not None, "the test needs a run that overfits"
    return place / "stopped"


def outcome(folder: Path) -> dict[str, Any]:
    """All that is a function of the recipe."""
    result = result_of(folder)
    figures = {name: result[name] for name in ("steps", "test", "validation", "best_validation", "early_stopping")}
    (path, state), problems = RunFolder.open(folder).last_good_checkpoint()
    assert not problems
    files = [folder / "metrics.jsonl", folder / "samples.jsonl", folder / "test_units.json", path]
    hashes = {path.name: sha256_of_file(path) for path in files}
    best = sha256_of_file(folder / "snapshots/best/tensors.safetensors")
    return {**figures, **hashes, "best": best, "state": state}


def test_it_stops_with_the_weights_of_its_best_evaluation(place: Path, stopped: Path) -> None:
    folder, result = RunFolder.open(stopped), result_of(stopped)
    losses = [record["validation"]["nats_per_token"] for record in validation_records(folder.metrics())]
    stop, best = result["early_stopping"]["stopped_at"], 6 * (1 + losses.index(min(losses)))
    assert result["early_stopping"] == {"stopped_at": 6 * len(losses), "weights_of": best}
    assert (result["steps"], stop - best) == (stop, 12)
    assert not out_of_patience(losses[:-1], 2)
    (path, state), _ = folder.last_good_checkpoint()
    final, kept = load_file(path), load_file(folder.snapshot("best")[0])
    assert final.keys() == kept.keys(), "weights alone"
    assert all(torch.equal(final[name], kept[name]) for name in kept)
    assert (state["step"], state["weights_of"]) == (stop, best)
    corpus = open_corpus(place / "noise")
    for at in ("final", "best"):
        model = load_model(folder, at, "cpu")
        nats, tokens, _ = by_hand(model, corpus, "test")
        assert result["test"]["nats_per_token"] == pytest.approx(sum(nats) / sum(tokens), rel=1e-5)
        nats, tokens, _ = by_hand(model, corpus, "validation")
        assert sum(nats) / sum(tokens) == pytest.approx(min(losses), rel=1e-5)
    training = folder.resolved().training
    rates = [record["learning_rate"] for record in folder.metrics() if "loss" in record]
    assert rates == [learning_rate(training, step, 90) for step in range(stop)]
    assert "stopped at step" in CliRunner().invoke(cli, ["show", str(stopped)]).output


class Killed(BaseException):
    """The process ends here."""


Moment = Callable[[int, Any], bool]
MOMENTS: dict[str, tuple[str, Moment]] = {
    "a new best": ("save_snapshot", lambda stop, arguments: arguments[0] == "best"),
    "the last validation": ("append_metrics", lambda stop, arguments: _validates(arguments[0], stop)),
    "the last sample": ("append_sample", lambda stop, arguments: arguments[0]["step"] == stop),
    "the best weights": ("save_checkpoint", lambda stop, arguments: "weights_of" in arguments[2]),
    "the result": ("finish", lambda stop, arguments: True),
}


def _validates(records: Any, step: int) -> bool:
    return any("validation" in record and record["step"] == step for record in records)


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_before_any_write_it_ends_the_same(
    place: Path, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Which is after the write before it, too."""
    method, here = MOMENTS[moment]
    write, stop = getattr(RunFolder, method), result_of(stopped)["early_stopping"]["stopped_at"]

    def dying(self: RunFolder, *arguments: Any) -> None:
        if here(stop, arguments):
            raise Killed
        write(self, *arguments)

    monkeypatch.setattr(RunFolder, method, dying)
    with pytest.raises(Killed):
        train(recipe(place, EARLY), tmp_path / "run")
    monkeypatch.setattr(RunFolder, method, write)
    resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(stopped)


def test_a_run_that_is_never_out_of_patience_ends_with_its_best_weights_too(place: Path, tmp_path: Path) -> None:
    result = train(recipe(place, {**EARLY, "training.steps": 20, "training.patience": 9}), tmp_path / "run")
    assert result["early_stopping"]["stopped_at"] is None
    assert result["early_stopping"]["weights_of"] == result["best_validation"]["step"]


def test_when_it_is_evaluated_matters_to_a_run_that_stops_early(place: Path, tmp_path: Path) -> None:
    prints = {}
    for number, (patience, every) in enumerate([(None, 6), (None, 7), (2, 6), (2, 7)]):
        run = create_run(
            recipe(place, {"training.patience": patience, "evaluation.every": every}), tmp_path / str(number)
        )
        prints[patience, every] = run.manifest()["fingerprint"]
    assert prints[None, 6] == prints[None, 7]
    assert len(set(prints.values())) == 3


def test_what_stopped_early_is_begun_from_its_best_weights(place: Path, stopped: Path, tmp_path: Path) -> None:
    anew = recipe(place, {"start.weights": str(stopped), "training.steps": 1})
    train(anew, tmp_path / "anew")
    (lineage,) = RunFolder.open(tmp_path / "anew").manifest()["lineage"][1:]
    assert lineage["step"] == result_of(stopped)["early_stopping"]["weights_of"]
    with pytest.raises(RecipeError, match="ended with its best weights, and has them alone"):
        train(anew.replaced({"start.optimizer": "kept"}), tmp_path / "refused")


# Several processes.


def training(world: World, recipe: Recipe, out: Path) -> Any:
    return train(recipe, out)


def test_several_processes_agree_on_when_to_stop(place: Path, stopped: Path, tmp_path: Path) -> None:
    changes = {**EARLY, "evaluation.answers": 3}
    one, other = together(2, training, recipe(place, changes), tmp_path / "run")
    assert one == other == result_of(tmp_path / "run")
    alone = result_of(stopped)
    assert one["test"]["n_tokens"] == alone["test"]["n_tokens"]
    assert one["answers"]["n"] == 3
    weights_of, best = one["early_stopping"]["weights_of"], one["best_validation"]
    assert best["step"] == weights_of
    (path, _), _ = RunFolder.open(tmp_path / "run").last_good_checkpoint()
    final, kept = load_file(path), load_file(RunFolder.open(tmp_path / "run").snapshot("best")[0])
    assert all(torch.equal(final[name], kept[name]) for name in kept)


def test_data_names_both_kinds(place: Path) -> None:
    given = recipe(place)
    assert type(data.training_sequences(given, open_corpus(place / "talk"))).__name__ == "PackedRows"
    assert type(data.training_sequences(given, open_corpus(place / "text"))).__name__ == "Windows"
