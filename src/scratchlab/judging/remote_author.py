"""A model behind an OpenAI-compatible endpoint that answers: `http://HOST:PORT/v1#MODEL`, or `openai:MODEL`."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from scratchlab.errors import ScratchlabError, UsageError
from scratchlab.files import sha256_of_json
from scratchlab.generation.engine import Settings
from scratchlab.judging.answers import Question, Written
from scratchlab.judging.author import Author, seed_of
from scratchlab.judging.client import TIMEOUT, Client, RefusedError, open_client

AT_ONCE = 4
"""Requests in flight."""


def endpoint_author(name: str) -> Author:
    """The model at `name`, known by that: an endpoint cannot be asked for the hash of its weights."""
    client = open_client(name, TIMEOUT)

    def write(questions: Sequence[Question], settings: Settings) -> Iterator[tuple[int, Written]]:
        if settings.top_k is not None:
            raise UsageError(f"--top-k {settings.top_k}: {name} is an endpoint, and its protocol has no top-k.")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            futures = {pool.submit(_write, client, one, settings): place for place, one in enumerate(questions)}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BaseException:
                client.stopped.set()  # else those that wait to try again would be waited for
                raise
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    identity = sha256_of_json([client.base, client.model])
    return Author(name, identity, "its own", write, lambda asked: [None] * len(asked))


def _write(client: Client, question: Question, settings: Settings) -> Written:
    where = f"question {question.id}"
    wishes = {"max_tokens": settings.max_tokens, "temperature": settings.temperature}
    wishes |= {"seed": seed_of(settings.seed, question)} | ({} if settings.top_p is None else {"top_p": settings.top_p})
    try:
        found = client.complete(question.messages, where, **wishes)
    except RefusedError as error:
        raise ScratchlabError(f"{client}, {where}: {error}.") from None
    return Written(found.text, found.tokens_out, ended=found.finish != "length")
