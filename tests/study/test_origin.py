"""Which study a run belongs to, by the tables of the studies beside it."""

import json
from pathlib import Path

import pytest

from scratchlab.runfolder import RunFolder
from scratchlab.study.origin import origin_of
from tiny_study import write_study

HEAD = "arm,block,test.bits_per_byte,seed_init,seed_data,seed_noise\n"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = tmp_path / "runs" / "abc"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"seeds": {"init": 1, "data": 2, "noise": 3}}), encoding="utf-8")
    (folder / "result.json").write_text(json.dumps({"test": {"bits_per_byte": 1.25}}), encoding="utf-8")
    write_study(tmp_path)
    (tmp_path / "mine").mkdir()
    return RunFolder(folder)


def write_rows(run: RunFolder, *rows: str) -> None:
    table = run.path.parent.parent / "mine/table.csv"
    table.write_text(HEAD + "".join(f"{row}\n" for row in rows), encoding="utf-8")


def test_the_study_that_has_a_run_says_which_it_is(run: RunFolder) -> None:
    write_rows(run, "baseline,0,1.25,9,2,3", "a,0,1.5,1,2,3", "b,0,1.25,1,2,3")
    found = {"study": "mine", "metric": "test.bits_per_byte", "runs": 3, "arm": "b", "block": "0"}
    assert origin_of(run) == [found]


def test_a_run_of_no_study_has_none(run: RunFolder) -> None:
    assert origin_of(run) == []  # it has no table yet
    write_rows(run, "b,0,1.5,1,2,3", "b,0,1.25,1,2,4")
    assert origin_of(run) == []
    write_rows(run, "b,0,1.25,1,2,3")
    write_study(run.path.parent.parent, runs="others")
    assert origin_of(run) == []
    (run.path.parent.parent / "mine.toml").write_text("not TOML", encoding="utf-8")
    assert origin_of(run) == []
    (run.path / "result.json").unlink()
    assert origin_of(run) == []
