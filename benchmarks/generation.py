"""Generation speed beside Hugging Face transformers, in turns, in one run: GPT-2 small's shape, batch 1, greedy.

    python benchmarks/generation.py [--turns 10] [--prompt-tokens 10] [--new-tokens 100]

Needs transformers (`pip install transformers`). Random weights, the same for both, and the tokens must agree. The limit
is memory: each token reads every weight once, so beside the figures stands the rate of a plain read of as many bytes.
Writes benchmarks/results/generation.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scratchlab import hardware

hardware.prepare_process()  # as the `scratchlab` command does, before torch is loaded

import torch  # noqa: E402
from transformers import GPT2Config, GPT2LMHeadModel  # noqa: E402

import contest  # noqa: E402
from scratchlab.architecture import GPTSection  # noqa: E402
from scratchlab.generation.engine import Settings, generate  # noqa: E402
from scratchlab.hardware import Precision  # noqa: E402
from scratchlab.model.build import build_model  # noqa: E402
from scratchlab.model.gpt import GPT  # noqa: E402

ROOT = Path(__file__).parent.parent
VOCABULARY = 50_257


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--prompt-tokens", type=int, default=10)
    parser.add_argument("--new-tokens", type=int, default=100)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/generation.json")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"machine": contest.machine(), "tokens": arguments.new_tokens}
    rates = {precision: hardware.matmul_rate("cpu", precision, size=256) for precision in ("float32", "bf16")}
    for precision in hardware.precisions_of("cpu"):
        if rates[precision] < rates["float32"] / 2:
            results[precision] = {"left_out": f"this processor emulates {precision}"}
            continue
        results[precision] = measure(precision, arguments)
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))


def measure(precision: Precision, arguments: argparse.Namespace) -> dict[str, Any]:
    ours = build_model(GPTSection(), VOCABULARY, seed=1, compute_dtype=hardware.compute_dtype(precision))
    theirs = same_weights(ours).to(hardware.compute_dtype(precision))
    prompt = list(range(100, 100 + arguments.prompt_tokens))
    settings = Settings(max_tokens=arguments.new_tokens, temperature=0)

    def write_ours() -> list[int]:
        return list(generate(ours, prompt, settings))

    def write_theirs() -> list[int]:
        tokens = torch.tensor([prompt])
        written = theirs.generate(
            tokens,
            max_new_tokens=arguments.new_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
        )
        return written[0, len(prompt) :].tolist()

    agreed = sum(a == b for a, b in zip(write_ours(), write_theirs(), strict=True))  # warms both up, too
    seconds = take_turns({"ours": write_ours, "theirs": write_theirs, "read": reader(theirs)}, arguments.turns)
    per_second = {name: arguments.new_tokens / statistics.median(times) for name, times in seconds.items()}
    limit = 1 / statistics.median(seconds["read"])
    return {
        "speed": contest.speed_ratio([[turn] for turn in seconds["ours"]], [[turn] for turn in seconds["theirs"]]),
        "scratchlab_tokens_per_second": per_second["ours"],
        "transformers_tokens_per_second": per_second["theirs"],
        "limit_tokens_per_second": limit,
        "share_of_limit": per_second["ours"] / limit,
        "tokens_agreed": agreed,
    }


def same_weights(model: GPT) -> GPT2LMHeadModel:
    """transformers' model with our weights."""
    twin = GPT2LMHeadModel(GPT2Config(activation_function="gelu_new")).eval()
    twin.generation_config.eos_token_id = None  # both write to the end
    with torch.no_grad():
        twin.transformer.wte.weight.copy_(model.token_embedding.weight)
        twin.transformer.wpe.weight.copy_(model.position_embedding.weight)
        for theirs, ours in zip(twin.transformer.h, model.blocks, strict=True):
            pairs = [
                (theirs.attn.c_attn, ours.attention.qkv),
                (theirs.attn.c_proj, ours.attention.out),
                (theirs.mlp.c_fc, ours.mlp.up),
                (theirs.mlp.c_proj, ours.mlp.down),
            ]
            for mine, yours in pairs:
                mine.weight.copy_(yours.weight.t())
                mine.bias.copy_(yours.bias)
    return twin


def reader(model: torch.nn.Module) -> Callable[[], Any]:
    """Reads as many bytes as the model has, once, in the fastest plain way there is."""
    weights = torch.zeros(sum(p.numel() * p.element_size() for p in model.parameters()) // 4)
    return lambda: weights.sum()


def take_turns(programs: dict[str, Callable[[], Any]], turns: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(turns):
        for name, program in programs.items():
            start = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
