"""A mixture as a file: sources, what share of the training tokens each is to be, and how often it may be repeated.

tokens = 1_000_000_000

[[source]]
from = "hf:HuggingFaceFW/fineweb-edu?name=sample-10BT"
weight = 0.8

[[source]]
name = "mine"
from = "my-writing/"
weight = 0.2
repeat = 4
"""

import tomllib
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scratchlab.corpus.building.mixture import Mixture
from scratchlab.corpus.sources.documents import Reading
from scratchlab.corpus.sources.find import Source
from scratchlab.errors import UsageError


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Source(_Table):
    location: Annotated[str, Field(alias="from", min_length=1)]
    name: str = ""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    repeat: Annotated[int, Field(ge=1)] = 1
    column: str | None = None
    jekyll: bool = False
    code: bool = True


class _File(_Table):
    seed: int = 0
    tokens: Annotated[int, Field(gt=0)] | None = None
    source: Annotated[list[_Source], Field(min_length=1)]


def read_mixture(path: Path) -> tuple[list[Source], Mixture]:
    """The sources of a mixture file, and how to draw from them. UsageError lists everything that is wrong."""
    try:
        content = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} could not be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}.") from error
    except ValidationError as error:
        problems = [f"{_place(problem['loc'])}: {problem['msg']}" for problem in error.errors()]
        raise UsageError("\n  ".join([f"{path} is not a mixture:", *problems])) from None
    sources = [
        Source(
            location=source.location,
            name=source.name,
            blog=source.jekyll,
            reading=Reading(column=source.column, code=source.code),
            weight=source.weight,
            repeat=source.repeat,
        )
        for source in content.source
    ]
    return sources, Mixture(content.seed, content.tokens)


def _place(location: tuple[str | int, ...]) -> str:
    """`source 2, weight`: sources are counted from 1."""
    if location[:1] == ("source",) and len(location) > 1:
        return ", ".join([f"source {int(location[1]) + 1}", *map(str, location[2:3])])
    return ".".join(map(str, location))
