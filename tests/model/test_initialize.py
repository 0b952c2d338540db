"""The initialization table, measured on a built model."""

import math

import pytest
import torch

from scratchlab.architecture import GPTSection
from scratchlab.model.build import build_model
from scratchlab.model.gpt import GPT
from scratchlab.model.initialize import Constant, Normal, Rule, Uniform, gpt_table, rule_for
from scratchlab.model.loss import Objective
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
    return build_model(CONFIG, VOCAB, seed=1)


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
        deep = build_model(CONFIG.model_copy(update={"n_layer": n_layer}), VOCAB, seed=1)
        stream: list[torch.Tensor] = []
        deep.final_norm.register_forward_hook(lambda module, given, output: stream.append(given[0]))
        deep(torch.randint(VOCAB, (2, 64)))
        return float(stream[0].detach().std())

    assert growth(16) < 1.5 * growth(1)


def test_the_seed_decides_everything(model: GPT) -> None:
    again = build_model(CONFIG, VOCAB, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


D, H = 1 / math.sqrt(128), 1 / math.sqrt(512)
SMALL = math.sqrt(2 / (5 * 128))
RULES: dict[str, dict[str, Rule]] = {
    "gpt2": {"blocks.1.attention.out.weight": Normal(0.01), "blocks.1.attention.out.bias": Constant(0.0)},
    "zero_output": {
        "blocks.1.attention.out.weight": Constant(0.0),
        "blocks.0.mlp.down.weight": Constant(0.0),
        "blocks.0.mlp.up.weight": Normal(0.02),
    },
    "width_scaled": {"head.weight": Normal(SMALL), "blocks.0.mlp.down.weight": Normal(SMALL / 2)},
    "pytorch": {
        "blocks.0.attention.qkv.bias": Uniform(D),
        "blocks.0.mlp.down.weight": Uniform(H),
        "blocks.0.mlp.down.bias": Uniform(H),
        "head.weight": Uniform(D),
        "token_embedding.weight": Normal(1.0),
        "position_embedding.weight": Normal(1.0),
        "blocks.0.mlp_norm.weight": Constant(1.0),
        "blocks.0.mlp_norm.bias": Constant(0.0),
    },
}
RULES["book"] = RULES["pytorch"]


@pytest.mark.parametrize("name", RULES)
def test_the_tables_say_what_their_sources_say(name: str) -> None:
    table = gpt_table(CONFIG.model_copy(update={"initialization": name}))
    assert {parameter: rule_for(parameter, table) for parameter in RULES[name]} == RULES[name]


def test_a_tied_matrix_is_the_heads_in_pytorch_and_the_embeddings_in_the_book() -> None:
    tied = {"tie_weights": True}
    tables = [gpt_table(CONFIG.model_copy(update=tied | {"initialization": n})) for n in ("pytorch", "book")]
    assert [rule_for("token_embedding.weight", table) for table in tables] == [Uniform(D), Normal(1.0)]


@pytest.mark.parametrize("name", ["pytorch", "zero_output", "width_scaled"])
def test_other_tables_measured_on_a_built_model(name: str) -> None:
    config = CONFIG.model_copy(update={"initialization": name})
    table = gpt_table(config)
    for parameter_name, parameter in build_model(config, VOCAB, seed=1).named_parameters():
        values, n = parameter.detach().double(), parameter.numel()
        match rule_for(parameter_name, table):
            case Normal(deviation):
                assert abs(float(values.std()) / deviation - 1) < 5 / math.sqrt(2 * n), parameter_name
            case Uniform(bound):
                assert float(values.abs().max()) <= bound
                assert abs(float(values.std()) / (bound / math.sqrt(3)) - 1) < 4 / math.sqrt(n), parameter_name
            case Constant(value):
                assert (values == value).all(), parameter_name


@pytest.mark.parametrize("tie", [True, False])
def test_first_loss_at_gpt2_smalls_size_is_ln_vocabulary(tie: bool) -> None:
    """Two layers of it: the head and the embedding, which decide, are whole."""
    config = GPTSection(n_layer=2, tie_weights=tie)
    tokens = torch.randint(50257, (1, 64), generator=torch.Generator().manual_seed(1))
    losses: dict[str, float] = {}
    for name in ("gpt2", "book"):
        model = build_model(config.model_copy(update={"initialization": name}), 50257, seed=1)
        with torch.no_grad():
            loss, weight, _ = Objective(model)(tokens, torch.roll(tokens, -1, 1), torch.ones(tokens.shape))
        losses[name] = float(loss / weight)
    assert abs(losses["gpt2"] / math.log(50257) - 1) < 0.02
    assert losses["book"] > 200 if tie else losses["book"] < 1.1 * math.log(50257)
