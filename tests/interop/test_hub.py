"""Importing by name: the real client against an endpoint of this machine that speaks the Hub's protocol."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import others
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from hub_server import Hub, Repository, point_client_at, serve
from scratchlab.errors import ScratchlabError
from scratchlab.interop.imports import import_run


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A Hub with the model `someone/gpt2`, and one whose terms nobody accepted."""
    with serve() as hub:
        make_model(tmp_path / "served")
        files = {path.name: path.read_bytes() for path in (tmp_path / "served").iterdir()}
        model = hub.repositories["models/someone/gpt2"] = Repository()
        model.branches["v1"] = model.commit(files)
        hub.repositories["models/someone/gated"] = Repository(gated=True)
        yield hub


def make_model(folder: Path) -> None:
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 8, "vocab_size": others.SYMBOLS}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(others.make_tokenizer().to_json(), encoding="utf-8")
    (folder / "flax_model.msgpack").write_bytes(b"not wanted")


def test_a_model_comes_by_its_name_and_then_from_the_cache(hub: Hub, tmp_path: Path) -> None:
    """In processes of their own: the client reads its settings when it is imported."""

    def run(out: str, **more: str) -> subprocess.CompletedProcess[str]:
        words = ["-m", "scratchlab", "import", "someone/gpt2", "--revision", "v1", "--json", "--out"]
        environment = os.environ | hub.settings(tmp_path / "cache") | more
        return subprocess.run(
            [sys.executable, *words, out],
            capture_output=True, text=True, cwd=tmp_path, env=environment, check=False, timeout=120,
        )  # fmt: skip

    outcome = run("first")
    assert outcome.returncode == 0, outcome.stderr
    report = json.loads(outcome.stdout)
    assert report["imported"]["source"] == "someone/gpt2"
    assert report["imported"]["revision"] == hub.repositories["models/someone/gpt2"].branches["v1"]
    asked = {line.rpartition("/")[2] for line in hub.answered("", "/resolve/")}
    template = {"chat_template.jinja", "tokenizer_config.json"}
    assert asked == {"config.json", "model.safetensors", "tokenizer.json", *template}  # and nothing else
    served = load_file(tmp_path / "served/model.safetensors")["transformer.wte.weight"]
    kept = load_file(tmp_path / "first/checkpoints/step-00000000/tensors.safetensors")["token_embedding.weight"]
    assert torch.equal(kept, served)
    hub.asked.clear()
    offline = run("second", HF_HUB_OFFLINE="1")
    assert (offline.returncode, hub.asked) == (0, []), offline.stderr
    for folder in (tmp_path / "cache/hub").glob("*/.no_exist"):  # as a program leaves it that asked for all there is
        shutil.rmtree(folder)
    offline = run("third", HF_HUB_OFFLINE="1")
    assert (offline.returncode, hub.asked) == (0, []), offline.stderr


def test_what_the_hub_refuses_is_said_plainly(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_client_at(hub, tmp_path / "home", monkeypatch)
    hub.repositories["models/someone/gpt2"].commit({"tokenizer.json": None})
    hub.repositories["models/someone/gpt2"].branches.pop("v1")
    expected: dict[tuple[str, str | None], str] = {
        ("someone/gpt2", None): "brings no tokenizer",
        ("someone/gpt2", "v1"): "has no revision 'v1'",
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
