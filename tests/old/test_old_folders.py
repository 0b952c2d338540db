"""Folders that earlier versions wrote still open, and mean what they meant."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from scratchlab.cli.main import cli
from scratchlab.corpus.store import open_corpus
from scratchlab.runfolder import RunFolder
from scratchlab.training.loop import resume

HERE = Path(__file__).parent
FORMATS = sorted(path.name for path in HERE.glob("format-*"))


@pytest.fixture(params=FORMATS)
def old(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in, which is also the current folder: an old run names its corpus by a relative path."""
    copy = tmp_path / request.param
    shutil.copytree(HERE / request.param, copy)
    monkeypatch.chdir(copy)
    return copy


def test_an_old_corpus_opens_and_is_intact(old: Path) -> None:
    corpus = open_corpus("corpora/old")
    assert corpus.verify()
    assert "effort" in corpus.text("train")


def test_an_old_run_scores_what_it_scored(old: Path) -> None:
    recorded = json.loads((old / "runs/old/result.json").read_text(encoding="utf-8"))["test"]
    result = CliRunner().invoke(cli, ["evaluate", "runs/old", "--json"], catch_exceptions=False)
    assert json.loads(result.stdout)["models"][0]["loss"]["nats_per_token"] == pytest.approx(
        recorded["nats_per_token"], rel=1e-5
    )
    assert CliRunner().invoke(cli, ["sample", "runs/old"], catch_exceptions=False).exit_code == 0
    assert "finished" in CliRunner().invoke(cli, ["show", "runs/old"], catch_exceptions=False).stdout


def test_an_old_run_that_was_cut_off_goes_on(old: Path) -> None:
    """Its fingerprint is still that of its recipe: no default has changed unnoticed."""
    (old / "runs/old/result.json").unlink()
    resume("runs/old")
    assert RunFolder.open("runs/old").result() is not None
