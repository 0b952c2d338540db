"""How far back does a recurrent network learn from? The norm of the gradient against distance, for the three cells.

    python benchmarks/vanishing_gradient.py --text input.txt [--steps 1000] [--seeds 3]

One layer of 128, one-hot characters. For the loss of one character the gradient at the input of every character before
it: its norm is what that character, so far away, could teach the network. Taken with the initial weights and again
after training; the mean over windows, divided by the norm at distance 0. Writes
benchmarks/results/vanishing_gradient.json and docs/images/vanishing-gradient.png.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

import contest
import scratchlab
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.model.build import build_model
from scratchlab.model.load import load_model
from scratchlab.model.rnn import RNN
from scratchlab.recipe import Recipe
from scratchlab.recipe_files import load_recipe
from scratchlab.runfolder import RunFolder

ROOT = Path(__file__).parent.parent
CELLS = {"elman": "tab:red", "gru": "tab:orange", "lstm": "tab:blue"}
DISTANCE = 100
WINDOWS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="Tiny Shakespeare")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/vanishing-gradient", help="where the runs are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/vanishing_gradient.json")
    parser.add_argument("--chart", type=Path, default=ROOT / "docs/images/vanishing-gradient.png")
    arguments = parser.parse_args()
    if not (arguments.work / "corpus").exists():
        build_corpus([str(arguments.text)], arguments.work / "corpus", "char", "contiguous:.95,.05,0")
    corpus = open_corpus(arguments.work / "corpus")
    curves = {cell: measure(cell, corpus, arguments) for cell in CELLS}
    results: dict[str, Any] = {
        "machine": contest.machine(),
        "steps": arguments.steps,
        "windows": WINDOWS,
        "cells": curves,
    }
    arguments.out.write_text(json.dumps(results) + "\n", encoding="utf-8")
    draw(curves, arguments.chart)
    for cell, curve in curves.items():
        for when in ("untrained", "trained"):
            norms = np.array(curve[when])
            shown = ", ".join(f"{k}: {norms[:, k].mean():.2g}" for k in (1, 5, 10, 20, 50, 100))
            print(f"{cell:6}{when:10}{shown}")
        print(f"{cell:6}loss      {np.mean(curve['nats_per_token']):.4f}")


def measure(cell: str, corpus: Corpus, arguments: argparse.Namespace) -> dict[str, Any]:
    """The relative norm at each distance, a row a seed, before and after training."""
    curve: dict[str, Any] = {"untrained": [], "trained": [], "nats_per_token": []}
    for seed in range(1, arguments.seeds + 1):
        recipe = make_recipe(cell, seed, corpus, arguments.steps)
        folder = arguments.work / f"{cell}-{seed}"
        if not folder.exists():
            scratchlab.train(recipe, out=folder)
        run = RunFolder.open(folder)
        fresh, trained = build_model(recipe.model, corpus.vocab_size, seed), load_model(run, device="cpu")
        curve["untrained"].append(gradient_norms(fresh, corpus))
        curve["trained"].append(gradient_norms(trained, corpus))
        result = run.result()
        assert result is not None
        curve["nats_per_token"].append(result["validation"]["nats_per_token"])
    return curve


def make_recipe(cell: str, seed: int, corpus: Corpus, steps: int) -> Recipe:
    seeds = {f"seeds.{role}": seed for role in ("init", "data", "noise")}
    model = {
        "model.cell": cell,
        "model.n_layer": 1,
        "model.initialization": "pytorch",
        "model.context_length": DISTANCE,
    }
    training = {"training.steps": steps, "training.optimizer": "adamw", "training.clip_norm": 1.0}
    quiet = {
        "training.clip_value": 0.0,
        "training.schedule": "constant",
        "evaluation.every": steps,
        "execution.threads": 1,
    }
    changes = {"corpus": str(corpus.path)} | model | training | quiet | seeds
    return load_recipe(ROOT / "recipes/char-rnn-karpathy.toml").replaced(changes | seeds)


def gradient_norms(model: torch.nn.Module, corpus: Corpus) -> list[float]:
    """The mean norm of the last loss's gradient at the input 0, 1, ... DISTANCE characters before, over the first."""
    assert isinstance(model, RNN)
    text, length = corpus.split("validation"), DISTANCE + 1
    starts = np.linspace(0, len(text) - length - 1, WINDOWS).astype(int)
    read = torch.from_numpy(np.stack([text.read(start, start + length + 1) for start in starts]).astype(np.int64))
    x_BTV = F.one_hot(read[:, :-1], model.vocab_size).float().requires_grad_()
    h_BTC, _ = model.layers(x_BTV)
    logits_BV = h_BTC[:, -1] @ model.head_weight[:, :-1].T + model.head_weight[:, -1]
    F.cross_entropy(logits_BV, read[:, -1], reduction="sum").backward()
    assert x_BTV.grad is not None
    norms_T = x_BTV.grad.norm(dim=-1).mean(0).flip(0)
    return [float(f"{norm:.4g}") for norm in norms_T / norms_T[0]]


def draw(curves: dict[str, Any], path: Path) -> None:
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels: Any = figure.subplots(1, 2, sharey=True)
    for axes, when in zip(panels, ("untrained", "trained"), strict=True):
        for cell, color in CELLS.items():
            norms = np.array(curves[cell][when])
            axes.plot(norms.mean(0), color=color, label=cell)
            axes.fill_between(range(norms.shape[1]), norms.min(0), norms.max(0), color=color, alpha=0.2, linewidth=0)
        axes.set_yscale("log")
        axes.set_ylim(1e-9, 3)
        axes.set_title(f"{when} (mean and range of {len(norms)} seeds)", fontsize=10)
        axes.set_xlabel("characters back")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("gradient norm, relative to distance 0")
    panels[1].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
