"""The formulae of model/count.py against the built model, over drawn shapes and switches."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scratchlab.architecture import GPTSection
from scratchlab.model.build import build_model
from scratchlab.model.count import (
    forward_flops_per_token,
    parameter_count,
    training_flops_per_token,
)
from scratchlab.model.gpt import GPT
from scratchlab.model.loss import Objective
from tiny import modest


@st.composite
def shapes(draw: st.DrawFn) -> GPTSection:
    n_head = draw(st.integers(1, 3))
    return GPTSection(
        n_layer=draw(st.integers(1, 3)),
        n_head=n_head,
        d_model=n_head * draw(st.integers(1, 5)),
        context_length=draw(st.integers(1, 9)),
        qkv_bias=draw(st.booleans()),
        tie_weights=draw(st.booleans()),
    )


@modest
@given(shape=shapes(), vocab_size=st.integers(2, 40))
def test_parameters_by_formula_are_those_of_the_model(shape: GPTSection, vocab_size: int) -> None:
    with torch.device("meta"):
        model = GPT(shape, vocab_size)
    assert parameter_count(shape, vocab_size) == sum(parameter.numel() for parameter in model.parameters())


@modest
@given(shape=shapes(), vocab_size=st.integers(2, 40), rows=st.integers(1, 3))
def test_flops_by_formula_are_those_counted(shape: GPTSection, vocab_size: int, rows: int) -> None:
    objective = Objective(build_model(shape, vocab_size, seed=1))
    tokens = torch.zeros(rows, shape.context_length, dtype=torch.long)
    # The plain kernel is two products over the full square. Fused ones are counted by torch in ways of their own.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            loss, _, _ = objective(tokens, tokens, torch.ones(tokens.shape))
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    n = tokens.numel()
    assert forward.get_total_flops() == n * forward_flops_per_token(shape, vocab_size)
    both = forward.get_total_flops() + backward.get_total_flops()
    assert both == n * training_flops_per_token(shape, vocab_size)


def test_gpt2_small_is_what_everybody_says_it_is() -> None:
    small = GPTSection()
    assert parameter_count(small, 50257) == 124_439_808
    vectors = 12 * (9 + 4) * 768 + 2 * 768  # biases and norms take part in no product
    six_per_parameter = 6 * (124_439_808 - 1024 * 768 - vectors)  # Kaplan et al. 2020
    attention = 12 * 12 * 768 * 1024  # PaLM's appendix B
    assert training_flops_per_token(small, 50257) == six_per_parameter + attention
