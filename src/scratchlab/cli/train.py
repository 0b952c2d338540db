"""`scratchlab train`."""

import click

from scratchlab.cli.output import as_json, show
from scratchlab.errors import UsageError


@click.command(
    epilog="Example: scratchlab train recipes/quickstart.toml --out runs/first model.dropout=0.1 training.steps=500"
)
@click.argument("recipe", required=False, metavar="[RECIPE]")
@click.argument("overrides", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--out", metavar="DIR", help="The run folder to make.")
@click.option("--resume", metavar="DIR", help="Go on with the run in this folder from its last good checkpoint.")
@as_json
def train(recipe: str | None, overrides: tuple[str, ...], out: str | None, resume: str | None, as_json: bool) -> None:
    """Train a model from a RECIPE, with fields overridden by dotted name, or resume a run.

    Stopped by Ctrl-C or SIGTERM, it saves a checkpoint and exits with 143; --resume goes on from there. On several
    GPUs: torchrun --nproc-per-node 8 --shutdown-timeout 600 -m scratchlab train RECIPE --out DIR.
    """
    from scratchlab.cli.output import reporter
    from scratchlab.cli.runs import describe, run_text
    from scratchlab.recipe_files import load_recipe
    from scratchlab.runfolder import RunFolder
    from scratchlab.training import loop
    from scratchlab.training.world import World, joined

    world = World.here()
    with joined(world):
        folder = world.by_first(lambda: _folder(recipe, out, resume))
        with reporter(quiet=not world.first) as report:
            if recipe is not None:
                loop.train(world.by_first(lambda: load_recipe(recipe, overrides)), folder, report)
            else:
                loop.resume(folder, report)
    if world.first:
        show(describe(RunFolder.open(folder)), as_json, run_text)


def _folder(recipe: str | None, out: str | None, resume: str | None) -> str:
    """The run that is meant."""
    folder = out if recipe else resume
    if not folder or (out and resume) or (recipe and resume):
        note = " A run that is resumed keeps its recipe: it takes no RECIPE and no FIELD=VALUE." if resume else ""
        raise UsageError(f"Give a recipe and --out DIR to start a run, or --resume DIR to go on with one.{note}")
    return folder
