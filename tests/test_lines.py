"""JSON Lines: a kill tears one line at most, and what a person wrote by hand is not taken for torn."""

import json
from pathlib import Path

import pytest

from scratchlab import lines
from scratchlab.errors import UnfinishedError


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_torn_line_is_dropped_and_what_follows_is_whole(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.jsonl"
    lines.begin(path, {"head": 1}, "it")
    lines.append(path, [{"a": 1}, {"b": "ü"}], "it")
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    kept = [{"head": 1}, {"a": 1}, *([{"b": "ü"}] if cut == 1 else [])]  # the end of the line alone was lost
    assert [json.loads(line) for line in lines.whole_lines(path)] == kept
    lines.begin(path, {"head": 2}, "it")
    lines.append(path, [{"c": 3}], "it")
    assert [json.loads(line) for line in lines.whole_lines(path)] == [*kept, {"c": 3}]


def test_a_file_of_which_nothing_is_whole_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"hea')
    assert lines.whole_lines(path) == []
    lines.begin(path, {"head": 1}, "it")
    assert lines.whole_lines(path) == [b'{"head": 1}']


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with lines.held(path, "it"), pytest.raises(UnfinishedError, match="being written by another process"):
        lines.held(path, "it").__enter__()
    with lines.held(path, "it"):
        pass
