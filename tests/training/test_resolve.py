"""What `auto` is settled to."""

from pathlib import Path

import pytest

from scratchlab import hardware
from scratchlab.model.count import activation_bytes_per_sequence
from scratchlab.recipe import load_recipe
from scratchlab.training.resolve import CPU_ACTIVATION_BYTES, _micro_batch_size

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_micro_batch_divides_the_batch_and_fits(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "memory", lambda: 16 * 2**30)
    recipe = load_recipe(path)
    size = _micro_batch_size(recipe, "cpu")
    assert recipe.training.global_batch_size % size == 0
    taken = size * activation_bytes_per_sequence(recipe.model)
    assert size == 1 or taken <= CPU_ACTIVATION_BYTES or size * recipe.model.context_length <= 2048
    assert size == 1 or taken <= 4 * 2**30


def test_a_deep_model_gets_enough_tokens_at_once_where_there_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(next(path for path in RECIPES if path.stem == "blog-10m"))
    sizes = []
    for gigabytes in (16, 2):
        monkeypatch.setattr(hardware, "memory", lambda gigabytes=gigabytes: gigabytes * 2**30)
        sizes.append(_micro_batch_size(recipe, "cpu"))
    assert sizes[0] * recipe.model.context_length == 2048
    assert sizes[1] < sizes[0]
    assert _micro_batch_size(recipe.replaced({"execution.micro_batch_size": 3}), "cpu") == 3


@pytest.mark.parametrize(("bf16", "chosen"), [(0.7e9, "float32"), (110e9, "float32"), (400e9, "bf16")])
def test_a_cpu_takes_bf16_only_where_it_is_measured_to_be_faster(
    monkeypatch: pytest.MonkeyPatch, bf16: float, chosen: str
) -> None:
    """Emulated (measured on AVX2: 0.7 GFLOP/s), no better than float32, and in hardware."""
    rates = {"float32": 100e9, "bf16": bf16}
    monkeypatch.setattr(hardware, "matmul_rate", lambda device, precision, size: rates[precision])
    assert hardware.choose_precision("cpu") == chosen
