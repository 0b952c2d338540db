"""Random streams: held still by golden hashes, independent of one another, and free of positions."""

import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scratchlab.model.build import build_model
from scratchlab.seeds import block_seeds, derive, generator, initial_normal, noise_seed, permute
from tiny import VOCAB, modest, tiny_config

SEEDS = st.integers(0, 2**63 - 1)

GOLDEN: dict[str, tuple[Callable[[], Any], str]] = {
    "initial_normal": (lambda: initial_normal(1, "blocks.0.mlp.up.weight", (8, 3)), "46e9ce73edd6d525"),
    "permute": (lambda: permute(np.arange(1000), 1000, 1, "data", 0), "a62e0a365bc3c0b0"),
    "noise_seed": (lambda: np.array([noise_seed(1, 2, 3), noise_seed(2**62, 10**6, 10**9)]), "6ab929e113f3d4f1"),
    "block_seeds": (lambda: np.array([list(block_seeds(block).values()) for block in range(3)]), "5c0df9eb60f9ba94"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_streams_give_the_bits_they_always_gave(name: str) -> None:
    draw, golden = GOLDEN[name]
    found = hashlib.sha256(draw().tobytes()).hexdigest()[:16]
    assert found == golden, (
        f"{name} gives other numbers than before, so that no earlier run can be repeated. If that is meant, raise "
        f"NUMERICS_VERSION in scratchlab/recipe.py, say so in CHANGELOG.md, and put {found!r} here."
    )


@modest
@given(n=st.integers(1, 600), seed=SEEDS, epoch=st.integers(0, 9))
def test_permute_is_a_bijection(n: int, seed: int, epoch: int) -> None:
    assert sorted(permute(np.arange(n), n, seed, "data", epoch).tolist()) == list(range(n))


@modest
@given(n=st.integers(2, 2**40), seed=SEEDS, data=st.data())
def test_permute_of_one_index_does_not_depend_on_the_others(n: int, seed: int, data: st.DataObject) -> None:
    indices = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)))
    together = permute(indices, n, seed)
    assert [int(permute(indices[i : i + 1], n, seed)[0]) for i in range(len(indices))] == together.tolist()
    assert together.min() >= 0
    assert together.max() < n


def test_permutations_differ_by_epoch_and_seed_and_shuffle() -> None:
    orders = [permute(np.arange(200), 200, seed, "data", epoch) for seed in (1, 2) for epoch in (0, 1, 2)]
    assert all((a != b).mean() > 0.9 for a, b in itertools.combinations(orders, 2))
    # Neighbors part: of a uniform permutation, a pair stays side by side with probability 2/200.
    assert all((np.abs(np.diff(order)) == 1).mean() < 0.06 for order in orders)


def test_every_place_is_as_likely_as_any_other() -> None:
    places = np.array([permute(np.array([0]), 10, seed)[0] for seed in range(2000)])
    chi_squared = ((np.bincount(places, minlength=10) - 200) ** 2 / 200).sum()
    assert chi_squared < 33.7  # 9 degrees of freedom, p = 1e-4


def test_permute_needs_an_element() -> None:
    with pytest.raises(ValueError, match="at least one"):
        permute(np.array([0]), 0, 1)


def test_keys_differ_by_every_part_of_the_name() -> None:
    names: list[tuple[str | int, ...]] = [(), ("a",), ("b",), ("a", "b"), ("ab",), ("a", 1), ("a", 11), ("a", 1, 1)]
    assert len({derive(seed, *name) for seed in (1, 11) for name in names}) == 2 * len(names)


def test_streams_are_uncorrelated_across_names_seeds_and_roles() -> None:
    draws = [
        initial_normal(1, "a.weight", (4000,)),
        initial_normal(2, "a.weight", (4000,)),
        initial_normal(1, "b.weight", (4000,)),
        generator(1, "data", "a.weight").standard_normal(4000),
    ]
    correlations = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlations).max() < 5 / np.sqrt(4000)


def test_noise_seeds_are_what_torch_accepts_and_differ() -> None:
    seeds = {noise_seed(seed, step, first) for seed in range(5) for step in range(5) for first in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.manual_seed(max(seeds))


def test_block_seeds_are_fresh_and_valid_in_a_recipe() -> None:
    seeds = [seed for block in range(100) for seed in block_seeds(block).values()]
    assert len(set(seeds)) == 300
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize("change", [{"tie_weights": False}, {"qkv_bias": False}, {"n_layer": 3}, {"dropout": 0.5}])
def test_a_switch_moves_no_other_initial_value(change: dict[str, Any]) -> None:
    before = dict(build_model(tiny_config(), VOCAB, 1).named_parameters())
    after = dict(build_model(tiny_config(**change), VOCAB, 1).named_parameters())
    # Depth rescales what writes into the residual stream, from the same draws.
    rescaled = "n_layer" in change
    shared = {n for n in before.keys() & after.keys() if not (rescaled and n.endswith(("out.weight", "down.weight")))}
    assert len(shared) >= len(before) - 4
    assert all(torch.equal(before[name], after[name]) for name in shared)


def test_another_seed_moves_every_matrix() -> None:
    one, two = (dict(build_model(tiny_config(), VOCAB, seed).named_parameters()) for seed in (1, 2))
    assert all(not torch.equal(one[name], two[name]) for name in one if one[name].dim() >= 2)
