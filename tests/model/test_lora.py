"""Low-rank adapters: what they compute, what they count, that merging changes nothing. peft is the reference."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from scratchlab.architecture import GPTSection, RNNSection
from scratchlab.errors import RecipeError, UsageError
from scratchlab.model import loss as loss_module
from scratchlab.model.build import build_model, empty_model
from scratchlab.model.count import adapter_count, parameter_count, trained_count, training_flops_per_token
from scratchlab.model.gpt import GPT
from scratchlab.model.initialize import initialize
from scratchlab.model.layers import Linear
from scratchlab.model.lora import AdaptedLinear, adapt, is_adapter, merged
from scratchlab.model.loss import Objective
from scratchlab.recipe import FinetuningSection
from tiny import VOCAB, distance, random_tokens, tiny_config, tiny_gpt, tiny_recipe

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "untied": {"tie_weights": False, "vocab_multiple": 8},
    "grouped": {"n_head": 4, "n_kv_head": 2, "positions": "rotary"},
    "swiglu": {"mlp": "swiglu", "bias": False, "norm": "rms"},
    "no attention": {"attention": "none"},
}
CHOICES = ("all", "attention", "query_value", "mlp")


def lora(**fields: Any) -> FinetuningSection:
    return FinetuningSection(**dict[str, Any]({"lora_rank": 3, "lora_alpha": 6.0, **fields}))


def lively(finetuning: FinetuningSection, dtype: torch.dtype = torch.float64, **shape: Any) -> GPT:
    """A model with adapters that do something."""
    model = adapt(tiny_gpt(dtype=dtype, spread=5.0, **shape), finetuning)
    assert isinstance(model, GPT)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return model.to(dtype)


def gap(a: nn.Module, b: nn.Module) -> float:
    tokens = random_tokens(3, 6)
    return distance(a(tokens)[0], b(tokens)[0])


# What they compute.


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("layers", CHOICES)
def test_merging_changes_nothing_that_is_computed(shape: dict[str, Any], layers: str) -> None:
    finetuning = lora(lora_layers=layers)
    plain, beside = tiny_gpt(dtype=torch.float64, spread=5.0, **shape), lively(finetuning, **shape)
    after = merged(beside)
    assert gap(after, beside) < 1e-12
    if layers in ("all", "mlp") or shape.get("attention") != "none":
        assert gap(plain, beside) > 1e-2
    assert [name for name, _ in after.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert not any(parameter.requires_grad for parameter in after.parameters())
    own, others = dict(beside.named_parameters()), dict(after.named_parameters())
    adapted = {name.rpartition(".")[0] + ".weight" for name in own if is_adapter(name)}
    assert {name for name in others if own[name].data_ptr() != others[name].data_ptr()} == adapted, "the rest is shared"


def test_queries_keys_and_values_have_adapters_of_their_own() -> None:
    model = lively(lora(), n_head=4, n_kv_head=2)
    layer, x = model.get_submodule("blocks.0.attention.qkv"), torch.randn(5, 8, dtype=torch.float64)
    assert isinstance(layer, AdaptedLinear)
    a, b = layer.lora_a, layer.lora_b
    assert (a.shape, b.shape) == ((9, 8), (16, 3))
    parts = [x @ a[3 * n : 3 * n + 3].T @ b[rows].T for n, rows in enumerate([slice(8), slice(8, 12), slice(12, 16)])]
    assert distance(layer(x), x @ layer.weight.T + layer.bias + 6 / 3 * torch.cat(parts, -1)) < 1e-14


def test_keys_may_be_left_out() -> None:
    model = lively(lora(lora_layers="query_value"))
    layer, x = model.get_submodule("blocks.1.attention.qkv"), torch.randn(5, 8, dtype=torch.float64)
    assert isinstance(layer, AdaptedLinear)
    change = layer(x) - (x @ layer.weight.T + layer.bias)
    assert change[:, 8:16].abs().max() < 1e-14
    assert change[:, :8].abs().min() > 0
    assert change[:, 16:].abs().min() > 0
    assert {name for name, part in model.named_parameters() if part.requires_grad} == {
        f"blocks.{n}.attention.qkv.lora_{letter}" for n in range(2) for letter in "ab"
    }


def test_they_begin_as_nothing_and_are_drawn_by_name() -> None:
    config, finetuning = tiny_config(tie_weights=False), lora()
    plain, model = build_model(config, VOCAB, 7), adapt(empty_model(config, VOCAB), finetuning)
    initialize(model, model.initial_table(), 7)
    tokens = random_tokens(3, 6)
    assert torch.equal(plain(tokens)[0], model(tokens)[0])
    drawn = dict(model.named_parameters())
    for name, inputs in (("attention.qkv", 8), ("mlp.up", 8), ("mlp.down", 32)):
        bound, a = inputs**-0.5, drawn[f"blocks.0.{name}.lora_a"]
        assert 0.7 * bound < a.abs().max() <= bound
        assert distance(a.std(), torch.tensor(bound / 3**0.5)) < 0.2
        assert not drawn[f"blocks.0.{name}.lora_b"].any()
    wide = adapt(empty_model(config, VOCAB), lora(lora_layers="mlp"))
    initialize(wide, wide.initial_table(), 7)
    name = "blocks.1.mlp.up.lora_a"
    assert torch.equal(drawn[name], wide.get_parameter(name)), "whatever else has adapters"


def test_only_what_goes_into_an_adapter_is_dropped() -> None:
    model = lively(lora(lora_dropout=0.5, lora_layers="mlp"))
    quiet = lively(lora(lora_layers="mlp"))
    assert gap(model, quiet) == 0, "none in evaluation"
    layer, x = model.get_submodule("blocks.0.mlp.up"), torch.ones(4000, 8, dtype=torch.float64)
    layer.train()
    assert isinstance(layer, AdaptedLinear)
    change = layer(x) - (x @ layer.weight.T + layer.bias)
    assert change.std(0).min() > 0
    expected = quiet.get_submodule("blocks.0.mlp.up")(x[:1]) - (x[:1] @ layer.weight.T + layer.bias)
    assert distance(change.mean(0), expected[0]) < 0.1


def test_an_adapter_computes_in_the_type_of_its_layer() -> None:
    finetuning = lora(lora_rank=2)
    model = adapt(empty_model(tiny_config(), VOCAB, torch.bfloat16), finetuning)
    initialize(model, model.initial_table(), 1)
    layer = model.get_submodule("blocks.0.mlp.up")
    assert layer(torch.ones(2, 8)).dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


# The head, whose product is the loss's.


def losses_and_gradients(model: GPT) -> tuple[Tensor, dict[str, Tensor]]:
    tokens, targets = random_tokens(4, 6), random_tokens(4, 6, seed=1)
    loss, _, _ = Objective(model)(tokens, targets, torch.rand(4, 6, generator=torch.Generator().manual_seed(1)))
    loss.backward()
    return loss.detach(), {name: part.grad for name, part in model.named_parameters() if part.grad is not None}


@pytest.mark.parametrize("shape", [{}, {"tie_weights": False, "logit_cap": 5.0}], ids=["frozen", "adapted"])
def test_the_chunked_loss_has_the_gradients_of_the_whole_one(
    monkeypatch: pytest.MonkeyPatch, shape: dict[str, Any]
) -> None:
    whole, gradients = losses_and_gradients(lively(lora(), torch.float32, **shape))
    monkeypatch.setattr(loss_module, "CHUNK_ENTRIES", 5 * VOCAB)
    parts, others = losses_and_gradients(lively(lora(), torch.float32, **shape))
    assert distance(parts, whole) < 1e-6
    assert gradients.keys() == others.keys()
    assert ("head.lora_a" in gradients) == bool(shape)
    assert max(distance(others[name], gradients[name]) for name in gradients) < 1e-4
    assert all(is_adapter(name) for name in gradients)


# What they count.


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("layers", CHOICES)
def test_counts_are_those_of_the_built_model(shape: dict[str, Any], layers: str) -> None:
    config, finetuning = tiny_config(**shape), lora(lora_layers=layers)
    model = adapt(empty_model(config, VOCAB), finetuning)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == trained_count(config, VOCAB, finetuning) == adapter_count(config, VOCAB, finetuning)
    assert sum(p.numel() for p in model.parameters()) == trained + parameter_count(config, VOCAB)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("layers", CHOICES)
def test_flops_are_those_of_a_step(shape: dict[str, Any], layers: str) -> None:
    config, finetuning = tiny_config(**{"attention": "explicit", **shape}), lora(lora_layers=layers)
    if config.attention == "none" and layers in ("attention", "query_value"):
        return
    model = adapt(empty_model(config, VOCAB), finetuning)
    initialize(model, model.initial_table(), 1)
    model.get_submodule("token_embedding").register_forward_hook(
        lambda *_: _[-1].requires_grad_()
    )  # as if the first layer were a later one
    n = 3 * config.context_length
    with FlopCounterMode(display=False) as counter:
        losses_of(model, config)
    padding = config.padded(VOCAB) - VOCAB
    in_head = (
        0
        if not padding
        else n * (3 * 2 * config.d_model + (3 * 2 * 3 if layers == "all" else -2 * config.d_model)) * padding
    )
    assert counter.get_total_flops() == n * training_flops_per_token(config, VOCAB, finetuning) + in_head


def losses_of(model: Any, config: GPTSection) -> None:
    tokens = random_tokens(3, config.context_length)
    Objective(model)(tokens, tokens, torch.ones(tokens.shape))[0].backward()


BOOK = GPTSection(labels=2)  # its spam experiment: GPT-2 small with a head of two labels


def test_the_books_spam_experiment_trains_as_many_numbers_as_the_book_says() -> None:
    finetuning = FinetuningSection(lora_rank=16, lora_alpha=16.0)
    model = adapt(empty_model(BOOK, 50_257), finetuning)
    trained = {name: part.numel() for name, part in model.named_parameters() if part.requires_grad}
    assert sum(trained.values()) == trained_count(BOOK, 50_257, finetuning) == 2_666_528
    assert trained["label_head.lora_a"] + trained["label_head.lora_b"] == 16 * (768 + 2)
    assert parameter_count(BOOK, 50_257) == 124_439_808 + 2 * 768


@pytest.mark.parametrize("layers", CHOICES)
def test_a_head_of_labels_has_an_adapter_or_is_trained_itself(layers: str) -> None:
    config, finetuning = tiny_config(labels=3, tie_weights=False), lora(lora_layers=layers)
    model = adapt(empty_model(config, VOCAB), finetuning)
    trained = {name: part.numel() for name, part in model.named_parameters() if part.requires_grad}
    heads = {name for name in trained if name.startswith("label_head")}
    assert heads == ({"label_head.lora_a", "label_head.lora_b"} if layers == "all" else {"label_head.weight"})
    assert sum(trained.values()) == trained_count(config, VOCAB, finetuning)
    assert sum(part.numel() for part in empty_model(config, VOCAB).parameters()) == parameter_count(config, VOCAB)


# What does not go together.


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.attention": "torch"}, "takes whole matrices"),
        ({"model.attention": "none", "finetuning.lora_layers": "query_value"}, "leaves finetuning.lora_layers"),
    ],
)
def test_what_has_no_place_for_adapters_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        tiny_recipe({"finetuning.lora_rank": 2} | changes)


def test_multihead_attention_of_pytorch_may_stand_beside_adapted_mlps() -> None:
    tiny_recipe({"finetuning.lora_rank": 2, "model.attention": "torch", "finetuning.lora_layers": "mlp"})


def test_a_recurrent_network_has_none() -> None:
    with pytest.raises(UsageError, match="recurrent"):
        adapt(empty_model(RNNSection(architecture="rnn"), VOCAB), lora())


# Against peft.


def test_steps_are_those_of_peft() -> None:
    """Same values at the beginning, three steps of AdamW, the same losses: on every layer but the fused one."""
    ours = lively(lora(), torch.float32, tie_weights=False)
    theirs = tiny_gpt(spread=5.0, tie_weights=False)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["out", "up", "down"])
    theirs = inject_adapter_in_model(config, theirs)
    own = {name.replace(".default.weight", "").replace("lora_A", "lora_a").replace("lora_B", "lora_b"): part
           for name, part in theirs.named_parameters() if "lora_" in name}  # fmt: skip
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if name in own:
                own[name].copy_(parameter)
            elif is_adapter(name):  # those that peft has none of
                parameter.zero_()
    trained = [ours.get_parameter(name) for name in own]
    assert len(own) == 12
    found = [three_losses(ours, trained), three_losses(theirs, list(own.values()))]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0][2] < 0.99 * found[0][0]


def test_steps_of_the_fused_layer_are_those_of_three_layers_of_peft() -> None:
    torch.manual_seed(1)
    plain = Linear(8, 16, True, torch.float32)
    ours = AdaptedLinear(plain, [(8, True), (4, True), (4, True)], lora())
    theirs: Any = nn.ModuleDict({name: nn.Linear(8, rows) for name, rows in (("q", 8), ("k", 4), ("v", 4))})
    with torch.no_grad():
        rows = (slice(8), slice(8, 12), slice(12, 16))
        for layer, part in zip(theirs.values(), rows, strict=True):
            layer.weight.copy_(plain.weight[part])
            layer.bias.copy_(plain.bias[part])
        inject_adapter_in_model(LoraConfig(r=3, lora_alpha=6, target_modules=["q", "k", "v"]), theirs)
        nn.init.uniform_(ours.lora_a)
        nn.init.uniform_(ours.lora_b)
        for number, (layer, part) in enumerate(zip(theirs.values(), rows, strict=True)):
            layer.lora_A["default"].weight.copy_(ours.lora_a[3 * number : 3 * number + 3])
            layer.lora_B["default"].weight.copy_(ours.lora_b[part])
    x = torch.randn(20, 8)

    def together(inputs: Tensor) -> Tensor:
        return torch.cat([layer(inputs) for layer in theirs.values()], -1)

    found: list[list[float]] = []
    for function, trained in (
        (ours, [ours.lora_a, ours.lora_b]),
        (together, [p for p in theirs.parameters() if p.requires_grad]),
    ):
        optimizer, losses = torch.optim.AdamW(trained, lr=1e-2), list[float]()
        for _ in range(3):
            loss = (function(x) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        found.append(losses)
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0][2] < 0.99 * found[0][0]


def three_losses(model: Any, trained: list[Any]) -> list[float]:
    optimizer, tokens, losses = torch.optim.AdamW(trained, lr=1e-2), random_tokens(4, 6), list[float]()
    for _ in range(3):
        loss, weight, _ = Objective(model)(tokens, tokens.roll(-1, 1), torch.ones(4, 6))
        optimizer.zero_grad()
        (loss / weight).backward()
        optimizer.step()
        losses.append(float(loss.detach() / weight))
    return losses
