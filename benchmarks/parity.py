"""Does the same recipe reach the same loss as nanoGPT? Several seeds each, one scorer for both, the interval printed.

    python benchmarks/parity.py --peer PATH/TO/nanoGPT --text input.txt [--only s m] [--seeds 3]

Theirs is the real train.py of a local clone (its seed, which it fixes at 1337, replaced from outside); ours the real
training loop with everything left to `auto`. Both final models are scored on the whole validation split, window by
window. Writes benchmarks/results/parity.json; runs that are there already are not run again.
"""

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch.nn import functional as F

import contest
import scratchlab
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.evaluation.loss import evaluate_loss
from scratchlab.recipe_files import load_recipe
from scratchlab.training.loop import resume

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Contest:
    """The same training by both."""

    what: str
    recipe: str
    ours: Mapping[str, Any]
    theirs: Mapping[str, Any]
    steps: int


SMALL = {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "batch_size": 12, "dropout": 0.0}
CONTESTS = {
    "s": Contest("S: nano-char, 2,000 steps", "nano-char", {}, SMALL | {"lr_decay_iters": 2000}, 2000),
    # 100 steps of its schedule of 5,000 lie within the warm-up, so ours warms up over the same 100.
    "m": Contest("M: shakespeare-char with dropout 0.2, 100 steps", "shakespeare-char", {}, {}, 100),
    "m-dry": Contest(
        "M: shakespeare-char without dropout, 100 steps",
        "shakespeare-char",
        {"model.dropout": 0.0},
        {"dropout": 0.0},
        100,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="a local clone of nanoGPT")
    parser.add_argument("--text", type=Path, required=True, help="Tiny Shakespeare")
    parser.add_argument("--only", nargs="*", choices=list(CONTESTS), default=["s", "m"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/parity", help="where the runs are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/parity.json")
    arguments = parser.parse_args()
    corpus = prepare(arguments.text, arguments.work)
    for seed in range(1, arguments.seeds + 1):  # seed by seed, so that an early look sees both
        for name in arguments.only:
            run_ours(CONTESTS[name], corpus, seed, arguments.work / name)
            run_theirs(CONTESTS[name], arguments, seed, arguments.work / name)
            report(name, arguments, corpus)


def prepare(text: Path, work: Path) -> Corpus:
    if not (work / "corpus").exists():
        build_corpus([str(text)], work / "corpus", tokenizer="char", split="contiguous:.9,.1,0")
    return open_corpus(work / "corpus")


def run_ours(contestants: Contest, corpus: Corpus, seed: int, work: Path) -> None:
    folder = work / f"scratchlab-{seed}"
    seeds = {f"seeds.{role}": seed for role in ("init", "data", "noise")}
    quiet = {"evaluation.every": 10**6, "training.checkpoint_every": 50, "evaluation.sample_tokens": 0}
    recipe = load_recipe(ROOT / f"recipes/{contestants.recipe}.toml").replaced(
        {"corpus": str(corpus.path), "training.steps": contestants.steps} | quiet | seeds | dict(contestants.ours)
    )
    if folder.exists():
        resume(folder)
    else:
        scratchlab.train(recipe, out=folder)


# train.py fixes its seed in a call: from outside, that call gets another number.
RUN_WITH_SEED = (
    "import runpy, sys, torch; seed = int(sys.argv.pop(1)); draw = torch.manual_seed; "
    "torch.manual_seed = lambda _: draw(seed); runpy.run_path('train.py', run_name='__main__')"
)


def run_theirs(contestants: Contest, arguments: argparse.Namespace, seed: int, work: Path) -> None:
    folder = work / f"nanogpt-{seed}"
    if (folder / "out/ckpt.pt").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    contest.prepare_peer(arguments.peer, arguments.text.read_text(encoding="utf-8"), folder)
    settings = {"device": "cpu", "compile": False, "dtype": "float32", "out_dir": "out", "eval_iters": 1}
    settings |= {"eval_interval": contestants.steps, "max_iters": contestants.steps, "always_save_checkpoint": True}
    flags = [f"--{key}={value}" for key, value in (settings | dict(contestants.theirs)).items()]
    command = [sys.executable, "-c", RUN_WITH_SEED, str(seed), "config/train_shakespeare_char.py", *flags]
    # Theirs pays for every page of every large tensor; this only makes its allocator keep them, and changes no number.
    quick = {"GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={2**32}:glibc.malloc.trim_threshold={2**32}"}
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        subprocess.run(command, cwd=folder, env=os.environ | quick, check=True, stdout=log, stderr=log)


def report(name: str, arguments: argparse.Namespace, corpus: Corpus) -> None:
    """Score what there is, print it, and write it down."""
    work, contestants = arguments.work / name, CONTESTS[name]
    ours = [score_ours(folder, corpus) for folder in sorted(work.glob("scratchlab-*"))]
    theirs = [score_theirs(folder, corpus) for folder in sorted(work.glob("nanogpt-*"))]
    resolved = json.loads((work / "scratchlab-1/resolved.json").read_text(encoding="utf-8"))
    outcome = {"what": contestants.what, "scratchlab": ours, "nanogpt": theirs, "execution": resolved["execution"]}
    outcome |= {"precision": resolved["training"]["precision"], "torch": torch.__version__}
    outcome |= difference(ours, theirs) if len(ours) > 1 and len(theirs) > 1 else {}
    results = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    results |= {f"{name}-{outcome['precision']}": outcome}
    arguments.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(outcome, indent=1), flush=True)


def difference(ours: Sequence[float], theirs: Sequence[float], peer: str = "nanogpt") -> dict[str, Any]:
    """Ours less theirs with Welch's 95% interval."""
    test = stats.ttest_ind(ours, theirs, equal_var=False)
    low, high = test.confidence_interval(0.95)
    means = {"scratchlab_mean": statistics.mean(ours), f"{peer}_mean": statistics.mean(theirs)}
    return means | {
        "difference": means["scratchlab_mean"] - means[f"{peer}_mean"],
        "low": float(low),
        "high": float(high),
    }


def score_ours(folder: Path, corpus: Corpus) -> float:
    model = scratchlab.load(folder, device="cpu")
    context_length = json.loads((folder / "resolved.json").read_text(encoding="utf-8"))["model"]["context_length"]
    return score(model, corpus, context_length)


def score_theirs(folder: Path, corpus: Corpus) -> float:
    """Their checkpoint, which is a pickle: opened for its weights only."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    checkpoint = torch.load(folder / "out/ckpt.pt", weights_only=True)
    model = module.GPT(module.GPTConfig(**checkpoint["model_args"]))
    model.load_state_dict(checkpoint["model"])
    model.eval()

    def logits(tokens_BT: torch.Tensor) -> torch.Tensor:
        return model(tokens_BT, tokens_BT)[0]  # without targets it would give the last place only

    return score(logits, corpus, checkpoint["model_args"]["block_size"])


def score(logits_of: Any, corpus: Corpus, context_length: int) -> float:
    """Nats per token on the validation split: the one scorer for both."""

    @torch.no_grad()
    def nats(tokens_BT: Any, targets_BT: Any) -> Any:
        logits_BTV = logits_of(torch.from_numpy(np.ascontiguousarray(tokens_BT)))
        targets = torch.from_numpy(np.ascontiguousarray(targets_BT))
        return F.cross_entropy(logits_BTV.transpose(1, 2), targets, reduction="none").numpy()

    value = evaluate_loss(nats, corpus.split("validation"), context_length).nats_per_token
    assert math.isfinite(value)
    return value


if __name__ == "__main__":
    main()
