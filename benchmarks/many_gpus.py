"""What more processes bring: tokens/s with a copy of the weights in each (DDP) and with a part (FSDP2), beside one.

    python benchmarks/many_gpus.py recipes/gpt2-small.toml --processes 1,2,4,8 corpus=corpora/mine training.steps=200

Each is a run of its own, of the same recipe; its loss is shown, which is the same but for rounding (and dropout).
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from scratchlab import hardware
from scratchlab.files import pretty_json, write_atomically
from scratchlab.recipe import Recipe
from scratchlab.recipe_files import load_recipe
from scratchlab.runfolder import RunFolder
from scratchlab.training.loop import train
from scratchlab.training.summary import step_records

QUIET = {"evaluation.sample_tokens": 0, "evaluation.snapshots": 0}


def measured(recipe: Recipe, processes: int, shard: bool, folder: Path) -> dict[str, Any]:
    """One run, and how fast it was."""
    changes = QUIET | {"execution.processes": processes} | ({"execution.shard": shard} if processes > 1 else {})
    result = train(recipe.replaced(changes), folder)
    return {
        "processes": processes,
        "weights": "one copy" if processes == 1 else "parts" if shard else "copies",
        "tokens_per_second": result["cost"]["training_tokens_per_second"],
        "peak_memory_bytes": result["peak_memory_bytes"],
        "last_loss": step_records(RunFolder.open(folder).metrics())[-1]["loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE")
    parser.add_argument("--processes", default="1,2", help="how many, in turn (default: 1,2)")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    recipe, rows = load_recipe(options.recipe, options.overrides), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as place:
        for processes in map(int, options.processes.split(",")):
            for shard in (False, True)[: 1 + (processes > 1)]:
                rows.append(measured(recipe, processes, shard, Path(place) / f"{processes}-{shard}"))
                row, times = rows[-1], rows[-1]["tokens_per_second"] / rows[0]["tokens_per_second"]
                print(
                    f"{processes} processes, {row['weights']}: {row['tokens_per_second']:,.0f} tokens/s "
                    f"({times:.2f} times the first), {row['peak_memory_bytes'] / 1e9:.2f} GB, "
                    f"last loss {row['last_loss']:.6f}",
                    flush=True,
                )
    if options.out:
        device = hardware.device_name(hardware.choose_device(recipe.execution.device))
        write_atomically(options.out, pretty_json({"device": device, "recipe": recipe.model_dump(), "rows": rows}))


if __name__ == "__main__":
    main()
