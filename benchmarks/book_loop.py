"""A GPT as a book builds it and its readers train it: fp16 autocast with a scaler, attention written out, no compiling.

    python benchmarks/book_loop.py '{"n_layer": 12, ...}'    (gpu.py starts it)

In our own words, from the description in recipes/book-163m.toml: separate query, key and value matrices, a mask that
is kept, norms and GELU of elementary operations, two embedding matrices, PyTorch's own optimizer.
"""

import itertools
import json
import sys
from typing import Any

import torch
from torch import Tensor, nn


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return self.scale * (x - mean) / torch.sqrt(variance + 1e-5) + self.shift


class Gelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * torch.pow(x, 3))))


class Attention(nn.Module):
    def __init__(self, width: int, n_head: int, context: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out, self.n_head = nn.Linear(width, width), n_head
        self.mask: Tensor
        self.register_buffer("mask", torch.triu(torch.ones(context, context), diagonal=1))

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (part(x).view(B, T, self.n_head, -1).transpose(1, 2) for part in (self.query, self.key, self.value))
        scores = (q @ k.transpose(2, 3)).masked_fill(self.mask.bool()[:T, :T], -torch.inf)
        weights = torch.softmax(scores / k.shape[-1] ** 0.5, dim=-1)
        return self.out((weights @ v).transpose(1, 2).contiguous().view(B, T, C))


class Block(nn.Module):
    def __init__(self, width: int, n_head: int, context: int) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = Norm(width), Norm(width)
        self.attention = Attention(width, n_head, context)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), Gelu(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Model(nn.Module):
    def __init__(self, order: dict[str, Any]) -> None:
        super().__init__()
        width, symbols, context = order["d_model"], order["vocab_size"], order["context_length"]
        self.tokens, self.places = nn.Embedding(symbols, width), nn.Embedding(context, width)
        blocks = [Block(width, order["n_head"], context) for _ in range(order["n_layer"])]
        self.body = nn.Sequential(*blocks, Norm(width), nn.Linear(width, symbols, bias=False))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.body(self.tokens(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device)))


def main() -> None:
    order = json.loads(sys.argv[1])
    device, shape = order["device"], (order["batch"], order["context_length"] + 1)
    model = Model(order).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.1)
    scaler = torch.amp.GradScaler(device, enabled=device == "cuda")
    for step in itertools.count():
        tokens = torch.randint(order["vocab_size"], shape, device=device)
        optimizer.zero_grad()
        with torch.autocast(device, torch.float16 if device == "cuda" else torch.bfloat16):
            logits = model(tokens[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        memory = torch.cuda.max_memory_allocated() if device == "cuda" else 0
        print(f"step {step}: loss {loss.item():.4f} memory {memory}", flush=True)


if __name__ == "__main__":
    main()
