"""llama.cpp itself, by the wheel of cyllama in an environment of its own (`make llama-cpp`): logits, tokens, texts.

llama.cpp looks GELU up in a table of half precision: its GPT-2 and GPT-NeoX are only as near as that.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from llama_cpp import PYTHON, ask
from test_gguf import BPE, MODELS, TEXT, WRITING, exported

from scratchlab.corpus.tokenizer import train_tokenizer
from scratchlab.model.load import load_model

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="llama.cpp is not installed: make llama-cpp")


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_llama_cpp_computes_what_we_do(kind: str, tmp_path: Path) -> None:
    family, changes = MODELS[kind]
    run = exported(tmp_path, **changes)
    model, tokens = load_model(run, device="cpu"), BPE.encode(TEXT).tolist()[:40]
    answer = ask(tmp_path / "out/model.gguf", tokens, 30, WRITING)
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
    answer = ask(tmp_path / "out/model.gguf", tokenizer.encode(TEXT).tolist()[:40], 30, WRITING)
    assert answer["read"] == tokenizer.encode(WRITING).tolist()
    assert answer["text"] == WRITING
