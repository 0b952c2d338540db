"""The gallery: which weights, at which loss, and what they wrote."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.store import open_corpus
from scratchlab.corpus.tokenizer import train_tokenizer
from scratchlab.errors import CorpusError, RunError
from scratchlab.evaluation.gallery import Gallery, curve, make_gallery, openings, seed_of
from scratchlab.generation.engine import Settings
from scratchlab.generation.text import run_tokenizer, write
from scratchlab.model.load import load_model
from scratchlab.recipe import recipe_from
from scratchlab.runfolder import RunFolder, step_name
from scratchlab.training.loop import train
from tiny import Stream

SETTINGS = Settings(max_tokens=24, temperature=0.8, top_k=10, seed=5)
WORDS = ["every", "effort", "moves", "you", "toward", "finding", "an", "ideal"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("gallery")
    (folder / "writing").mkdir()
    random = np.random.default_rng(1)
    for number in range(40):
        (folder / f"writing/{number}.txt").write_text(" ".join(random.choice(WORDS, 60)) + "\n", encoding="utf-8")
    build_corpus([str(folder / "writing")], folder / "corpus", tokenizer="char")
    tables: dict[str, Any] = {
        "corpus": str(folder / "corpus"),
        "model": {"n_layer": 1, "n_head": 2, "d_model": 16, "context_length": 16},
        "training": {"steps": 64, "global_batch_size": 8, "learning_rate": 1e-2, "precision": "float32"},
        "evaluation": {"every": 16, "sample_tokens": 0, "max_tokens": 500},
        "execution": {"device": "cpu", "threads": 1, "compile": False, "micro_batch_size": 8},
    }
    train(recipe_from(tables, where="test"), folder / "run")
    return RunFolder.open(folder / "run")


@pytest.fixture(scope="module")
def gallery(run: RunFolder) -> Gallery:
    return make_gallery(run, settings=SETTINGS, device="cpu")


Copy = Callable[..., RunFolder]


@pytest.fixture
def copy(run: RunFolder, tmp_path: Path) -> Copy:
    """A copy of the run, its manifest changed."""

    def make(**manifest: Any) -> RunFolder:
        folder = RunFolder(shutil.copytree(run.path, tmp_path / "copy"))
        (folder.path / "manifest.json").write_text(json.dumps(folder.manifest() | manifest))
        return folder

    return make


def show(folder: RunFolder, **options: Any) -> Gallery:
    return make_gallery(folder, prompts=["you"], settings=replace(SETTINGS, max_tokens=2), device="cpu", **options)


def test_losses_are_those_that_the_training_saw(run: RunFolder, gallery: Gallery) -> None:
    seen = {record["step"]: record["validation"] for record in run.metrics() if "validation" in record}
    assert [entry.step for entry in gallery.entries] == [0, 1, 4, 16, 64]
    assert [entry.weights for entry in gallery.entries] == ["fresh", "snapshot", "snapshot", "snapshot", "last"]
    by_step = {entry.step: entry for entry in gallery.entries}
    assert by_step[16].loss.to_json() == seen[16]
    assert by_step[64].loss.to_json() == seen[64]
    assert by_step[0].loss.nats_per_token == pytest.approx(math.log(run.manifest()["vocab_size"]), rel=0.02)
    losses = [entry.loss.nats_per_token for entry in gallery.entries]
    assert losses == sorted(losses, reverse=True)
    assert [entry.tokens for entry in gallery.entries] == [step * 8 * 16 for step in (0, 1, 4, 16, 64)]


def test_nothing_but_the_weights_differs(run: RunFolder, gallery: Gallery) -> None:
    tokenizer = run_tokenizer(run)
    last, fourth = gallery.entries[-1], gallery.entries[3]
    assert len(gallery.prompts) == len(last.samples) == 4
    for number, prompt in enumerate(gallery.prompts):
        own = replace(SETTINGS, seed=5 + number)
        assert last.samples[number] == "".join(write(load_model(run, device="cpu"), tokenizer, prompt, own))
        assert fourth.samples[number] == "".join(write(load_model(run, 16, "cpu"), tokenizer, prompt, own))
    assert seed_of(replace(SETTINGS, seed=2**63 - 1), 1) == 0, "a seed that there is"


def test_it_is_the_same_again_and_disturbs_no_random_stream(run: RunFolder, gallery: Gallery) -> None:
    before = torch.get_rng_state()
    np.random.seed(7)
    numpy_before = str(np.random.get_state())
    assert make_gallery(run, settings=SETTINGS, device="cpu") == gallery
    assert torch.equal(torch.get_rng_state(), before)
    assert str(np.random.get_state()) == numpy_before


def test_losses_that_are_asked_for_get_the_nearest_weights(run: RunFolder, gallery: Gallery) -> None:
    losses = {entry.step: entry.loss.nats_per_token for entry in gallery.entries}
    asked = [losses[64] - 1, losses[4] + 1e-6, losses[64] + 1e-6, 99.0]
    found = show(run, losses=asked).entries
    assert [(entry.step, entry.asked) for entry in found] == [
        (0, (99.0,)),
        (4, (asked[1],)),
        (64, (asked[0], asked[2])),
    ]
    assert all(entry.samples for entry in found)


def test_words_of_the_samples_are_looked_up_in_the_training_text(gallery: Gallery) -> None:
    known = {word for word in WORDS if len(word) >= 4}
    for entry in gallery.entries:
        found = [word for sample in entry.samples for word in sample.split() if len(word) >= 4]
        assert (entry.words, entry.known_words) == (len(found), sum(word in known for word in found))
    assert gallery.entries[-1].words


def test_without_the_training_text_words_are_not_counted(copy: Copy) -> None:
    folder = copy(corpus={"path": "/nowhere", "sha256": "0" * 64})
    made = show(folder)
    assert {entry.known_words for entry in made.entries} == {None}
    assert any("training text is not where it was" in note for note in made.notes)


def test_a_run_without_snapshots_shows_what_it_has_and_says_so(gallery: Gallery, copy: Copy) -> None:
    folder = copy()
    for snapshot in folder.path.glob("snapshots/step-*"):
        shutil.rmtree(snapshot)
    weights = load_file(folder.checkpoint(64)[0])
    folder.save_snapshot("best", 32, lambda path: save_file(weights, path))
    made = show(folder)
    assert [(entry.step, entry.weights) for entry in made.entries] == [(0, "fresh"), (32, "best"), (64, "last")]
    assert made.entries[1].loss == made.entries[2].loss
    assert any("no snapshots" in note for note in made.notes)
    assert not any("no snapshots" in note for note in gallery.notes)


def test_weights_that_are_not_finite_write_nothing_and_are_never_the_nearest(copy: Copy) -> None:
    folder = copy(lineage=[{"tokens": 0}])
    damage(folder, 1)
    entries = show(folder).entries
    assert [(entry.step, entry.finite, len(entry.samples)) for entry in entries] == [
        (1, False, 0),
        (4, True, 1),
        (16, True, 1),
        (64, True, 1),
    ]
    assert [entry.step for entry in show(folder, losses=[9.0]).entries] == [4]
    shutil.rmtree(folder.path / "checkpoints")
    shutil.rmtree(folder.path / "snapshots/best")
    damage(folder, 4, 16)
    with pytest.raises(RunError, match="None of the weights"):
        show(folder, losses=[9.0])


def damage(folder: RunFolder, *steps: int) -> None:
    """Make the weights of these snapshots NaN."""
    for step in steps:
        broken = {name: tensor * math.nan for name, tensor in load_file(folder.snapshot(step_name(step))[0]).items()}
        folder.save_snapshot(step_name(step), step, lambda path, broken=broken: save_file(broken, path))


def test_a_run_under_way_is_shown_as_far_as_it_is(copy: Copy) -> None:
    folder = copy()
    (folder.path / "result.json").unlink()
    shutil.rmtree(folder.path / "checkpoints")
    shutil.rmtree(folder.path / "snapshots/best")
    made = show(folder)
    assert [entry.step for entry in made.entries] == [0, 1, 4, 16]
    assert any("not finished: its last weights so far are those of step 16 of 64" in note for note in made.notes)


def test_what_a_run_began_from_counts_and_its_own_seed_gave_nothing(copy: Copy) -> None:
    made = show(copy(lineage=[{"tokens": 1000}, {"tokens": 24}]))
    assert [(entry.step, entry.tokens) for entry in made.entries] == [(1, 1152), (4, 1536), (16, 3072), (64, 9216)]


def test_what_cannot_be_shown_is_said(copy: Copy, run: RunFolder) -> None:
    with pytest.raises(CorpusError, match="'Ω'"):
        make_gallery(run, prompts=["you", "Ω"], device="cpu")
    recorded = run.manifest()["evaluation_corpus"]
    with pytest.raises(CorpusError, match=r"is not the corpus that .* was scored on"):
        show(copy(evaluation_corpus=recorded | {"sha256": "0" * 64}))


def test_an_imported_run_has_no_training_to_show(copy: Copy) -> None:
    with pytest.raises(RunError, match="was imported"):
        show(copy(evaluation_corpus={"path": None, "sha256": None}))


# Prompts.


def test_openings_are_the_first_words_of_held_out_documents(run: RunFolder, gallery: Gallery) -> None:
    corpus = open_corpus(run.manifest()["corpus"]["path"])
    documents, split = list(corpus.documents("validation")), corpus.split("validation")
    drawn = [openings(split, corpus.tokenizer, seed=seed) for seed in range(6)]
    assert all(any(document.startswith(opening) for document in documents) for each in drawn for opening in each)
    assert all(1 < len(opening.split()) <= 5 for each in drawn for opening in each)
    assert len(set(drawn)) > 1
    assert gallery.prompts == ("", *drawn[1]), "seed 1"


def test_of_a_single_text_they_are_the_beginnings_of_paragraphs() -> None:
    paragraphs = [f"PART {chr(65 + n)}:\nwhat is said here is {'very ' * 30}long" for n in range(26)]
    text = "\n\n".join(paragraphs)
    tokenizer = train_tokenizer("char", [text])
    found = openings(Stream(tokenizer.encode(text)), tokenizer)
    assert len(found) == 3
    assert all(paragraph in [each[: len("PART A:\nwhat is said")] for each in paragraphs] for paragraph in found)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("\n \n", set[str]()), ("x" * 99, {"x" * 40}), ("one\ttwo", {"one\ttwo"}), ("\n\na b c d e f", {"a b c d e"})],
)
def test_an_opening_of_whatever_text(text: str, wanted: set[str]) -> None:
    tokenizer = train_tokenizer("char", [text])
    assert set(openings(Stream(tokenizer.encode(text)), tokenizer)) == wanted


# The curve.


def test_the_curve_is_medians_of_steps_in_groups() -> None:
    records = [{"step": step, "loss": 5.0 - step / 1000} for step in range(3000)]
    found = curve([*records, {"step": 3000, "validation": {}}, {"step": 2999, "loss": None}])
    assert [step for step, _ in found] == sorted({step for step, _ in found})
    assert 80 < len(found) <= 151
    assert found[0] == (0, 5.0)
    assert found[-1][0] > 2900
    assert all(loss == pytest.approx(5.0 - step / 1000, abs=1e-3) for step, loss in found)
    assert curve([{"step": 0, "loss": None}]) == ()
    assert curve([{"step": 0, "loss": 4.0}]) == ((0, 4.0),)
