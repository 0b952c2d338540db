"""POST /v1/chat/completions, asked by OpenAI's own client."""

from typing import Any

import openai
import pytest

from in_process import CONTEXT, NAME, alone, running, tokenizer
from scratchlab.corpus.chat import CHATML, ChatTemplate, Message
from scratchlab.generation.engine import Settings

TEMPLATE = ChatTemplate(CHATML)
END = TEMPLATE.end_of_turn(tokenizer())
ASKED: list[Message] = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "hi"}]
PROMPT = TEMPLATE.prompt(tokenizer(), ASKED)


def create(client: openai.OpenAI, **wish: Any) -> Any:
    return client.chat.completions.create(**{"model": NAME, "messages": ASKED, **wish})


def test_the_answer_is_what_the_model_writes_to_the_template(client: openai.OpenAI) -> None:
    answer = create(client, max_tokens=12, temperature=0)
    (choice,) = answer.choices
    assert choice.message.content == alone(PROMPT, Settings(max_tokens=12, temperature=0), END)
    assert (choice.message.role, choice.finish_reason, choice.index) == ("assistant", "length", 0)
    assert (answer.object, answer.model, choice.logprobs) == ("chat.completion", NAME, None)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(PROMPT), 12)


def test_it_ends_with_the_turn_or_with_the_context(client: openai.OpenAI) -> None:
    room = CONTEXT - len(PROMPT) + 1
    ends = set[str]()
    for seed in range(12):
        answer = create(client, seed=seed, temperature=2)
        settings = Settings(max_tokens=room, seed=seed, temperature=2)
        assert answer.choices[0].message.content == alone(PROMPT, settings, END)
        ends.add(answer.choices[0].finish_reason)
    assert ends == {"stop", "length"}


def test_choices_have_seeds_one_after_another(client: openai.OpenAI) -> None:
    answer = create(client, n=3, seed=4, max_completion_tokens=8)
    expected = [alone(PROMPT, Settings(max_tokens=8, seed=seed), END) for seed in (4, 5, 6)]
    assert [choice.message.content for choice in answer.choices] == expected


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_begins_with_the_role_and_ends_with_the_reason(client: openai.OpenAI, usage: bool) -> None:
    wish: dict[str, Any] = {"seed": 4, "max_tokens": 20, "logprobs": True, "top_logprobs": 2, "n": 2, "stop": ["e"]}
    whole = create(client, **wish)
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage else {}
    chunks = list(create(client, **wish, stream=True, **options))
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    if usage:
        last = chunks.pop()
        assert (last.choices, last.usage) == ([], whole.usage)
    assert all(chunk.usage is None for chunk in chunks)
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert (parts[0].delta.role, parts[0].delta.content) == ("assistant", "")
        assert all(part.delta.role is None for part in parts[1:])
        assert "".join(part.delta.content or "" for part in parts) == choice.message.content
        assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + [choice.finish_reason]
        told = [token for part in parts if part.logprobs for token in part.logprobs.content]
        assert told == choice.logprobs.content


def test_log_probabilities_of_each_token(client: openai.OpenAI) -> None:
    answer = create(client, max_tokens=6, temperature=0, logprobs=True, top_logprobs=3)
    told = answer.choices[0].logprobs.content
    assert len(told) == 6
    assert b"".join(bytes(token.bytes) for token in told).decode(errors="replace") == answer.choices[0].message.content
    for token in told:
        best = [other.logprob for other in token.top_logprobs]
        assert len(best) == 3
        assert best == sorted(best, reverse=True)
        assert token.logprob == best[0], "greedy"
    bare = create(client, max_tokens=2, temperature=0, logprobs=True).choices[0].logprobs.content
    assert [(token.logprob, token.top_logprobs) for token in bare] == [(token.logprob, []) for token in told[:2]]


def test_messages_may_come_as_clients_send_them(client: openai.OpenAI) -> None:
    """With text in parts, the system under its later name, an earlier answer as it was received, and who asks."""
    first = create(client, max_tokens=5, temperature=0)
    again: list[Any] = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief"}]},
        ASKED[1],
        first.choices[0].message,
        {"role": "user", "content": "b"},
    ]
    more: dict[str, Any] = {"user": "me", "frequency_penalty": 0, "response_format": {"type": "text"}}
    answer = create(client, messages=again, max_tokens=5, temperature=0, **more)
    said: Message = {"role": "assistant", "content": first.choices[0].message.content}
    prompt = TEMPLATE.prompt(tokenizer(), [*ASKED, said, {"role": "user", "content": "b"}])
    assert answer.choices[0].message.content == alone(prompt, Settings(max_tokens=5, temperature=0), END)


def test_without_a_template_it_is_said_how_to_get_one() -> None:
    with running(template=None) as server:
        client = server.client()
        with pytest.raises(openai.BadRequestError, match=r"has no chat template.*scratchlab finetune") as caught:
            create(client)
        assert caught.value.code == "no_chat_template"
        assert client.completions.create(model=NAME, prompt="a", max_tokens=3).choices[0].text
