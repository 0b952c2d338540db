"""Importing by name: the real client against an endpoint of this machine that speaks the Hub's protocol."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import others
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from scratchlab.errors import ScratchlabError
from scratchlab.interop.imports import import_run

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """An endpoint that serves the files of a folder as the model `someone/gpt2`."""

    folder: Path
    url: str = ""
    asked: list[str] = field(default_factory=list)
    """The files that were asked for, whether they are there or not."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tmp_path / "served")

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            name, found, rest = self.path.partition("/resolve/")
            revision, _, file = rest.partition("/")
            path = hub.folder / file
            if found:
                hub.asked.append(file)
            if name != "/someone/gpt2":
                return self.fail(
                    404 if name != "/someone/gated" else 403,
                    "RepoNotFound" if name != "/someone/gated" else "GatedRepo",
                )
            if revision not in ("main", "v1", COMMIT):
                return self.fail(404, "RevisionNotFound")
            if not path.is_file():
                return self.fail(404, "EntryNotFound")
            content = path.read_bytes()
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)
            return None

        def fail(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    make_model(hub.folder)
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


def make_model(folder: Path) -> None:
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 8, "vocab_size": others.SYMBOLS}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(others.make_tokenizer().to_json(), encoding="utf-8")
    (folder / "flax_model.msgpack").write_bytes(b"not wanted")


def test_a_model_comes_by_its_name_and_then_from_the_cache(hub: Hub, tmp_path: Path) -> None:
    """In processes of their own: the client reads its settings when it is imported."""
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1"}

    def run(out: str, **more: str) -> subprocess.CompletedProcess[str]:
        words = ["-m", "scratchlab", "import", "someone/gpt2", "--revision", "v1", "--json", "--out"]
        environment = os.environ | settings | more
        return subprocess.run(
            [sys.executable, *words, out],
            capture_output=True, text=True, cwd=tmp_path, env=environment, check=False, timeout=120,
        )  # fmt: skip

    outcome = run("first")
    assert outcome.returncode == 0, outcome.stderr
    report = json.loads(outcome.stdout)
    assert report["imported"]["source"] == "someone/gpt2"
    assert report["imported"]["revision"] == COMMIT
    assert set(hub.asked) == {"config.json", "model.safetensors", "tokenizer.json"}  # and nothing else
    served = load_file(hub.folder / "model.safetensors")["transformer.wte.weight"]
    kept = load_file(tmp_path / "first/checkpoints/step-00000000/tensors.safetensors")["token_embedding.weight"]
    assert torch.equal(kept, served)
    hub.asked.clear()
    offline = run("second", HF_HUB_OFFLINE="1")
    assert (offline.returncode, hub.asked) == (0, []), offline.stderr


def test_what_the_hub_refuses_is_said_plainly(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (hub.folder / "tokenizer.json").unlink()
    expected: dict[tuple[str, str | None], str] = {
        ("someone/gpt2", None): "brings no tokenizer",
        ("someone/gpt2", "v2"): "has no revision 'v2'",
        ("someone/else", None): "someone/else is no file or folder here, and there is no model of that name",
        ("someone/gated", None): "wants its terms accepted first",
    }
    for (name, revision), message in expected.items():
        with pytest.raises(ScratchlabError, match=message):
            import_run(name, tmp_path / "run", revision=revision)
        assert not (tmp_path / "run").exists()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        ScratchlabError, match=r"someone/new is no file or folder here, and its config.json on .* could not be"
    ):
        import_run("someone/new", tmp_path / "run")
