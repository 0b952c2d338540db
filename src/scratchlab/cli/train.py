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

    Stopped by Ctrl-C or SIGTERM, it saves a checkpoint and exits with 143; --resume goes on from there.
    """
    folder = out if recipe else resume
    if not folder or (out and resume) or (recipe and resume):
        note = " A run that is resumed keeps its recipe: it takes no RECIPE and no FIELD=VALUE." if resume else ""
        raise UsageError(f"Give a recipe and --out DIR to start a run, or --resume DIR to go on with one.{note}")

    from scratchlab.cli.output import reporter
    from scratchlab.cli.runs import describe, run_text
    from scratchlab.recipe import load_recipe
    from scratchlab.runfolder import RunFolder
    from scratchlab.training import loop

    with reporter() as report:
        if recipe is not None:
            loop.train(load_recipe(recipe, overrides), folder, report)
        else:
            loop.resume(folder, report)
    show(describe(RunFolder.open(folder)), as_json, run_text)
