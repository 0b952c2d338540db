"""Which tokens may be drawn, against an independent definition in numpy."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from scratchlab.generation.sampling import choose
from tiny import modest

Floats = npt.NDArray[np.float64]
LOGITS = st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=1, max_size=12, unique=True)


def softmax(logits: Floats) -> Floats:
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


def support(logits: list[float], temperature: float, top_k: int | None, top_p: float | None) -> set[int]:
    """First the k likeliest; of these, going down, as few as reach p."""
    values = np.array(logits) / temperature
    order = np.argsort(-values)[: top_k or len(values)]
    shares = softmax(values[order])
    reached = np.cumsum(shares)
    assume(top_p is None or np.abs(reached - top_p).min() > 1e-4)  # in float32 the two might fall either way
    few = len(order) if top_p is None else 1 + int((reached < top_p).sum())
    return set(order[: min(few, len(order))].tolist())


def possible(monkeypatch: pytest.MonkeyPatch, logits: Tensor, *how: float | int | None) -> Tensor:
    """The probabilities that the draw is made from, renormalized."""
    seen: list[Tensor] = []
    draw: Callable[..., Tensor] = torch.multinomial

    def watched(probabilities: Tensor, *rest: int, **options: torch.Generator) -> Tensor:
        seen.append(probabilities / probabilities.sum(-1, keepdim=True))
        return draw(probabilities, *rest, **options)

    monkeypatch.setattr(torch, "multinomial", watched)
    choose(logits, *how, torch.Generator())  # pyright: ignore
    return seen[0]


@modest
@given(
    logits=LOGITS,
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_k=st.none() | st.integers(1, 15),
    top_p=st.none() | st.floats(0.01, 1.0),
)
def test_supports_and_probabilities(
    logits: list[float], temperature: float, top_k: int | None, top_p: float | None
) -> None:
    expected = support(logits, temperature, top_k, top_p)
    with pytest.MonkeyPatch.context() as patch:
        found = possible(patch, torch.tensor([logits]), temperature, top_k, top_p)[0].numpy()
    assert set(np.flatnonzero(found).tolist()) == expected
    kept = sorted(expected)
    np.testing.assert_allclose(found[kept], softmax(np.array(logits)[kept] / temperature), rtol=1e-4)


def test_rows_are_drawn_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.tensor([[0.0, 5, 1, 2], [9.0, 8, 1, 0]])
    found = possible(monkeypatch, logits, 1.0, 2, None) > 0
    assert found.tolist() == [[False, True, False, True], [True, True, False, False]]


def test_draws_stay_in_the_support_and_fill_it() -> None:
    logits, generator = torch.tensor([[0.0, 3, 1, 2, 2.5]]), torch.Generator().manual_seed(0)
    assert {int(choose(logits, 1.0, 3, None, generator)) for _ in range(300)} == {1, 3, 4}
    assert {int(choose(logits, 1.0, None, 0.5, generator)) for _ in range(300)} == {1, 4}
    assert {int(choose(logits, 1.0, 1, None, generator)) for _ in range(20)} == {1}


@modest
@given(logits=LOGITS)
def test_temperature_0_is_the_likeliest_whatever_else(logits: list[float]) -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert int(choose(torch.tensor([logits]), 0, 1, 0.5, generator)) == int(np.argmax(logits))
    assert torch.equal(generator.get_state(), before), "nothing is drawn"


def test_low_precision_logits_are_drawn_in_float32() -> None:
    logits = torch.tensor([[0.0, 0.1, 0.2]], dtype=torch.bfloat16)
    assert choose(logits, 1.0, None, 0.9, torch.Generator()).shape == (1,)
