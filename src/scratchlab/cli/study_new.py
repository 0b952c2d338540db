"""`scratchlab study new`."""

import os
from pathlib import Path

import click

from scratchlab.errors import UsageError


@click.command(epilog="Example: scratchlab study new studies/mine.toml --baseline recipes/nano-char.toml")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--baseline", required=True, type=click.Path(path_type=Path), help="The recipe that everything is compared with."
)
def new(path: Path, baseline: Path) -> None:
    """Write a commented study file at PATH that runs as it is. Its interventions are examples: put in your own."""
    from scratchlab.files import write_atomically
    from scratchlab.recipe_files import load_recipe
    from scratchlab.study.definition import load_study

    if path.exists():
        raise UsageError(f"{path} exists already. Choose another name, or change that file.")
    if path.suffix != ".toml":
        raise UsageError(f"{path}: a study file ends in .toml, for example {path.with_suffix('.toml')}.")
    dropout = load_recipe(baseline).model.dropout
    relative = os.path.relpath(baseline.resolve(), path.resolve().parent)
    write_atomically(path, TEMPLATE.format(baseline=relative, dropout=0.0 if dropout else 0.1, name=path))
    study = load_study(path)
    click.echo(f"Wrote {path}: {len(study.arms)} arms. Next: scratchlab study plan {path}")


TEMPLATE = """\
# A study: a baseline, and changes to it that may be better. Nothing is compared but what is written here, and what
# counts is written before anything runs.
#     scratchlab study plan {name}
#     scratchlab study run {name}

[study]
baseline = "{baseline}"  # relative to this file
metric = "test.bits_per_byte"     # the figure of a run that decides
# smallest_effect = 0.005         # less than this makes no difference that matters, in the metric's unit
looks = [3, 5, 8]                 # blocks of fresh seeds after which the arms are judged; undecided ones go on
match = "tokens"                  # what every arm is given as much of: tokens, flops, seconds or money
# price = 0.50                    # of a device for an hour
# currency = "USD"
# retune = ["training.learning_rate"]   # let every arm tune this first, each with as many trials

# Each intervention is a name, and fields of the recipe with their new values (scratchlab recipe schema lists them).
[interventions.dropout]
"model.dropout" = {dropout}

[interventions.faster]
"training.learning_rate" = 1.4e-3

# Do they add up? All members together, and all but each.
# [stack]
# members = ["dropout", "faster"]
"""
