"""`scratchlab recipe`."""

import json

import click


@click.group(epilog="Example: scratchlab recipe check recipes/quickstart.toml training.steps=500")
def recipe() -> None:
    """Check a recipe, or print the JSON Schema of all recipes."""


@recipe.command(epilog="Example: scratchlab recipe check recipes/quickstart.toml model.n_layer=8")
@click.argument("path")
@click.argument("overrides", nargs=-1, metavar="[FIELD=VALUE]...")
def check(path: str, overrides: tuple[str, ...]) -> None:
    """Say everything that is wrong with the recipe at PATH, or print it with its defaults."""
    from scratchlab.recipe import load_recipe

    click.echo(load_recipe(path, overrides).model_dump_json(indent=2))


@recipe.command(epilog="Example: scratchlab recipe schema > recipe.schema.json")
def schema() -> None:
    """The JSON Schema of a recipe, for editors."""
    from scratchlab.recipe import Recipe

    click.echo(json.dumps(Recipe.model_json_schema(), indent=2))
