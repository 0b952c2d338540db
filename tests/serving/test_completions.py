"""POST /v1/completions, asked by OpenAI's own client."""

from typing import Any

import openai
import pytest
import torch

from in_process import CONTEXT, NAME, Running, alone, model, tokenizer
from scratchlab.generation.engine import Settings

PROMPT = "One two"


def encoded(text: str) -> list[int]:
    return tokenizer().encode(text).tolist()


def test_the_text_is_what_the_model_writes_alone(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=NAME, prompt=PROMPT, max_tokens=30, temperature=0)
    (choice,) = answer.choices
    assert choice.text == alone(encoded(PROMPT), Settings(max_tokens=30, temperature=0))
    assert len(set(choice.text)) > 5, "else the test says little"
    assert (answer.object, answer.model, choice.index, choice.logprobs) == ("text_completion", NAME, 0, None)
    assert answer.id.startswith("cmpl-")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (len(encoded(PROMPT)), len(encoded(PROMPT)) + 30)
    assert choice.finish_reason == "length"


def test_a_text_goes_on_beyond_the_context_as_sample_does(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=NAME, prompt=PROMPT, max_tokens=150, seed=5)
    assert answer.choices[0].text == alone(encoded(PROMPT), Settings(max_tokens=150, seed=5))


@pytest.mark.parametrize(
    "how", [{}, {"temperature": 0.5}, {"top_p": 0.5}, {"extra_body": {"top_k": 2}}, {"temperature": 0}]
)
def test_a_seed_gives_the_text_of_sample(client: openai.OpenAI, how: dict[str, Any]) -> None:
    settings = Settings(max_tokens=20, seed=9, **(how.get("extra_body") or how))
    answer = client.completions.create(model=NAME, prompt=PROMPT, max_tokens=20, seed=9, **how)
    assert answer.choices[0].text == alone(encoded(PROMPT), settings)


def test_without_a_seed_each_text_is_another(client: openai.OpenAI) -> None:
    texts = {client.completions.create(model=NAME, prompt=PROMPT).choices[0].text for _ in range(4)}
    assert len(texts) == 4


def test_prompts_may_be_ids_and_several_and_choices_too(client: openai.OpenAI) -> None:
    several: list[Any] = [[PROMPT, "b"], [encoded(PROMPT), encoded("b")]]
    for prompts in several:
        answer = client.completions.create(model=NAME, prompt=prompts, max_tokens=9, n=2, seed=3)
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
        texts = [alone(encoded(text), Settings(max_tokens=9, seed=seed)) for text in (PROMPT, "b") for seed in (3, 4)]
        assert [choice.text for choice in answer.choices] == texts
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len(encoded(PROMPT)) + 1
    ids = client.completions.create(model=NAME, prompt=encoded(PROMPT), max_tokens=9, seed=3)
    assert ids.choices[0].text == texts[0]


def test_an_empty_prompt_begins_a_document(client: openai.OpenAI) -> None:
    end = tokenizer().end_of_text
    assert end is not None
    expected = alone([end], Settings(max_tokens=9, seed=1))
    for prompt in ("", None):
        answer = client.completions.create(model=NAME, prompt=prompt, max_tokens=9, seed=1)
        assert answer.choices[0].text == expected


def test_a_stop_string_ends_the_text_before_it(client: openai.OpenAI) -> None:
    whole = alone(encoded(PROMPT), Settings(max_tokens=30, temperature=0))
    stop = whole[10:12]
    answer = client.completions.create(model=NAME, prompt=PROMPT, max_tokens=30, temperature=0, stop=["§§", stop])
    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens < 30, "nothing is written after it"


def test_the_end_of_a_document_ends_it(client: openai.OpenAI) -> None:
    settings = [Settings(max_tokens=300, seed=seed, temperature=2) for seed in range(6)]
    answers = [
        client.completions.create(model=NAME, prompt=PROMPT, max_tokens=300, seed=one.seed, temperature=2)
        for one in settings
    ]
    texts = [alone(encoded(PROMPT), one) for one in settings]
    assert [answer.choices[0].text for answer in answers] == texts
    assert "stop" in {answer.choices[0].finish_reason for answer in answers}


@pytest.mark.parametrize("echo", [False, True])
def test_a_stream_says_the_same_in_pieces(client: openai.OpenAI, echo: bool) -> None:
    asked: dict[str, Any] = {"model": NAME, "prompt": [PROMPT, "b"], "max_tokens": 25, "n": 2, "seed": 3, "echo": echo}
    asked |= {"logprobs": 2, "stop": "e"}
    whole = client.completions.create(**asked)
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len(chunks) > 10
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + [choice.finish_reason]
        told = [part.logprobs for part in parts if part.logprobs]
        assert choice.logprobs is not None
        for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            assert [value for one in told for value in getattr(one, field)] == getattr(choice.logprobs, field)


def test_pieces_come_as_they_are_written(server: Running, client: openai.OpenAI) -> None:
    with client.completions.create(model=NAME, prompt=PROMPT, max_tokens=4000, temperature=0, stream=True) as stream:
        assert next(iter(stream)).choices[0].text
        assert server.writer.running == 1


@torch.no_grad()
def test_log_probabilities_are_the_models_also_of_the_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=NAME, prompt="One twé", max_tokens=5, temperature=0, logprobs=3, echo=True)
    (choice,) = answer.choices
    told = choice.logprobs
    assert told is not None
    prompt = encoded("One twé")
    assert choice.text.startswith("One twé")
    assert told.tokens is not None
    assert told.token_logprobs is not None
    assert told.top_logprobs is not None
    assert told.text_offset is not None
    assert told.tokens[:8] == ["O", "n", "e", " ", "t", "w", "bytes:\\xc3", "bytes:\\xa9"]
    assert told.text_offset[:9] == [0, 1, 2, 3, 4, 5, 6, 6, 7]
    assert (told.token_logprobs[0], told.top_logprobs[0]) == (None, None)
    logprobs = model()(torch.tensor([prompt]))[0][0].log_softmax(-1)
    for place, token in enumerate(prompt[1:]):
        assert told.token_logprobs[place + 1] == pytest.approx(float(logprobs[place, token]), abs=1e-4)
        likeliest = list(told.top_logprobs[place + 1].values())
        assert likeliest[:3] == pytest.approx(logprobs[place].topk(3).values.tolist(), abs=1e-4)
        assert len(likeliest) in (3, 4), "and the token itself"
    assert len(told.tokens) == len(prompt) + 5
    assert told.token_logprobs[-1] == max(told.top_logprobs[-1].values()), "greedy"


def test_a_text_may_be_scored_and_nothing_written(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=NAME, prompt=PROMPT, max_tokens=0, logprobs=0, echo=True)
    (choice,) = answer.choices
    assert choice.text == PROMPT
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == list(PROMPT)
    repeated = client.completions.create(model=NAME, prompt=PROMPT, max_tokens=0, echo=True)
    assert (repeated.choices[0].text, repeated.choices[0].logprobs) == (PROMPT, None)


def test_the_models_are_told(client: openai.OpenAI) -> None:
    (listed,) = client.models.list().data
    assert (listed.id, listed.object, listed.model_dump()["max_model_len"]) == (NAME, "model", CONTEXT)
    assert client.models.retrieve(NAME) == listed
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        client.models.retrieve("other")
