"""Builds from elsewhere whose service fails in the middle: said in a sentence, and gone on with when it is back."""

import gzip
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pytest
from letters import story
from pyarrow import parquet

from hub_server import Hub, Outage, point_client_at, serve
from scratchlab.cli import main as command_line
from scratchlab.corpus.building import work
from scratchlab.corpus.sources import remote, tables, urls

Build = Callable[..., tuple[int, str]]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Build:
    """`scratchlab corpus build LOCATION... --out OUT`, in small pieces: its exit code and standard error."""
    monkeypatch.setattr(work, "SMALLEST_PIECE", 3_000)

    def run(*locations: str, out: Path) -> tuple[int, str]:
        options = ["--out", str(out), "--tokenizer", "byte"]
        monkeypatch.setattr(sys, "argv", ["scratchlab", "corpus", "build", *locations, *options])
        with pytest.raises(SystemExit) as caught:
            command_line.main()
        return int(caught.value.code or 0), capsys.readouterr().err

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# The Hub.


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with datasets of 60 letters in six files, of which little is fetched at a time."""
    clear_caches()
    monkeypatch.setattr(tables, "RANGE_BYTES", 3_000)
    monkeypatch.setattr(remote, "BUFFER_BYTES", 3_000)
    files = [[story(number) for number in range(first, first + 10)] for first in range(0, 60, 10)]
    with serve() as hub:
        point_client_at(hub, tmp_path / "home", monkeypatch)
        hub.dataset("some/lines", {f"{number}.jsonl": lines(texts) for number, texts in enumerate(files)})
        hub.dataset("some/tables", {f"{number}.parquet": table(texts) for number, texts in enumerate(files)})
        yield hub


def lines(texts: list[str]) -> str:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


def table(texts: list[str]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": texts}), file, row_group_size=4, compression="none")
    return file.getvalue()


def requests(hub: Hub) -> list[str]:
    """What was asked for of files since it was last looked at."""
    found = [line for line in hub.asked if "/resolve/" in line]
    hub.asked.clear()
    return found


def clear_caches() -> None:
    """As in a new process."""
    remote._size.cache_clear()  # pyright: ignore[reportPrivateUsage]
    tables._remote_footer.cache_clear()  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("dataset", ["hf:some/lines", "hf:some/tables"])
@pytest.mark.parametrize(("status", "said"), [(None, "could not be reached"), (500, "failed with HTTP status 500")])
def test_a_hub_that_fails_in_mid_build_costs_no_piece_that_was_read(status, said, dataset, hub, build, tmp_path):
    assert build(dataset, out=tmp_path / "whole") == (0, "")
    whole = requests(hub)
    hub.outage = Outage("/resolve/", after=3 * len(whole) // 4, status=status)
    for _ in range(2):  # the second time it cannot even be asked what there is
        clear_caches()
        code, errors = build(dataset, out=tmp_path / "mine")
        [line] = [line for line in errors.splitlines() if line.startswith("Error: ")]
        assert (code, said in line, "it goes on where it stopped" in line) == (1, True, True)
        assert "Traceback" not in errors
        assert not (tmp_path / "mine").exists()
        [partial] = tmp_path.glob(".mine.partial-*")
    done = list(partial.glob("work/survey/*.json"))
    assert done
    hub.recover()
    requests(hub)
    clear_caches()
    assert build(dataset, out=tmp_path / "mine") == (0, "")
    assert contents(tmp_path / "mine") == contents(tmp_path / "whole")
    assert len(requests(hub)) <= len(whole) - len(done), "what was read is not read again"


@pytest.mark.parametrize("status", [None, 500])
@pytest.mark.parametrize("answered", [0, 1, 2])  # which commit, which files, how each ends
def test_a_hub_that_fails_while_it_says_what_there_is_is_named(answered, status, hub, build, tmp_path):
    hub.outage = Outage("", after=answered, status=status)
    code, errors = build("hf:some/tables", out=tmp_path / "mine")
    assert code == 1
    assert re.search("Error: (hf:|hf://datasets/)some/tables.* it goes on where it stopped", errors)
    assert not list(tmp_path.glob("*mine*"))


# URLs.


def urls_of(hub: Hub) -> list[str]:
    """Two of its files of lines, and one that is compressed, as plain URLs."""
    hub.dataset("some/packed", {"6.jsonl.gz": gzip.compress(lines(list(map(story, range(60, 70)))).encode())})
    files = ("lines/resolve/main/0.jsonl", "lines/resolve/main/1.jsonl", "packed/resolve/main/6.jsonl.gz")
    return [f"{hub.url}/datasets/some/{file}" for file in files]


@pytest.mark.parametrize(("status", "said"), [(None, "Cannot connect to host"), (500, "500, message=")])
def test_a_server_that_fails_in_mid_build_costs_no_piece_that_was_read(status, said, hub, build, tmp_path, monkeypatch):
    pytest.importorskip("aiohttp", reason="fsspec needs it for http://")
    monkeypatch.setattr(urls, "AHEAD_BYTES", 3_000)
    sources = urls_of(hub)
    assert build(*sources, out=tmp_path / "whole") == (0, "")
    whole = requests(hub)
    hub.outage = Outage("/resolve/", after=3 * len(whole) // 4, status=status)
    for _ in range(2):
        code, errors = build(*sources, out=tmp_path / "mine")
        assert (code, errors.count("\n")) == (1, 1)
        assert errors.startswith(f"Error: {hub.url}/datasets/some/")
        assert said in errors
        assert "run the same command again" in errors
        [partial] = tmp_path.glob(".mine.partial-*")
    done = list(partial.glob("work/survey/*.json"))
    assert done
    hub.recover()
    requests(hub)
    assert build(*sources, out=tmp_path / "mine") == (0, "")
    assert len(requests(hub)) <= len(whole) - len(done), "what was read is not read again"
    assert contents(tmp_path / "mine") == contents(tmp_path / "whole")
