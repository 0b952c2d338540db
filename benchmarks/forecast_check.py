"""Forecasts against what then happened, on recipes of different shapes: `docs/planning.md` has the table.

    .venv/bin/python benchmarks/forecast_check.py --text ../shared/data/tinyshakespeare/input.txt --out build/forecasts

Each recipe is planned in a fresh process (`scratchlab plan --measure`), then trained in another (`scratchlab train`),
whose result.json sets the forecast beside what happened. Nothing in it was fitted, to these recipes or any other: the
memory formula counts tensors, and time is that of steps. A machine that does other things as well spoils it. Threads
are said, for a run that finds a core busy when it starts would settle on fewer than were measured.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from scratchlab.hardware import usable_cores

# Each takes its name from what sets it apart. `steps` are chosen so that it trains for about half a minute.
SHAPES: dict[str, list[str]] = {
    "nano-char": ["model.n_layer=4", "model.d_model=128", "model.n_head=4", "model.context_length=64"],
    "deep": ["model.n_layer=24", "model.d_model=96", "model.n_head=3", "model.context_length=96"],
    "wide": ["model.n_layer=2", "model.d_model=640", "model.n_head=10", "model.context_length=128"],
    "long context": ["model.n_layer=3", "model.d_model=192", "model.n_head=3", "model.context_length=1024"],
    "modern, float32": [
        "model.n_layer=5", "model.d_model=320", "model.n_head=5", "model.n_kv_head=1", "model.context_length=192",
        "model.mlp=swiglu", "model.norm=rms", "model.positions=rotary", "training.precision=float32",
    ],
    "dropout, explicit": [
        "model.n_layer=4", "model.d_model=192", "model.n_head=4", "model.context_length=160", "model.dropout=0.15",
        "model.attention=explicit", "training.precision=float32",
    ],
    "large vocabulary": [
        "model.n_layer=3", "model.d_model=256", "model.n_head=4", "model.context_length=256", "corpus=bpe",
    ],
    "LSTM": [
        "model.architecture=rnn", "model.n_layer=2", "model.d_model=320", "model.context_length=80",
        "training.order=streams",
    ],
}  # fmt: skip
STEPS = {
    "nano-char": 2400, "deep": 300, "wide": 320, "long context": 90, "modern, float32": 60, "dropout, explicit": 90,
    "large vocabulary": 60, "LSTM": 240,
}  # fmt: skip
COMMON = [
    "training.global_batch_size=12", "training.learning_rate=1e-3", "training.checkpoint_every=1000",
    f"execution.threads={usable_cores()}",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="what the corpora are built of")
    parser.add_argument("--out", type=Path, required=True, help="a folder for corpora and runs, which must not exist")
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--steps-times", type=float, default=1.0, help="for trying it out: so many times the steps")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)
    os.environ["XDG_CACHE_HOME"] = str(arguments.out.absolute() / "cache")  # nothing measured before is found
    build_corpora(arguments.text, arguments.out)
    rows = [check(name, arguments.out, max(1, round(STEPS[name] * arguments.steps_times))) for name in arguments.shapes]
    results = Path(__file__).parent / "results/forecast_check.json"
    if arguments.steps_times == 1.0:
        results.write_text(json.dumps({"rows": rows}, indent=2) + "\n", encoding="utf-8")
    print(table(rows))


def build_corpora(text: Path, out: Path) -> None:
    """One of characters, one of 8,192 BPE symbols."""
    for name, tokenizer in (("char", "char"), ("bpe", "bpe:8192")):
        options = ["--tokenizer", tokenizer, "--split", "contiguous:.9,.05,.05"]
        scratchlab(out, "corpus", "build", str(text.absolute()), "--out", name, *options)


def check(name: str, out: Path, steps: int) -> dict[str, Any]:
    """One recipe forecast, then run."""
    settings = [*COMMON, *SHAPES[name], f"training.steps={steps}", f"evaluation.every={-(-steps // 2)}"]
    recipe, run = out / f"{name.replace(' ', '-')}.toml", f"run-{name.replace(' ', '-')}"
    recipe.write_text('corpus = "char"\n[training]\nsteps = 1\n', encoding="utf-8")
    planned = json.loads(scratchlab(out, "plan", recipe.name, *settings, "--measure", "--json"))
    ran = json.loads(scratchlab(out, "train", recipe.name, *settings, "--out", run, "--json"))
    result, here = ran["result"], planned["here"]
    formula = here["memory"]["total"]
    return {
        "shape": name,
        "settings": settings,
        "device": here["device"],
        "precision": here["precision"],
        "micro_batch_size": here["micro_batch_size"],
        "parameters": planned["parameters"],
        "memory_by_part": here["memory"],
        "formula_error": formula / result["peak_memory_bytes"] - 1,
        "forecast": result["forecast"],
        "seconds": {"forecast": here["seconds"], "happened": result["cost"]["seconds"]},
    }


def scratchlab(folder: Path, *arguments: str) -> str:
    """A command in a process of its own, in `folder`."""
    command = [sys.executable, "-m", "scratchlab", *arguments]
    outcome = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    if outcome.returncode:
        sys.exit(f"{' '.join(command)} ended with {outcome.returncode}")
    return outcome.stdout


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| recipe | parameters | precision | seconds: forecast | happened | error | GB: forecast | happened | error "
        "| formula alone |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["shape"], f"{row['parameters']:,}", row["precision"]]
        cells += forecast_and_happened(row, "seconds", ".1f", 1.0) + forecast_and_happened(
            row, "peak_memory", ".3f", 1e9
        )
        lines.append(f"| {' | '.join([*cells, format(row['formula_error'], '+.1%')])} |")
    return "\n".join(lines)


def forecast_and_happened(row: dict[str, Any], what: str, form: str, unit: float) -> list[str]:
    """Three cells. A run that settled other threads than the plan measured (a core was busy) has no forecast."""
    figures = (row["forecast"] or {}).get(what)
    if not figures:
        return ["none", "", ""]
    return [
        format(figures["forecast"] / unit, form),
        format(figures["happened"] / unit, form),
        f"{figures['error']:+.1%}",
    ]


if __name__ == "__main__":
    main()
