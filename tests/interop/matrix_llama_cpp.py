"""llama.cpp itself, by the wheel of cyllama in an environment of its own (`make llama-cpp`): logits, tokens, texts.

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
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="llama.cpp is not installed: make llama-cpp")

# Reads {"model", "tokens", "text"}; writes the logits of the tokens, 30 greedy tokens after the first ten, the tokens
# of the text, the text of those, and what ends a text.
SCRIPT = """
import json, sys
from cyllama.llama import llama_cpp
llama_cpp.disable_logging()
llama_cpp.ggml_backend_load_all()
asked = json.load(sys.stdin)

class Model(llama_cpp.LlamaModel):
    n_vocab = property(lambda self: self.get_vocab().n_vocab)  # cyllama asks for it where it gives logits

model = Model(asked["model"], llama_cpp.LlamaModelParams())
params = llama_cpp.LlamaContextParams()
params.n_ctx, params.n_batch, params.n_ubatch, params.n_threads, params.n_threads_batch = 64, 64, 64, 1, 1
params.type_k = params.type_v = params.flash_attn_type = 0  # the cache in float32, and attention with it
context, vocab = llama_cpp.LlamaContext(model, params), model.get_vocab()

def logits_of(tokens, place):
    batch = llama_cpp.LlamaBatch(n_tokens=len(tokens), embd=0, n_seq_max=1)
    for number, token in enumerate(tokens):
        batch.add(token, place + number, [0], True)
    context.decode(batch)
    return [list(context.get_logits_ith(number)) for number in range(len(tokens))]

tokens = asked["tokens"]
logits = logits_of(tokens, 0)
context.kv_cache_clear()
last, written = logits_of(tokens[:10], 0)[-1], []
for place in range(10, 40):
    written.append(max(range(len(last)), key=last.__getitem__))
    last = logits_of(written[-1:], place)[-1]
read = list(vocab.tokenize(asked["text"], add_special=True, parse_special=False))
text = vocab.detokenize(read)
print(json.dumps({"logits": logits, "written": written, "read": read, "text": text, "end": vocab.token_eos()}))
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
    assert error < (1e-3 if family in ("gpt2", "gptneox") else 1e-5), error
    assert answer["read"] == BPE.encode(WRITING).tolist()
    assert answer["end"] == BPE.end_of_text
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
