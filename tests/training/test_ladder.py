"""The ladder: which rungs there are, that they compute the same, and what is kept of them."""

import json
import multiprocessing
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from scratchlab import hardware
from scratchlab.cli.main import cli
from scratchlab.errors import RunError, UsageError
from scratchlab.recipe import Recipe, recipe_from
from scratchlab.training import ladder
from scratchlab.training.ladder_files import devices, keep, read
from tiny import tiny_recipe

SYMBOLS = 1001  # no multiple of 64


def names(recipe: Recipe, device: str, symbols: int = SYMBOLS) -> list[str]:
    return [rung.name for rung in ladder.rungs_for(recipe, symbols, device)[0]]


def test_rungs_are_those_that_exist_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_recipe({"model.context_length": 2**14})
    monkeypatch.setattr(ladder, "lacks_to_compile", lambda device: None)
    common = ["compile", "fused attention", "padded vocabulary", "fused optimizer", "chunked loss"]
    assert names(recipe, "cpu") == ["float32", "bf16", *common]
    monkeypatch.setattr(hardware, "precisions_of", lambda device: ["float32", "tf32", "bf16", "fp16"])
    assert names(recipe, "cuda") == ["float32", "TF32", "bf16", *common]
    monkeypatch.setattr(hardware, "precisions_of", lambda device: ["float32", "fp16"])
    monkeypatch.setattr(ladder, "lacks_to_compile", lambda device: "this machine has no C++ compiler")
    assert names(recipe, "cuda", 1024) == ["float32", "fp16", "fused attention", "fused optimizer", "chunked loss"]
    left_out = ladder.rungs_for(recipe, 1024, "cuda")[1]
    assert left_out.keys() == {"TF32", "compile", "padded vocabulary"}
    assert "C++ compiler" in left_out["compile"]
    left_out = ladder.rungs_for(recipe.replaced({"model.context_length": 6}), SYMBOLS, "cuda")[1]
    assert left_out["chunked loss"] == "the logits of 24 tokens are few enough to be made whole"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A real ladder of three rungs, by the command, from a recipe with dropout whose corpus is not here."""
    folder = tmp_path_factory.mktemp("ladder")
    recipe = tiny_recipe({"model.dropout": 0.2, "model.context_length": 16, "training.global_batch_size": 8})
    (folder / "small.toml").write_text(recipe.to_toml(), encoding="utf-8")
    rungs = [
        ladder.Rung("float32"),
        ladder.Rung("attention and vocabulary", {"model.attention": "fused", "model.vocab_multiple": 64}),
        ladder.Rung("bf16 and the rest", {"training.precision": "bf16"}, fused_optimizer=True, chunked_loss=True),
    ]
    words = ["ladder", str(folder / "small.toml"), "--vocab-size", str(SYMBOLS), "--turns", "2", "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ladder, "rungs_for", lambda *asked: (rungs, {"compile": "the test has no time"}))
        outcome = CliRunner().invoke(cli, [*words, "--out", str(folder / "out/l.json")], catch_exceptions=False)
    assert outcome.exit_code == 0
    return json.loads(outcome.stdout)


def test_each_rung_computes_the_same_on_its_own_way(report: dict[str, Any]) -> None:
    first, second, third = report["rungs"]
    assert first["loss_difference"] == 0
    assert second["loss_difference"] < 1e-5
    assert 1e-5 < third["loss_difference"] < 1e-2, "other roundings"
    assert [rung["tolerance"] for rung in report["rungs"]] == [1e-3, 1e-3, 5e-2]
    assert all(rung["equal"] for rung in report["rungs"])
    assert first["loss"] != pytest.approx(6.9088, abs=1e-4), "it has learned something, or no step would show"


def test_speeds_have_intervals_and_their_n(report: dict[str, Any]) -> None:
    first, second, third = report["rungs"]
    assert first["times_first"]["ratio"] == 1
    assert "times_previous" not in first
    for rung in (second, third):
        for kind in ("times_first", "times_previous"):
            assert rung[kind]["low"] < rung[kind]["ratio"] < rung[kind]["high"]
        assert rung["turns"] == 2
    both = second["times_first"]["ratio"] * third["times_previous"]["ratio"]
    assert both == pytest.approx(third["times_first"]["ratio"])
    assert all(rung["peak_memory_bytes"] > 5e7 and rung["tokens_per_second"] > 0 for rung in report["rungs"])
    assert report["sequences_a_step"] == 4, "one micro-batch"
    assert report["sequences_of_the_recipe"] == 8
    assert report["environment"]["device"] == hardware.device_name("cpu")


def test_it_is_kept_and_drawn(report: dict[str, Any]) -> None:
    kept = json.loads(Path(report["file"]).read_text(encoding="utf-8"))
    assert kept["rungs"] == report["rungs"]
    assert Path(report["chart"]).read_bytes().startswith(b"\x89PNG")
    assert Path(report["chart"]) == Path(report["file"]).with_suffix(".png")


def test_ladders_of_several_machines_become_one_table(report: dict[str, Any], tmp_path: Path) -> None:
    paths: list[str] = []
    for device, factor in (("A100", 0.001), ("T4", 0.01)):
        rungs = [
            rung | {"tokens_per_second": rung["tokens_per_second"] / factor, "seconds": rung["seconds"] * factor}
            for rung in report["rungs"]
        ]
        environment = report["environment"] | {"device": device}
        paths.append(str(tmp_path / f"{device}.json"))
        other = report | {"environment": environment, "rungs": rungs[: 3 if device == "A100" else 2]}
        keep(other, Path(paths[-1]), tmp_path / "chart.png")
    table = devices(read([*paths, report["file"]]))
    assert [row["device"] for row in table["devices"]] == [hardware.device_name("cpu"), "T4", "A100"]
    assert table["devices"][1]["tokens_per_second"]["bf16 and the rest"] is None
    shown = CliRunner().invoke(cli, ["ladder", "--devices", *paths, report["file"]], catch_exceptions=False).output
    assert shown.index("T4") < shown.index("A100")
    assert "bf16 and the rest" in shown

    Path(paths[0]).write_text(json.dumps(report | {"ladder": 1, "shape": {"parameters": 7}}), encoding="utf-8")
    with pytest.raises(UsageError, match="ladders of different models"):
        read(paths)
    Path(paths[0]).write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match="is no ladder of this version"):
        read(paths)
    with pytest.raises(UsageError, match="could not be read: No such file"):
        read([str(tmp_path / "nothing.json")])


def test_another_loss_is_said_and_fails(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = report["rungs"][1] | {"equal": False}
    monkeypatch.setattr(ladder, "climb", lambda *asked: report | {"rungs": [report["rungs"][0], off]})
    (tmp_path / "r.toml").write_text(tiny_recipe().to_toml(), encoding="utf-8")
    words = ["ladder", str(tmp_path / "r.toml"), "--vocab-size", "9", "--out", str(tmp_path / "l.json")]
    outcome = CliRunner().invoke(cli, words)
    assert isinstance(outcome.exception, RunError)
    assert "attention and vocabulary is not that of float32" in str(outcome.exception)
    assert " !" in outcome.output


def test_what_cannot_be_climbed_is_refused() -> None:
    recurrent = {"corpus": "c", "model": {"architecture": "rnn"}, "training": {"steps": 1}}
    for recipe in (recipe_from(recurrent, where="r"), tiny_recipe({"model.attention": "explicit"})):
        with pytest.raises(UsageError, match=r"A ladder is of a GPT whose model.attention is 'fused'"):
            ladder.climb(recipe, SYMBOLS)
    outcome = CliRunner().invoke(cli, ["ladder"])
    assert isinstance(outcome.exception, UsageError)


def test_what_a_table_of_devices_would_ignore_is_refused(tmp_path: Path) -> None:
    words = ["ladder", "--devices", "a.json", "--turns", "3", "--chart", str(tmp_path / "c.png")]
    outcome = CliRunner().invoke(cli, words)
    assert isinstance(outcome.exception, UsageError)
    assert str(outcome.exception).startswith("--turns, --chart: with --devices nothing is measured or written")


class FakeClimber:
    """A process of a rung on a card that holds so many sequences, of all of them together."""

    room, there = 7, 0

    def __init__(self, recipe: Recipe, rung: ladder.Rung, vocab_size: int) -> None:
        assert rung is ladder.BOTTOM, "the one that takes the most"
        self.size = recipe.settled.micro_batch_size
        if FakeClimber.there + self.size > self.room:
            raise ladder.NoRoomError("memory ran out")
        FakeClimber.there += self.size

    def __enter__(self) -> "FakeClimber":
        return self

    def __exit__(self, *error: object) -> None:
        FakeClimber.there -= self.size


@pytest.mark.parametrize(("found", "taken"), [(48, 3), (6, 3), (2, 1), (1, 1)])
def test_two_rungs_share_a_card(monkeypatch: pytest.MonkeyPatch, found: int, taken: int) -> None:
    """What was found by trying is of one process, with the loss in chunks, which seven of eight rungs have not."""
    monkeypatch.setattr(ladder, "_Climber", FakeClimber)
    recipe = tiny_recipe({"training.global_batch_size": found, "execution.micro_batch_size": found})
    shared = ladder._sharing_the_card(recipe, SYMBOLS)
    assert (shared.settled.micro_batch_size, shared.training.global_batch_size) == (taken, taken)
    assert FakeClimber.there == 0


def test_a_rung_that_dies_is_named() -> None:
    recipe = ladder._bare(tiny_recipe(), SYMBOLS)
    climber = ladder._Climber(recipe, ladder.Rung("float32"), SYMBOLS)
    climber.kill()
    with pytest.raises(RunError, match=r"The rung 'float32' ended with exit code -9: most likely memory ran out"):
        climber.end()


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), ladder.NoRoomError, "ran out of memory .CUDA out of m"),
        (ZeroDivisionError("it was 0\nhere"), RunError, "failed: ZeroDivisionError: it was 0$"),
    ],
)
def test_what_went_wrong_in_a_rung_is_told_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[RunError], said: str
) -> None:
    def serve(*order: object) -> None:
        raise error

    ours, theirs = multiprocessing.Pipe()
    monkeypatch.setattr(ladder, "_serve", serve)
    monkeypatch.setattr(ladder, "end_with_parent", lambda: None)
    ladder._work(tiny_recipe().model_dump(), ladder.BOTTOM, SYMBOLS, theirs)
    told = ours.recv()
    assert type(told) is kind
    assert re.search(said, str(told))
