"""`scratchlab recipe`."""

import json

import click

from scratchlab.cli.output import as_json, show


@click.group(epilog="Example: scratchlab recipe check recipes/quickstart.toml training.steps=500")
def recipe() -> None:
    """Check a recipe, or print the JSON Schema of all recipes."""


@recipe.command(epilog="Example: scratchlab recipe check recipes/quickstart.toml model.n_layer=8")
@click.argument("path")
@click.argument("overrides", nargs=-1, metavar="[FIELD=VALUE]...")
@as_json
def check(path: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Say everything that is wrong with the recipe at PATH, or print it with its defaults."""
    from scratchlab.recipe_files import load_recipe

    checked = load_recipe(path, overrides)
    show(checked.model_dump(), as_json, lambda _: checked.to_toml(defaults=True).rstrip())


@recipe.command(epilog="Example: scratchlab recipe schema > recipe.schema.json")
def schema() -> None:
    """The JSON Schema of a recipe, for editors."""
    from scratchlab.recipe import Recipe

    click.echo(json.dumps(Recipe.model_json_schema(), indent=2))
