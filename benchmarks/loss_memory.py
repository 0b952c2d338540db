"""What the chunked loss saves: peak memory and step time of the 124M recipe, beside the loss on whole logits.

    python benchmarks/loss_memory.py [--device cpu] [--micro-batch 8] [--rounds 2] [--steps 2] [--layers 12]

bf16, context 1024, 50,304 symbols. Both losses go through fresh processes one after the other, each first in half of
the rounds (side by side they would not fit into the memory of a laptop). Writes benchmarks/results/loss_memory.json.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import contest
from scratchlab import hardware
from scratchlab.corpus.windows import Batch
from scratchlab.model.loss import Objective, plain_cross_entropy, weighted_cross_entropy
from scratchlab.recipe import Recipe
from scratchlab.recipe_files import load_recipe
from scratchlab.training.step import TorchBackend

ROOT = Path(__file__).parent.parent
SYMBOLS = 50304
LOSSES = {"plain": plain_cross_entropy, "chunked": weighted_cross_entropy}


def main() -> None:
    arguments = parse_arguments()
    if arguments.worker:
        print(json.dumps(work(json.loads(arguments.worker), arguments.steps)))
        return
    results: dict[str, Any] = {"machine": contest.machine(), "micro_batch": arguments.micro_batch, "losses": {}}
    answers: dict[str, list[Any]] = {name: [] for name in LOSSES}
    for number in range(arguments.rounds):
        for name in LOSSES if number % 2 == 0 else reversed(LOSSES):
            answers[name].append(ask(name, arguments))
            print(name, answers[name][-1], flush=True)
    for name, rounds in answers.items():
        peak = max(answer["peak_memory_bytes"] for answer in rounds)
        seconds = float(np.median([second for answer in rounds for second in answer["seconds"]]))
        results["losses"][name] = {"peak_memory_gb": round(peak / 1e9, 3), "seconds_a_step": round(seconds, 3)}
    peaks = [results["losses"][name]["peak_memory_gb"] for name in ("chunked", "plain")]
    results["memory_below_plain"] = round(1 - peaks[0] / peaks[1], 3)
    turns = [[answer["seconds"] for answer in answers[name]] for name in ("chunked", "plain")]
    results["speed"] = contest.speed_ratio(*turns)
    print(json.dumps(results, indent=1))
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2, help="that are timed, after one that is not")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/loss_memory.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def ask(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The answer of a fresh process."""
    recipe = load_recipe(ROOT / "recipes/gpt2-small.toml").replaced(
        {
            "model.n_layer": arguments.layers,
            "model.context_length": arguments.context,
            "training.steps": 1000,
            "training.precision": "bf16",
            "training.global_batch_size": arguments.micro_batch,
            "execution.micro_batch_size": arguments.micro_batch,
            "execution.device": arguments.device,
            "execution.compile": arguments.device.startswith("cuda"),
            "execution.threads": hardware.usable_cores(),
        }
    )
    order = json.dumps({"recipe": recipe.model_dump(), "loss": name})
    command = [sys.executable, __file__, "--worker", order, "--steps", str(arguments.steps)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(answer.splitlines()[-1])


def work(order: dict[str, Any], steps: int) -> dict[str, Any]:
    recipe = Recipe.model_validate(order["recipe"])
    device, shape = recipe.settled.device, (recipe.training.global_batch_size, recipe.model.context_length)
    tokens = np.random.default_rng(1).integers(0, SYMBOLS, (2, *shape))
    batch = Batch(tokens[0], tokens[1], np.ones(shape, np.float32))
    backend = TorchBackend(recipe, SYMBOLS)
    state = backend.init()
    state.objective = Objective(state.model, LOSSES[order["loss"]])
    if recipe.settled.compile:
        state.objective.compile(dynamic=False)
    seconds: list[float] = []
    loss = 0.0
    for step in range(1 + steps):
        began = time.perf_counter()
        state, metrics = backend.step(state, batch, step)
        hardware.synchronize(device)
        seconds.append(time.perf_counter() - began)
        loss = float(metrics["loss"])
    return {"seconds": seconds[1:], "peak_memory_bytes": hardware.peak_memory(device), "loss": loss}


if __name__ == "__main__":
    main()
