"""`scratchlab study analyze` on anybody's numbers."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from scratchlab.cli.study_analyze import analyze
from scratchlab.errors import UsageError

PUBLIC = Path(__file__).parents[2] / "studies/public"


def run(*words: str) -> str:
    outcome = CliRunner().invoke(analyze, list(words), catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


GPJT = ("--table", str(PUBLIC / "gpjt.csv"), "--baseline", "baseline", "--noise", str(PUBLIC / "gpjt-noise.csv"))


def test_the_json_has_the_promised_names() -> None:
    report = json.loads(run(*GPJT, "--json"))
    tying = report["arms"][0]
    promised = ["name", "n", "mean", "effect", "low", "high", "p", "p_holm", "verdict", "seeds_needed"]
    assert list(tying)[: len(promised)] == promised
    assert (tying["name"], tying["n"], tying["verdict"], tying["seeds_needed"]) == ("weight tying", 1, "hurts", None)
    assert {arm["verdict"] for arm in report["arms"][1:]} == {"undecided"}


def test_people_get_a_table_and_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    text = run(*GPJT)
    assert "weight tying                     hurts       1   +0.201   +0.107 to +0.295" in text
    assert "about" in text
    assert "more seeds would settle it" in text.replace("\n", " ")
    assert "held against the mean of 3 baseline runs" in text


def test_a_baseline_alone_is_compared_with_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("arm,block,value\nbase,1,3.5\nbase,2,3.6\n", encoding="utf-8")
    text = run("--table", str(path), "--baseline", "base")
    assert "there is nothing to compare: every run is of the baseline base" in text
    assert "verdict" not in text


def test_higher_is_better_and_exploratory_arms(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = "".join(f"base,{b},{50 + b}\ngood,{b},{60 + b + b % 2}\nother,{b},{50 + b}\n" for b in range(4))
    path.write_text("arm,block,value\n" + rows, encoding="utf-8")
    words = ("--table", str(path), "--baseline", "base", "--higher-is-better", "--exploratory", "other", "--json")
    report = json.loads(run(*words))
    good, other = report["arms"]
    assert good["verdict"] == "helps"
    assert (other["exploratory"], other["p_holm"]) == (True, None)
    with pytest.raises(UsageError, match="no arm 'another'"):
        run("--table", str(path), "--baseline", "base", "--exploratory", "another")
