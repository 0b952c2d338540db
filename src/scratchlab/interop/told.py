"""What may be told to others of the places on this machine: of a path its last name, and no folder above it."""

import re
import tomllib
from typing import Any

import tomli_w

from scratchlab.corpus.hub import SCHEME
from scratchlab.recipe import Recipe

LOCAL_URLS = ("file://", "local://")
DIGITS = 12  # of a number that was computed: 0.1 * 0.003 is 0.00030000000000000003, and nobody writes that


def told(place: str) -> str:
    """A place as others may read it: addresses as they are, but for what is secret in them; of a path the last name.

    Relative paths as absolute ones, and those of Windows: `../home/somebody/notes.txt` names somebody, too.
    """
    if place.startswith(SCHEME):
        return place
    if "://" in place:
        return "::".join(map(_told_address, place.split("::")))  # as fsspec chains them: zip://a.txt::file:///home/...
    return _last_name(place)


def _last_name(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or path


def _told_address(url: str) -> str:
    """Without the name and password before its host, and without parameters: signed addresses have their keys there."""
    if url.startswith(LOCAL_URLS) or "://" not in url:
        return _last_name(url)
    return re.sub(r"\?[^?]*=.*$", "", re.sub(r"(?<=://)[^/]*@", "", url))


def told_recipe(recipe: Recipe) -> str:
    """The recipe as it was given, as TOML for others: places told as `told` does, numbers as people write them."""
    return tomli_w.dumps({name: _told_field(name, value) for name, value in tomllib.loads(recipe.to_toml()).items()})


def _told_field(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {inner: _told_field(inner, one) for inner, one in value.items()}
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if not isinstance(value, str):
        return value
    return ",".join(told(part.strip()) for part in value.split(",")) if name == "suites" else told(value)
