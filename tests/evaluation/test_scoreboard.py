"""The scoreboard: what was kept of each model, and whether columns rank models alike."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import spearmanr
from test_tasks import subject, task

from scratchlab.cli.main import cli
from scratchlab.evaluation import scoreboard as module
from scratchlab.evaluation.results import Figure
from scratchlab.evaluation.running import evaluate_task
from scratchlab.evaluation.scoreboard import figures_of, rank_correlation, scoreboard


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
    found = figures_of(tmp_path / "runs-tiny-3")
    assert found == {"numbers": result.accuracy, "numbers bits per byte": result.bits_per_byte}
    (log,) = (tmp_path / "runs-tiny-3").glob("*.jsonl")
    log.write_bytes(b"\n".join(log.read_bytes().splitlines()[:-1]) + b"\n")
    board = scoreboard([f"runs/tiny {seed}" for seed in (1, 2, 3)], tmp_path)
    assert board.rows["runs/tiny 3"] == {}
    assert board.rows["runs/tiny 1"].keys() == found.keys()
    assert not board.agreements, "two models cannot disagree"


def test_better_is_first_whether_high_or_low(monkeypatch, tmp_path):
    """A loss that falls while accuracy rises agrees with it."""
    values = {"a": (3.0, 0.2), "b": (2.5, 0.3), "c": (2.0, 0.4), "d": (1.9, 0.5)}
    monkeypatch.setattr(
        module,
        "figures_of",
        lambda folder: {
            "text: nats per token": Figure(values[folder.name][0], 0.1, 9),
            "hellaswag": Figure(values[folder.name][1], None, 9),
        },
    )
    (found,) = scoreboard(list(values), tmp_path).agreements
    assert found.correlation == pytest.approx(1)
    assert found.n == 4


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
