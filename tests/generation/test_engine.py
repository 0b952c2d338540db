"""Generation: the cached engine writes what the plain model would."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from scratchlab.generation.engine import Settings, cast_once, generate
from scratchlab.model.build import build_model
from scratchlab.model.gpt import GPT
from scratchlab.model.layers import product
from tiny import VOCAB, random_tokens, tiny_config, tiny_gpt

CONTEXT = 6


def lively(**fields: Any) -> GPT:
    """A model that does not repeat itself."""
    model = tiny_gpt(dtype=torch.float64, **fields)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if parameter.dim() == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(200 + number)))
    return model


def plain_greedy(model: GPT, prompt: Sequence[int], n: int) -> list[int]:
    """The likeliest token again and again, every step computed anew and without a cache.

    Beyond the context the engine lets go of the older half at once: the window begins with the last `context_length`
    tokens, grows to a full context, and falls back to half of one.
    """
    seen, window = list(prompt), list(prompt)[-CONTEXT:]
    for _ in range(n):
        if len(window) > CONTEXT:
            window = seen[-(CONTEXT // 2) :]
        logits, _ = model(torch.tensor([window]))
        token = int(logits[0, -1].argmax())
        seen.append(token)
        window.append(token)
    return seen[len(prompt) :]


@pytest.mark.parametrize("length", [1, 3, 6, 7, 20])
@pytest.mark.parametrize("tie", [True, False])
def test_greedy_is_the_argmax_of_the_plain_model_step_by_step(length: int, tie: bool) -> None:
    model = lively(tie_weights=tie)
    prompt = random_tokens(1, length)[0].tolist()
    written = list(generate(model, prompt, Settings(max_tokens=25, temperature=0)))
    assert written == plain_greedy(model, prompt, 25)
    assert len(set(written)) > 3, "else the test says little"


def test_beyond_the_context_a_token_sees_between_half_of_it_and_all() -> None:
    model = lively()
    seen: list[int] = []
    model.final_norm.register_forward_hook(lambda module, given, output: seen.append(given[0].shape[1]))
    list(generate(model, [1], Settings(max_tokens=14)))
    # 6 tokens one by one, then 3 read again and 3 more one by one, and so on: most steps cost a single token.
    assert seen == [1] * 6 + [3, 1, 1, 1] * 2


def test_a_context_of_one_token_still_writes() -> None:
    assert len(list(generate(lively(context_length=1), [3], Settings(max_tokens=5)))) == 5


def test_the_seed_decides_and_the_default_generator_has_no_say() -> None:
    model = tiny_gpt()

    def written(seed: int) -> list[int]:
        torch.rand(1)
        return list(generate(model, [1, 2], Settings(max_tokens=30, seed=seed)))

    assert written(1) == written(1) != written(2)


def test_writing_disturbs_no_random_stream() -> None:
    before = torch.get_rng_state()
    list(generate(tiny_gpt(dropout=0.5), [1], Settings(max_tokens=5)))
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_is_off_while_writing() -> None:
    greedy = Settings(max_tokens=10, temperature=0)
    dropping, plain = lively(dropout=0.5).train(), lively()
    assert list(generate(dropping, [1], greedy)) == list(generate(plain, [1], greedy))


def test_draws_follow_the_models_probabilities() -> None:
    model = lively()
    expected = model(torch.tensor([[5]]))[0][0, -1].softmax(-1).detach()
    first = [next(generate(model, [5], Settings(max_tokens=1, seed=seed))) for seed in range(1500)]
    found = torch.bincount(torch.tensor(first), minlength=VOCAB) / 1500
    assert float((found - expected).abs().max()) < 5 * (0.25 / 1500) ** 0.5


def test_end_of_text_ends_and_is_not_given() -> None:
    model = lively()
    greedy = Settings(max_tokens=20, temperature=0)
    free = list(generate(model, [1], greedy))
    end = free[4]
    assert list(generate(model, [1], greedy, end_of_text=end)) == free[: free.index(end)]


def test_tokens_come_one_at_a_time() -> None:
    model = lively()
    passes: list[int] = []
    model.final_norm.register_forward_hook(lambda module, given, output: passes.append(1))
    tokens = generate(model, [1], Settings(max_tokens=4))
    next(tokens)
    assert len(passes) == 1
    next(tokens)
    assert len(passes) == 2


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_in_bf16_the_weights_are_cast_once_and_the_text_is_that_of_the_model(tie: bool, qkv_bias: bool) -> None:
    model = build_model(tiny_config(tie_weights=tie, qkv_bias=qkv_bias), VOCAB, 1, torch.bfloat16)
    copy = cast_once(model)
    assert copy is not model
    assert cast_once(copy) is copy
    assert copy.token_embedding.weight.data_ptr() == model.token_embedding.weight.data_ptr(), "shared, not copied"
    assert {p.dtype for name, p in copy.named_parameters() if "embedding" not in name and "norm" not in name} == {
        torch.bfloat16
    }
    tokens = random_tokens(2, 6)
    with torch.inference_mode():
        assert torch.equal(copy(tokens)[0], model(tokens)[0])
    assert all(p.dtype == torch.float32 for p in model.parameters()), "the model itself is as it was"


def test_a_product_of_one_row_in_bf16_is_that_of_many() -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(3, 1, 512, generator=generator), torch.randn(300, 512, generator=generator)
    bias = torch.randn(300, generator=generator)
    for chosen in (bias, None):
        exact = torch.nn.functional.linear(
            x.bfloat16().double(), weight.bfloat16().double(), bias.bfloat16().double() if chosen is not None else None
        )
        rows = [
            product(row[None].bfloat16(), weight.bfloat16(), chosen if chosen is None else chosen.bfloat16())
            for row in x
        ]
        assert [tuple(row.shape) for row in rows] == [(1, 1, 300)] * 3
        assert float((torch.cat(rows).double() - exact).norm() / exact.norm()) < 2**-8
