"""How large a model and how many tokens a budget of time allows, by a stated rule.

Hoffmann et al. (2022) found the loss lowest, for so many FLOPs, where a model reads about 20 tokens a parameter. Sizes
are those of the recipe's own family: depth and width grow together, heads keep their width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from scratchlab.architecture import GPTSection, ModelSection, RNNSection
from scratchlab.model.count import parameter_count
from scratchlab.recipe import Recipe

TOKENS_PER_PARAMETER = 20.0
MOST_LAYERS = 200
MOST_WIDTH = 2**15


@dataclass(frozen=True, slots=True)
class Choice:
    """The largest model of a family that a budget trains."""

    overrides: tuple[str, ...]
    """To be given to `scratchlab train` or `plan` after the recipe."""
    parameters: int
    tokens: int
    seconds: float
    """What the run takes, by its forecast."""


def choose_size(
    recipe: Recipe, vocab_size: int, rule: float, seconds: float, takes: Callable[[Recipe], float | None]
) -> Choice | None:
    """The largest of the recipe's family that `takes` no more than so many seconds; None if that is none of it.

    It reads `rule` tokens a parameter. `takes` gives the seconds of a whole run, or None where the device does not hold
    the model.
    """
    tokens_per_step = recipe.training.global_batch_size * recipe.model.context_length
    best: Choice | None = None
    for sizes in _family(recipe.model):
        changes = {f"model.{field}": value for field, value in sizes.items()}
        parameters = parameter_count(recipe.replaced(changes).model, vocab_size)
        steps = max(1, round(rule * parameters / tokens_per_step))
        changes |= _length(recipe, steps)
        needed = takes(recipe.replaced(changes))
        if needed is None or needed > seconds:
            return best
        overrides = tuple(f"{field}={value}" for field, value in changes.items())
        best = Choice(overrides, parameters, steps * tokens_per_step, needed)
    return best


def _length(recipe: Recipe, steps: int) -> dict[str, int]:
    """The steps, and a warm-up that is no longer than they are."""
    warmup = min(recipe.training.warmup_steps, steps)
    changed = {"training.warmup_steps": warmup} if warmup < recipe.training.warmup_steps else {}
    return {"training.steps": steps} | changed


def _family(model: ModelSection) -> Iterator[dict[str, int]]:
    """What changes from size to size, the smallest first."""
    if isinstance(model, RNNSection):
        yield from ({"d_model": width} for width in range(16, MOST_WIDTH, 16))
        return
    least = 2 if model.window_layers == "alternate" else 1
    for n_layer in range(least, MOST_LAYERS + 1):
        yield _sized(model, n_layer)


def _sized(model: GPTSection, n_layer: int) -> dict[str, int]:
    """The shape with so many layers: as wide in proportion, to the nearest whole head (or group that shares one)."""
    shared = model.n_head // model.n_kv
    step = model.head_width * shared
    groups = max(1, round(model.d_model * n_layer / model.n_layer / step))
    sizes = {"n_layer": n_layer, "d_model": groups * step, "n_head": groups * shared}
    return sizes | ({"n_kv_head": groups} if model.n_kv_head is not None else {})
