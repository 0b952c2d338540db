"""A few steps of a tiny model, against numbers that earlier versions gave."""

import json
from pathlib import Path
from typing import Any

import pytest

from scratchlab.recipe import NUMERICS_VERSION
from scratchlab.training.step import TorchBackend
from tiny import VOCAB, tiny_batch, tiny_recipe

PATH = Path(__file__).parent / "steps.json"
STEPS = 5
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "untied, no qkv bias": {"model.tie_weights": False, "model.qkv_bias": False},
    "warm-up, wsd, tight clip": {"training.warmup_steps": 3, "training.schedule": "wsd", "training.clip_norm": 0.1},
}
ADVICE = (
    "The numbers of a default step have changed: runs made before and after are different runs. If you only meant to "
    "refactor, something else changed with it. If the change was meant: raise NUMERICS_VERSION in "
    "src/scratchlab/recipe.py, say in CHANGELOG.md what moved and why, and write the new numbers with "
    "`python tests/golden/write.py`."
)


def measure(changes: dict[str, Any]) -> dict[str, list[float]]:
    """Loss and gradient norm of the first steps: float32, CPU, one thread, no dropout."""
    recipe = tiny_recipe(changes)
    backend = TorchBackend(recipe, VOCAB)
    state = backend.init()
    found: dict[str, list[float]] = {"loss": [], "gradient_norm": []}
    for step in range(STEPS):
        state, metrics = backend.step(state, tiny_batch(recipe, step), step)
        for name, values in found.items():
            values.append(float(metrics[name]))
    return found


def measure_all() -> dict[str, Any]:
    return {"numerics_version": NUMERICS_VERSION, "cases": {name: measure(case) for name, case in CASES.items()}}


@pytest.mark.parametrize("name", CASES)
def test_steps_are_what_they_were(name: str) -> None:
    golden, found = json.loads(PATH.read_text(encoding="utf-8"))["cases"][name], measure(CASES[name])
    for figure, values in found.items():
        assert values == pytest.approx(golden[figure], rel=1e-5), f"{figure}: {ADVICE}"


def test_golden_numbers_are_of_this_numerics_version() -> None:
    assert json.loads(PATH.read_text(encoding="utf-8"))["numerics_version"] == NUMERICS_VERSION, ADVICE
