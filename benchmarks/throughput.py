"""Training speed and memory beside nanoGPT's own train.py, in turns, in one run.

    python benchmarks/throughput.py --peer PATH/TO/nanoGPT --text input.txt [--only s-equal ...]

Ours is the real training loop of `scratchlab train`; theirs the real train.py of a local clone, untouched but for the
one line the `bf16` settings need (it switches autocast off on a CPU). Without --peer only ours is measured. Writes
benchmarks/results/throughput.json (settings that are not run keep their figures), with the rate a large matrix product
reaches here beside every figure.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contest
from scratchlab import hardware
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.store import Corpus
from scratchlab.model.count import training_flops_per_token
from scratchlab.recipe import Recipe, load_recipe
from scratchlab.training.step import TorchBackend

ROOT = Path(__file__).parent.parent
ENDLESS = 1_000_000


@dataclass(frozen=True)
class Setting:
    """One comparison: our recipe with changes, their command-line arguments."""

    what: str
    recipe: str
    ours: Mapping[str, Any]
    theirs: Mapping[str, Any]
    steps_a_turn: int
    warmup_steps: int = 1
    autocast: bool = False
    """Whether their model needs autocast switched on (their train.py leaves it off on a CPU)."""
    needs: str = "cpu"


S = {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "batch_size": 12, "dropout": 0.0}
CPU = {"device": "cpu", "compile": False}
EQUAL = {"training.precision": "float32", "execution.compile": False, "model.bias": True}
SETTINGS = {
    "s-equal": Setting("S, float32, not compiled", "nano-char", EQUAL, S | CPU | {"bias": True}, 20, 20),
    "s-auto": Setting("S, ours as `auto` chooses, theirs as their README says", "nano-char", {}, S | CPU, 20, 20),
    "s-compiled": Setting(
        "S, float32, both compiled",
        "nano-char",
        EQUAL | {"execution.compile": True},
        S | {"device": "cpu", "compile": True, "bias": True},
        20,
        20,
    ),
    "m-float32": Setting(
        "M, float32, no dropout",
        "shakespeare-char",
        EQUAL | {"model.dropout": 0.0},
        CPU | {"dropout": 0.0, "bias": True},
        1,
    ),
    "m-dropout": Setting("M, float32, dropout 0.2", "shakespeare-char", EQUAL, CPU | {"bias": True}, 1),
    "m-bf16": Setting(
        "M, bf16, no dropout",
        "shakespeare-char",
        EQUAL | {"model.dropout": 0.0, "training.precision": "bf16"},
        CPU | {"dropout": 0.0, "bias": True},
        1,
        autocast=True,
        needs="bf16",
    ),
    "m-auto": Setting("M, ours as `auto` chooses, theirs as its config has it", "shakespeare-char", {}, CPU, 1),
    "gpt2-small": Setting(
        "124M, context 1024, bf16, both compiled, one GPU",
        "gpt2-small",
        {"training.global_batch_size": 32, "training.tokens_per_parameter": 20.0, "training.warmup_steps": 0},
        {
            "n_layer": 12,
            "n_head": 12,
            "n_embd": 768,
            "block_size": 1024,
            "batch_size": 32,
            "dropout": 0.0,
            "bias": True,
        },
        10,
        needs="cuda",
    ),
}


def main() -> None:
    arguments = parse_arguments()
    if arguments.worker:  # a child of this program
        work(json.loads(arguments.worker))
        return
    kept = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {"settings": {}}
    results: dict[str, Any] = kept | {"machine": contest.machine()}
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.only or SETTINGS:
            setting, reason = SETTINGS[name], cannot(SETTINGS[name])
            outcome = {"left_out": reason} if reason else measure(name, arguments, Path(scratch) / name)
            results["settings"][name] = {"what": setting.what} | outcome
            print(json.dumps({name: results["settings"][name]}, indent=1), flush=True)
            arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="a local clone of nanoGPT")
    parser.add_argument("--text", default="python-docs", help="what to train on (a text file)")
    parser.add_argument("--only", nargs="*", choices=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=5, help="of fresh processes")
    parser.add_argument("--turns", type=int, default=4, help="in each round")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/throughput.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def cannot(setting: Setting) -> str | None:
    """Why a setting makes no sense on this machine; None if it does."""
    import torch

    if setting.needs == "cuda" and not torch.cuda.is_available():
        return "this machine has no CUDA device"
    if setting.needs == "bf16":
        rates = {name: hardware.matmul_rate("cpu", name, size=256) / 1e9 for name in ("float32", "bf16")}
        if rates["bf16"] < rates["float32"]:
            return f"this processor emulates bf16: {rates['bf16']:.1f} GFLOP/s, float32 {rates['float32']:.0f}"
    return None


def measure(name: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One setting: rounds of fresh processes, in each of which both take turns (ours alone without a peer)."""
    setting = SETTINGS[name]
    corpus = build_corpus([arguments.text], folder / "corpus", tokenizer="char", split="contiguous:.9,.1,0")
    recipe = load_recipe(ROOT / f"recipes/{setting.recipe}.toml").replaced(
        dict(setting.ours)
        | {"corpus": str(corpus.path), "training.steps": ENDLESS}
        | {"evaluation.every": ENDLESS, "training.checkpoint_every": ENDLESS}
    )
    tokens = recipe.training.global_batch_size * recipe.model.context_length
    flops = tokens * training_flops_per_token(recipe.model, corpus.vocab_size)
    pairs = [play_round(setting, recipe, corpus, arguments, folder / f"round-{n}") for n in range(arguments.rounds)]
    ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs if pair[1]]
    outcome: dict[str, Any] = {"scratchlab": figures(ours, tokens, flops)}
    if theirs:
        outcome["nanogpt"] = figures(theirs, tokens, flops)
        outcome["speed"] = contest.speed_ratio([c.seconds for c in ours], [c.seconds for c in theirs])
        memory = outcome["scratchlab"]["peak_memory_gb"], outcome["nanogpt"]["peak_memory_gb"]
        outcome["memory_ratio"] = round(memory[0] / memory[1], 3)
    resolved = json.loads((folder / "round-0/run/resolved.json").read_text(encoding="utf-8"))
    outcome |= {"execution": resolved["execution"], "precision": resolved["training"]["precision"]}
    hardware.matmul_rate.cache_clear()
    ceiling = hardware.matmul_rate(resolved["execution"]["device"], resolved["training"]["precision"])
    return outcome | {"measured_matmul_gflops": round(ceiling / 1e9, 1)}


def play_round(
    setting: Setting, recipe: Recipe, corpus: Corpus, arguments: argparse.Namespace, folder: Path
) -> tuple[contest.Contestant, contest.Contestant | None]:
    """Start both, warm both up, let them take turns, end both."""
    folder.mkdir()
    ours = contest.start("scratchlab", our_command(recipe, folder / "run"), folder, "^step ")
    ours.wait_for_steps(setting.warmup_steps)  # it has chosen its threads by now, with nothing beside it
    if arguments.peer is None:
        for _ in range(arguments.turns):
            ours.take_turn(setting.steps_a_turn)
        ours.end()
        return ours, None
    theirs = start_peer(setting, arguments.peer, corpus.text("train") + corpus.text("validation"), folder / "peer")
    theirs.wait_for_steps(setting.warmup_steps)
    contest.take_turns(ours, theirs, arguments.turns, setting.steps_a_turn)
    for contestant in (ours, theirs):
        contestant.end()
    return ours, theirs


def figures(contestants: list[contest.Contestant], tokens: int, flops: int) -> dict[str, float]:
    """Medians over all turns, by our count of FLOPs for both; the largest peak."""
    seconds = statistics.median(second for contestant in contestants for second in contestant.seconds)
    return {
        "tokens_per_second": round(tokens / seconds, 1),
        "gflops": round(flops / seconds / 1e9, 2),
        "peak_memory_gb": round(max(contestant.peak_memory for contestant in contestants) / 1e9, 3),
    }


def our_command(recipe: Recipe, run: Path) -> list[str]:
    return [sys.executable, __file__, "--worker", json.dumps({"recipe": recipe.model_dump(), "run": str(run)})]


def work(order: Mapping[str, Any]) -> None:
    """The training loop as `scratchlab train` runs it, printing a line after every step."""
    import scratchlab

    step = TorchBackend.step

    def step_and_say(self: TorchBackend, state: Any, batch: Any, number: int) -> Any:
        outcome = step(self, state, batch, number)
        hardware.synchronize(self.settled.device)
        print(f"step {number}", flush=True)
        return outcome

    TorchBackend.step = step_and_say
    scratchlab.train(Recipe.model_validate(order["recipe"]), out=order["run"])


def start_peer(setting: Setting, peer: Path, text: str, folder: Path) -> contest.Contestant:
    """nanoGPT's train.py on the same text, at the setting's arguments, evaluating nothing but once at its start."""
    folder.mkdir()
    contest.prepare_peer(peer, text, folder)
    if setting.autocast:
        script = (folder / "train.py").read_text(encoding="utf-8")
        off = "nullcontext() if device_type == 'cpu' else "
        assert off in script
        (folder / "train.py").write_text(script.replace(off, ""), encoding="utf-8")
    quiet = {"eval_iters": 1, "eval_interval": ENDLESS, "log_interval": 1, "max_iters": ENDLESS}
    dtype = {"dtype": "bfloat16" if setting.autocast or setting.needs == "cuda" else "float32"}
    flags = [f"--{key}={value}" for key, value in (quiet | dtype | dict(setting.theirs)).items()]
    config = "config/train_shakespeare_char.py"
    return contest.start("nanoGPT", [sys.executable, "train.py", config, *flags], folder, r"^iter \d+: loss")


if __name__ == "__main__":
    main()
