"""Any OpenAI-compatible endpoint that gives log-probabilities, as something to be evaluated: `http://HOST:PORT/v1#MODEL`.

Each text goes to `/completions` as token ids, to be given back (`echo`) with the log-probability of each token and of
the likeliest in its place. One token must be written too: vLLM refuses none. What was written is not looked at.

Servers differ. vLLM does all of it (0.2.4 and later). llama.cpp's server gives log-probabilities of what it writes
alone, and OpenAI's of its newer models likewise: that is noticed when the endpoint is opened, and refused.
"""

import http.client
import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from scratchlab.corpus.pretrained import KNOWN_TOKENIZERS, open_tokenizer
from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import CorpusError, ScratchlabError, UnreachableError, UsageError
from scratchlab.evaluation.scorer import Answer, Floats, Ids, Question
from scratchlab.evaluation.subjects import Subject
from scratchlab.files import sha256_of_json
from scratchlab.generation.text import prompt_tokens
from scratchlab.interop.addresses import checked, key_for, key_words
from scratchlab.interop.waits import WAITS, advised

AT_ONCE = 8
"""Requests in flight."""
TIMEOUT = 120.0
"""Seconds for an answer: a long text on a busy machine."""
WINDOW = 1024
"""Tokens of the windows of a long text, where the endpoint does not say that it sees fewer."""
FEWEST_SEEN = 3
"""Tokens at once below which nothing can be asked of a model: one before, one asked about, and one that is written."""
TRIAL = "one two three"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A key is for the address it was given to, and nowhere else."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def is_endpoint(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def endpoint_subject(name: str, tokenizer: str | None) -> Subject:
    """The model at `name`, an address with the model's name behind a #; without it, the only one that is there.

    `tokenizer` is the one the model was trained with: a path, or gpt2. That it is the right one is tried out. Results
    are kept under the address and the name: an endpoint cannot be asked for the hash of its weights.

    Raises UsageError for what is not said or cannot mean anything, UnreachableError if nobody answers, and
    ScratchlabError for an endpoint that does not do what is needed.
    """
    if tokenizer is None or (encoder := open_tokenizer(tokenizer)) is None:
        given = "" if tokenizer is None else f"--tokenizer {tokenizer}: there is no such file or folder. "
        raise UsageError(f"{given}An endpoint's tokenizer must be named: --tokenizer with {KNOWN_TOKENIZERS}.")
    base, _, model = name.partition("#")
    endpoint = Endpoint(checked(base), model)
    listed = endpoint.models()
    if not model:
        if not listed:
            raise ScratchlabError(f"{base} lists no model: load one there, or say its name ({base}#MODEL).")
        if len(listed) > 1:
            raise UsageError(f"{base} has several models; say which: {', '.join(f'{base}#{m}' for m in listed)}.")
        endpoint = Endpoint(endpoint.base, *listed)
    start = prompt_tokens(encoder, "")[0]
    _try_out(endpoint, encoder, start)
    most = listed.get(endpoint.model)
    context_length = None if most is None else most - 2  # the last token of a candidate, and the one that is written
    return Subject(
        name=name,
        identity=sha256_of_json([endpoint.base, endpoint.model, encoder.meaning]),
        scorer=EndpointScorer(endpoint),
        encoder=encoder,
        start=start,
        context_length=context_length,
        window=min(context_length or WINDOW, WINDOW),
    )


def _try_out(endpoint: "Endpoint", encoder: Tokenizer, start: int) -> None:
    """ScratchlabError for an endpoint that gives no log-probabilities of a text, or reads the ids as another text."""
    try:
        tokens = [start, *encoder.encode(TRIAL).tolist()]
    except CorpusError:  # a tokenizer of few characters
        tokens = [start, start]
    reply = endpoint.read(tokens, "a trial")
    if isinstance(reply.text, str) and len(tokens) > 2 and TRIAL not in reply.text:
        raise ScratchlabError(
            f"{endpoint} reads the tokens of {TRIAL!r} as {reply.text!r:.80}: the tokenizer named is not the model's."
        )


class EndpointScorer:
    """Scores with an endpoint, several texts at a time."""

    def __init__(self, endpoint: "Endpoint") -> None:
        self._endpoint = endpoint

    def windows(self, tokens_BT: Ids, targets_BT: Ids) -> Floats:
        """A target that is not the next token (padding) is not asked for: its loss is NaN."""
        nats_BT = np.full(targets_BT.shape, np.nan, np.float32)

        def score(row: int) -> None:
            stops = np.flatnonzero(targets_BT[row, :-1] != tokens_BT[row, 1:])
            length = int(stops[0]) + 1 if len(stops) else tokens_BT.shape[1]
            text = [*tokens_BT[row, :length].tolist(), int(targets_BT[row, length - 1])]
            reply = self._endpoint.read(text, f"window {row + 1} of {len(tokens_BT)}")
            nats_BT[row, :length], _ = reply.of(1)

        _all_of(score, range(len(tokens_BT)))
        return nats_BT

    def answers(self, questions: Sequence[Question]) -> list[tuple[Answer, ...]]:
        def score(at: tuple[int, int]) -> Answer:
            place, which = at
            prefix, choice = questions[place].prefix, questions[place].continuations[which]
            where = f"{questions[place].name or f'question {place + 1}'}, candidate {which + 1}"
            return Answer(*self._endpoint.read([*prefix.tolist(), *choice.tolist()], where).of(len(prefix)))

        places = [(place, which) for place, asked in enumerate(questions) for which in range(len(asked.continuations))]
        answers = iter(_all_of(score, places))
        return [tuple(next(answers) for _ in question.continuations) for question in questions]


In = TypeVar("In")
Out = TypeVar("Out")


def _all_of(do: Callable[[In], Out], places: Iterable[In]) -> list[Out]:
    """Do all, several at a time. After the first error nothing more is begun."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        futures = [pool.submit(do, place) for place in places]
        try:
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The model `model` at the address `base`, which ends in /v1 as a rule."""

    base: str
    model: str

    def __str__(self) -> str:
        return f"{self.base}#{self.model}" if self.model else self.base

    def models(self) -> dict[str, int | None]:
        """The models that it has by name, and how many tokens each sees where it says so (vLLM does)."""
        listed = self._ask("GET", "/models", None, "the list of models")
        try:
            found = {str(entry["id"]): entry.get("max_model_len") for entry in listed["data"]}
            if all(most is None or most >= FEWEST_SEEN for most in found.values()):
                return found
            raise ValueError
        except (KeyError, TypeError, AttributeError, ValueError):
            raise ScratchlabError(f"{self}: {self.base}/models gave no list of models: {listed!r:.200}.") from None

    def read(self, tokens: list[int], where: str) -> "Reply":
        """What it says of a text. `where` is what messages call that."""
        wish = {"model": self.model, "prompt": tokens, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
        answer = self._ask("POST", "/completions", wish, where)
        try:
            (choice,) = answer["choices"]
            given, likeliest = (choice["logprobs"][field] for field in ("token_logprobs", "top_logprobs"))
            return Reply(f"{self}, {where}", choice.get("text"), tokens, list(given), list(likeliest))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ScratchlabError(
                f"{self}, {where}: an answer without log-probabilities of the text: {answer!r:.300}. It must know "
                "echo and logprobs, as vLLM does; llama.cpp's server does not."
            ) from None

    def _ask(self, method: str, path: str, content: Any, where: str) -> Any:
        """The JSON that it answers. Tries again where that may help."""
        request, problem = self._request(method, path, content), ""
        for wait in (*WAITS, None):
            try:
                with _OPENER.open(request, timeout=TIMEOUT) as response:
                    return self._parsed(response.read().decode(errors="replace"), where)
            except urllib.error.HTTPError as error:
                problem = f"HTTP status {error.code} ({_words(_body(error))})"
                if error.code not in (408, 429) and error.code < 500:
                    hint = f" {key_words(self.base)}" if error.code in (401, 403) else ""
                    raise ScratchlabError(f"{self}, {where}: {problem}.{hint}") from None
                wait = None if wait is None else advised(error.headers.get("Retry-After"), wait)
            except (OSError, http.client.HTTPException) as error:  # of which URLError is one
                problem = _words(str(getattr(error, "reason", error))) or type(error).__name__
            if wait is not None:
                time.sleep(wait)
        raise UnreachableError(
            f"{self}, {where}: {problem}, {len(WAITS) + 1} times. What was done is kept: run the same command again "
            "when it answers."
        )

    def _request(self, method: str, path: str, content: Any) -> urllib.request.Request:
        headers = {"Content-Type": "application/json"}
        if key := key_for(self.base):
            headers["Authorization"] = f"Bearer {key}"
        data = None if content is None else json.dumps(content).encode()
        return urllib.request.Request(f"{self.base}{path}", data, headers, method=method)

    def _parsed(self, text: str, where: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):  # a list within lists within lists
            raise ScratchlabError(f"{self}, {where}: an answer that is no JSON: {_words(text)}.") from None


@dataclass(frozen=True, slots=True)
class Reply:
    """What an endpoint says of a text."""

    where: str
    text: Any
    tokens: list[int]
    given: list[Any]
    """The log-probability of each token, in nats; of the first there is none."""
    likeliest: list[Any]
    """Log-probabilities of the likeliest tokens in the place of each, by token."""

    def of(self, start: int) -> tuple[Floats, bool]:
        """The loss of each token from `start` on, and whether each is the likeliest. ScratchlabError if any is missing.

        Tokens are known by their log-probabilities: two may be written alike.
        """
        stop = len(self.tokens)
        if not stop <= len(self.given) == len(self.likeliest) <= stop + 1:
            raise ScratchlabError(
                f"{self.where}: {stop} tokens were sent, and {len(self.given)} log-probabilities came: those of the "
                "text itself are needed (echo), as vLLM gives them."
            )
        if wrong := [place for place in range(start, stop) if not _is_loss(self.given[place])]:
            raise ScratchlabError(
                f"{self.where}: the log-probability of token {wrong[0] + 1} of {stop} is {self.given[wrong[0]]!r}."
            )
        best = [_largest(entry) for entry in self.likeliest[start:stop]]
        if None in best:
            place = start + best.index(None)
            raise ScratchlabError(
                f"{self.where}: the likeliest tokens in the place of token {place + 1} of {stop} are "
                f"{self.likeliest[place]!r:.80}."
            )
        given = np.array(self.given[start:stop], np.float64)
        return -given.astype(np.float32), bool((given >= np.array(best)).all())


def _is_loss(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value < 1e-3


def _largest(entry: Any) -> float | None:
    values = list(entry.values()) if isinstance(entry, dict) else []
    return max(values) if values and all(map(_is_loss, values)) else None


def _body(error: urllib.error.HTTPError) -> str:
    """What an endpoint says with a status, which may break off as any answer may."""
    try:
        return error.read().decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return "what it says of that broke off"


def _words(text: str) -> str:
    """The beginning of a text in one line."""
    return " ".join(text.split())[:300]
