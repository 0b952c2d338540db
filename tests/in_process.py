"""A real server of a tiny model, in a thread of this process, and clients for it."""

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import openai
import torch
import uvicorn

from scratchlab.corpus.chat import CHATML, SPECIALS, ChatTemplate
from scratchlab.corpus.tokenizer import Tokenizer, train_tokenizer
from scratchlab.generation.engine import Settings, generate
from scratchlab.generation.text import stream_text
from scratchlab.model.build import Model
from scratchlab.serving.app import make_app
from scratchlab.serving.served import Served
from scratchlab.serving.server import address_of, listen, make_server, serve
from scratchlab.serving.writer import Writer
from tiny_run import lively_model

NAME = "tiny"
CONTEXT = 96


@functools.cache
def tokenizer() -> Tokenizer:
    """Letters, digits and a character of two bytes apart, so that characters are cut; with ChatML's special tokens."""
    return train_tokenizer("byte", ["é"], end_of_text=True, specials=SPECIALS["chatml"][1:])


@functools.cache
def model() -> Model:
    return lively_model(tokenizer(), context_length=CONTEXT, tie_weights=False)


@functools.cache
@torch.no_grad()
def endless() -> Model:
    """A recurrent network whose texts nothing ends but `max_tokens`."""
    made = lively_model(tokenizer(), architecture="rnn")
    made.head_weight[list(tokenizer().specials.values()), -1] = -1000  # the bias
    return made


@dataclass
class Running:
    """A server that answers."""

    url: str
    server: uvicorn.Server
    writer: Writer
    model: Model

    def client(self, **options: float) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=30, **options)  # pyright: ignore


@contextmanager
def running(
    rows: int = 8, waiting: int = 200, template: str | None = CHATML, served_model: Model | None = None
) -> Generator[Running]:
    made = served_model or model()
    served = Served(NAME, tokenizer(), ChatTemplate(template) if template else None, made.most_tokens)
    writer, listening = Writer(made, tokenizer(), rows, waiting), listen("127.0.0.1", 0)
    server = make_server(make_app(served, writer))
    url = address_of(listening)
    thread = threading.Thread(target=asyncio.run, args=(serve(server, writer, listening),))
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield Running(url, server, writer, made)
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive(), "it did not end"


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def alone(prompt: list[int], settings: Settings, end_of_turn: int | None = None) -> str:
    """What the model writes by itself."""
    tokens = generate(model(), prompt, settings, tokenizer().end_of_text, end_of_turn)
    return "".join(stream_text(tokens, tokenizer().token_bytes, settings.stop))
