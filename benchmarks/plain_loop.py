"""Hugging Face's GPT2LMHeadModel in the loop that its users write: AdamW, autocast, clipping, no more.

python benchmarks/plain_loop.py '{"n_layer": 4, ...}'    (throughput.py starts it)
"""

import contextlib
import itertools
import json
import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def main() -> None:
    order = json.loads(sys.argv[1])
    device = order["device"]
    model = GPT2LMHeadModel(
        GPT2Config(
            n_layer=order["n_layer"],
            n_head=order["n_head"],
            n_embd=order["d_model"],
            n_positions=order["context_length"],
            vocab_size=order["vocab_size"],
            activation_function="gelu",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
        )
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    trained = torch.compile(model) if order["compiled"] else model
    half = torch.autocast(device, torch.bfloat16) if order["precision"] == "bf16" else contextlib.nullcontext()
    shape = order["batch"], order["context_length"]
    for step in itertools.count():
        tokens = torch.randint(order["vocab_size"], shape, device=device)
        with half:
            loss = trained(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step}: loss {loss.item():.4f}", flush=True)


if __name__ == "__main__":
    main()
