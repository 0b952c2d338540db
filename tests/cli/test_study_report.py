"""`scratchlab study report`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from scratchlab.cli.main import cli
from scratchlab.study.definition import Study
from tiny_reports import noisy, run_on_paper
from tiny_study import load, write_baseline


@pytest.fixture
def study(tmp_path: Path) -> Study:
    write_baseline(tmp_path)
    made = load(tmp_path, looks=[2])
    run_on_paper(made, noisy(b=0.3))
    return made


def report(*arguments: str) -> str:
    outcome = CliRunner().invoke(cli, ["study", "report", *arguments], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def test_both_pages_go_into_the_studys_folder(study: Study) -> None:
    output = report(str(study.path))
    assert "  hurts: b\n" in output
    assert "differ in their seeds" not in output
    assert f"Wrote {study.folder / 'report.html'}" in output
    assert (study.folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert (study.folder / "report.md").read_text(encoding="utf-8").startswith("# Which of 2 changes")


def test_what_is_named_alone_is_written(study: Study, tmp_path: Path) -> None:
    report(str(study.path), "--markdown", str(tmp_path / "out" / "mine.md"))
    assert (tmp_path / "out" / "mine.md").is_file()
    assert not (study.folder / "report.html").exists()


def test_json_is_all_there_is(study: Study) -> None:
    found = json.loads(report(str(study.path), "--json"))
    assert (found["state"], len(found["runs"])) == ("complete", 6)
    assert {"analysis", "arms", "cost", "curves", "missing", "noise", "study_file"} <= found.keys()
    assert not (study.folder / "report.md").exists()
