"""The runs behind docs/findings: groups of recipes, a few seeds each, differences with intervals.

    python benchmarks/findings.py ablations [--seeds 3] [--jobs 2] [--work runs/findings]

Run it where the corpora of the recipes lie (a recipe's first lines say how to build its own). Runs that are there
already are not run again; each takes one thread, so that several can go side by side. Writes
benchmarks/results/findings.json and prints a table.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scipy import stats

import contest
from scratchlab.runfolder import Record, RunFolder
from scratchlab.training.summary import step_records, validation_records

ROOT = Path(__file__).parent.parent
B = "bdunagan"
# The first recipe of a group is what the others are compared with.
GROUPS = {
    "ablations": [
        f"{B}/{name}"
        for name in (
            "base", "no-norm", "no-positions", "no-attention", "no-residual", "sinusoidal", "torch-attention"
        )
    ],
    "sizes": [f"{B}/size-{name}" for name in ("5k", "31k", "212k", "1600k")],
    "overfitting": [f"{B}/overfitting"],
    "tying": [f"tying/{name}" for name in ("base", "untied", "pytorch-untied", "pytorch-tied", "book-tied")],
    "blog-10m": ["blog-10m"],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", choices=list(GROUPS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each")
    parser.add_argument("--work", type=Path, default=Path("runs/findings"), help="where the runs are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/findings.json")
    arguments = parser.parse_args()
    for group in arguments.groups:
        wanted = [(recipe, seed) for seed in range(1, arguments.seeds + 1) for recipe in GROUPS[group]]
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(lambda run: train(*run, arguments), wanted))
        outcome = {recipe: summary(recipe, arguments) for recipe in GROUPS[group]}
        results = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
        results |= {"machine": contest.machine(), group: outcome}
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print_table(outcome)


def folder_of(recipe: str, seed: int, arguments: argparse.Namespace) -> Path:
    return arguments.work / f"{recipe.replace('/', '-')}-{seed}"


def train(recipe: str, seed: int, arguments: argparse.Namespace) -> None:
    folder = folder_of(recipe, seed, arguments)
    if (folder / "result.json").exists():
        return
    command = [sys.executable, "-m", "scratchlab", "train"]
    seeds = [f"seeds.{role}={seed}" for role in ("init", "data", "noise")]
    if folder.exists():
        command += ["--resume", str(folder)]
    else:
        threads = f"execution.threads={arguments.threads}"
        command += [str(ROOT / f"recipes/{recipe}.toml"), "--out", str(folder), threads, *seeds]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def summary(recipe: str, arguments: argparse.Namespace) -> Record:
    """Of all seeds: the final loss on held-out text (test, or validation where there is no test), its way, the time."""
    runs = [RunFolder.open(folder_of(recipe, seed, arguments)) for seed in range(1, arguments.seeds + 1)]
    results = [run.result() or {} for run in runs]
    return {
        "parameters": results[0]["parameters"],
        "nats_per_token": [(result["test"] or result["validation"])["nats_per_token"] for result in results],
        "training_seconds": [result["cost"]["seconds"]["training"] for result in results],
        "first_loss": [step_records(run.metrics())[0]["loss"] for run in runs],
        "way": way(runs),
    }


def way(runs: list[RunFolder]) -> list[Record]:
    """At each evaluation: the validation loss, and the mean training loss of the 50 steps before it."""
    points: list[Record] = []
    metrics = [run.metrics() for run in runs]
    for records in zip(*(validation_records(metric) for metric in metrics), strict=True):
        step = records[0]["step"]
        before = [[r["loss"] for r in step_records(metric)[max(0, step - 50) : step]] for metric in metrics]
        points.append(
            {
                "step": step,
                "validation": [record["validation"]["nats_per_token"] for record in records],
                "training": [statistics.mean(losses) for losses in before],
            }
        )
    return points


def print_table(outcome: dict[str, Record]) -> None:
    base = next(iter(outcome.values()))["nats_per_token"]
    print("| recipe | parameters | loss (nats) | difference from the first (95%) | training, s |")
    print("|---|---|---|---|---|")
    for recipe, record in outcome.items():
        losses = record["nats_per_token"]
        difference = "" if losses is base else interval([a - b for a, b in zip(losses, base, strict=True)])
        seconds = statistics.median(record["training_seconds"])
        print(f"| {recipe} | {record['parameters']:,} | {interval(losses)} | {difference} | {seconds:.0f} |")


def interval(values: list[float]) -> str:
    """The mean and the 95% t interval, of differences paired by seed or of losses."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.4f}"
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.4f} ± {half:.4f}"


if __name__ == "__main__":
    main()
