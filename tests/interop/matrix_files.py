"""The models of the matrix as GGUF, in llama.cpp itself, and as ONNX, in an environment without scratchlab; and back.

Part of `make test-interop`. Writes benchmarks/results/interop_files.json and the second table of docs/interop.md.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import others
import pytest
import torch
from matrix import ENVIRONMENTS, MODELS, ROOT, put_on_page, with_those_alike
from test_gguf import noisy

from scratchlab.errors import RunError
from scratchlab.interop.exports import OTHERS
from scratchlab.interop.gguf_models import family_of
from scratchlab.interop.imports import import_run
from scratchlab.model.gpt import GPT
from scratchlab.model.load import load_model
from scratchlab.runfolder import RunFolder
from tiny_run import make_run

RESULTS = ROOT / "benchmarks/results/interop_files.json"
BPE = others.make_tokenizer()

# Reads {"model", "tokens", "write"}; writes the logits of the tokens, and greedy tokens after the first ten.
ONNX = """
import importlib.util, json, sys
import onnxruntime
assert importlib.util.find_spec("scratchlab") is None
asked = json.load(sys.stdin)
session = onnxruntime.InferenceSession(asked["model"])
logits = lambda tokens: session.run(None, {"tokens": [tokens]})[0][0]
state = asked["tokens"][:10]
for _ in range(asked["write"]):
    state.append(int(logits(state)[-1].argmax()))
print(json.dumps({"logits": logits(asked["tokens"]).tolist(), "written": state[10:]}))
"""


def ask_onnxruntime(model: Path, tokens: list[int], write: int) -> dict[str, Any]:
    wish = json.dumps({"model": str(model), "tokens": tokens, "write": write})
    outcome = subprocess.run(
        [ENVIRONMENTS["current"], "-c", ONNX], input=wish, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": ""},
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout)


@pytest.mark.parametrize("name", MODELS)
def test_it_is_used_as_files_and_comes_back(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", BPE, None, noisy, **MODELS[name].model_dump())
    found = {form: tried(run, form, tmp_path / form) for form in ("gguf", "onnx")}
    record({"model": name, **found})
    assert found["onnx"] == "all 3"
    assert found["gguf"].endswith("all 3") or found["gguf"].startswith("refused")


def tried(run: RunFolder, form: str, to: Path) -> str:
    """What comes of an export: logits, a text and the way back; or why there is none."""
    try:
        OTHERS[form](run, to, "final")
    except RunError as error:
        return f"refused: {error}"
    model = load_model(run, device="cpu")
    assert isinstance(model, GPT)
    family = family_of(model.config).name if form == "gguf" else ""
    length = min(40, model.config.context_length)
    tokens, write = BPE.encode(others.TEXT).tolist()[:length], length - 10
    ask = llama_cpp.ask if form == "gguf" else ask_onnxruntime
    answer = ask(to / f"model.{form}", tokens, write)
    table = family in ("gpt2", "gptneox")  # llama.cpp looks their GELU up in a table of half precision
    kept_small = model.config.norm != "none"  # without norms rounding grows from layer to layer
    check_logits(model, tokens, answer["logits"], 1e-3 if table else 1e-5 if kept_small else 1e-4)
    check_written(model, tokens[:10], answer["written"], 1e-2 if table else 1e-4)
    check_back(run, model, to)
    return f"{family}: all 3".removeprefix(": ")


@torch.no_grad()
def check_logits(model: GPT, tokens: list[int], theirs: list[list[float]], most: float) -> None:
    ours = model(torch.tensor([tokens]))[0][0].double().numpy()
    error = np.linalg.norm(np.array(theirs) - ours) / np.linalg.norm(ours)
    assert error < most, error


@torch.no_grad()
def check_written(model: GPT, state: list[int], written: list[int], tie: float) -> None:
    """Each token is the likeliest after those before it, or as near to that as `tie`."""
    for place, token in enumerate(written):
        scores = model(torch.tensor([state]))[0][0, -1]
        assert float(scores.max() - scores[token]) <= tie, place
        state = [*state, token]


def check_back(run: RunFolder, model: GPT, to: Path) -> None:
    """What is imported again is what was exported, without the padding of its vocabulary."""
    back = import_run(str(to), to.parent / f"back-{to.name}")
    assert back.recipe().model == run.recipe().model.model_copy(update={"vocab_multiple": 1})
    ours = dict(model.named_parameters())
    for parameter_name, parameter in load_model(back, device="cpu").named_parameters():
        assert torch.equal(parameter, ours[parameter_name][: len(parameter)]), parameter_name
    assert back.tokenizer_path.read_bytes() == run.tokenizer_path.read_bytes()


def record(found: dict[str, str]) -> None:
    """Write down what was found, beside what was found of other models before."""
    earlier = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    known = {row["model"]: row for row in [*earlier, found]}
    rows = [known[name] for name in MODELS if name in known]
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    lines = [f"| {with_those_alike(row['model'])} | {cell(row['gguf'])} | {row['onnx']} |" for row in rows]
    put_on_page("files", ["| model | GGUF | ONNX |", "| --- | --- | --- |", *lines])


def cell(said: str) -> str:
    return "refused" if said.startswith("refused") else said
