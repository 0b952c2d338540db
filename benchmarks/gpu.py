"""One short program for a rented card: speed, MFU and memory of 124M and 163M beside two others, and the ladder.

    python benchmarks/gpu.py --peer PATH/TO/nanoGPT --text input.txt --gpt2 PATH/TO/gpt2_bpe    (under ten minutes)
    python benchmarks/gpu.py ... --tiny                                  (the same on a CPU, to see that it runs)

Context 1024, no dropout, in turns in one run on one card: `scratchlab train` as `auto` chooses; nanoGPT's train.py in
bf16, compiled (three lines changed: AdamW is fused wherever it can be, the log tells memory, and for 163M the head is
untied); and the book's way (`book_loop.py`: fp16 autocast, attention written out, not compiled). Writes
benchmarks/results/gpu.json and a ladder beside it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import contest
import throughput
from scratchlab import hardware
from scratchlab.corpus.store import Corpus
from scratchlab.devices import nominal_rate
from scratchlab.model.count import training_flops_per_token
from scratchlab.recipe import Recipe
from throughput import ROOT, Case, Shape

BIG = Shape(12, 12, 768, 1024, 16, 10, 2, 4, 50304)
SMALL = Shape(2, 2, 64, 64, 2, 1, 1, 1, 50304)
MODELS = {"124m": True, "163m": False}  # and whether the head is tied


def main() -> None:
    arguments = parse_arguments()
    device = "cpu" if arguments.tiny else "cuda"
    shape = SMALL if arguments.tiny else replace(BIG, batch=arguments.batch)
    results: dict[str, Any] = {"machine": contest.machine(), "batch": shape.batch, "models": {}}
    with tempfile.TemporaryDirectory() as scratch:
        corpus = throughput.corpus_of(shape, arguments, Path(scratch))
        for name, tied in MODELS.items():
            began = time.monotonic()
            results["models"][name] = measure(name, tied, shape, device, corpus, arguments, Path(scratch) / name)
            print(
                json.dumps({name: results["models"][name]}, indent=1), f"{time.monotonic() - began:.0f} s", flush=True
            )
            arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    climb(shape, device, arguments)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="a local clone of nanoGPT")
    parser.add_argument("--text", required=True)
    parser.add_argument("--gpt2", default="gpt2", help="the folder of GPT-2's encoder.json and vocab.bpe (or `gpt2`)")
    parser.add_argument("--batch", type=int, default=BIG.batch, help="sequences a step")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/gpu.json")
    return parser.parse_args()


def measure(
    name: str, tied: bool, shape: Shape, device: str, corpus: Corpus, arguments: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Rounds of fresh processes, in each of which all three take turns."""
    throughput.SHAPES[name] = shape
    case = Case(name, "bf16", compiled=device == "cuda", auto=True, device=device)
    recipe = our_recipe(case, corpus, tied)
    rounds = [play_round(case, recipe, tied, corpus, arguments, folder / f"{n}") for n in range(shape.rounds)]
    players = {one.name: [c for entered in rounds for c in entered if c.name == one.name] for one in rounds[0]}
    flops = shape.tokens * training_flops_per_token(recipe.model, corpus.vocab_size)
    outcome: dict[str, Any] = {who: throughput.figures(those, shape.tokens, flops) for who, those in players.items()}
    for peak, kind in ((nominal_rate(device, "bf16"), "nominal"), (rate(device), "measured_matmul")):
        for who in players:
            outcome[who][f"mfu_of_{kind}"] = peak and round(outcome[who]["gflops"] * 1e9 / peak, 4)
    ours = [player.seconds for player in players["scratchlab"]]
    for who in ("nanogpt", "book"):
        outcome[f"speed_beside_{who}"] = contest.speed_ratio(ours, [player.seconds for player in players[who]])
    resolved = json.loads((folder / "0/run/resolved.json").read_text(encoding="utf-8"))
    return outcome | {"scratchlab_settings": resolved["execution"] | {"precision": resolved["training"]["precision"]}}


def our_recipe(case: Case, corpus: Corpus, tied: bool) -> Recipe:
    small = {"execution.micro_batch_size": throughput.SHAPES[case.shape].batch, "model.tie_weights": tied}
    return throughput.our_recipe(case, corpus).replaced(small | {"execution.device": case.device})


def rate(device: str) -> float:
    hardware.matmul_rate.cache_clear()
    return hardware.matmul_rate(device, "bf16")


def play_round(
    case: Case, recipe: Recipe, tied: bool, corpus: Corpus, arguments: argparse.Namespace, folder: Path
) -> list[contest.Contestant]:
    """Start each and warm it up, let them take turns, end them."""
    shape = throughput.SHAPES[case.shape]
    folder.mkdir(parents=True)
    players: list[contest.Contestant] = []

    def enter(player: contest.Contestant) -> None:
        player.wait_for_steps(max(2, shape.steps_a_turn))
        players.append(player)

    enter(contest.start("scratchlab", throughput.our_command(recipe, folder / "run"), folder, throughput.STEP_LINE))
    enter(throughput.start_peer(case, arguments.peer, corpus, folder / "peer", tied))
    order = throughput.order_of(case, corpus)
    enter(throughput.start_program("book", "book_loop.py", order, folder))
    contest.take_turns(players, shape.turns, shape.steps_a_turn)
    for player in players:
        player.end()
    return players


def climb(shape: Shape, device: str, arguments: argparse.Namespace) -> None:
    """The ladder of the 124M recipe, as a person asks for it."""
    out = arguments.out.with_name(f"ladder_{arguments.out.name}")
    command = [sys.executable, "-m", "scratchlab", "ladder", str(ROOT / "recipes/gpt2-small.toml")]
    if arguments.tiny:
        command += [f"model.n_layer={shape.n_layer}", f"model.n_head={shape.n_head}", f"model.d_model={shape.d_model}"]
        command += [f"model.context_length={shape.context_length}", "--turns", "2"]
    command += ["--device", device, "--vocab-size", "50257", "--out", str(out)]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
