"""The scoreboard: what was kept of each model, and whether columns rank models alike."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import spearmanr
from test_tasks import subject, task

from scratchlab.cli.main import cli
from scratchlab.errors import ScratchlabError
from scratchlab.evaluation.results import FORMAT
from scratchlab.evaluation.running import evaluate_task
from scratchlab.evaluation.scoreboard import rank_correlation, scoreboard
from scratchlab.files import file_name, sha256_of_json


@pytest.mark.parametrize("n", [3, 5, 8, 12])
def test_rank_correlation_is_spearmans_and_its_p_is_that_of_all_orders(n):
    rng = np.random.default_rng(n)
    left = rng.normal(size=n)
    right = np.round(left + rng.normal(size=n), 0)  # with ties
    found, p = rank_correlation(left, right)
    assert found == pytest.approx(spearmanr(left, right).statistic)
    drawn = np.array([abs(spearmanr(left, rng.permutation(right)).statistic) for _ in range(2_000)])
    assert p == pytest.approx((drawn >= abs(found) - 1e-9).mean(), abs=0.04)


def test_three_models_in_the_same_order_prove_nothing():
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([5.0, 6.0, 9.0])) == (
        pytest.approx(1),
        pytest.approx(1 / 3),
    )


def test_it_holds_what_was_kept_and_only_whole_results(tmp_path):
    for seed in (1, 2, 3):
        result = evaluate_task(subject(seed), task(), tmp_path)
    board = scoreboard([f"runs/tiny {seed}" for seed in (1, 2, 3)], tmp_path)
    found = board.rows["runs/tiny 3"]
    assert found == {"numbers": result.accuracy, "numbers bits per byte": result.bits_per_byte}
    (log,) = (tmp_path / "runs-tiny-3").glob("*.jsonl")
    log.write_bytes(b"\n".join(log.read_bytes().splitlines()[:-1]) + b"\n")
    board = scoreboard([f"runs/tiny {seed}" for seed in (1, 2, 3)], tmp_path)
    assert board.rows["runs/tiny 3"] == {}
    assert board.rows["runs/tiny 1"].keys() == found.keys()
    assert not board.agreements, "two models cannot disagree"


def write_loss(folder: Path, model: str, nats: float | None, **head: Any) -> None:
    """A log as the evaluation of a text leaves it, with this loss a token."""
    own = {"format": FORMAT, "kind": "loss", "model": model, "model_sha256": model, "task": "mine, test"}
    own |= {"task_sha256": "t" * 64, "unit": "documents", "items": 9, "reencoded": False, "window": 64, "stride": 64}
    lines = [{"item": n, "nats": nats and nats * (100 + n), "tokens": 100 + n, "bytes": 300} for n in range(1, 10)]
    path = folder / file_name(model) / f"mine-{sha256_of_json([model, head])[:12]}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in [own | head, *lines]), encoding="utf-8")


def answer_right(log: Path, right: int) -> None:
    """Make so many of a log's answers right, and the others wrong."""
    head, *records = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    for place, record in enumerate(records):
        record["nats"][record["gold"]] = 1e-3 if place < right else 1e3
    log.write_text("".join(json.dumps(line) + "\n" for line in [head, *records]), encoding="utf-8")


def test_better_is_first_whether_high_or_low(tmp_path: Path) -> None:
    """A loss that falls while accuracy rises agrees with it."""
    names = [f"runs/tiny {seed}" for seed in (1, 2, 3)]
    for seed, name in enumerate(names, start=1):
        evaluate_task(subject(seed), task(), tmp_path)
        (log,) = (tmp_path / file_name(name)).glob("*.jsonl")
        answer_right(log, 4 * seed)
        write_loss(tmp_path, name, 3 - seed / 10)
    found = {frozenset(one.columns): one for one in scoreboard(names, tmp_path).agreements}
    agreement = found[frozenset({"mine, test: nats per token", "numbers"})]
    assert (agreement.correlation, agreement.n) == (pytest.approx(1), 3)


def test_other_items_of_the_same_name_have_a_column_of_their_own(tmp_path: Path) -> None:
    whole = evaluate_task(subject(1), task(), tmp_path)
    made = task()
    part = evaluate_task(subject(1), replace(made, items=made.items[:7]), tmp_path)
    row = scoreboard(["runs/tiny 1"], tmp_path).rows["runs/tiny 1"]
    found = {name.partition(",")[0]: figure for name, figure in row.items() if name.endswith(")")}
    assert found == {f"numbers (n = {len(made.items)}": whole.accuracy, "numbers (n = 7": part.accuracy}


def test_items_whose_beginning_was_cut_off_are_said(tmp_path: Path) -> None:
    evaluate_task(subject(1, context=14), task(), tmp_path, truncate=True)
    assert "without the beginnings of 20 of 20 items" in scoreboard(["runs/tiny 1"], tmp_path).notes[0]


def test_overlapping_windows_have_a_column_of_their_own(tmp_path: Path) -> None:
    write_loss(tmp_path, "a", 3.0)
    write_loss(tmp_path, "a", 2.0, stride=32)
    row = scoreboard(["a"], tmp_path).rows["a"]
    assert row["mine, test: nats per token"].value == pytest.approx(3)
    assert row["mine, test, stride 32: nats per token"].value == pytest.approx(2)


def test_nats_of_other_tokens_stand_in_no_column(tmp_path: Path) -> None:
    for model, reencoded in (("a", False), ("b", True)):
        write_loss(tmp_path, model, 3.0, reencoded=reencoded)
    board = scoreboard(["a", "b"], tmp_path)
    assert set(board.rows["a"]) - set(board.rows["b"]) == {"mine, test: nats per token"}
    assert "other tokens" in board.notes[0]


def test_a_model_that_was_changed_counts_as_it_was_scored_last(tmp_path: Path) -> None:
    write_loss(tmp_path, "a", 3.0, model_sha256="first")
    write_loss(tmp_path, "a", 2.0, model_sha256="second")
    for place, path in enumerate(sorted(tmp_path.glob("a/*"), key=lambda path: "second" in path.read_text())):
        os.utime(path, ns=(place, place))
    board = scoreboard(["a"], tmp_path)
    assert board.rows["a"]["mine, test: nats per token"].value == pytest.approx(2)
    assert "several times" in board.notes[0]


def test_a_loss_that_is_not_finite_is_left_out_and_said(tmp_path: Path) -> None:
    write_loss(tmp_path, "a", None)
    board = scoreboard(["a"], tmp_path)
    assert (board.rows["a"], board.columns) == ({}, ())
    assert "not finite" in board.notes[0]


def test_another_model_whose_folder_has_the_same_name_is_not_taken_for_it(tmp_path: Path) -> None:
    write_loss(tmp_path, "runs/a", 3.0)
    with pytest.raises(ScratchlabError, match="no results of runs-a, and it is no run folder"):
        scoreboard(["runs-a"], tmp_path)


def test_the_command_prints_it_and_writes_markdown(tmp_path):
    for seed in (1, 2, 3):
        evaluate_task(subject(seed), task(), tmp_path / "kept")
    names = [f"runs/tiny {seed}" for seed in (1, 2, 3)]
    arguments = ["scoreboard", *names, "--out", f"{tmp_path}/kept"]
    shown = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert "runs/tiny 2" in shown.output
    assert "0.3000 (0.0800 to 0.5200)" in shown.output  # t(.975, 19) = 2.093
    board = json.loads(CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False).output)
    assert board["columns"] == ["numbers", "numbers bits per byte"]
    CliRunner().invoke(cli, [*arguments, "--markdown", f"{tmp_path}/board.md"], catch_exceptions=False)
    assert (tmp_path / "board.md").read_text().startswith("| model | numbers | numbers bits per byte |\n| --- |")
