"""llama.cpp itself, by llama-cpp-python in an environment of its own (`make llama-cpp`): logits, tokens, greedy texts.

llama.cpp looks GELU up in a table of half precision: its GPT-2 and GPT-NeoX are only as near as that.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_gguf import BPE, MODELS, TEXT, WRITING, exported

from scratchlab.corpus.tokenizer import train_tokenizer
from scratchlab.model.load import load_model

PYTHON = Path(__file__).parents[2] / "build/llama-cpp/bin/python"
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="llama-cpp-python is not installed: make llama-cpp")

# Reads {"model", "tokens", "text"}; writes the logits of the tokens, 30 greedy tokens after the first ten, the tokens
# of the text and the text of those.
SCRIPT = """
import json, sys
import llama_cpp, numpy
asked = json.load(sys.stdin)
model = llama_cpp.Llama(asked["model"], n_ctx=64, logits_all=True, verbose=False, n_threads=1, n_gpu_layers=0)
tokens = asked["tokens"]
model.eval(tokens)
logits = model.scores[: len(tokens)].tolist()
written = []
model.reset()
for token in model.generate(tokens[:10], temp=0.0, repeat_penalty=1.0):
    written.append(int(token))
    if len(written) == 30:
        break
read = model.tokenize(asked["text"].encode(), add_bos=False, special=False)
text = model.detokenize(read).decode()
print(json.dumps({"logits": logits, "written": written, "read": read, "text": text, "eos": model.token_eos()}))
"""


def ask(path: Path, tokens: list[int], text: str) -> dict[str, Any]:
    wish = json.dumps({"model": str(path), "tokens": tokens, "text": text})
    outcome = subprocess.run(
        [PYTHON, "-c", SCRIPT], input=wish, capture_output=True, text=True, check=False, timeout=300
    )
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_llama_cpp_computes_what_we_do(kind: str, tmp_path: Path) -> None:
    family, changes = MODELS[kind]
    run = exported(tmp_path, **changes)
    model, tokens = load_model(run, device="cpu"), BPE.encode(TEXT).tolist()[:40]
    answer = ask(tmp_path / "out/model.gguf", tokens, WRITING)
    ours = model(torch.tensor([tokens]))[0][0].double().numpy()
    theirs = np.array(answer["logits"])
    error = np.linalg.norm(theirs - ours) / np.linalg.norm(ours)
    assert error < (2e-3 if family in ("gpt2", "gptneox") else 1e-3), error
    assert answer["read"] == BPE.encode(WRITING).tolist()
    assert answer["eos"] == BPE.end_of_text
    state = tokens[:10]
    for place, token in enumerate(answer["written"]):
        scores = model(torch.tensor([state]))[0][0, -1]
        best = scores.topk(2).values
        assert token == int(scores.argmax()) or float(best[0] - best[1]) < 1e-2, place  # a tie, as near as it computes
        state.append(token)


@pytest.mark.parametrize("spec", ["bpe:300", "byte", "char"])
def test_llama_cpp_reads_the_same_tokens(spec: str, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(spec, [TEXT + WRITING], specials=["<|user|>"])
    exported(tmp_path, tokenizer)
    answer = ask(tmp_path / "out/model.gguf", tokenizer.encode(TEXT).tolist()[:40], WRITING)
    assert answer["read"] == tokenizer.encode(WRITING).tolist()
    assert answer["text"] == WRITING
