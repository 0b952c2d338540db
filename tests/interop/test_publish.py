"""Runs on their way to a Hub of this machine, by the Hub's own client: whole, resumed, refused."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import others
import psutil
import pytest
from alone import in_process
from click.testing import CliRunner
from huggingface_hub import snapshot_download

from hub_server import Cut, Hold, Hub, point_client_at, serve
from scratchlab.cli.interop import export_model
from scratchlab.cli.publish import publish_model
from scratchlab.errors import RunError, ScratchlabError, UnfinishedError, UnreachableError, UsageError
from scratchlab.files import sha256_of_file
from scratchlab.interop import exports, proof
from scratchlab.interop.card import About
from scratchlab.interop.exports import export_run
from scratchlab.interop.proof import verify
from scratchlab.interop.publish import Wish, publish_run
from scratchlab.model.load import load_model
from scratchlab.runfolder import Record, RunFolder, step_name
from scratchlab.training.checkpoint import write_tensors
from tiny_run import make_run

# The client's own, of its HTTP library, when it uploads by Git LFS.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
SECRET = "hf_nobodyshallseethis"
WEIGHTS = "model.safetensors"


def make(path: Path, fingerprint: str = "first", steps: tuple[int, ...] = ()) -> RunFolder:
    """A run with snapshots of other weights."""
    run = make_run(path, others.make_tokenizer(), context_length=24)
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    (path / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": fingerprint}), encoding="utf-8")
    for step in steps:
        tensors = {name: x.detach() + 0.01 * step for name, x in load_model(run, device="cpu").named_parameters()}
        run.save_snapshot(step_name(step), step, lambda file, tensors=tensors: write_tensors(tensors, file))
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make(tmp_path_factory.mktemp("runs") / "first", steps=(2, 4))


@pytest.fixture(scope="module")
def exported(run: RunFolder) -> Path:
    with in_process():
        export_run(run, run.path.parent / "export")
    return run.path.parent / "export"


@pytest.fixture(scope="module")
def files(exported: Path) -> list[str]:
    """The names of what is published."""
    return sorted(path.name for path in exported.iterdir())


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """No process for a proof."""
    with in_process():
        yield


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve() as hub:
        hub.writers.add(SECRET)
        point_client_at(hub, tmp_path / "home", monkeypatch, token=SECRET)
        yield hub


def publish(run: RunFolder, license: str | None = None, languages: Sequence[str] = (), **wishes: Any) -> Record:
    about = About(load_as="me/mine", license=license, languages=languages)
    wished: dict[str, Any] = {"name": "me/mine", **wishes}
    return publish_run(run, Wish(**wished), about)


def message_of(run: RunFolder, kind: type[ScratchlabError] = RunError, **wishes: Any) -> str:
    with pytest.raises(kind) as caught:
        publish(run, **wishes)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_a_run_arrives_whole_is_verified_there_and_is_not_sent_twice(
    run: RunFolder, exported: Path, files: list[str], hub: Hub, tmp_path: Path
) -> None:
    done = publish(run, tag="v1")
    repository = hub.repositories["models/me/mine"]
    assert (repository.private, len(repository.commits), done["private"]) == (True, 2, True)
    assert sorted(repository.files) == sorted([".gitattributes", *files])
    for name in files:
        if name != "README.md":  # which says how it is loaded
            assert repository.files[name] == (exported / name).read_bytes(), name
    card = repository.files["README.md"].decode()
    assert "from_pretrained('me/mine')" in card
    assert "hf download me/mine --local-dir mine" in card
    (version,) = done["versions"]
    assert (version["branch"], version["commit"]) == ("main", repository.branches["main"])
    assert (sorted(version["sent"]), version["kept"]) == (files, [])
    assert repository.tags == {"v1": version["commit"]}
    there = snapshot_download("me/mine", local_dir=tmp_path / "there")
    assert verify(Path(there))["passed"]
    hub.asked.clear()
    again = publish(run, tag="v1")["versions"][0]
    assert (again["sent"], sorted(again["kept"]), again["commit"]) == ([], files, version["commit"])
    assert hub.answered("PUT", "") + hub.answered("POST", "/commit/") == []


def test_each_snapshot_is_a_branch(run: RunFolder, hub: Hub, tmp_path: Path) -> None:
    done = publish(run, checkpoints=True)
    repository = hub.repositories["models/me/mine"]
    assert list(repository.branches) == ["main", step_name(2), step_name(4)]
    assert [version["at"] for version in done["versions"]] == [2, 4, "final"]
    for version in done["versions"]:
        files = repository.commits[repository.branches[version["branch"]]]
        assert json.loads(files["proof.json"])["run"]["at"] == version["at"]
    weights = {branch: repository.commits[commit][WEIGHTS] for branch, commit in repository.branches.items()}
    assert len(set(weights.values())) == 3
    card = repository.commits[repository.branches[step_name(2)]]["README.md"].decode()
    assert f"from_pretrained('me/mine', revision='{step_name(2)}')" in card
    assert f"hf download me/mine --revision {step_name(2)}" in card


def test_a_new_branch_holds_what_is_published_and_nothing_of_main(run: RunFolder, files: list[str], hub: Hub) -> None:
    """Though the Hub begins it as a copy of main; also where an earlier try went no further than that."""
    publish(run)
    repository = hub.repositories["models/me/mine"]
    shard = "model-00001-of-00002.safetensors"
    repository.commit({shard: b"theirs", "charts/old.png": b"png", "q4.gguf": b"gguf", "proof.json": None})
    main = repository.branches["main"]
    repository.branches["half"] = main
    for branch in ("new", "half"):
        publish(run, branch=branch)
        there = repository.commits[repository.branches[branch]]
        assert sorted(there) == sorted([".gitattributes", *files]), branch
    assert repository.branches["main"] == main
    repository.commit({"LICENSE": b"MIT"}, "new")
    publish(run, branch="new")
    assert "LICENSE" in repository.commits[repository.branches["new"]], "what others added since stays"


def test_a_dry_run_says_what_would_go_and_asks_nobody(run: RunFolder, files: list[str], hub: Hub) -> None:
    outcome = CliRunner().invoke(publish_model, [str(run.path), "me/mine", "--dry-run", "--checkpoints", "--json"])
    assert outcome.exit_code == 0, outcome.output
    report = json.loads(outcome.stdout)
    assert [version["branch"] for version in report["versions"]] == [step_name(2), step_name(4), "main"]
    assert [file["name"] for file in report["versions"][2]["files"]] == files
    text = CliRunner().invoke(publish_model, [str(run.path), "me/mine", "--dry-run"]).stdout
    assert "would go to the Hub as me/mine, private" in text
    assert f"main: {len(files)} files" in text
    assert (hub.asked, hub.repositories) == ([], {})


def test_an_upload_that_breaks_goes_on_where_it_stopped(run: RunFolder, exported: Path, hub: Hub) -> None:
    sha256 = sha256_of_file(exported / WEIGHTS)
    hub.cuts.append(Cut("PUT", sha256, after=300, times=99))
    said = message_of(run, UnreachableError)
    assert said.startswith("me/mine on http://127.0.0.1:")
    assert "run the same command again: it goes on where it stopped" in said
    repository = hub.repositories["models/me/mine"]
    assert list(repository.files) == [".gitattributes"], "nothing appears before all is there"
    hub.cuts.clear()
    hub.cuts.append(Cut("POST", "/commit/", after=10, times=99))  # the weights arrive, and nothing else
    message_of(run, UnreachableError)
    assert sha256 in hub.objects
    hub.cuts.clear()
    hub.asked.clear()
    publish(run)
    assert hub.answered("PUT", "") == [], "the weights are there"
    assert repository.files[WEIGHTS] == (exported / WEIGHTS).read_bytes()


def test_a_wrong_token_is_said_before_anything_is_made(
    run: RunFolder, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "write_run", None)
    monkeypatch.setenv("HF_TOKEN", "wrong")
    said = message_of(run)
    assert "does not know who you are: `hf auth login`, or set HF_TOKEN" in said
    monkeypatch.setenv("HF_TOKEN", "reader")
    assert "the token here has only the right to read" in message_of(run)
    monkeypatch.setenv("HF_TOKEN", "")
    assert "nobody is logged in here. `hf auth login`" in message_of(run)
    assert hub.repositories == {}


def test_the_token_is_nowhere(
    run: RunFolder, files: list[str], hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = CliRunner().invoke(publish_model, [str(run.path), "me/mine", "--tag", "v1"])
    assert outcome.exit_code == 0, outcome.output
    commit = hub.repositories["models/me/mine"].branches["main"]
    assert outcome.stdout.startswith(f"{run.path} is on the Hub as me/mine, private, tagged v1\n")
    assert f"  main at {commit[:12]}: {len(files)} files sent, 0 there already" in outcome.stdout
    assert SECRET not in outcome.output + caplog.text
    sent = [content for repository in hub.repositories.values() for content in repository.files.values()]
    kept = [path.read_bytes() for place in (run.path, tmp_path) for path in place.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in content for content in (*sent, *kept))


def test_a_name_that_holds_something_else_is_refused_and_left(
    run: RunFolder, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.dataset("me/theirs", {"pytorch_model.bin": b"weights"}, private=True, kind="models")
    hub.dataset("me/public", {}, kind="models")
    publish(run)
    before = {name: dict(repository.branches) for name, repository in hub.repositories.items()}
    other = make(tmp_path / "other", fingerprint="another")
    with monkeypatch.context() as patch:
        patch.setattr(exports, "write_run", None)
        assert "holds other things on main (pytorch_model.bin). Nothing was changed." in message_of(
            run, name="me/theirs"
        )
        assert "is there already, and is public. Say --public" in message_of(run, name="me/public")
        assert "is there already, and is private. Say --private" in message_of(run, private=False)
        assert "holds another run on main: first, fingerprint first. Nothing was changed." in message_of(other)
    assert {name: dict(repository.branches) for name, repository in hub.repositories.items()} == before
    publish(other, branch="another")
    files = hub.repositories["models/me/mine"].commits[hub.repositories["models/me/mine"].branches["another"]]
    assert json.loads(files["proof.json"])["run"]["fingerprint"] == "another"
    assert publish(run, name="me/public", private=False)["versions"][0]["sent"] != []


def test_what_was_published_before_and_is_no_more_goes_and_what_others_added_stays(
    run: RunFolder, files: list[str], hub: Hub
) -> None:
    publish(run)
    repository = hub.repositories["models/me/mine"]
    old = json.loads(repository.files["proof.json"])
    old["files"]["added_tokens.json"] = "0"
    added = {"added_tokens.json": b"{}", "charts/old.png": b"png", "LICENSE": b"MIT", "q4.gguf": b"gguf"}
    repository.commit({**added, "proof.json": json.dumps(old).encode()})
    assert publish(run)["versions"][0]["sent"] == ["proof.json"]
    assert sorted(repository.files) == sorted([".gitattributes", "LICENSE", "q4.gguf", *files])


def test_a_tag_is_not_moved(run: RunFolder, hub: Hub) -> None:
    publish(run, tag="v1")
    repository = hub.repositories["models/me/mine"]
    repository.commit({"README.md": b"---\n---\nby hand"})
    assert "has a tag v1 already, of another commit" in message_of(run, tag="v1")
    assert repository.files["README.md"] == b"---\n---\nby hand"
    repository.tags["v1"] = repository.branches["main"]
    assert "the tag v1 is of another commit" in message_of(run, tag="v1")
    publish(run, tag="v2")
    assert repository.tags["v2"] == repository.branches["main"]


def test_what_fails_its_proof_is_not_published(run: RunFolder, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "LARGEST", 0.0)
    said = message_of(run)
    assert "is not what the run is, when transformers loads it. logits: differences from" in said
    assert hub.repositories == {}


def test_a_full_disk_is_said_and_nothing_is_sent(run: RunFolder, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(exports, "write_run", fill)
        said = message_of(run, UnfinishedError)
    assert "could not be written to" in said
    assert "No space left on device" in said
    assert hub.repositories == {}
    publish(run)


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_name_that_cannot_be_is_refused_before_anything_is_made(
    dry_run: bool, run: RunFolder, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "write_run", None)
    for name in ("mine", "me/mine/more", "me/mi ne", "hf:me/mine"):
        said = message_of(run, UsageError, name=name, dry_run=dry_run)
        assert f"{name} names no model of the Hub: USER/NAME was expected" in said
    for name in ("me/mi--ne", "me/.mine", "me/mine.git", f"me/{'m' * 99}"):
        assert f"{name} names no model of the Hub: " in message_of(run, UsageError, name=name, dry_run=dry_run)
    for wrong in ("v 1", "-v1", "v1..2", "v1/", "", "v1.lock"):
        assert f"--revision {wrong}: " in message_of(run, UsageError, branch=wrong, dry_run=dry_run)
        assert f"--tag {wrong}: " in message_of(run, UsageError, tag=wrong, dry_run=dry_run)
    assert hub.asked == []


@pytest.mark.parametrize(
    "words", [["publish", "me/mine"], ["publish", "me/mine", "--dry-run"], ["export", "--to", "out"]]
)
def test_a_license_or_language_that_cannot_be_is_refused_before_anything_is_made(
    words: list[str], run: RunFolder, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "write_run", None)
    command = {"publish": publish_model, "export": export_model}[words[0]]
    labels = ["--license", "MIT License", "--language", "en", "--language", "German"]
    error = CliRunner().invoke(command, [str(run.path), *words[1:], *labels]).exception
    assert isinstance(error, UsageError)
    assert "--license MIT License: an identifier of the Hub's was expected" in str(error)
    assert "--language German: a code of ISO 639 was expected" in str(error)
    assert hub.asked == []


def test_a_license_and_languages_that_are_there_stay_unless_others_are_given(run: RunFolder, hub: Hub) -> None:
    (version,) = publish(run, license="mit", languages=["en", "de"])["versions"]
    assert (version["license_kept"], version["languages_kept"]) == (None, [])
    repository = hub.repositories["models/me/mine"]
    card = repository.files["README.md"]
    said = CliRunner().invoke(publish_model, [str(run.path), "me/mine"]).stdout
    assert repository.files["README.md"] == card
    assert "as the card there said before, and still does: mit, en, de\n" in said
    (version,) = publish(run, license="apache-2.0")["versions"]
    assert (version["license_kept"], version["languages_kept"]) == (None, ["en", "de"])
    assert b"license: apache-2.0\n" in repository.files["README.md"]
    (version,) = publish(run, branch="other")["versions"]
    assert (version["license_kept"], version["languages_kept"]) == (None, []), "of another branch nothing is taken"
    hub.dataset("me/begun", {"README.md": "---\nlicense: gpl-3.0\n---\n"}, private=True, kind="models")  # on its page
    assert publish(run, name="me/begun")["versions"][0]["license_kept"] == "gpl-3.0"


def test_a_card_that_the_hub_does_not_take_is_said_before_anything_is_sent(run: RunFolder, hub: Hub) -> None:
    said = message_of(run, license="my-own-1.0", languages=["en"])
    assert said.startswith("me/mine on http://127.0.0.1:")
    assert 'does not take the header of the card (it says: - Error: "license" must be one of [apache-2.0, mit' in said
    assert "Give a --license that is listed at https://huggingface.co/docs/hub/repositories-licenses, or other" in said
    assert "goes on where it stopped" not in said
    assert (hub.repositories, hub.objects) == ({}, {})
    publish(run, license="other", languages=["en"])
    assert b"license: other\n" in hub.repositories["models/me/mine"].files["README.md"]


def test_whom_the_token_does_not_belong_to_is_said_before_anything_is_made(
    run: RunFolder, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(exports, "write_run", None)
        said = message_of(run, name="somebody/mine")
    assert "the token here is of me, who may not publish as somebody. Names may begin with me/, ours/." in said
    publish(run, name="ours/mine")
    assert "models/ours/mine" in hub.repositories


@pytest.mark.parametrize(
    ("words", "number", "code"),
    [
        (["export", "--to", "deep/out"], signal.SIGTERM, 143),
        (["export", "--to", "deep/out"], signal.SIGINT, 130),
        (["publish", "me/mine", "--dry-run"], signal.SIGTERM, 143),
    ],
    ids=["export", "export-interrupted", "publish"],
)
def test_told_to_end_it_leaves_nothing(
    words: list[str], number: int, code: int, run: RunFolder, tmp_path: Path
) -> None:
    """While the proof is made, in a process of its own, which ends too."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "scratchlab", words[0], str(run.path), *words[1:]]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(temporary.glob("scratchlab-proof-*/order.json")) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)
        (proving,) = psutil.Process(process.pid).children()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "Traceback" not in said
    assert not proving.is_running()
    assert (list(tmp_path.iterdir()), list(temporary.iterdir())) == ([temporary], [])


def test_killed_in_mid_upload_it_goes_on_where_it_stopped(
    run: RunFolder, exported: Path, hub: Hub, tmp_path: Path
) -> None:
    """As a process, which finds the Hub and the token by its environment."""
    weights, tokenizer = (sha256_of_file(exported / name) for name in (WEIGHTS, "tokenizer.json"))
    places = hub.settings(tmp_path / "home") | {"HF_TOKEN": SECRET, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "scratchlab", "publish", str(run.path), "me/mine"]
    hub.hold = Hold(weights, after=300)
    with subprocess.Popen(command, env=os.environ | places, stdout=subprocess.DEVNULL) as process:
        reached = hub.hold.reached.wait(120)
        process.kill()
    hub.hold.released.set()
    assert reached
    assert (set(hub.objects), list(hub.repositories["models/me/mine"].files)) == ({tokenizer}, [".gitattributes"])
    hub.hold = None
    hub.asked.clear()
    again = subprocess.run(command, env=os.environ | places, capture_output=True, text=True, check=False, timeout=120)
    assert again.returncode == 0, again.stderr
    assert hub.answered("PUT", "") == [f"PUT /objects/{weights}"], "the tokenizer had arrived"
    assert hub.repositories["models/me/mine"].files[WEIGHTS] == (exported / WEIGHTS).read_bytes()
    assert "Upload 0 LFS files" not in again.stderr, "a bar of nothing"
    assert SECRET not in again.stdout + again.stderr


def test_a_run_without_snapshots_has_none_to_publish(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    assert "kept no snapshots on the way" in message_of(run, UsageError, checkpoints=True)
