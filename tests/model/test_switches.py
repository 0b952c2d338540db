"""Every switch of the model, and every pair of switches: built or refused, and what is built keeps its promises."""

import itertools
from typing import Any

import numpy as np
import pytest
import reference
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scratchlab.architecture import GPTSection
from scratchlab.corpus.windows import Batch
from scratchlab.errors import UsageError
from scratchlab.generation.engine import Settings, generate
from scratchlab.model.attention import COMMON
from scratchlab.model.build import build_model
from scratchlab.model.count import forward_flops_per_token, parameter_count, training_flops_per_token
from scratchlab.model.gpt import GPT
from scratchlab.model.loss import Objective
from scratchlab.training.step import TorchBackend
from switches import BASE, END, NOT_SWITCHES, ROWS, SWITCHES, VOCAB, T, config_of, lively, tokens_with_documents
from tiny import distance, tiny_recipe


@pytest.fixture(params=range(len(ROWS)), ids=str)
def row(request: pytest.FixtureRequest) -> dict[str, Any]:
    return ROWS[request.param]


def test_every_field_is_a_switch_here() -> None:
    assert set(SWITCHES) | NOT_SWITCHES == set(GPTSection.model_fields)
    for name, values in SWITCHES.items():
        assert values[0] == GPTSection.model_fields[name].default, name


def test_every_pair_is_met_or_refused_in_a_sentence() -> None:
    met = {pair for row in ROWS for pair in itertools.combinations(row.items(), 2)}
    missed = 0
    for a, b in itertools.combinations(SWITCHES, 2):
        for pair in itertools.product(SWITCHES[a], SWITCHES[b]):
            if ((a, pair[0]), (b, pair[1])) in met:
                continue
            fields = dict(zip((a, b), pair, strict=True))
            if fields.get("window_layers") == "alternate":
                fields["window"] = fields.get("window", 3)
            with pytest.raises(ValidationError) as caught:
                GPTSection(**BASE, **fields)
            (problem,) = caught.value.errors()
            assert problem["type"] == "value_error"
            assert 20 < len(problem["msg"]) < 200
            missed += 1
    assert missed < 40
    assert len(ROWS) < 70


@torch.no_grad()
def test_it_computes_what_the_formulas_say(row: dict[str, Any]) -> None:
    model, tokens = lively(row, torch.float64), tokens_with_documents()
    weights = dict(model.named_parameters())
    for given, computed in zip(tokens, model(tokens)[0], strict=True):
        assert distance(computed, reference.logits(weights, model.config, given, VOCAB, END)) < 1e-5


TAPS = {
    "embedding": lambda model: model.dropout,
    "attention": lambda model: model.blocks[0].attention.kernel,
    "residual": lambda model: model.blocks[0].attention,
    "mlp": lambda model: model.blocks[0].mlp,
}


@pytest.mark.parametrize("attention", ["fused", "explicit"])
@pytest.mark.parametrize("place", TAPS)
def test_each_dropout_drops_in_its_own_place(place: str, attention: str) -> None:
    model = lively({f"dropout_{place}": 0.99, "attention": attention}).train()
    zeros: dict[str, float] = {}
    for name, tap in TAPS.items():
        tap(model).register_forward_hook(
            lambda module, given, output, name=name: zeros.update({name: float((output == 0).float().mean())})
        )
    model(tokens_with_documents(8))
    assert {name for name, share in zeros.items() if share > 0.8} == {place}


def test_causal_by_exactly_zero_gradient(row: dict[str, Any]) -> None:
    model = lively(row)
    embedded: list[Tensor] = []
    model.token_embedding.register_forward_hook(lambda module, given, output: embedded.append(output))
    tokens = tokens_with_documents()
    logits, _ = model(tokens)
    config = model.config
    for place in range(T):
        (gradient,) = torch.autograd.grad((logits[0, place] * torch.randn(VOCAB)).sum(), embedded, retain_graph=True)
        reached = gradient.abs().sum(-1) > 0
        assert not reached[1].any(), "no other row"
        assert not reached[0, place + 1 :].any(), "no later token"
        if config.norm != "none":  # without norms a softmax or a cap may be so sure that nothing moves it
            assert reached[0, place], "itself"
        if config.attention == "none":
            assert not reached[0, :place].any()
        elif config.document_mask and place >= 4:
            assert not reached[0, :4].any(), "no other document"
        elif config.window is None and config.residual and config.norm != "none":
            assert reached[0, :place].all(), "all that came before"
        if config.window is not None and config.window_layers == "all":
            assert not reached[0, : max(0, place - 2 * (config.window - 1))].any(), "two windows back at most"


def test_cached_is_uncached(row: dict[str, Any]) -> None:
    model = lively(row, torch.float64)
    tokens = tokens_with_documents() if not model.config.document_mask else torch.randint(1, VOCAB, (2, T))
    whole, _ = model(tokens)
    cache = model.new_state(2, T)
    pieces = [model(part, cache)[0] for part in (tokens[:, :3], tokens[:, 3:4], tokens[:, 4:6], tokens[:, 6:])]
    assert distance(torch.cat(pieces, 1), whole) < 1e-6
    assert whole.shape == (2, T, VOCAB)


@pytest.mark.parametrize("cached", [0, 2])
def test_branches_are_read_as_if_alone(row: dict[str, Any], cached: int) -> None:
    """Two texts that begin alike, in one row; their beginning may have been read before."""
    model = lively(row, torch.float64)
    tokens = torch.randint(1, VOCAB, (2, 10), generator=torch.Generator().manual_seed(1))
    tokens[1, :cached] = tokens[0, :cached]
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 4, 5, 6]])[:, cached:]
    documents = torch.tensor([[COMMON] * 4 + [0] * 3 + [1] * 3] * 2)[:, cached:]
    state = None
    if cached:
        _, state = model(tokens[:1, :cached], model.new_state(1, cached))
        state = state.repeated(2, 10 - cached)
    both, _ = model(tokens[:, cached:], state, positions, documents)
    alone = [model(tokens[:, places])[0] for places in (list(range(7)), [0, 1, 2, 3, 7, 8, 9])]
    assert distance(both, torch.cat([alone[0], alone[1][:, 4:]], 1)[:, cached:]) < 1e-6


def test_no_position_reaches_the_context_length() -> None:
    with pytest.raises(UsageError, match=f"sees {T} tokens at most .* it was given {T + 1}"):
        lively({})(tokens_with_documents()[:, :2], positions=torch.tensor([[0, T]]))


def test_it_writes_no_padding(row: dict[str, Any]) -> None:
    written = list(generate(lively(row), [3, END, 4], Settings(max_tokens=12, temperature=5.0)))
    assert len(written) == 12
    assert max(written) < VOCAB


def test_counts_are_those_of_the_built_model(row: dict[str, Any]) -> None:
    config = config_of(row)
    model = build_model(config, VOCAB, 1, end_of_text=END)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameter_count(config, VOCAB)
    if config.window is not None:
        return  # PyTorch counts what it computes, a full square; we count the window
    tokens = tokens_with_documents()
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            loss, _, _ = Objective(model.eval())(tokens, tokens, torch.ones(tokens.shape))
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    n, padding = tokens.numel(), config.padded(VOCAB) - VOCAB
    padded = 2 * padding * config.d_model
    assert forward.get_total_flops() == n * (forward_flops_per_token(config, VOCAB) + padded)
    both = forward.get_total_flops() + backward.get_total_flops()
    assert both == n * (training_flops_per_token(config, VOCAB) + 3 * padded)


def test_a_window_costs_its_width() -> None:
    dense, windowed, alternating = (
        forward_flops_per_token(config_of(fields), VOCAB)
        for fields in ({}, {"window": 3}, {"window": 3, "window_layers": "alternate"})
    )
    assert dense - windowed == 2 * (4 * 16 * (T - 3))
    assert dense - alternating == 4 * 16 * (T - 3)


def counting_batch(recipe: Any) -> Batch:
    """1, 2, 3, ... round and round: what comes next is plain to see."""
    starts = np.arange(recipe.training.global_batch_size)[:, None]
    rows = 1 + (starts + np.arange(T + 1)) % (VOCAB - 1)
    return Batch(rows[:, :-1], rows[:, 1:], np.ones((len(rows), T), np.float32))


def test_it_learns_and_goes_on_exactly_from_what_it_saved(row: dict[str, Any]) -> None:
    changes = {f"model.{name}": value for name, value in (BASE | row).items() if value is not None}
    recipe = tiny_recipe(changes | {"training.learning_rate": 3e-3, "training.steps": 20})
    backend = TorchBackend(recipe, VOCAB, END)
    state, losses = backend.init(), []
    batch = counting_batch(recipe)
    for step in range(20):
        if step == 10:
            saved = {name: tensor.clone() for name, tensor in backend.tensors(state).items()}, backend.extras(state)
        state, metrics = backend.step(state, batch, step)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    again = backend.restore(*saved)
    for step in range(10, 20):
        again, metrics = backend.step(again, batch, step)
        assert float(metrics["loss"]) == losses[step]
    for name, tensor in backend.tensors(state).items():
        assert torch.equal(tensor, backend.tensors(again)[name]), name


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_moves_no_other_initial_value(name: str) -> None:
    before = dict(build_model(config_of({}), VOCAB, 1).named_parameters())
    for value in SWITCHES[name][1:]:
        fields = {name: value} | ({"window": 3} if name == "window_layers" else {})
        after = dict(build_model(config_of(fields), VOCAB, 1, end_of_text=END).named_parameters())
        shared = {n for n in before.keys() & after.keys() if before[n].shape == after[n].shape}
        if name == "initialization":  # the size of the draws changes, as asked; not the draws
            continue
        assert len(shared) > len(before) / 3
        for parameter in shared:
            assert torch.equal(before[parameter], after[parameter]), (value, parameter)


def test_an_initialization_of_normal_draws_scales_the_same_ones() -> None:
    a, b = (
        dict(build_model(config_of({"initialization": kind}), VOCAB, 1).named_parameters())
        for kind in ("gpt2", "width_scaled")
    )
    ratios = {
        float((b[name] / a[name]).detach().median()) for name in a if name.endswith("weight") and "norm" not in name
    }
    assert max(ratios) - min(ratios) < 1e-5


def test_padding_and_prefix_of_a_padded_vocabulary() -> None:
    plain, padded = (build_model(config_of({"vocab_multiple": n}), VOCAB, 1).token_embedding.weight for n in (1, 8))
    assert padded.shape == (16, 16)
    assert torch.equal(padded[:VOCAB], plain)


# What single switches mean.


def by_hand(model: GPT, tokens: Tensor, **changes: Any) -> Tensor:
    other = (
        build_model(model.config.model_copy(update=changes), VOCAB, 1, torch.float64, end_of_text=END).double().eval()
    )
    other.load_state_dict(model.state_dict())
    return other(tokens)[0]


@pytest.mark.parametrize("extra", [{}, {"window": 3}, {"document_mask": True}], ids=str)
def test_three_attentions_are_one(extra: dict[str, Any]) -> None:
    model, tokens = lively(extra, torch.float64), tokens_with_documents()
    for attention in ("explicit", "torch"):
        assert distance(by_hand(model, tokens, attention=attention), model(tokens)[0]) < 1e-6


def test_shared_heads_are_those_heads_repeated() -> None:
    shared = lively({"n_kv_head": 2}, torch.float64)
    full = build_model(config_of({}), VOCAB, 1, torch.float64).double().eval()
    weights = dict(shared.state_dict())
    for name in [name for name in weights if ".qkv." in name]:
        queries, keys, values = weights[name].split([16, 8, 8])
        heads = [part.unflatten(0, (2, 4)) for part in (keys, values)]
        weights[name] = torch.cat([queries, *(part.repeat_interleave(2, 0).flatten(0, 1) for part in heads)])
    full.load_state_dict(weights)
    tokens = tokens_with_documents()
    assert distance(full(tokens)[0], shared(tokens)[0]) < 1e-6


def test_rotary_positions_see_distances_only() -> None:
    model = lively({"positions": "rotary"}, torch.float64)
    tokens = tokens_with_documents()[:, :4]
    places = torch.arange(4)[None]
    assert distance(model(tokens, positions=places + 3)[0], model(tokens)[0]) < 1e-6
    assert distance(model(tokens, positions=2 * places)[0], model(tokens)[0]) > 1e-2


def test_without_positions_the_order_of_the_past_is_unknown_to_one_layer() -> None:
    tokens, moved = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[2, 1, 3, 4]])
    for positions, same in (("none", True), ("learned", False), ("sinusoidal", False), ("rotary", False)):
        config = GPTSection(**BASE | {"n_layer": 1}, positions=positions)
        single = build_model(config, VOCAB, 1).eval()
        with torch.no_grad():
            for number, parameter in enumerate(single.parameters()):
                parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            assert (distance(single(moved)[0][0, -1], single(tokens)[0][0, -1]) < 1e-5) == same, positions


def test_sinusoids_turn_with_time_and_not_with_the_row() -> None:
    model = lively({"positions": "sinusoidal"})
    tokens = torch.full((3, T), 2)
    seen: list[Tensor] = []
    model.dropout.register_forward_hook(lambda module, given, output: seen.append(output))
    model(tokens)
    (x,) = seen
    assert torch.equal(x[0], x[1])
    assert all(distance(x[0, a], x[0, b]) > 1e-3 for a, b in itertools.combinations(range(T), 2))


def test_a_cap_bounds_the_logits_and_keeps_their_order() -> None:
    model, tokens = lively({}, torch.float64), tokens_with_documents()
    free, capped = model(tokens)[0], by_hand(model, tokens, logit_cap=2.0)
    assert float(capped.detach().abs().max()) < 2 < float(free.detach().abs().max())
    assert distance(capped, 2 * torch.tanh(free / 2)) < 1e-6


def test_explicit_attention_can_be_listened_to() -> None:
    model = lively({"attention": "explicit"})
    heard: list[Tensor] = []
    model.blocks[1].attention.kernel.weights.register_forward_hook(lambda module, given, output: heard.append(output))
    model(tokens_with_documents())
    (weights,) = heard
    assert weights.shape == (2, 4, T, T)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 4, T))
    assert not weights.triu(1).any()


def test_documents_given_by_hand_part_as_they_say() -> None:
    model, tokens = lively({}, torch.float64), tokens_with_documents()
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]] * 2)
    parted, _ = model(tokens, documents=documents)
    alone, _ = model(tokens[:, 4:], positions=torch.arange(4, T)[None])
    assert distance(parted[:, 4:], alone) < 1e-6


@pytest.mark.parametrize("island", ["attention", "mlp", "head"])
def test_a_float32_island_computes_in_float32(island: str) -> None:
    plain, kept = (
        build_model(config_of({f"float32_{island}": on}), VOCAB, 1, torch.bfloat16).eval() for on in (False, True)
    )
    dtypes = {name: m.compute_dtype for name, m in kept.named_modules() if hasattr(m, "compute_dtype") and name}
    expected = {name: torch.float32 if island in name else torch.bfloat16 for name in dtypes}
    assert dtypes == expected
    assert kept.head_dtype == (torch.float32 if island == "head" else torch.bfloat16)
    attended: list[torch.dtype] = []
    kept.blocks[0].attention.kernel.register_forward_hook(lambda module, given, output: attended.append(given[0].dtype))
    tokens = tokens_with_documents()
    assert distance(kept(tokens)[0], plain(tokens)[0]) > 0
    assert attended == [torch.float32 if island == "attention" else torch.bfloat16]
    assert list(generate(kept, [1, 2], Settings(max_tokens=3)))
