"""What llama.cpp does with a GGUF file, written out from its graphs and its vocabulary; gguf alone reads the file."""

import itertools
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import regex

from scratchlab.corpus.tokenizers.merges import BYTE_OF, CHARACTER_OF

Floats = npt.NDArray[np.float64]
# Its GPT-2 pattern; what is left between two matches is a word too.
WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


class File:
    """A GGUF file, opened."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.fields: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
        self.weights: dict[str, Floats] = {t.name: np.array(t.data, np.float64) for t in reader.tensors}
        self.architecture: str = self.fields["general.architecture"]

    def size(self, name: str) -> Any:
        return self.fields[f"{self.architecture}.{name}"]

    # The vocabulary.

    def encode(self, text: str) -> list[int]:
        """Byte-level BPE: neighbors are merged by the rank of their pair, and what is no symbol falls apart."""
        ids = {token: number for number, token in enumerate(self.fields["tokenizer.ggml.tokens"])}
        ranks = {tuple(pair.split(" ")): rank for rank, pair in enumerate(self.fields["tokenizer.ggml.merges"])}
        found: list[int] = []
        for word in WORDS.findall(text):
            parts = [CHARACTER_OF[byte] for byte in word.encode()]
            while pairs := [(ranks[pair], i) for i, pair in enumerate(itertools.pairwise(parts)) if pair in ranks]:
                _, i = min(pairs)
                parts[i : i + 2] = [parts[i] + parts[i + 1]]
            for part in parts:
                found += [ids[part]] if part in ids else [ids[letter] for letter in part if letter in ids]
        return found

    def decode(self, tokens: list[int]) -> str:
        written = "".join(self.fields["tokenizer.ggml.tokens"][token] for token in tokens)
        return bytes(BYTE_OF[character] for character in written).decode()

    # The graph.

    def logits(self, tokens: list[int]) -> Floats:
        """(T, V) for one text."""
        x = self.weights["token_embd.weight"][tokens]
        if "position_embd.weight" in self.weights:
            x = x + self.weights["position_embd.weight"][: len(tokens)]
        for layer in range(self.size("block_count")):
            x = x + self._attention(self._norm(x, f"blk.{layer}.attn_norm"), f"blk.{layer}.")
            x = x + self._mlp(self._norm(x, f"blk.{layer}.ffn_norm"), f"blk.{layer}.")
        neox = self.architecture == "gptneox"
        assert not neox or self.size("use_parallel_residual") is False  # true where the field is not there
        fallback = None if neox else self.weights["token_embd.weight"]
        head = self.weights.get("output.weight", fallback)
        assert head is not None, "it has no head, and its architecture never takes the embedding for one"
        return self._norm(x, "output_norm") @ head.T

    def _linear(self, x: Floats, name: str) -> Floats:
        return x @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", 0.0)

    def _norm(self, x: Floats, name: str) -> Floats:
        if self.architecture in ("gpt2", "gptneox"):
            x = x - x.mean(-1, keepdims=True)
            epsilon = self.size("attention.layer_norm_epsilon")
        else:
            epsilon = self.size("attention.layer_norm_rms_epsilon")
        scaled = x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon)
        return scaled * self.weights[f"{name}.weight"] + self.weights.get(f"{name}.bias", 0.0)

    def _attention(self, x: Floats, at: str) -> Floats:
        n_head, n_kv = self.size("attention.head_count"), self.size("attention.head_count_kv")
        width, length = self.size("embedding_length") // n_head, len(x)
        if f"{at}attn_qkv.weight" in self.weights:
            cuts = [n_head * width, (n_head + n_kv) * width]
            q, k, v = np.split(self._linear(x, f"{at}attn_qkv"), cuts, axis=-1)
        else:
            q, k, v = (self._linear(x, f"{at}attn_{which}") for which in "qkv")
        q, k, v = (part.reshape(length, -1, width) for part in (q, k, v))
        if self.architecture == "qwen3":
            q, k = self._norm(q, f"{at}attn_q_norm"), self._norm(k, f"{at}attn_k_norm")
        if self.architecture != "gpt2":
            q, k = self._turned(q), self._turned(k)
        k, v = (np.repeat(part, n_head // n_kv, axis=1) for part in (k, v))
        scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(width)
        scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = weights / weights.sum(-1, keepdims=True)
        return self._linear(np.einsum("hts,shd->thd", weights, v).reshape(length, -1), f"{at}attn_output")

    def _turned(self, x: Floats) -> Floats:
        """(T, H, D). Llama turns neighbors, the others number i with i + D / 2."""
        width = self.size("rope.dimension_count")
        angles = np.arange(len(x))[:, None] * self.size("rope.freq_base") ** (-np.arange(0, width, 2) / width)
        cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]
        half = width // 2
        near = self.architecture == "llama"
        first, second = (slice(0, None, 2), slice(1, None, 2)) if near else (slice(half), slice(half, None))
        a, b, turned = x[..., first], x[..., second], np.empty_like(x)
        turned[..., first], turned[..., second] = a * cosine - b * sine, b * cosine + a * sine
        return turned

    def _mlp(self, x: Floats, at: str) -> Floats:
        up = self._linear(x, f"{at}ffn_up")
        if f"{at}ffn_gate.weight" in self.weights:
            gate = self._linear(x, f"{at}ffn_gate")
            return self._linear(gate / (1 + np.exp(-gate)) * up, f"{at}ffn_down")
        inside = 0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
        return self._linear(inside, f"{at}ffn_down")


def go_as_jinja(modelfile: str) -> str:
    """The TEMPLATE of a Modelfile, in Go's language, as Jinja that does the same."""
    found = re.search(r'TEMPLATE """(.*)"""', modelfile, re.DOTALL)
    assert found
    words = {
        "{{ range .Messages }}": "{% for m in messages %}",
        "{{ if .System }}": "{% if system %}",
        '{{ if eq .Role "user" }}': "{% if m.role == 'user' %}",
        '{{ else if eq .Role "assistant" }}': "{% elif m.role == 'assistant' %}",
        "{{ else }}": "{% else %}",
        "{{ .System }}": "{{ system }}",
        "{{ .Role }}": "{{ m.role }}",
        "{{ .Content }}": "{{ m.content }}",
        "{{ .Prompt }}": "{{ prompt }}",
    }
    jinja, opened = found[1], list[str]()
    for go, theirs in words.items():
        jinja = jinja.replace(go, theirs)
    for tag in re.findall(r"\{%-? (for|if)|(\{\{ end \}\})", jinja):
        if tag[0]:
            opened.append(tag[0])
        else:
            jinja = jinja.replace("{{ end }}", f"{{% end{opened.pop()} %}}", 1)
    return jinja
