"""Recipe files: TOML, perhaps laid over a base, with overrides from a command line."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scratchlab.errors import RecipeError
from scratchlab.recipe import LENGTHS, Recipe, recipe_from, set_field


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe file and apply `dotted.path=value` overrides. `RecipeError` lists everything that is wrong.

    A file may begin with `base = "other.toml"` and then need say only what differs.
    """
    path = Path(path)
    tables = _read_tables(path, ())
    overrides = list(overrides)
    wrong = [override for override in overrides if not override.partition("=")[1] or override.startswith("=")]
    if wrong:
        listed = ", ".join(map(repr, wrong))
        raise RecipeError(f"{listed}: an override is dotted.path=value, for example training.steps=500.")
    for override in overrides:
        set_field(tables, *parse_override(override))
    return recipe_from(tables, where=f"{path} with {' '.join(overrides)}" if overrides else str(path))


def _read_tables(path: Path, readers: tuple[Path, ...]) -> dict[str, Any]:
    """The tables of a recipe file, laid over those of the file that it names as its `base` (relative to itself)."""
    if path.resolve() in readers:
        raise RecipeError(f"{path}: base: this file is, by way of its own base, its own base.")
    if not path.is_file():
        reader = f"{readers[-1]}: base: " if readers else ""
        raise RecipeError(f"{reader}{path}: there is no such recipe file{_near_files(path)}.")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid TOML: {error}.") from None
    except OSError as error:
        raise RecipeError(f"{path}: could not be read: {error.strerror}.") from None
    base = tables.pop("base", None)
    if base is None:
        return tables
    if not isinstance(base, str) or not base:
        raise RecipeError(f"{path}: base: should be the path of a recipe file, not {base!r}.")
    return _laid_over(_read_tables(path.parent / base, (*readers, path.resolve())), tables)


def _laid_over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a base with those of the file that names it, whose length of the run takes the base's place."""
    merged = dict(below)
    if any(name in above for name in LENGTHS):
        merged = {name: value for name, value in merged.items() if name not in LENGTHS}
    for name, value in above.items():
        lower = merged.get(name)
        merged[name] = _laid_over(lower, value) if isinstance(lower, dict) and isinstance(value, dict) else value
    return merged


def parse_override(text: str) -> tuple[str, Any]:
    """`training.steps=500` as (dotted path, value). Values are TOML; a word that is not is a string."""
    dotted, equals, value = text.partition("=")
    dotted = dotted.strip()
    if not equals or not dotted:
        raise RecipeError(f"{text!r}: an override is dotted.path=value, for example training.steps=500.")
    try:
        return dotted, tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return dotted, value.strip()


def _near_files(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("recipes")
    names = [str(other) for other in sorted(folder.glob("*.toml"))] if folder.is_dir() else []
    near = difflib.get_close_matches(str(path), names, n=1) or names[:3]
    return f" (there is {', '.join(near)})" if near else ""
