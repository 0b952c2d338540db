"""Tables of results: what is read, what is refused, and by which words."""

from pathlib import Path

import pytest

from scratchlab.errors import UsageError
from scratchlab.study.analysis import analyze
from scratchlab.study.table import Cell, Table, check_table, read_noise, read_table, write_table


def written(folder: Path, text: str) -> Path:
    path = folder / "results.csv"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, baseline: str = "base") -> str:
    with pytest.raises(UsageError) as caught:
        read_table(path, baseline)
    return str(caught.value)


GOOD = "arm,block,value\nbase,1,3.5\nbase,2,3.6\nwide,1,3.4\nwide,2,3.3\n"


def test_a_table_is_read(tmp_path: Path) -> None:
    text = "\ufeff# source\n\nblock , arm, value,more\n10,base,3.5,x\n2,base,diverged,x\n10,wide,1e-1,y\n2,wide,,y\n"
    table = read_table(written(tmp_path, text), "base")
    assert table.arms == ("base", "wide")
    assert table.blocks == ("2", "10")
    assert table.values("base") == {"2": None, "10": 3.5}
    assert table.values("wide") == {"10": 0.1}
    assert table.missing() == [("wide", "2")]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_spreadsheet_of_another_country_is_read(tmp_path: Path, separator: str) -> None:
    table = read_table(written(tmp_path, GOOD.replace(",", separator)), "base")
    assert table.finished("wide") == [3.4, 3.3]


@pytest.mark.parametrize("word", ["nan", "NaN", "inf", "-inf", "diverged"])
def test_what_diverged_has_no_value(tmp_path: Path, word: str) -> None:
    path = written(tmp_path, f"arm,block,value\nbase,1,{word}\nbase,2,1\n")
    assert read_table(path, "base").values("base") == {"1": None, "2": 1.0}


def test_all_problems_are_told_at_once_by_line(tmp_path: Path) -> None:
    text = '# source\narm,block,value\nbase,1,3.5\nbase,1,3.6\nwide,1,much\nwide,2,"3,5"\n,3,1\n'
    message = refusal(written(tmp_path, text), "bose")
    assert "line 4: arm 'base' has block '1' twice" in message
    assert "line 5: value should be a number, or nan for a run that diverged, not 'much'" in message
    assert "line 6: value should be a number" in message
    assert "write the decimal point as a point" in message
    assert "line 7: its arm is empty" in message
    assert "there is no arm named 'bose' (did you mean 'base'?)" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("arm,blok,value\na,1,2\n", "there is no 'block' (did you mean 'blok'?)"),
        ("arm,block\na,1\n", "there is no 'value'"),
        ("", "it is empty"),
        ("arm,block,value\n", "there is no row"),
        ("arm,block,value\nbase,1,2,3\n", "line 2: it has 4 fields, and the header 3"),
        ("arm,block,value,seed_init\nbase,1,2,5\n", "line 2: it has seed_init and no seed_data, seed_noise"),
        ("arm,block,value,seconds\nbase,1,2,x\n", "line 2: seconds should be a number, not 'x'"),
        (
            "arm,block,value\nbase,1,3,02\n",
            "it has 4 fields, and the header 3 (a decimal comma? write the decimal point as a point)",
        ),
        ("arm;block;value\nbase;1;3,02\n", "not '3,02' (a decimal comma? write the decimal point as a point)"),
        ("arm;blok;value\nbase;1;3.02\n", "there is no 'block' (did you mean 'blok'?)"),
        ("arm,block,value\nbase,1,1e308\n", "line 2: value is 1e308: no figure of a run is so large"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(written(tmp_path, text))


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    assert "there is no such table" in refusal(tmp_path / "none.csv")
    (tmp_path / "results.csv").write_bytes(b"\xff\xfe\x00")
    assert "not text in UTF-8" in refusal(tmp_path / "results.csv")


HEAD = "arm,block,value,seed_init,seed_data,seed_noise\n"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("base,1,2,1,1,1\nbase,2,2,1,1,1\n", "block '2' of 'base' has the seeds of block '1'"),
        (
            "base,1,2,1,1,1\nbase,2,2,2,2,2\nwide,1,2,3,3,3\n",
            "block '1' has other seeds here (init 3, data 3, noise 3)",
        ),
        ("base,1,2,1,1,1\nbase,2,2,1,2,2\nbase,3,2,3,3,3\n", "share init seeds in part (2 of them in 3 runs)"),
    ],
)
def test_replicates_that_share_seeds_are_refused(tmp_path: Path, rows: str, expected: str) -> None:
    assert expected in refusal(written(tmp_path, HEAD + rows))


def test_one_role_held_still_for_all_is_allowed_and_told(tmp_path: Path) -> None:
    rows = "base,1,2,1,9,1\nbase,2,2.1,2,9,2\nwide,1,2.2,1,9,1\nwide,2,2.4,2,9,2\n"
    found = analyze(read_table(written(tmp_path, HEAD + rows), "base"))
    assert "all runs have the data seed 9: the verdicts hold for it alone" in found.notes


def test_an_exact_rerun_is_no_replicate(tmp_path: Path) -> None:
    text = GOOD.replace("value\n", "value,rerun\n").replace("3.5\n", "3.5,\nbase,1,3.5,1\n").replace("3.6\n", "3.6,\n")
    text = text.replace("3.4\n", "3.4,\n").replace("3.3\n", "3.3,0\n")
    table = read_table(written(tmp_path, text), "base")
    assert len(table.cells) == 5
    assert table.finished("base") == [3.5, 3.6]


def test_other_evaluation_data_is_refused(tmp_path: Path) -> None:
    text = "arm,block,value,evaluation\nbase,1,2,aaa\nbase,2,2,aaa\nwide,1,2,aaa\nwide,2,2,bbb\n"
    assert "line 5: 'wide' was scored on other data (bbb) than most runs (aaa)" in refusal(written(tmp_path, text))


def test_unlike_hardware_is_refused_within_a_block_alone(tmp_path: Path) -> None:
    text = "arm,block,value,hardware\nbase,1,2,A100\nbase,2,2,H100\nwide,1,2,A100\nwide,2,2,{}\n"
    assert read_table(written(tmp_path, text.format("H100")), "base").blocks == ("1", "2")
    path = written(tmp_path, text.format("A100"))
    assert "line 5: block '2' ran on A100 here and on H100 for 'base'" in refusal(path)
    assert read_table(path, "base", mixed_hardware=True).mixed_hardware


def test_a_table_is_checked_wherever_it_comes_from() -> None:
    cells = (Cell("base", "1", 1.0, (1, 1, 1)), Cell("base", "2", 1.0, (1, 1, 1)))
    with pytest.raises(UsageError, match="base, block 2: block '2' of 'base' has the seeds of block '1'"):
        check_table(Table(cells, "base"))
    with pytest.raises(UsageError, match="no run of the baseline 'other'"):
        check_table(Table(cells[:1], "other"))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    cells = (
        Cell("base", "0", 0.1 + 0.2, (1, 2, 3), "hash", "a laptop, 2 cores", 10.5, 1.25, 0.03),
        Cell("base", "0", 0.3, (1, 2, 3), rerun=1, factors={"device": "cpu"}),
        Cell("no, dropout", "0", None, (1, 2, 3)),
    )
    path = tmp_path / "table.csv"
    write_table(Table(cells, "base", metric="test.bits_per_byte"), path)
    assert read_table(path, "base", metric="test.bits_per_byte").cells == cells


def test_noise_takes_two_baseline_runs_with_seeds_of_their_own(tmp_path: Path) -> None:
    assert read_noise(written(tmp_path, "value\n1\n2\n3.5\n")) == [1, 2, 3.5]
    assert read_noise(written(tmp_path, "arm,value\nbase,1\nbase,2\nwide,9\n"), "base") == [1, 2]
    with pytest.raises(UsageError, match="none is the baseline 'none'"):
        read_noise(written(tmp_path, "arm,value\nbase,1\nbase,2\nwide,9\n"), "none")
    with pytest.raises(UsageError, match="two finished runs"):
        read_noise(written(tmp_path, "value\n1\nnan\n"))
    with pytest.raises(UsageError, match="has the seeds of block"):
        read_noise(written(tmp_path, "value,seed_init,seed_data,seed_noise\n1,4,4,4\n1,4,4,4\n"))
