"""A GPT in plain formulas, a head and a place at a time: what every switch is supposed to mean."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from scratchlab.architecture import GPTSection

DEVIATIONS = {"gpt2": 0.02, "zero_output": 0.02, "pytorch": 1.0, "book": 1.0}


def logits(w: dict[str, Tensor], m: GPTSection, tokens: Tensor, vocab_size: int, end: int) -> Tensor:
    """Scores (T, V) for one row of tokens, from weights by name."""
    x = w["token_embedding.weight"][tokens]
    if m.positions == "learned":
        x = x + w["position_embedding.weight"][: len(tokens)]
    if m.positions == "sinusoidal":
        deviation = DEVIATIONS.get(m.initialization, math.sqrt(2 / (5 * m.d_model)))
        waves = torch.tensor(
            [[p / 10000 ** (2 * i / m.d_model) for i in range(m.d_model // 2)] for p in range(len(tokens))]
        )
        x = x + math.sqrt(2) * deviation * torch.cat([waves.sin(), waves.cos()], 1)
    for layer in range(m.n_layer):
        at = f"blocks.{layer}."
        if m.attention != "none":
            x = join(
                x, lambda h, at=at, layer=layer: attention(h, w, m, at, layer, tokens, end), w, m, f"{at}attention_norm"
            )
        x = join(x, lambda h, at=at: mlp(h, w, m, at), w, m, f"{at}mlp_norm")
    if m.norm_position == "pre":
        x = norm(x, w, m.norm, "final_norm")
    scores = x @ w["token_embedding.weight" if m.tie_weights else "head.weight"].T
    scores = scores if m.logit_cap is None else m.logit_cap * torch.tanh(scores / m.logit_cap)
    return scores[:, :vocab_size]


def join(x: Tensor, branch: Callable[[Tensor], Tensor], w: dict[str, Tensor], m: GPTSection, name: str) -> Tensor:
    """Vaswani's order or GPT-2's, with the stream or without it."""
    stream = x if m.residual else torch.zeros_like(x)
    if m.norm_position == "pre":
        return stream + branch(norm(x, w, m.norm, name))
    return norm(stream + branch(x), w, m.norm, name)


def norm(x: Tensor, w: dict[str, Tensor], kind: str, name: str) -> Tensor:
    if kind == "none":
        return x
    centered = x - x.mean(-1, keepdim=True) if kind == "layer" else x
    scaled = centered / torch.sqrt(centered.square().mean(-1, keepdim=True) + 1e-5) * w[f"{name}.weight"]
    return scaled + w.get(f"{name}.bias", torch.zeros(1))


def linear(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(1))


def attention(x: Tensor, w: dict[str, Tensor], m: GPTSection, at: str, layer: int, tokens: Tensor, end: int) -> Tensor:
    D, per_kv = m.d_model // m.n_head, m.n_head // m.n_kv
    qkv = linear(x, w, f"{at}attention.qkv")
    queries, keys, values = qkv.split([m.n_head * D, m.n_kv * D, m.n_kv * D], dim=-1)
    document = (tokens == end).cumsum(0)
    output = torch.zeros_like(x)
    for head in range(m.n_head):
        shared = slice(head // per_kv * D, (head // per_kv + 1) * D)
        q, k, v = queries[:, head * D : (head + 1) * D], keys[:, shared], values[:, shared]
        if m.qk_norm:
            q, k = (norm(part, w, "rms", f"{at}attention.{name}_norm") for part, name in ((q, "q"), (k, "k")))
        if m.positions == "rotary":
            q, k = turn(q), turn(k)
        for place in range(len(x)):
            seen = [p for p in range(place + 1) if not m.document_mask or document[p] == document[place]]
            if m.window is not None and (m.window_layers == "all" or layer % 2 == 1):
                seen = [p for p in seen if p > place - m.window]
            weights = torch.softmax(k[seen] @ q[place] / math.sqrt(D), 0)
            output[place, head * D : (head + 1) * D] = weights @ v[seen]
    return linear(output, w, f"{at}attention.out")


def turn(x: Tensor) -> Tensor:
    """Number i and number i + D / 2 as a point, turned by place / 10000^(2 i / D)."""
    half = x.shape[1] // 2
    turned = x.clone()
    for place in range(len(x)):
        for i in range(half):
            angle = place / 10000 ** (2 * i / x.shape[1])
            a, b = x[place, i], x[place, i + half]
            turned[place, i] = a * math.cos(angle) - b * math.sin(angle)
            turned[place, i + half] = a * math.sin(angle) + b * math.cos(angle)
    return turned


def mlp(x: Tensor, w: dict[str, Tensor], m: GPTSection, at: str) -> Tensor:
    up = linear(x, w, f"{at}mlp.up")
    if m.mlp == "swiglu":
        gate = linear(x, w, f"{at}mlp.gate")
        inside = gate / (1 + torch.exp(-gate)) * up
    elif m.mlp == "gelu_tanh":
        inside = 0.5 * up * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
    elif m.mlp == "gelu":
        inside = 0.5 * up * (1 + torch.erf(up / math.sqrt(2)))
    else:
        inside = up.clamp(min=0) ** {"relu": 1, "relu2": 2}[m.mlp]
    return linear(inside, w, f"{at}mlp.down")
