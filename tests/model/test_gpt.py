"""The GPT: causal to the last bit, the same with a cache, and GPT-2 by an independent reading of the paper."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scratchlab.model.gpt import GPT
from tiny import VOCAB, distance, modest, random_tokens, tiny_config, tiny_gpt

SWITCHES: list[dict[str, Any]] = [{}, {"tie_weights": False}, {"qkv_bias": False}, {"n_head": 1}, {"n_layer": 1}]


def plain_gpt2(weights: dict[str, Tensor], tokens: list[int], n_head: int) -> Tensor:
    """Hidden states of one sequence, token by token and head by head, with nothing but elementary functions."""

    def norm(x: Tensor, name: str) -> Tensor:
        x = x - x.mean()
        return x / (x.square().mean() + 1e-5).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", torch.zeros(()))

    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    width = len(weights["final_norm.weight"]) // n_head
    stream = [
        weights["token_embedding.weight"][token] + weights["position_embedding.weight"][place]
        for place, token in enumerate(tokens)
    ]
    n_layer = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    for block in (f"blocks.{layer}" for layer in range(n_layer)):
        qkv = [linear(norm(x, f"{block}.attention_norm"), f"{block}.attention.qkv").split(width) for x in stream]
        for place in range(len(tokens)):
            heads: list[Tensor] = []
            for head in range(n_head):
                query = qkv[place][head]
                scores = [query @ qkv[past][n_head + head] / math.sqrt(width) for past in range(place + 1)]
                exponentials = torch.stack(scores).exp()
                shares = exponentials / exponentials.sum()
                heads.append(sum(shares[past] * qkv[past][2 * n_head + head] for past in range(place + 1)))  # pyright: ignore
            stream[place] = stream[place] + linear(torch.cat(heads), f"{block}.attention.out")
        for place in range(len(tokens)):
            inside = gelu(linear(norm(stream[place], f"{block}.mlp_norm"), f"{block}.mlp.up"))
            stream[place] = stream[place] + linear(inside, f"{block}.mlp.down")
    return torch.stack([norm(x, "final_norm") for x in stream])


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_equals_a_plain_gpt2_in_float64(switches: dict[str, Any]) -> None:
    model = tiny_gpt(dtype=torch.float64, spread=8.0, **switches)
    tokens = random_tokens(1, 6)
    expected = plain_gpt2(dict(model.named_parameters()), tokens[0].tolist(), model.config.n_head)
    hidden, _ = model.hidden(tokens)
    assert distance(hidden[0], expected) < 1e-12
    logits, _ = model(tokens)
    assert distance(logits[0], expected @ model.head_weight.T) < 1e-6, "logits leave in float32"
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_no_gradient_reaches_a_later_token(switches: dict[str, Any]) -> None:
    model = tiny_gpt(spread=8.0, **switches)
    embedded: list[Tensor] = []
    model.token_embedding.register_forward_hook(lambda module, given, output: embedded.append(output))
    logits, _ = model(random_tokens(2, 6))
    for place in range(6):
        mix = torch.randn(VOCAB)
        (gradient,) = torch.autograd.grad((logits[0, place] * mix).sum(), embedded, retain_graph=True)
        reached = gradient.abs().sum(-1) > 0
        assert reached[0].tolist() == [t <= place for t in range(6)], "the past and itself, and no later token"
        assert not reached[1].any(), "nor another row"


@modest
@given(tie=st.booleans(), cuts=st.sets(st.integers(1, 5)))
def test_cached_equals_uncached_however_the_tokens_come(tie: bool, cuts: set[int]) -> None:
    model = tiny_gpt(dtype=torch.float64, spread=8.0, tie_weights=tie)
    tokens = random_tokens(3, 6)
    cache = model.new_state(3, 6)
    edges = [0, *sorted(cuts), 6]
    pieces = [model.hidden(tokens[:, a:b], cache)[0] for a, b in itertools.pairwise(edges)]
    assert cache.lengths == [6, 6, 6]
    assert distance(torch.cat(pieces, 1), model.hidden(tokens)[0]) < 1e-12


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("step", [1, 2])
def test_rows_of_different_lengths_go_on_as_if_alone(tie: bool, step: int) -> None:
    model = tiny_gpt(dtype=torch.float64, spread=8.0, tie_weights=tie)
    lengths, tokens, more = [1, 4, 2], random_tokens(3, 4), random_tokens(3, 2, seed=1)
    cache = model.new_state(3, 6)
    model.hidden(tokens, cache)
    cache.lengths = list(lengths)  # what lies beyond is padding, to be overwritten and never seen
    pieces = [model.logits(model.hidden(part, cache)[0]) for part in more.split(step, dim=1)]
    logits = torch.cat(pieces, dim=1)
    for row, length in enumerate(lengths):
        alone, _ = model(torch.cat([tokens[row, :length], more[row]])[None])
        assert distance(logits[row], alone[0, -2:]) < 1e-6


def test_a_forward_pass_leaves_no_state_without_a_cache() -> None:
    model = tiny_gpt()
    tokens = random_tokens(2, 4)
    (first, state), (second, _) = model(tokens), model(tokens)
    assert state is None
    assert torch.equal(first, second)


def test_dropout_is_off_in_evaluation_and_on_in_training() -> None:
    plain, dropping = tiny_gpt(), tiny_gpt(dropout=0.5)
    tokens = random_tokens(2, 6)
    assert torch.equal(plain(tokens)[0], dropping(tokens)[0])
    dropping.train()
    assert distance(dropping(tokens)[0], dropping(tokens)[0]) > 0.1
    plain.train()
    assert torch.equal(plain(tokens)[0], plain(tokens)[0]), "without dropout training changes nothing"


def test_the_tied_head_is_one_parameter() -> None:
    tied, untied = tiny_gpt(), tiny_gpt(tie_weights=False)
    assert tied.head_weight is tied.token_embedding.weight
    assert untied.head_weight is not untied.token_embedding.weight
    assert {n for n, _ in untied.named_parameters()} - {n for n, _ in tied.named_parameters()} == {"head.weight"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_stays_near_and_keeps_float32_where_it_matters(dtype: torch.dtype) -> None:
    exact, low = tiny_gpt(), GPT(tiny_config(), VOCAB, dtype)
    low.load_state_dict(exact.state_dict())
    tokens = random_tokens(4, 6)
    logits, _ = low(tokens)
    assert logits.dtype == torch.float32
    assert low.hidden(tokens)[0].dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in low.parameters())
    assert 1e-6 < distance(logits, exact(tokens)[0]) < 0.02
