"""Beginning from another run's weights: going on exactly, or anew, and never by mistake."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

import scratchlab
from scratchlab.cli.main import cli
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.store import open_corpus
from scratchlab.errors import CorpusError, RecipeError, RunError
from scratchlab.evaluation.loss import evaluate_loss
from scratchlab.evaluation.scorer import ModelScorer
from scratchlab.model.load import load_model
from scratchlab.recipe import recipe_from
from scratchlab.runfolder import RunFolder
from scratchlab.training.loop import resume
from scratchlab.training.progress import Silent

GPT: dict[str, Any] = {"n_layer": 1, "n_head": 2, "d_model": 16, "context_length": 8, "dropout": 0.1}
RNN: dict[str, Any] = {"architecture": "rnn", "n_layer": 1, "d_model": 16, "context_length": 8}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with corpora, and a run of 6 steps and one of 10 of each model."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "text.txt").write_text("every effort moves you toward an ideal. " * 60, encoding="utf-8")
    (folder / "other.txt").write_text("some other words, of other letters! " * 60, encoding="utf-8")
    for name in ("text", "other"):
        build_corpus([str(folder / f"{name}.txt")], folder / name, tokenizer="char")
    # The tokenizer of the first in other bytes: nothing that it does is changed.
    rewritten = json.dumps(json.loads((folder / "text/tokenizer.json").read_text(encoding="utf-8")), indent=1)
    (folder / "rewritten.json").write_text(rewritten, encoding="utf-8")
    build_corpus([str(folder / "text.txt")], folder / "same", tokenizer=str(folder / "rewritten.json"))
    for name in ("gpt", "rnn"):
        for steps in (6, 10):
            train(folder, name, f"{name}-{steps}", {"training.steps": steps})
    return folder


def train(place: Path, model: str, name: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    training = {
        "steps": 4,
        "global_batch_size": 3,
        "precision": "float32",
        "checkpoint_every": 4,
        "schedule": "constant",
    }
    base: dict[str, Any] = {
        "corpus": str(place / "text"),
        "model": GPT if model == "gpt" else RNN,
        "training": training | ({"order": "streams"} if model == "rnn" else {}),
        "evaluation": {"every": 3, "sample_tokens": 0},
        "execution": {"device": "cpu", "threads": 1, "compile": False, "micro_batch_size": 3},
    }
    return scratchlab.train(recipe_from(base, "r").replaced(changes or {}), out=place / name)


def weights(place: Path, name: str) -> dict[str, torch.Tensor]:
    found, problems = RunFolder.open(place / name).last_good_checkpoint()
    assert found
    assert not problems
    return load_file(found[0])


def losses(place: Path, name: str) -> list[float]:
    return [record["loss"] for record in RunFolder.open(place / name).metrics() if "loss" in record]


EXTENDED = {"start.optimizer": "kept", "start.schedule": "extended", "start.data": "continued"}


@pytest.mark.parametrize("model", ["gpt", "rnn"])
def test_a_run_that_is_extended_equals_one_that_was_trained_longer(place: Path, model: str) -> None:
    name = f"{model}-extended"
    train(place, model, name, EXTENDED | {"start.weights": str(place / f"{model}-6")})
    extended, longer = weights(place, name), weights(place, f"{model}-10")
    assert extended.keys() == longer.keys()
    assert all(torch.equal(extended[tensor], longer[tensor]) for tensor in longer)
    assert losses(place, name) == losses(place, f"{model}-10")[6:]


def test_twice_extended_is_extended(place: Path) -> None:
    train(place, "gpt", "gpt-8", EXTENDED | {"start.weights": str(place / "gpt-6"), "training.steps": 2})
    train(place, "gpt", "gpt-8-10", EXTENDED | {"start.weights": str(place / "gpt-8"), "training.steps": 2})
    twice, longer = weights(place, "gpt-8-10"), weights(place, "gpt-10")
    assert all(torch.equal(twice[tensor], longer[tensor]) for tensor in longer)
    lineage = json.loads((place / "gpt-8-10/manifest.json").read_text(encoding="utf-8"))["lineage"]
    assert [(Path(record["run"]).name, record["step"], record["tokens"]) for record in lineage] == [
        ("gpt-6", 6, 6 * 24),
        ("gpt-8", 2, 2 * 24),
    ]


@pytest.mark.parametrize("model", ["gpt", "rnn"])
def test_what_began_anew_from_other_weights_is_extended_from_its_own_beginning(place: Path, model: str) -> None:
    anew = {"start.weights": str(place / f"{model}-6")}
    train(place, model, f"{model}-short", anew | {"training.steps": 3})
    train(place, model, f"{model}-long", anew | {"training.steps": 5})
    start = EXTENDED | {"start.weights": str(place / f"{model}-short"), "training.steps": 2}
    train(place, model, f"{model}-short-on", start)
    extended, longer = weights(place, f"{model}-short-on"), weights(place, f"{model}-long")
    assert all(torch.equal(extended[tensor], longer[tensor]) for tensor in longer)
    total = json.loads((place / f"{model}-short-on/result.json").read_text(encoding="utf-8"))["tokens_with_lineage"]
    assert total == (6 + 3 + 2) * 24, "the tokens of all three runs"


def test_an_extended_run_may_be_shorter_than_the_warm_up_that_is_over(place: Path) -> None:
    changes = {"start.weights": str(place / "gpt-6"), "training.steps": 2, "training.warmup_steps": 4}
    train(place, "gpt", "warm", EXTENDED | changes)
    with pytest.raises(RecipeError, match=r"warmup_steps \(4\) is more than training.steps \(2\)"):
        train(place, "gpt", "cold", changes)


class Heard(Silent):
    """Keeps what the loop says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_good_weights_are_no_reason_for_an_alarm(place: Path) -> None:
    """A first loss far below ln(vocabulary) is what one begins from other weights for."""
    train(place, "gpt", "good", {"training.steps": 30, "training.learning_rate": 0.03})
    recipe, report = RunFolder.open(place / "good").recipe(), Heard()
    begun = recipe.replaced({"start.weights": str(place / "good"), "training.steps": 1})
    scratchlab.train(begun, out=place / "calm", report=report)
    assert losses(place, "calm")[0] < 0.8 * losses(place, "good")[0]
    assert not [text for text in report.said if "Warning" in text]


def test_the_loss_of_a_network_that_remembers_is_taken_from_memory(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scratchlab.evaluation.loss.STREAMS", 1)  # so short a text has no room for several
    result = train(place, "rnn", "remembers", {"training.learning_rate": 0.1})
    model, text = load_model(RunFolder.open(place / "remembers"), device="cpu"), open_corpus(place / "text")
    warm, cold = (evaluate_loss(ModelScorer(model).windows, text.split("test"), 8, remembers=r) for r in (True, False))
    assert result["test"]["nats_per_token"] == pytest.approx(warm.nats_per_token, rel=1e-6)
    assert result["test"]["nats_per_token"] != pytest.approx(cold.nats_per_token, rel=1e-3)


def test_by_default_everything_but_the_weights_begins_anew(place: Path) -> None:
    source = str(place / "gpt-6")
    train(place, "gpt", "anew", {"start.weights": source, "training.schedule": "linear", "training.warmup_steps": 2})
    metrics = [record for record in RunFolder.open(place / "anew").metrics() if "loss" in record]
    assert [record["learning_rate"] for record in metrics][:2] == pytest.approx([1e-3 / 3, 2e-3 / 3])
    before, first = weights(place, "gpt-6"), weights(place, "anew")
    assert first["token_embedding.weight.step"] == 4, "a fresh optimizer"
    assert before["token_embedding.weight.step"] == 6


def test_the_best_snapshot_can_be_begun_from(place: Path) -> None:
    train(place, "gpt", "from-best", {"start.weights": str(place / "gpt-6"), "start.at": "best"})
    assert RunFolder.open(place / "from-best").result()


def test_it_resumes_exactly_and_needs_its_source_no_more(place: Path) -> None:
    shutil.copytree(place / "gpt-6", place / "gone")
    start = EXTENDED | {"start.weights": str(place / "gone")}
    train(place, "gpt", "whole", start | {"training.steps": 8})
    folder = RunFolder.open(place / "whole")
    expected = weights(place, "whole")
    shutil.rmtree(place / "gone")
    (folder.path / "result.json").unlink()
    shutil.rmtree(folder.path / "checkpoints/step-00000008")
    resume(folder.path)
    again = weights(place, "whole")
    assert all(torch.equal(again[tensor], expected[tensor]) for tensor in expected)
    assert np.isfinite(losses(place, "whole")).all()


def test_without_a_whole_checkpoint_it_does_not_begin_from_fresh_weights(place: Path) -> None:
    train(place, "gpt", "lost", {"start.weights": str(place / "gpt-6")})
    (place / "lost/result.json").unlink()
    for checkpoint in (place / "lost/checkpoints").iterdir():
        (checkpoint / "tensors.safetensors").write_bytes(b"torn")
    with pytest.raises(RunError, match="began from other weights"):
        resume(place / "lost")


def test_the_fingerprint_knows_the_weights_and_not_their_path(place: Path) -> None:
    shutil.copytree(place / "gpt-6", place / "moved")
    prints = {}
    for number, source in enumerate(("gpt-6", "moved", "gpt-10")):
        train(place, "gpt", f"print-{number}", {"start.weights": str(place / source), "training.steps": 1})
        prints[source] = RunFolder.open(place / f"print-{number}").manifest()["fingerprint"]
    assert prints["gpt-6"] == prints["moved"] != prints["gpt-10"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.d_model": 32}, "is not this recipe's: .* differ"),
        ({"corpus": "other"}, "has another tokenizer"),
        ({"start.data": "continued", "seeds.data": 7}, "needs the corpus, context_length, order and data seed"),
        ({"model.vocab_multiple": 64}, "token_embedding.weight is"),
        ({"model.n_head": 4}, "trained with model.n_head = 2"),
        ({"start.steps_before": 3}, "are settled when the run is made"),
        (
            {"start.optimizer": "kept", "training.optimizer": "rmsprop", "training.weight_decay": 0.0},
            "was trained with training.optimizer = 'adamw'",
        ),
    ],
)
def test_what_cannot_be_begun_from_is_refused(place: Path, changes: dict[str, Any], message: str) -> None:
    changes = {key: str(place / value) if key == "corpus" else value for key, value in changes.items()}
    with pytest.raises(RecipeError, match=message):
        train(place, "gpt", "refused", changes | {"start.weights": str(place / "gpt-6")})
    assert not (place / "refused").exists()


def test_streams_go_on_in_the_same_number_only(place: Path) -> None:
    """Each row goes on from its own place, with what it remembers."""
    changes = {"start.weights": str(place / "rnn-6"), "start.data": "continued", "training.global_batch_size": 6}
    with pytest.raises(RecipeError, match="and its global_batch_size, where order = 'streams'"):
        train(place, "rnn", "refused", changes)


def test_sinusoids_keep_the_size_they_were_trained_with(place: Path) -> None:
    sinusoidal = {"model.positions": "sinusoidal"}
    train(place, "gpt", "waves", sinusoidal)
    begun = sinusoidal | {"start.weights": str(place / "waves"), "model.initialization": "pytorch"}
    with pytest.raises(RecipeError, match=r"trained with model.initialization = 'gpt2'"):
        train(place, "gpt", "refused", begun)


# Tokenizers that mean the same in other bytes.


def test_a_corpus_of_a_tokenizer_that_means_the_same_goes_on_from_the_weights(place: Path) -> None:
    tokenizers = [open_corpus(place / name).tokenizer for name in ("text", "same")]
    assert tokenizers[0].sha256 != tokenizers[1].sha256
    train(place, "gpt", "on-same", {"start.weights": str(place / "gpt-6"), "corpus": str(place / "same")})
    assert np.isfinite(losses(place, "on-same")).all()


def test_a_corpus_of_a_tokenizer_that_means_the_same_may_score(place: Path) -> None:
    train(place, "gpt", "scored", {"evaluation.corpus": str(place / "same")})
    with pytest.raises(CorpusError, match="have different tokenizers"):
        train(place, "gpt", "refused", {"evaluation.corpus": str(place / "other")})


def evaluate(place: Path, corpus: str) -> Result:
    kept = ["--out", str(place / "evaluations")]
    arguments = ["evaluate", str(place / "gpt-6"), "--corpus", str(place / corpus), "--json", *kept]
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_a_run_is_evaluated_on_a_corpus_of_a_tokenizer_that_means_the_same(place: Path) -> None:
    reports = [json.loads(evaluate(place, corpus).stdout)["models"][0]["loss"] for corpus in ("text", "same")]
    assert reports[0] == reports[1]
    assert not reports[0]["reencoded"]
    with pytest.raises(CorpusError, match=r"is not among the \d+ characters"):  # encoded again, if that is possible
        evaluate(place, "other")


def test_weights_that_are_no_run_are_named(place: Path) -> None:
    with pytest.raises(RecipeError, match=r"start.weights: .*text is not a run folder.*folder of a run"):
        train(place, "gpt", "refused", {"start.weights": str(place / "text")})


def test_a_start_that_names_no_weights_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"start: .*set start\.weights"):
        recipe_from({"corpus": "c", "training": {"steps": 1}, "start": {"optimizer": "kept"}}, "r")
    start = {"weights": "r", "optimizer": "kept", "at": "best"}
    with pytest.raises(RecipeError, match=r"a snapshot holds weights alone"):
        recipe_from({"corpus": "c", "training": {"steps": 1}, "start": start}, "r")
