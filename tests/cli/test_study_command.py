"""`scratchlab study` as a person uses it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scratchlab.cli.main import cli
from scratchlab.errors import RunError, UsageError
from tiny_study import Here, real_place


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("scratchlab.study.engines.engine", lambda *_: Here())
    return real_place(tmp_path)


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["study", *map(str, words)], catch_exceptions=False)


def test_what_new_writes_runs_as_it_is(place: Path) -> None:
    path = place / "studies" / "mine.toml"
    assert run("new", path, "--baseline", place / "base.toml").exit_code == 0
    with pytest.raises(UsageError, match="exists already"):
        run("new", path, "--baseline", place / "base.toml")
    path.write_text(path.read_text(encoding="utf-8").replace("looks = [3, 5, 8]", "looks = [2]"), encoding="utf-8")
    assert "not begun" in run("status", path).output

    plan = json.loads(run("plan", path, "--workers", 2, "--json").stdout)
    assert [arm["name"] for arm in plan["arms"]] == ["baseline", "dropout", "faster"]
    assert [(look["runs"], look["missing"]) for look in plan["looks"]] == [(6, 6)]
    assert plan["looks"][0]["device_hours"] > 0
    assert "is not known before it has run twice" in run("plan", path).output

    report = json.loads(run("run", path, "--json").stdout)
    assert (report["state"], report["runs_done"], report["ran"]) == ("complete", 6, 6)
    assert {arm["name"] for arm in report["analysis"]["arms"]} == {"dropout", "faster"}
    assert "6 runs done" in run("status", path).output
    assert json.loads(run("run", path, "--json").stdout)["ran"] == 0


def test_a_run_that_fails_makes_the_command_fail(place: Path) -> None:
    path = place / "mine.toml"
    run("new", path, "--baseline", place / "base.toml")
    (place / "runs").mkdir()
    (place / "runs" / ".locks").write_text("no folder", encoding="utf-8")
    with pytest.raises(RunError, match="9 runs failed"):
        run("run", path)
