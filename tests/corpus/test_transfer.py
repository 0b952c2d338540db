"""Corpora on their way to a folder or to a Hub of this machine and back: whole, resumed, refused."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import huggingface_hub
import pytest
from click.testing import CliRunner
from huggingface_hub import constants

from hub_server import Cut, Hub, Repository, point_client_at, serve
from scratchlab.cli.corpus import corpus as corpus_commands
from scratchlab.corpus import transfer
from scratchlab.corpus.store import open_corpus
from scratchlab.corpus.transfer import pull_corpus, push_corpus
from scratchlab.errors import ScratchlabError
from scratchlab.files import sha256_of_file, sha256_of_json

# The client's own, of its HTTP library, when it uploads by Git LFS.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

OLD = Path(__file__).parents[1] / "old" / "format-1" / "corpora" / "old"
TRAIN = "train-00000.bin"
VALIDATION = "validation-00000.bin"
FILES = sorted(path.name for path in OLD.iterdir() if path.name != "manifest.json")
LARGE = [name for name in FILES if name.endswith((".bin", "tokenizer.json"))]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "corpora" / "mine"))


@pytest.fixture
def another(tmp_path: Path) -> Path:
    """A sound corpus with the same file names and sizes, and other training tokens."""
    path = Path(shutil.copytree(OLD, tmp_path / "corpora" / "another"))
    tokens = (path / TRAIN).read_bytes()
    (path / TRAIN).write_bytes(tokens[2:] + tokens[:2])

    def change(manifest: dict[str, Any]) -> None:
        manifest["splits"]["train"]["shards"][0]["sha256"] = sha256_of_file(path / TRAIN)
        manifest["sha256"] = sha256_of_json("another")

    rewrite(path, change)
    open_corpus(path).verify()
    return path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve() as hub:
        point_client_at(hub, tmp_path / "home", monkeypatch, token="writer")
        yield hub


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest and give it a fitting hash."""
    content = json.loads((path / "manifest.json").read_text())
    del content["manifest_sha256"]
    change(content)
    (path / "manifest.json").write_text(json.dumps({**content, "manifest_sha256": sha256_of_json(content)}))


def damage(path: Path) -> None:
    """Change one byte."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def is_corpus(path: Path) -> bool:
    return (path / "manifest.json").exists()


def message_of(action: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(ScratchlabError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Folders.


@pytest.mark.parametrize("move", [push_corpus, pull_corpus])
def test_a_corpus_goes_to_a_folder_whole_and_a_second_time_nothing_moves(move, corpus, tmp_path):
    out = tmp_path / "elsewhere" / "copy"
    done = move(str(corpus), str(out))
    assert (done.sha256, sorted(done.moved), done.kept) == (open_corpus(corpus).sha256, FILES, ())
    assert done.moved_bytes == sum((corpus / name).stat().st_size for name in FILES)
    assert contents(out) == contents(corpus)
    assert open_corpus(out).sha256 == open_corpus(corpus).sha256
    again = move(str(corpus), str(out))
    assert (again.moved, sorted(again.kept), again.moved_bytes) == ((), FILES, 0)


class Copies:
    """Stands for shutil.copyfileobj: notes from where a file is copied, and may stop within one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[tuple[str, int]] = []
        self.stop_in: str | None = None
        self.error = OSError(errno.ENOSPC, "no space")
        monkeypatch.setattr(transfer, "shutil", SimpleNamespace(**{**vars(shutil), "copyfileobj": self}))

    def __call__(self, origin: Any, copy: Any, length: int) -> None:
        name = Path(origin.name).name
        self.begun.append((name, origin.tell()))
        if name == self.stop_in:
            copy.write(origin.read(3000))
            raise self.error
        shutil.copyfileobj(origin, copy, length)


def test_a_copy_goes_on_within_the_file_where_it_stopped(corpus, tmp_path, monkeypatch):
    out, copies = tmp_path / "copy", Copies(monkeypatch)
    copies.stop_in = TRAIN
    assert "No space left on device" in message_of(push_corpus, corpus, str(out))
    assert not is_corpus(out)
    before = [name for name, _ in copies.begun]
    copies.begun, copies.stop_in = [], None
    push_corpus(corpus, str(out))
    assert (TRAIN, 3000) in copies.begun
    assert {name: start for name, start in copies.begun if name in before[:-1]} == {
        name: (corpus / name).stat().st_size for name in before[:-1]
    }
    assert contents(out) == contents(corpus)


@pytest.mark.parametrize("left", [b"wrong" * 100, b"wrong" * 9999], ids=["shorter", "longer"])
def test_a_part_that_does_not_fit_is_copied_again_from_the_start(left, corpus, tmp_path):
    staging = tmp_path / "copy" / transfer.STAGING
    staging.mkdir(parents=True)
    shutil.copy(corpus / "manifest.json", staging)
    (staging / TRAIN).write_bytes(left)
    push_corpus(corpus, str(tmp_path / "copy"))
    assert contents(tmp_path / "copy") == contents(corpus)


def test_a_damaged_corpus_is_not_pushed(corpus, tmp_path, hub):
    damage(corpus / TRAIN)
    for destination in (str(tmp_path / "copy"), "hf:me/mine"):
        assert f"{TRAIN} has changed" in message_of(push_corpus, corpus, destination)
    assert not (tmp_path / "copy").exists()
    assert (hub.asked, hub.repositories) == ([], {})


def test_damage_at_the_source_is_named_and_what_is_whole_stays(corpus, tmp_path):
    out = tmp_path / "copy"
    damage(corpus / TRAIN)
    said = message_of(pull_corpus, str(corpus), out)
    assert f"{corpus} is damaged: {TRAIN} does not fit" in said
    assert not is_corpus(out)
    assert sorted(path.name for path in out.glob("*.*")) == sorted({*FILES, transfer.STAGING} - {TRAIN})
    damage(corpus / TRAIN)  # the same bit again: it is mended
    assert pull_corpus(str(corpus), out).moved == (TRAIN,)
    assert contents(out) == contents(corpus)


def test_pulling_again_mends_what_became_damaged(corpus, tmp_path):
    pull_corpus(str(corpus), tmp_path / "copy")
    damage(tmp_path / "copy" / TRAIN)
    (tmp_path / "copy" / "tokenizer.json").unlink()
    assert sorted(pull_corpus(str(corpus), tmp_path / "copy").moved) == ["tokenizer.json", TRAIN]
    assert contents(tmp_path / "copy") == contents(corpus)


def test_a_destination_that_holds_something_else_is_refused_and_left(corpus, another, tmp_path):
    unfinished, letters, file = tmp_path / "unfinished", tmp_path / "letters", tmp_path / "file"
    (unfinished / transfer.STAGING).mkdir(parents=True)
    shutil.copy(another / "manifest.json", unfinished / transfer.STAGING)
    letters.mkdir()
    for path in (letters / "tokenizer.json", file):
        path.write_text("mine")
    before = contents(tmp_path)
    for place, expected in {
        another: "holds another corpus",
        unfinished: "unfinished, holds another corpus",
        letters: r"holds other things (tokenizer.json) and no corpus",
        file: "is a file",
    }.items():
        assert expected in message_of(push_corpus, corpus, str(place))
        assert expected in message_of(pull_corpus, str(corpus), place)
    assert contents(tmp_path) == before


def test_too_little_room_is_said_before_anything_moves(corpus, tmp_path, monkeypatch):
    copies = Copies(monkeypatch)
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: SimpleNamespace(free=5000))
    assert "too little room: 0.0 MB are to come" in message_of(pull_corpus, str(corpus), tmp_path / "copy")
    assert copies.begun == []
    assert not is_corpus(tmp_path / "copy")


def test_another_process_that_moves_to_the_same_place_is_waited_for(corpus, tmp_path):
    staging = tmp_path / "copy" / transfer.STAGING
    staging.mkdir(parents=True)
    with filelock.FileLock(staging / ".lock"):
        assert "Another process moves a corpus" in message_of(pull_corpus, str(corpus), tmp_path / "copy")
    pull_corpus(str(corpus), tmp_path / "copy")


@pytest.mark.parametrize(
    "name", ["../train-00000.bin", "/tmp/train", "a/b", "..", "a\\b", ".transfer", "manifest.json"]
)
def test_a_manifest_cannot_name_a_file_elsewhere(name, corpus, tmp_path):
    def change(manifest: dict[str, Any]) -> None:
        manifest["splits"]["train"]["shards"][0]["name"] = name

    rewrite(corpus, change)
    with pytest.MonkeyPatch.context() as patch:  # whatever opening makes of such a name
        patch.setattr(transfer, "open_corpus", lambda path: SimpleNamespace(path=Path(path)))
        said = message_of(pull_corpus, str(corpus), tmp_path / "copy")
    assert "names a file" in said
    assert not (tmp_path / "copy").exists()


# The Hub.


def test_a_corpus_goes_to_the_hub_in_one_commit_and_comes_back(corpus, hub, tmp_path, caplog):
    pushed = push_corpus(corpus, "hf:me/mine")
    repository = hub.repositories["datasets/me/mine"]
    assert (repository.private, len(repository.commits), pushed.revision) == (True, 2, repository.branches["main"])
    assert {name: repository.files[name] for name in [*FILES, "manifest.json"]} == contents(corpus)
    assert len(hub.answered("PUT", "/objects/")) == len(hub.answered("POST", "/objects/batch")) == len(LARGE)
    pulled = pull_corpus("hf:me/mine", tmp_path / "copy")
    assert pulled.revision == pushed.revision
    assert (sorted(pulled.moved), pulled.sha256) == (FILES, open_corpus(corpus).sha256)
    assert contents(tmp_path / "copy") == contents(corpus)
    hub.asked.clear()
    assert push_corpus(corpus, "hf:me/mine").moved == pull_corpus("hf:me/mine", tmp_path / "copy").moved == ()
    assert hub.answered("PUT", "") + hub.answered("GET", "/objects/") + hub.answered("POST", "/commit/") == []
    assert caplog.messages == []  # the client warns of commits that change nothing


def test_the_page_of_the_repository_says_what_it_is_and_is_the_users_from_then_on(corpus, hub):
    push_corpus(corpus, "hf:me/mine")
    repository = hub.repositories["datasets/me/mine"]
    page, manifest = repository.files["README.md"].decode(), open_corpus(corpus).manifest
    for expected in (f"{manifest.splits['train'].tokens:,}", manifest.tokenizer.spec, manifest.sha256, "viewer: false"):
        assert expected in page
    assert "scratchlab corpus pull hf:me/mine corpora/mine" in page
    repository.commit({"README.md": b"---\nlicense: mit\n---\n", "LICENSE": b"MIT", TRAIN: None})
    assert push_corpus(corpus, "hf:me/mine").moved == (TRAIN,)
    assert repository.files["README.md"] == b"---\nlicense: mit\n---\n"


def test_an_upload_that_breaks_goes_on_where_it_stopped(corpus, hub):
    hub.cuts.append(Cut("PUT", sha256_of_file(corpus / VALIDATION), after=300, times=99))
    said = message_of(push_corpus, corpus, "hf:me/mine")
    assert said.startswith("hf:me/mine on http://127.0.0.1:")
    assert "run the same command again" in said
    repository = hub.repositories["datasets/me/mine"]
    assert list(repository.files) == [".gitattributes"]  # nothing appears before all is there
    sent = set(hub.objects)
    assert sent
    hub.cuts.clear()
    hub.asked.clear()
    push_corpus(corpus, "hf:me/mine")
    assert {line.rpartition("/")[2] for line in hub.answered("PUT", "")} == set(hub.objects) - sent
    assert {name: repository.files[name] for name in [*FILES, "manifest.json"]} == contents(corpus)


def test_a_download_that_breaks_goes_on_where_it_stopped(corpus, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # what the client has at least, to go on from
    push_corpus(corpus, "hf:me/mine")
    hash_of_train = sha256_of_file(corpus / TRAIN)
    hub.cuts.append(Cut("GET", hash_of_train, after=3000))
    pull_corpus("hf:me/mine", tmp_path / "once")
    assert hub.answered("GET", hash_of_train)[-1].endswith(" bytes=3000-")
    assert contents(tmp_path / "once") == contents(corpus)

    hub.cuts.append(Cut("GET", sha256_of_file(corpus / VALIDATION), after=0, times=99))
    assert f"{VALIDATION} of hf:me/mine" in message_of(pull_corpus, "hf:me/mine", tmp_path / "often")
    assert not is_corpus(tmp_path / "often")
    arrived = {path.name for path in (tmp_path / "often" / transfer.STAGING).glob("*.*")} - {"manifest.json"}
    assert VALIDATION not in arrived
    assert TRAIN in arrived
    hub.cuts.clear()
    hub.asked.clear()
    pull_corpus("hf:me/mine", tmp_path / "often")
    assert len(hub.answered("GET", "/objects/")) == len(set(LARGE) - arrived)
    assert contents(tmp_path / "often") == contents(corpus)


def test_a_disk_that_fills_while_the_hub_sends_is_said(corpus, hub, tmp_path, monkeypatch):
    push_corpus(corpus, "hf:me/mine")
    download, full = huggingface_hub.hf_hub_download, {TRAIN}

    def fill(repository: str, name: str, **place: Any) -> str:
        if name in full:
            raise OSError(errno.ENOSPC, "no space")
        return download(repository, name, **place)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fill)
    expected = "The corpus hf:me/mine could not be written to .*copy: No space left on device"
    assert re.match(expected, message_of(pull_corpus, "hf:me/mine", tmp_path / "copy"))
    full.add("manifest.json")
    assert "manifest.json could not be written" in message_of(pull_corpus, "hf:me/mine", tmp_path / "copy")
    full.clear()
    pull_corpus("hf:me/mine", tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(corpus)


def test_a_file_that_was_changed_on_the_hub_is_named(corpus, hub, tmp_path):
    push_corpus(corpus, "hf:me/mine")
    repository = hub.repositories["datasets/me/mine"]
    changed = {name: repository.files[name][::-1] for name in (TRAIN, "tokenizer.json")}
    repository.commit(changed)
    assert sorted(push_corpus(corpus, "hf:me/mine").moved) == sorted(changed)
    repository.commit({TRAIN: changed[TRAIN]})
    assert f"hf:me/mine is damaged: {TRAIN} does not fit" in message_of(pull_corpus, "hf:me/mine", tmp_path / "copy")
    assert not is_corpus(tmp_path / "copy")
    repository.commit({TRAIN: None})
    assert f"{TRAIN} of hf:me/mine on {hub.url} is not there" in message_of(
        pull_corpus, "hf:me/mine", tmp_path / "copy"
    )
    assert push_corpus(corpus, "hf:me/mine").moved == (TRAIN,)
    assert pull_corpus("hf:me/mine", tmp_path / "copy").moved == (TRAIN,)
    assert contents(tmp_path / "copy") == contents(corpus)


def test_a_repository_that_holds_something_else_is_refused_and_left(corpus, another, hub, tmp_path):
    push_corpus(another, "hf:me/another")
    hub.dataset("me/texts", {"data/train.parquet": b"rows", "README.md": "texts"})
    hub.dataset("me/run", {"manifest.json": '{"of": "a run"}'})
    before = {name: dict(repository.branches) for name, repository in hub.repositories.items()}
    assert "hf:me/another on http" in (said := message_of(push_corpus, corpus, "hf:me/another"))
    assert "holds another corpus" in said
    assert "holds other things (data/train.parquet) and no corpus" in message_of(push_corpus, corpus, "hf:me/texts")
    assert "manifest.json is damaged" in message_of(push_corpus, corpus, "hf:me/run")
    assert {name: dict(repository.branches) for name, repository in hub.repositories.items()} == before
    assert "manifest.json of hf:me/texts" in message_of(pull_corpus, "hf:me/texts", tmp_path / "copy")
    pull_corpus("hf:me/another", tmp_path / "copy")
    push_corpus(corpus, "hf:me/mine")
    assert "holds another corpus" in message_of(pull_corpus, "hf:me/mine", tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(another)


def test_a_change_by_somebody_else_in_the_meantime_is_not_run_over(corpus, another, hub, monkeypatch):
    repository = hub.dataset("me/mine", {})
    monkeypatch.setattr(transfer, "_check_repository", lambda *_: repository.commit({"manifest.json": b"theirs"}))
    assert "was changed by somebody else in the meantime" in message_of(push_corpus, corpus, "hf:me/mine")
    assert repository.files == {"manifest.json": b"theirs"}


def test_what_the_hub_made_of_a_push_is_compared(corpus, hub, monkeypatch):
    hub.dataset("me/mine", {})
    commit = Repository.commit
    monkeypatch.setattr(
        Repository, "commit", lambda self, files, branch="main": commit(self, {**files, TRAIN: b"other"}, branch)
    )
    assert f"{TRAIN} did not arrive as sent" in message_of(push_corpus, corpus, "hf:me/mine")


def test_a_branch_is_pushed_to_and_a_commit_is_pulled(corpus, another, hub, tmp_path):
    repository = hub.dataset("me/mine", {})
    assert "has no such revision" in message_of(push_corpus, corpus, "hf:me/mine?revision=v2")
    repository.branches["v2"] = repository.branches["main"]
    pushed = push_corpus(corpus, "hf:me/mine?revision=v2")
    assert len(hub.answered("POST", "/preupload/v2")) == len(hub.answered("POST", "/preupload/"))
    assert repository.files == {}
    push_corpus(another, "hf:me/mine")
    assert pushed.revision == repository.branches["v2"]
    pull_corpus(f"hf:me/mine?revision={pushed.revision}", tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(corpus)


def test_what_the_hub_refuses_is_one_sentence_with_a_remedy(corpus, hub, tmp_path, monkeypatch):
    hub.dataset("me/theirs", {"manifest.json": "{}"}, private=True)
    hub.dataset("me/gated", {"manifest.json": "{}"}).gated = True
    monkeypatch.setenv("HF_TOKEN", "reader")
    said = message_of(push_corpus, corpus, "hf:me/mine")
    assert "did not permit this (it says: this token has only the right to read)" in said
    assert "or it is private: then `hf auth login`" in message_of(pull_corpus, "hf:me/theirs", tmp_path / "x")
    assert "There is no dataset hf:me/none" in message_of(pull_corpus, "hf:me/none", tmp_path / "x")
    assert "wants its terms accepted first" in message_of(pull_corpus, "hf:me/gated", tmp_path / "x")
    monkeypatch.setenv("HF_TOKEN", "")
    said = message_of(push_corpus, corpus, "hf:me/mine")
    assert "does not know who you are: `hf auth login`" in said
    assert "(it says: Invalid username or password.)" in said
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in message_of(pull_corpus, "hf:me/mine", tmp_path / "x")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "hf:me/mine on http://127.0.0.1:9 could not be reached" in message_of(push_corpus, corpus, "hf:me/mine")
    assert not (tmp_path / "x").exists()
    assert "datasets/me/mine" not in hub.repositories


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("hf:mine", "names no dataset: hf: is followed by USER/NAME"),
        ("hf:me/mine?branch=v2", "a parameter 'branch' that means nothing here. There are: revision"),
        ("hf:me/mine?revison=v2", "Did you mean revision=?"),
        ("hf:me/mine?revision=", "revision= is to be given once, with a value"),
    ],
)
def test_a_place_that_cannot_be_is_refused(place, message, corpus, tmp_path):
    assert message in message_of(push_corpus, corpus, place)
    assert message in message_of(pull_corpus, place, tmp_path / "copy")
    assert "a place on the Hub" in message_of(pull_corpus, str(corpus), "hf:me/mine")


# The commands.


def test_the_commands_say_what_was_moved(corpus, tmp_path):
    run = CliRunner().invoke
    outcome = run(corpus_commands, ["push", str(corpus), str(tmp_path / "copy")], catch_exceptions=False)
    assert f"{tmp_path / 'copy'} has the corpus {corpus} (sha256 " in outcome.output
    assert f"{len(FILES)} files moved (" in outcome.output
    outcome = run(corpus_commands, ["pull", str(corpus), str(tmp_path / "copy")], catch_exceptions=False)
    assert f"0 files moved (0.0 kB), {len(FILES)} files there already; every hash fits" in outcome.output


def test_a_command_reaches_the_hub_that_the_environment_names(corpus, hub, tmp_path):
    environment = os.environ | hub.settings(tmp_path / "home") | {"HF_TOKEN": "writer"}
    command = [sys.executable, "-m", "scratchlab", "corpus", "push", str(corpus), "hf:me/mine", "--json"]
    outcome = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
    assert outcome.returncode == 0, outcome.stderr
    pushed = json.loads(outcome.stdout)
    assert (sorted(pushed["moved"]), pushed["destination"]) == (FILES, "hf:me/mine")
    pull_corpus(f"hf:me/mine?revision={pushed['revision']}", tmp_path / "copy")
    assert open_corpus(tmp_path / "copy").sha256 == pushed["sha256"]
