"""The largest micro-batch, found with less memory than there is."""

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scratchlab.errors import DeviceError
from scratchlab.training import probe
from scratchlab.training.memory import divisors
from scratchlab.training.probe import fits_in_process, largest_that_fits, probed_micro_batch, without_memory_errors
from tiny import VOCAB, tiny_recipe


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "scratchlab/probes"


def limited(most: int, tried: list[int]) -> Callable[[int], bool]:
    """Fits up to `most` numbers; real tensors of those that do are made and let go of."""

    def allocate(size: int) -> None:
        tried.append(size)
        if size > most:
            raise torch.OutOfMemoryError(f"tried to allocate {size}")
        torch.ones(size)

    return lambda size: without_memory_errors(lambda: allocate(size))


@pytest.mark.parametrize("most", [0, 1, 2, 5, 6, 11, 12, 59, 60, 1000])
def test_bisection_finds_the_last_that_fits_in_few_tries(most: int) -> None:
    sizes, tried = divisors(60), list[int]()
    found = largest_that_fits(sizes, lambda size: tried.append(size) or size <= most)
    assert found == max((size for size in sizes if size <= most), default=None)
    assert len(tried) <= 4  # of twelve
    assert len(set(tried)) == len(tried)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def broken() -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        without_memory_errors(broken)


def test_what_a_failed_try_took_is_given_back() -> None:
    taken: list[weakref.ref[torch.Tensor]] = []

    def fails() -> None:
        mine = torch.ones(1000)
        taken.append(weakref.ref(mine))
        raise torch.OutOfMemoryError

    assert not without_memory_errors(fails)
    assert taken[0]() is None


def test_what_was_found_is_kept_by_recipe(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(probe, "_trier", lambda recipe, vocab_size: limited(5, tried))
    recipe = tiny_recipe({"training.global_batch_size": 12})
    assert probed_micro_batch(recipe, VOCAB) == 4
    first = len(tried)
    assert probed_micro_batch(recipe.replaced({"training.learning_rate": 0.5}), VOCAB) == 4
    assert len(tried) == first  # the learning rate takes no memory
    assert probed_micro_batch(recipe.replaced({"model.d_model": 16}), VOCAB) == 4
    assert len(tried) > first
    assert len(list(cache.glob("*.json"))) == 2


def test_a_device_that_holds_no_sequence_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_trier", lambda recipe, vocab_size: limited(0, []))
    with pytest.raises(DeviceError, match="does not hold a single sequence"):
        probed_micro_batch(tiny_recipe(), VOCAB)


def test_a_margin_is_left_free_while_it_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, **more: taken.append(size[0]) or empty(*size, **more))
    probe._take_steps(tiny_recipe({"execution.micro_batch_size": 2}), VOCAB, 2, margin=12_345)
    assert taken[0] == 12_345


def test_on_a_cpu_a_process_of_its_own_runs_out_of_what_it_was_given() -> None:
    recipe = tiny_recipe({"model.d_model": 64, "model.context_length": 256})
    assert fits_in_process(recipe, VOCAB, 4, room=2**30)
    assert not fits_in_process(recipe, VOCAB, 1024, room=2**28)
