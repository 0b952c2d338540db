"""scratchlab: train small language models from scratch, and learn with honest statistics what made them better.

The Python interface says what the commands say, in the same words. Names are loaded when first used, so that
`import scratchlab` stays instant.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scratchlab.corpus.store import open_corpus
    from scratchlab.model.load import load
    from scratchlab.recipe_files import load_recipe
    from scratchlab.training.loop import train

__all__ = ["load", "load_recipe", "open_corpus", "train"]
__version__ = "0.1.0"

_HOMES = {
    "load": "scratchlab.model.load",
    "load_recipe": "scratchlab.recipe_files",
    "open_corpus": "scratchlab.corpus.store",
    "train": "scratchlab.training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'scratchlab' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
