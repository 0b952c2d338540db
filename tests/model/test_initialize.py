"""The initialization table, measured on a built model."""

import math

import pytest
import torch

from scratchlab.model.gpt import GPT, build_gpt
from scratchlab.model.initialize import gpt2_table, rule_for
from scratchlab.model.loss import Objective
from scratchlab.recipe import GPTSection
from tiny import distance

VOCAB = 400
CONFIG = GPTSection(n_layer=2, n_head=4, d_model=128, context_length=64, tie_weights=False)

# GPT-2's paper and code: 0.02 everywhere, over sqrt(2 n_layer) where a branch writes into the residual stream.
DEVIATIONS = {
    "token_embedding.weight": 0.02,
    "position_embedding.weight": 0.02,
    "attention.qkv.weight": 0.02,
    "attention.out.weight": 0.02 / math.sqrt(4),
    "mlp.up.weight": 0.02,
    "mlp.down.weight": 0.02 / math.sqrt(4),
    "head.weight": 0.02,
}


@pytest.fixture(scope="module")
def model() -> GPT:
    return build_gpt(CONFIG, VOCAB, seed=1)


def test_every_matrix_has_its_mean_and_deviation(model: GPT) -> None:
    measured = 0
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue
        expected = next(value for ending, value in DEVIATIONS.items() if name.endswith(ending))
        values, n = parameter.detach().double(), parameter.numel()
        assert abs(float(values.mean())) < 5 * expected / math.sqrt(n), name
        assert abs(float(values.std()) / expected - 1) < 5 / math.sqrt(2 * n), name
        kurtosis = float((values / values.std()).pow(4).mean())
        assert abs(kurtosis - 3) < 5 * math.sqrt(96 / n), f"{name} is not normal"
        measured += 1
    assert measured == 3 + 4 * CONFIG.n_layer


def test_norms_are_ones_and_biases_zeros(model: GPT) -> None:
    vectors = {name: parameter for name, parameter in model.named_parameters() if parameter.dim() == 1}
    assert len(vectors) == 2 + CONFIG.n_layer * 8
    for name, parameter in vectors.items():
        assert (parameter == (1.0 if name.endswith("norm.weight") else 0.0)).all(), name


def test_matrices_are_unlike_one_another(model: GPT) -> None:
    first, second = (model.get_parameter(f"blocks.{layer}.mlp.up.weight") for layer in (0, 1))
    assert abs(distance(first, second) - math.sqrt(2)) < 0.05


def test_the_first_loss_is_that_of_knowing_nothing(model: GPT) -> None:
    tokens = torch.randint(VOCAB, (8, CONFIG.context_length))
    loss, weight, _ = Objective(model)(tokens, torch.roll(tokens, -1, 1), torch.ones_like(tokens).float())
    assert abs(float(loss.detach() / weight) / math.log(VOCAB) - 1) < 0.02


def test_depth_does_not_let_the_stream_grow() -> None:
    def growth(n_layer: int) -> float:
        deep = build_gpt(CONFIG.model_copy(update={"n_layer": n_layer}), VOCAB, seed=1)
        stream: list[torch.Tensor] = []
        deep.final_norm.register_forward_hook(lambda module, given, output: stream.append(given[0]))
        deep(torch.randint(VOCAB, (2, 64)))
        return float(stream[0].detach().std())

    assert growth(16) < 1.5 * growth(1)


def test_the_seed_decides_everything(model: GPT) -> None:
    again = build_gpt(CONFIG, VOCAB, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_every_parameter_has_a_rule() -> None:
    table = gpt2_table(3)
    assert rule_for("blocks.0.attention_norm.weight", table) == "ones"
    assert rule_for("blocks.0.attention_norm.bias", table) == "zeros"
    assert rule_for("blocks.2.attention.out.weight", table) == pytest.approx(0.02 / math.sqrt(6))
