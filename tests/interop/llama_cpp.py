"""llama.cpp itself, by the wheel of cyllama in an environment of its own (build/llama-cpp): what it makes of a file."""

import json
import subprocess
from pathlib import Path
from typing import Any

PYTHON = Path(__file__).parents[2] / "build/llama-cpp/bin/python"

# Reads {"model", "tokens", "write", "text"}; writes the logits of the tokens, greedy tokens after the first ten, the
# tokens of the text, the text of those, and what ends a text.
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
for place in range(10, 10 + asked["write"]):
    written.append(max(range(len(last)), key=last.__getitem__))
    last = logits_of(written[-1:], place)[-1]
read = list(vocab.tokenize(asked["text"], add_special=True, parse_special=False))
text = vocab.detokenize(read)
print(json.dumps({"logits": logits, "written": written, "read": read, "text": text, "end": vocab.token_eos()}))
"""


def ask(path: Path, tokens: list[int], write: int, text: str = "") -> dict[str, Any]:
    wish = json.dumps({"model": str(path), "tokens": tokens, "write": write, "text": text})
    outcome = subprocess.run(
        [PYTHON, "-c", SCRIPT], input=wish, capture_output=True, text=True, check=False, timeout=300
    )
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout.splitlines()[-1])
