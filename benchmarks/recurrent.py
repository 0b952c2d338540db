"""The recurrent network beside a plain loop of torch.nn.LSTM: the same speed, the same loss.

    python benchmarks/recurrent.py speed --text input.txt [--only char-rnn-karpathy] [--rounds 5] [--turns 4]
    python benchmarks/recurrent.py loss --text input.txt [--only char-rnn-karpathy] [--seeds 3] [--steps N]
    python benchmarks/recurrent.py gpt --text input.txt [--seeds 3] [--steps N]

The plain loop below is what one would write: one-hot input, nn.LSTM, nn.Linear, the recipe's optimizer and clipping,
state carried and detached. Ours is the real training loop. Both are scored by one scorer. `gpt` trains a GPT of as many
parameters for as many seconds as the recipe char-rnn-karpathy takes, and draws both. Writes
benchmarks/results/recurrent.json; runs that are there already are not run again.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

import contest
import parity
import scratchlab
import throughput
from scratchlab.architecture import RNNSection
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.evaluation.loss import evaluate_loss
from scratchlab.evaluation.scorer import ModelScorer
from scratchlab.model.build import empty_model
from scratchlab.model.load import load_model
from scratchlab.recipe import Recipe
from scratchlab.recipe_files import load_recipe
from scratchlab.runfolder import RunFolder
from scratchlab.training.loop import resume

ROOT = Path(__file__).parent.parent
TOKENIZERS = {"char-rnn-karpathy": "char", "byte-lstm": "byte"}
STEPS_A_TURN = {"char-rnn-karpathy": 50, "byte-lstm": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "loss", "gpt", "worker"])
    parser.add_argument("order", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--text", type=Path, help="Tiny Shakespeare")
    parser.add_argument("--only", nargs="*", choices=list(TOKENIZERS), default=list(TOKENIZERS))
    parser.add_argument("--rounds", type=int, default=5, help="of fresh processes")
    parser.add_argument("--turns", type=int, default=4, help="in each round")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="fewer than the recipe's")
    parser.add_argument("--threads", type=int, help="for both; as each chooses if not given")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/recurrent", help="where the runs are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/recurrent.json")
    arguments = parser.parse_args()
    if arguments.what == "worker":  # a child of this program
        order = json.loads(arguments.order)
        recipe = Recipe.model_validate(order["recipe"])
        plain_loop(recipe, open_corpus(order["corpus"]), 1, lambda step: print(f"step {step}", flush=True))
        return
    measure = {"speed": measure_speed, "loss": measure_loss, "gpt": beside_a_gpt}[arguments.what]
    for name in arguments.only if arguments.what != "gpt" else ["char-rnn-karpathy"]:
        outcome = measure(name, arguments)
        results = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
        results["machine"] = contest.machine()
        results.setdefault(arguments.what, {})[name] = outcome
        arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(json.dumps({name: outcome}, indent=1), flush=True)


def plain_loop(recipe: Recipe, corpus: Corpus, seed: int, after_step: Callable[[int], Any]) -> dict[str, torch.Tensor]:
    """Train torch.nn.LSTM with the recipe's numbers; gives its weights by our names."""
    config, training, V = recipe.model, recipe.training, corpus.vocab_size
    assert isinstance(config, RNNSection)
    torch.manual_seed(seed)
    lstm = nn.LSTM(V, config.d_model, config.n_layer, batch_first=True, dropout=config.dropout)
    drop, head = nn.Dropout(config.dropout), nn.Linear(config.d_model, V)
    parameters = [*lstm.parameters(), *head.parameters()]
    if config.initialization == "char_rnn":
        for parameter in parameters:
            nn.init.uniform_(parameter, -0.08, 0.08)
        for layer in range(config.n_layer):
            nn.init.ones_(getattr(lstm, f"bias_ih_l{layer}")[config.d_model : 2 * config.d_model])
    if training.optimizer == "rmsprop":
        optimizer = torch.optim.RMSprop(parameters, training.learning_rate, alpha=training.beta2)
    else:
        optimizer = torch.optim.Adam(parameters, training.learning_rate, betas=(training.beta1, training.beta2))
    text = torch.from_numpy(corpus.split("train").read(0, len(corpus.split("train"))).astype("int64"))
    B, T = training.global_batch_size, config.context_length
    epoch = (len(text) - 1) // (B * T)
    inputs, targets = (text[shift:][: B * epoch * T].view(B, epoch, T) for shift in (0, 1))
    steps = training.steps or round((training.epochs or 1) * epoch)
    carried = None
    for step in range(steps):
        place = step % epoch
        if training.schedule == "epochs":
            late = max(0, step // epoch - training.decay_after_epochs + 1)
            optimizer.param_groups[0]["lr"] = training.learning_rate * training.epoch_decay**late
        state = None if carried is None or place == 0 else tuple(part.detach() for part in carried)
        hidden, carried = lstm(F.one_hot(inputs[:, place], V).float(), state)
        loss = F.cross_entropy(head(drop(hidden)).flatten(0, 1), targets[:, place].flatten())
        optimizer.zero_grad()
        loss.backward()
        if training.clip_value:
            nn.utils.clip_grad_value_(parameters, training.clip_value)
        if training.clip_norm:
            nn.utils.clip_grad_norm_(parameters, training.clip_norm)
        optimizer.step()
        after_step(step)
    named = {f"layers.{name}": parameter.detach() for name, parameter in lstm.named_parameters()}
    return named | {"head_weight": torch.cat([head.weight, head.bias[:, None]], dim=1).detach()}


def prepare(name: str, arguments: argparse.Namespace, folder: Path) -> tuple[Recipe, Corpus]:
    if not (folder / "corpus").exists():
        build_corpus([str(arguments.text)], folder / "corpus", TOKENIZERS[name], "contiguous:.95,.05,0")
    changes: dict[str, Any] = {"corpus": str(folder / "corpus")}
    changes |= {"training.steps": arguments.steps} if arguments.steps else {}
    changes |= {"execution.threads": arguments.threads} if arguments.threads else {}
    return load_recipe(ROOT / f"recipes/{name}.toml").replaced(changes), open_corpus(folder / "corpus")


def measure_speed(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Steps of the training loops in turns."""
    pairs: list[tuple[contest.Contestant, contest.Contestant]] = []
    with tempfile.TemporaryDirectory() as scratch:
        recipe, corpus = prepare(name, arguments, Path(scratch))
        endless = dict.fromkeys(("training.steps", "evaluation.every", "training.checkpoint_every"), 1_000_000)
        recipe = recipe.replaced(endless)
        order = json.dumps({"recipe": recipe.model_dump(), "corpus": str(corpus.path)})
        for number in range(arguments.rounds):
            folder = Path(scratch) / f"round-{number}"
            folder.mkdir()
            ours = contest.start("scratchlab", throughput.our_command(recipe, folder / "run"), folder, "^step ")
            ours.wait_for_steps(5)
            theirs = contest.start("plain", [sys.executable, __file__, "worker", order], folder, "^step ")
            theirs.wait_for_steps(5)
            contest.take_turns([ours, theirs], arguments.turns, STEPS_A_TURN[name])
            for contestant in (ours, theirs):
                contestant.end()
            pairs.append((ours, theirs))
    tokens = recipe.training.global_batch_size * recipe.model.context_length
    mine, yours = [ours for ours, _ in pairs], [theirs for _, theirs in pairs]
    return {
        "scratchlab": throughput.figures(mine, tokens, 0),
        "plain": throughput.figures(yours, tokens, 0),
        "speed": contest.speed_ratio([c.seconds for c in mine], [c.seconds for c in yours]),
    }


def measure_loss(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The validation loss after the same training by both."""
    work = arguments.work / name
    recipe, corpus = prepare(name, arguments, work)
    ours: list[float] = []
    theirs: list[float] = []
    for seed in range(1, arguments.seeds + 1):
        folder, saved = work / f"scratchlab-{seed}", work / f"plain-{seed}.pt"
        seeds = {f"seeds.{role}": seed for role in ("init", "data", "noise")}
        if folder.exists():
            resume(folder)
        else:
            scratchlab.train(recipe.replaced(seeds | {"evaluation.every": 1000}), out=folder)
        if not saved.exists():
            if arguments.threads:
                torch.set_num_threads(arguments.threads)
            torch.save(plain_loop(recipe, corpus, seed, lambda step: None), saved)
        plain = empty_model(recipe.model, corpus.vocab_size)
        plain.load_state_dict(torch.load(saved, weights_only=True), assign=True)
        ours.append(score(load_model(RunFolder.open(folder), device="cpu"), corpus, recipe))
        theirs.append(score(plain.eval(), corpus, recipe))
        print(name, seed, ours[-1], theirs[-1], flush=True)
    outcome = {"steps": RunFolder.open(work / "scratchlab-1").resolved().training.steps}
    outcome |= {"scratchlab": ours, "plain": theirs}
    return outcome | (parity.difference(ours, theirs, "plain") if len(ours) > 1 else {})


# nano-char, narrower: 231,336 parameters where the LSTM has 240,321 (65 characters).
GPT = {"model.d_model": 68}
RATE_STEPS = 200


def beside_a_gpt(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """An LSTM, and a GPT of as many parameters that trains for as many seconds; both in turns, a seed at a time."""
    work = arguments.work / "gpt"
    lstm, corpus = prepare(name, arguments, work)
    lstm = lstm.replaced({"evaluation.every": 200})
    shape = GPT | {"corpus": str(corpus.path), "evaluation.every": 200, "training.precision": "float32"}
    shape |= {"execution.threads": arguments.threads} if arguments.threads else {}
    gpt = load_recipe(ROOT / "recipes/nano-char.toml").replaced(shape)
    rows: dict[str, list[dict[str, Any]]] = {"lstm": [], "gpt": []}
    for seed in range(1, arguments.seeds + 1):
        seeds = {f"seeds.{role}": seed for role in ("init", "data", "noise")}
        seconds = trained(lstm.replaced(seeds), work / f"lstm-{seed}")["cost"]["seconds"]["training"]
        rate = trained(gpt.replaced(seeds | {"training.steps": RATE_STEPS}), work / f"rate-{seed}")["cost"]
        tokens_per_step = gpt.training.global_batch_size * gpt.model.context_length
        steps = round(seconds * rate["training_tokens_per_second"] / tokens_per_step)
        trained(gpt.replaced(seeds | {"training.steps": steps}), work / f"gpt-{seed}")
        for kind, row in rows.items():
            row.append(curve(RunFolder.open(work / f"{kind}-{seed}")))
    draw(rows, ROOT / "docs/images/recurrent.png")
    final = {kind: [row["nats"][-1] for row in found] for kind, found in rows.items()}
    outcome = {kind: {name: [row[name] for row in found] for name in found[0]} for kind, found in rows.items()}
    return outcome | parity.difference(final["lstm"], final["gpt"], "gpt")


def trained(recipe: Recipe, folder: Path) -> dict[str, Any]:
    return resume(folder) if folder.exists() else scratchlab.train(recipe, out=folder)


def curve(run: RunFolder) -> dict[str, Any]:
    """The validation loss along the run, against seconds of training and against tokens read."""
    result, meters = run.result(), run.meters()
    assert result is not None
    points = [(r["step"], r["validation"]["nats_per_token"]) for r in run.metrics() if "validation" in r]
    size = run.resolved().training.global_batch_size * run.resolved().model.context_length
    spent = [sum(r["seconds"].get("training", 0.0) for r in meters if r["step"] <= step) for step, _ in points]
    return {
        "parameters": result["parameters"],
        "seconds": [round(seconds, 1) for seconds in spent],
        "tokens": [step * size for step, _ in points],
        "nats": [round(nats, 4) for _, nats in points],
        "sample": run.samples()[-1]["text"],
    }


def draw(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels: Any = figure.subplots(1, 2, sharey=True)
    for axes, what in zip(panels, ("seconds", "tokens"), strict=True):
        for (kind, found), color in zip(rows.items(), ("tab:blue", "tab:green"), strict=True):
            label = f"{kind.upper() if kind == 'gpt' else 'LSTM'}, {found[0]['parameters']:,} parameters"
            for number, row in enumerate(found):
                axes.plot(row[what], row["nats"], color=color, alpha=0.7, label=None if number else label)
        axes.set_xlabel("seconds of training" if what == "seconds" else "characters read")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("validation loss, nats per character")
    panels[0].set_ylim(top=2.6)
    panels[1].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def score(model: Any, corpus: Corpus, recipe: Recipe) -> float:
    """Nats per token on the validation split."""
    read = ModelScorer(model).windows
    result = evaluate_loss(read, corpus.split("validation"), recipe.model.context_length, remembers=True)
    return result.nats_per_token


if __name__ == "__main__":
    main()
