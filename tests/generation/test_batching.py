"""Many texts at once are the texts that each prompt gives alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from scratchlab.architecture import RNNSection
from scratchlab.errors import RunError
from scratchlab.generation import batching
from scratchlab.generation.batching import TOGETHER, Batch, Row, Wish, write_all
from scratchlab.generation.engine import Settings, generate
from scratchlab.model.build import Model, build_model
from scratchlab.model.layers import Cache
from tiny import VOCAB, random_tokens, tiny_gpt

CONTEXT = 12
END = 3


def lively(**fields: Any) -> Model:
    """A GPT in float64 that does not repeat itself."""
    return spread(tiny_gpt(dtype=torch.float64, **{"context_length": CONTEXT, **fields}))


def lively_rnn(**fields: Any) -> Model:
    return spread(build_model(RNNSection(architecture="rnn", d_model=8, **fields), VOCAB, 1).double().eval())


def spread(model: Model) -> Model:
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if parameter.dim() == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(200 + number)))
    return model


def prompts(count: int, longest: int = 16) -> list[list[int]]:
    lengths = np.random.default_rng(1).integers(1, longest + 1, count)
    return [random_tokens(1, int(length), seed)[0].tolist() for seed, length in enumerate(lengths)]


def alone(model: Model, wish: Wish) -> list[int]:
    (end,) = wish.ends or (None,)
    return list(generate(model, wish.prompt, wish.settings, end))


def tokens(row: Row) -> list[int]:
    return [token.token for token in row.written]


def finish(batch: Batch) -> None:
    while batch.rows():
        batch.turn()


def written(batch: Batch, wishes: Sequence[Wish], apart: int = 0) -> list[list[int]]:
    """What a batch writes, the wishes coming in so many turns one after another."""
    rows = list[Row]()
    for wish in wishes:
        rows.append(batch.add(wish))
        for _ in range(apart):
            batch.turn()
    finish(batch)
    return [tokens(row) for row in rows]


def greedy(count: int, most: int = 30) -> list[Wish]:
    """Wishes of different lengths, of which many go beyond the context."""
    sizes = np.random.default_rng(2).integers(1, most, count)
    return [
        Wish(prompt=prompt, settings=Settings(max_tokens=int(size), temperature=0), ends=(END,))
        for prompt, size in zip(prompts(count), sizes, strict=True)
    ]


SWITCHES: dict[str, dict[str, Any]] = {
    "learned": {},
    "rotary": {"positions": "rotary"},
    "sinusoidal": {"positions": "sinusoidal"},
    "no-positions": {"positions": "none"},
    "window": {"window": 3, "window_layers": "alternate", "positions": "rotary"},
    "grouped-heads": {"n_kv_head": 1, "attention": "explicit"},
    "qk-norm": {"qk_norm": True},
    "as-pytorch": {"attention": "torch"},
    "cap": {"logit_cap": 5.0, "vocab_multiple": 8},
    "no-attention": {"attention": "none"},
    "untied": {"tie_weights": False, "mlp": "swiglu"},
    "context-of-one": {"context_length": 1},
}


@pytest.mark.parametrize("kind", SWITCHES)
def test_greedy_texts_are_those_that_each_prompt_gives_alone(kind: str) -> None:
    model = lively(**SWITCHES[kind])
    wishes = greedy(14)
    expected = [alone(model, wish) for wish in wishes]
    assert written(Batch(model, 5), wishes) == expected
    assert written(Batch(model, 14), wishes, apart=2) == expected
    assert len({token for text in expected for token in text}) > 2, "else the test says little"


@pytest.mark.parametrize("cell", ["elman", "gru", "lstm"])
def test_so_are_those_of_a_recurrent_network(cell: str) -> None:
    model = lively_rnn(cell=cell, kernel="explicit" if cell == "gru" else "fused")
    wishes = greedy(10)
    assert written(Batch(model, 4), wishes, apart=1) == [alone(model, wish) for wish in wishes]


def test_what_a_document_masks_is_not_seen() -> None:
    model = build_model(lively().config.model_copy(update={"document_mask": True}), VOCAB, 1, end_of_text=END)
    model = spread(model.double().eval())
    wishes = [Wish(prompt=prompt, settings=Settings(max_tokens=9, temperature=0)) for prompt in prompts(12)]
    assert any(END in wish.prompt[1:] for wish in wishes)
    assert written(Batch(model, 6), wishes) == [alone(model, wish) for wish in wishes]


def test_a_seed_gives_the_same_text_alone_and_among_others() -> None:
    model = lively()
    ways: list[dict[str, Any]] = [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.7}, {"temperature": 0}]
    wishes = [
        Wish(prompt=prompt, settings=Settings(max_tokens=20, seed=seed, **ways[seed % len(ways)]))
        for seed, prompt in enumerate(prompts(15))
    ]
    expected = [alone(model, wish) for wish in wishes]
    assert written(Batch(model, 15), wishes) == expected
    assert written(Batch(model, 4), wishes, apart=1) == expected


def test_the_default_generator_has_no_say() -> None:
    before = torch.get_rng_state()
    written(Batch(lively(dropout=0.5), 4), [Wish(prompt=[1], settings=Settings(max_tokens=5))] * 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_prompts_of_like_length_are_read_together_and_others_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "LIKE", 2)
    model, shapes = lively(), list[tuple[int, int]]()
    model.token_embedding.register_forward_hook(lambda module, given, output: shapes.append(tuple(given[0].shape)))
    batch = Batch(model, 9)
    for length in (4, 10, 5, 6):
        batch.add(Wish(prompt=[1] * length, settings=Settings(max_tokens=1, temperature=0)))
    finish(batch)
    # 4, 5 and 6 begin together; of the longer two one token and two are left, which go with the steps.
    assert shapes == [(3, 4), (2, 1), (1, 10), (1, 1)]


def test_who_writes_goes_on_while_long_prompts_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "READ_AT_ONCE", 4)
    model = lively()
    batch = Batch(model, 4)
    first = batch.add(Wish(prompt=[1], settings=Settings(max_tokens=30, temperature=0)))
    batch.turn()
    late = batch.add(Wish(prompt=list(range(CONTEXT)), settings=Settings(max_tokens=1, temperature=0)))
    for turn in range(1, 4):  # 12 tokens, 4 at a time
        assert (len(first.written), len(late.written)) == (turn, 0)
        batch.turn()
    assert (len(first.written), len(late.written), late.finish) == (4, 1, "length")
    finish(batch)
    assert tokens(first) == alone(model, first.wish)
    assert tokens(late) == alone(model, late.wish)


def test_no_more_rows_than_allowed_and_the_rest_in_order() -> None:
    batch = Batch(lively(), 3)
    rows = [batch.add(Wish(prompt=[1, 2], settings=Settings(max_tokens=4, seed=seed))) for seed in range(8)]
    ended = list[Row]()
    while batch.rows():
        assert batch.running <= 3
        ended += [row for row in batch.turn() if row.over]
    assert ended == rows


@pytest.mark.parametrize("when", ["waiting", "reading", "writing"])
def test_whoever_is_gone_leaves_at_once_and_the_others_do_not_notice(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "READ_AT_ONCE", 8)
    model = lively()
    batch = Batch(model, 1 if when == "waiting" else 4)
    settings = Settings(max_tokens=20, temperature=0)
    rows = [batch.add(Wish(prompt=list(range(1 + n, 9)), settings=settings)) for n in range(4)]
    if when == "writing":
        while not all(row.written for row in rows):
            batch.turn()
    elif when == "reading":
        monkeypatch.setattr(batching, "READ_AT_ONCE", 2)
        batch.turn()
    rows[1].gone = True
    batch.turn()
    assert rows[1] not in batch.rows()
    there = len(rows[1].written)
    finish(batch)
    assert len(rows[1].written) == there < 20
    for row in (rows[0], rows[2], rows[3]):
        assert tokens(row) == alone(model, row.wish)


def test_memory_goes_with_the_last_row() -> None:
    batch = Batch(lively(), 4)
    written(batch, greedy(5))
    assert batch._running.state is None  # pyright: ignore[reportPrivateUsage]


@torch.no_grad()
def test_log_probabilities_are_the_models() -> None:
    model = lively(logit_cap=5.0)
    settings = Settings(max_tokens=5, temperature=0.5, seed=4)
    batch = Batch(model, 8)
    rows = [
        batch.add(Wish(prompt=prompt, settings=settings, logprobs=count, echo=True))
        for count, prompt in enumerate(prompts(6, longest=7))
    ]
    finish(batch)
    for count, row in enumerate(rows):
        text = [*row.wish.prompt, *tokens(row)]
        logprobs = model(torch.tensor([text[:CONTEXT]]))[0][0].log_softmax(-1)
        told = [*row.prompt, *row.written]
        assert [token.token for token in told] == text
        assert (told[0].logprob, told[0].likeliest) == (None, ())
        for place, token in enumerate(told[1:]):
            best = logprobs[place].topk(count)
            assert token.logprob == pytest.approx(float(logprobs[place, token.token]), abs=1e-5)
            assert [other for other, _ in token.likeliest] == best.indices.tolist()
            np.testing.assert_allclose([value for _, value in token.likeliest], best.values.tolist(), atol=1e-5)


def test_a_prompt_may_be_scored_alone() -> None:
    batch = Batch(lively(), 2)
    row = batch.add(Wish(prompt=[1, 2, 3], settings=Settings(max_tokens=0), logprobs=1, echo=True))
    finish(batch)
    assert (len(row.prompt), row.written, row.finish) == (3, [], "length")


@torch.no_grad()
def test_a_masked_prompt_is_scored_whole() -> None:
    model = build_model(lively().config.model_copy(update={"document_mask": True}), VOCAB, 1, end_of_text=END)
    model = spread(model.double().eval())
    prompt = [1, 2, END, 5, 6, END, 7]
    batch = Batch(model, 2)
    row = batch.add(Wish(prompt=prompt, settings=Settings(max_tokens=4, temperature=0), logprobs=0, echo=True))
    finish(batch)
    logprobs = model(torch.tensor([prompt]))[0][0].log_softmax(-1)
    expected = [float(logprobs[place, token]) for place, token in enumerate(prompt[1:])]
    np.testing.assert_allclose([token.logprob for token in row.prompt[1:]], expected, atol=1e-5)  # pyright: ignore
    assert tokens(row) == alone(model, row.wish)


def test_no_log_probabilities_unless_asked_for() -> None:
    batch = Batch(lively(), 2)
    row = batch.add(Wish(prompt=[1, 2], settings=Settings(max_tokens=3)))
    finish(batch)
    assert [(token.logprob, token.likeliest) for token in row.written] == [(None, ())] * 3


def test_a_model_that_diverged_says_so_of_each_text() -> None:
    model = lively()
    with torch.no_grad():
        model.token_embedding.weight[5] = torch.nan  # whoever reads this token
    batch = Batch(model, 4)
    bad = batch.add(Wish(prompt=[5], settings=Settings(max_tokens=3)))
    batch.turn()
    assert isinstance(bad.error, RunError)
    assert "not finite" in str(bad.error)
    assert batch.rows() == []


def test_all_that_is_wanted_is_written_each_once_at_its_place() -> None:
    model, wishes = lively(), greedy(TOGETHER + 4)
    done = list(write_all(model, wishes))
    assert sorted(place for place, _ in done) == list(range(len(wishes)))
    assert [place for place, _ in done] != list(range(len(wishes))), "as they are done"
    assert {place: tokens(row) for place, row in done} == {n: alone(model, wish) for n, wish in enumerate(wishes)}
    assert list(write_all(model, [])) == []


def test_what_a_model_that_diverged_would_write_is_an_error() -> None:
    model = lively()
    with torch.no_grad():
        model.token_embedding.weight[5] = torch.nan
    with pytest.raises(RunError, match="not finite"):
        list(write_all(model, [Wish(prompt=[5], settings=Settings(max_tokens=3))]))


def test_uneven_rows_of_a_cache_are_stored_where_each_ends() -> None:
    torch.manual_seed(0)
    lengths, heads, width = [2, 5, 0], 2, 3
    cache = Cache([(torch.zeros(3, heads, 6, width), torch.zeros(3, heads, 6, width))], lengths, 6)
    k, v = torch.randn(2, 3, heads, 1, width)
    keys, values = cache.append(0, k, v, torch.tensor(lengths)[:, None])
    assert keys.shape == (3, heads, 6, width)
    for row, length in enumerate(lengths):
        assert torch.equal(keys[row, :, length], k[row, :, 0])
        assert torch.equal(values[row, :, length], v[row, :, 0])
    assert int((keys != 0).any(-1).any(1).sum()) == 3, "and nowhere else"
