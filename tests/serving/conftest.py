"""A server of a run, and OpenAI's own client of it."""

from collections.abc import Iterator

import openai
import pytest

from in_process import Running, running


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return server.client()
