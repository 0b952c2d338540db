"""Training speed and memory beside nanoGPT and Hugging Face's GPT2LMHeadModel, in turns, in one run.

    python benchmarks/throughput.py --peer PATH/TO/nanoGPT --text input.txt [--shape s m] [--only auto]

Ours is the real training loop of `scratchlab train`; nanoGPT's the real train.py of a local clone, in which three lines
are changed at most: autocast and the fused AdamW, which it leaves off on a CPU, are switched on where a case asks for
them, and the vocabulary is set. GPT2LMHeadModel trains in a plain loop (`plain_loop.py`).

Cases are a shape, a precision, and whether the model is compiled: all three do the same. The case `auto` is ours as
`auto` chooses beside nanoGPT at the fastest of its settings so far, with the fused AdamW. Writes
benchmarks/results/throughput.json after every case; those that are not run keep their figures.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contest
from scratchlab import hardware
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.model.count import training_flops_per_token
from scratchlab.recipe import Recipe
from scratchlab.recipe_files import load_recipe
from scratchlab.training.step import TorchBackend

ROOT = Path(__file__).parent.parent
ENDLESS = 1_000_000
STEP_LINE = r"^step \d+.*?(?: memory (?P<memory>\d+))?$"
"""What our programs print after a step; on a GPU, with the most memory that they had there."""


@dataclass(frozen=True)
class Shape:
    """A model, a batch, and how long a turn is."""

    n_layer: int
    n_head: int
    d_model: int
    context_length: int
    batch: int
    steps_a_turn: int
    rounds: int
    turns: int
    symbols: int | None = None
    """None: the characters of the text. Otherwise GPT-2's tokens, padded to so many."""

    @property
    def tokens(self) -> int:
        return self.batch * self.context_length


SHAPES = {
    "s": Shape(4, 4, 128, 64, 12, 20, 4, 4),
    "m": Shape(6, 6, 384, 256, 16, 1, 4, 4),
    "l": Shape(8, 8, 512, 512, 4, 1, 3, 3, 50304),
    "124m": Shape(12, 12, 768, 1024, 2, 1, 3, 2, 50304),  # so that three of them fit into 24 GB side by side
}
PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True)
class Case:
    """What all contestants do."""

    shape: str
    precision: str
    compiled: bool
    auto: bool = False
    """Ours as `auto` chooses; theirs, with the fused AdamW, as the rest says."""
    device: str = "cpu"

    @property
    def name(self) -> str:
        return f"{self.shape}-auto" if self.auto else f"{self.shape}-{self.precision}{'-compiled' * self.compiled}"


def main() -> None:
    arguments = parse_arguments()
    if arguments.worker:  # a child of this program
        work(json.loads(arguments.worker))
        return
    kept = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {"cases": {}}
    results: dict[str, Any] = kept | {"machine": contest.machine()}
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases(arguments, results["cases"]):
            reason = cannot(case)
            outcome = {"left_out": reason} if reason else measure(case, arguments, Path(scratch))
            results["cases"][case.name] = outcome
            print(json.dumps({case.name: outcome}, indent=1), flush=True)
            arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(table(results["cases"]))


def table(cases: Mapping[str, Any]) -> str:
    """The cases as Markdown: speed as times the other's, with its interval, and memory beside it."""
    lines = ["| case | nanoGPT's speed | its memory | GPT2LMHeadModel's speed | its memory | share of products |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, case in cases.items():
        if "left_out" not in case:
            beside = [cell for peer in ("nanogpt", "gpt2lmhead") for cell in beside_peer(case, peer)]
            lines.append(f"| {' | '.join([name, *beside, format(case['share_of_matmul'], '.2f')])} |")
    return "\n".join(lines)


def beside_peer(case: Mapping[str, Any], peer: str) -> list[str]:
    speed = case.get(f"speed_beside_{peer}")
    if speed is None:
        return ["", ""]
    band = "" if speed["low"] is None else f" ({speed['low']:.2f} to {speed['high']:.2f})"
    return [f"{speed['ratio']:.2f}{band}", f"{case[f'memory_beside_{peer}']:.2f}"]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="a local clone of nanoGPT")
    parser.add_argument("--text", help="what to train on (a text file)")
    parser.add_argument("--gpt2", help="the folder of GPT-2's encoder.json and vocab.bpe (or `gpt2`)", default="gpt2")
    parser.add_argument("--shape", nargs="*", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--precision", nargs="*", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument(
        "--only", nargs="*", choices=("plain", "compiled", "auto"), default=("plain", "compiled", "auto")
    )
    parser.add_argument("--rounds", type=int, help="of fresh processes")
    parser.add_argument("--turns", type=int, help="in each round")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/throughput.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def cases(arguments: argparse.Namespace, known: Mapping[str, Any]) -> Iterator[Case]:
    """Those that were asked for; `auto` comes last of its shape, when nanoGPT's fastest setting is known."""
    for shape in arguments.shape:
        for compiled, precision in itertools.product((False, True), arguments.precision):
            if ("compiled" if compiled else "plain") in arguments.only:
                yield Case(shape, precision, compiled)
        if "auto" in arguments.only:
            yield fastest(shape, known)


def fastest(shape: str, known: Mapping[str, Any]) -> Case:
    """The case in which nanoGPT was fastest, for ours to meet as `auto` chooses."""
    tried = [Case(shape, precision, compiled) for precision in PRECISIONS for compiled in (False, True)]
    speeds = {
        case: known[case.name]["nanogpt"]["tokens_per_second"]
        for case in tried
        if "nanogpt" in known.get(case.name, {})
    }
    if not speeds:
        raise SystemExit(f"Nothing is known of nanoGPT at shape {shape} yet: measure its other cases first.")
    best = max(speeds, key=lambda case: speeds[case])
    return Case(shape, best.precision, best.compiled, auto=True)


def cannot(case: Case) -> str | None:
    """Why a case makes no sense on this machine; None if it does."""
    if case.precision == "bf16":
        rates = {name: hardware.matmul_rate("cpu", name, size=256) / 1e9 for name in PRECISIONS}
        if rates["bf16"] < rates["float32"]:
            return f"this processor emulates bf16: {rates['bf16']:.1f} GFLOP/s, float32 {rates['float32']:.0f}"
    return None


def measure(case: Case, arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Rounds of fresh processes, in each of which all take turns."""
    shape = SHAPES[case.shape]
    corpus = corpus_of(shape, arguments, scratch)
    recipe = our_recipe(case, corpus)
    folder = scratch / case.name
    folder.mkdir()
    rounds = [
        play_round(case, recipe, corpus, arguments, folder / f"round-{number}")
        for number in range(arguments.rounds or shape.rounds)
    ]
    flops = shape.tokens * training_flops_per_token(recipe.model, corpus.vocab_size)
    by_name = {one.name: [c for players in rounds for c in players if c.name == one.name] for one in rounds[0]}
    outcome: dict[str, Any] = {name: figures(players, shape.tokens, flops) for name, players in by_name.items()}
    ours = by_name.pop("scratchlab")
    for name, theirs in by_name.items():
        outcome[f"speed_beside_{name}"] = contest.speed_ratio([c.seconds for c in ours], [c.seconds for c in theirs])
        peaks = outcome["scratchlab"]["peak_memory_gb"], outcome[name]["peak_memory_gb"]
        outcome[f"memory_beside_{name}"] = round(peaks[0] / peaks[1], 3)
    resolved = json.loads((folder / "round-0/run/resolved.json").read_text(encoding="utf-8"))
    precision = resolved["training"]["precision"]
    hardware.matmul_rate.cache_clear()
    ceiling = hardware.matmul_rate("cpu", precision) / 1e9
    outcome |= {"measured_matmul_gflops": round(ceiling, 1)}
    outcome |= {"share_of_matmul": round(outcome["scratchlab"]["gflops"] / ceiling, 3)}
    ours_is = {
        "precision": precision,
        **{name: resolved["execution"][name] for name in ("compile", "micro_batch_size", "threads")},
    }
    theirs_is = {"precision": case.precision, "compile": case.compiled, "fused_adamw": case.auto}
    return outcome | {"scratchlab_settings": ours_is, "their_settings": theirs_is, "batch": shape.batch}


def corpus_of(shape: Shape, arguments: argparse.Namespace, scratch: Path) -> Corpus:
    """The text, as characters or as GPT-2's tokens; made once."""
    tokenizer = "char" if shape.symbols is None else arguments.gpt2
    path = scratch / f"corpus-{'char' if shape.symbols is None else 'gpt2'}"
    if path.exists():
        return open_corpus(path)
    return build_corpus([arguments.text], path, tokenizer=tokenizer, split="contiguous:.9,.1,0")


def our_recipe(case: Case, corpus: Corpus) -> Recipe:
    """The shape as the peers have it: biases, exact GELU, no dropout."""
    shape = SHAPES[case.shape]
    model = {"n_layer": shape.n_layer, "n_head": shape.n_head, "d_model": shape.d_model, "mlp": "gelu", "bias": True}
    model |= {"context_length": shape.context_length, "dropout": 0.0, "vocab_multiple": 64 if shape.symbols else 1}
    changes = {f"model.{name}": value for name, value in model.items()} | {
        "corpus": str(corpus.path),
        "training.steps": ENDLESS,
        "training.global_batch_size": shape.batch,
        "training.checkpoint_every": ENDLESS,
        "execution.threads": hardware.usable_cores(),  # as the others have, whoever else is busy when it starts
        "evaluation.every": ENDLESS,
        "evaluation.snapshots": 0,
    }
    if not case.auto:
        changes |= {"training.precision": case.precision, "execution.compile": case.compiled}
    return load_recipe(ROOT / "recipes/nano-char.toml").replaced(changes)


def play_round(
    case: Case, recipe: Recipe, corpus: Corpus, arguments: argparse.Namespace, folder: Path
) -> list[contest.Contestant]:
    """Start each and warm it up, let them take turns, end them."""
    folder.mkdir()
    shape = SHAPES[case.shape]
    players: list[contest.Contestant] = []

    def enter(player: contest.Contestant) -> None:
        player.wait_for_steps(shape.steps_a_turn if shape.steps_a_turn > 1 else 2 if case.compiled else 1)
        players.append(player)

    # It has chosen its threads by its first step, with nothing beside it.
    enter(contest.start("scratchlab", our_command(recipe, folder / "run"), folder, STEP_LINE))
    if arguments.peer is not None:
        enter(start_peer(case, arguments.peer, corpus, folder / "peer"))
    if not case.auto:
        enter(start_program("gpt2lmhead", "plain_loop.py", order_of(case, corpus), folder))
    contest.take_turns(players, arguments.turns or shape.turns, shape.steps_a_turn)
    for player in players:
        player.end()
    return players


def figures(contestants: Sequence[contest.Contestant], tokens: int, flops: int) -> dict[str, float]:
    """Medians over all turns, by our count of FLOPs for all; the largest peak."""
    seconds = statistics.median(second for contestant in contestants for second in contestant.seconds)
    return {
        "tokens_per_second": round(tokens / seconds, 1),
        "gflops": round(flops / seconds / 1e9, 2),
        "peak_memory_gb": round(max(contestant.peak_memory for contestant in contestants) / 1e9, 3),
    }


def our_command(recipe: Recipe, run: Path) -> list[str]:
    """With what `scratchlab` sets up before torch is loaded, which here has been by then."""
    return [
        "env",
        f"GOMP_SPINCOUNT={hardware.SPIN_COUNT}",
        sys.executable,
        __file__,
        "--worker",
        json.dumps({"recipe": recipe.model_dump(), "run": str(run)}),
    ]


def work(order: Mapping[str, Any]) -> None:
    """The training loop as `scratchlab train` runs it, printing a line after every step."""
    import scratchlab

    step = TorchBackend.step

    def step_and_say(self: TorchBackend, state: Any, batch: Any, number: int) -> Any:
        outcome = step(self, state, batch, number)
        hardware.synchronize(self.settled.device)
        memory = hardware.peak_memory(self.settled.device) if self.settled.device.startswith("cuda") else 0
        print(f"step {number} memory {memory}", flush=True)
        return outcome

    TorchBackend.step = step_and_say
    scratchlab.train(Recipe.model_validate(order["recipe"]), out=order["run"])


def start_peer(case: Case, peer: Path, corpus: Corpus, folder: Path, tied: bool = True) -> contest.Contestant:
    """nanoGPT's train.py on the same tokens, evaluating nothing but once at its start."""
    shape = SHAPES[case.shape]
    folder.mkdir()
    splits = [corpus.split(name) for name in ("train", "validation")]
    tokens = [split.read(0, len(split)) for split in splits]
    contest.prepare_tokens(peer, tokens[0], tokens[1], shape.symbols or corpus.vocab_size, folder)
    if case.precision == "bf16" and case.device == "cpu":
        contest.edit(folder / "train.py", "nullcontext() if device_type == 'cpu' else ", "")
    if case.auto:
        contest.edit(folder / "model.py", "fused_available and device_type == 'cuda'", "fused_available")
    if not tied:
        contest.edit(folder / "model.py", "self.transformer.wte.weight = self.lm_head.weight", "pass")
    if case.device == "cuda":
        contest.edit(folder / "train.py", "mfu {running_mfu*100:.2f}%", "memory {torch.cuda.max_memory_allocated()}")
    settings = {
        "dataset": "tokens",
        "n_layer": shape.n_layer,
        "n_head": shape.n_head,
        "n_embd": shape.d_model,
        "block_size": shape.context_length,
        "batch_size": shape.batch,
        "gradient_accumulation_steps": 1,
        "dropout": 0.0,
        "bias": True,
        "device": case.device,
        "compile": case.compiled,
        "dtype": {"bf16": "bfloat16"}.get(case.precision, case.precision),
        "eval_iters": 1,
        "eval_interval": ENDLESS,
        "log_interval": 1,
        "max_iters": ENDLESS,
    }
    flags = [f"--{key}={value}" for key, value in settings.items()]
    return contest.start("nanogpt", [sys.executable, "train.py", *flags], folder, STEP_LINE.replace("step", "iter"))


def order_of(case: Case, corpus: Corpus) -> dict[str, Any]:
    """What a program of our own that trains somebody else's model is told."""
    shape = SHAPES[case.shape]
    return {
        "n_layer": shape.n_layer,
        "n_head": shape.n_head,
        "d_model": shape.d_model,
        "context_length": shape.context_length,
        "vocab_size": shape.symbols or corpus.vocab_size,
        "batch": shape.batch,
        "precision": case.precision,
        "compiled": case.compiled,
        "device": case.device,
    }


def start_program(name: str, program: str, order: Mapping[str, Any], folder: Path) -> contest.Contestant:
    """It trains on random tokens: speed does not depend on which."""
    path = Path(__file__).parent / program
    return contest.start(name, [sys.executable, str(path), json.dumps(order)], folder, STEP_LINE)


if __name__ == "__main__":
    main()
