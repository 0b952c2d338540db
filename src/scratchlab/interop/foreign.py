"""A model that another program trained, read and understood."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from scratchlab.architecture import GPTSection
from scratchlab.errors import RecipeError, RunError
from scratchlab.recipe import recipe_from


@dataclass(frozen=True, slots=True)
class Foreign:
    """Our parameters out of another program's files, and what else is to be known of them."""

    format: str
    """Whose they are, for people."""
    config: GPTSection
    rows: int
    """Of its embedding: the vocabulary, perhaps with padding."""
    tensors: dict[str, Tensor]
    files: tuple[Path, ...]
    """What was read."""
    tokenizer: str | None = None
    """The text of a tokenizer.json that was in one of them."""
    chat_template: str | None = None
    """How it is spoken to, where one of them says so."""


def section(fields: Mapping[str, Any], where: str) -> GPTSection:
    """`[model]` with these fields. `RunError` says what is wrong with those of the file `where`."""
    try:
        model = recipe_from({"corpus": "", "model": dict(fields), "training": {"steps": 0}}, where).model
    except RecipeError as error:
        raise RunError(f"This model cannot be built here. {error}") from None
    assert isinstance(model, GPTSection)
    return model
