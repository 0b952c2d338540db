"""The application: paths, and what happens between a request and its answer."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from scratchlab.serving.forms import ChatForm, CompletionForm, Form, Json, usage
from scratchlab.serving.refusals import Refusal
from scratchlab.serving.requests import MOST_BYTES, ChatRequest, CompletionRequest, read_request
from scratchlab.serving.requests import Request as Asked
from scratchlab.serving.served import Served
from scratchlab.serving.writer import Order, Writer


def make_app(served: Served, writer: Writer) -> Starlette:
    """The application; its lifespan is that of the task in which `writer` writes."""

    async def models(request: Request) -> Response:
        return _json({"object": "list", "data": [served.about()]})

    async def model(request: Request) -> Response:
        served.check_name(request.path_params["name"])
        return _json(served.about())

    async def health(request: Request) -> Response:
        return _json({"status": "ok", "model": served.name, "running": writer.running, "waiting": writer.waiting})

    async def completions(request: Request) -> Response:
        asked = read_request(await _body(request), CompletionRequest)
        served.check_name(asked.model)
        order = writer.order(served.completion_wishes(asked), asked.echo)
        return await _answered(request, asked, order, CompletionForm(served, asked.logprobs is not None))

    async def chat(request: Request) -> Response:
        asked = read_request(await _body(request), ChatRequest)
        served.check_name(asked.model)
        order = writer.order(served.chat_wishes(asked), echo=False)
        return await _answered(request, asked, order, ChatForm(served, asked.logprobs))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        writing = asyncio.create_task(writer.run())
        yield
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ],
        exception_handlers={
            Refusal: _refused,
            HTTPException: _no_such_path,
            ClientDisconnect: _gone,
            Exception: _failed,
        },
        lifespan=lifespan,
    )


async def _body(request: Request) -> bytes:
    """The body, read to its end even where it is too long: whoever sends it hears the answer after that alone."""
    parts, size = list[bytes](), 0
    async for part in request.stream():
        size += len(part)
        if size <= MOST_BYTES:
            parts.append(part)
    if size > MOST_BYTES:
        raise Refusal(f"The body has {size} bytes; {MOST_BYTES} are the most.", status=413)
    return b"".join(parts)


async def _answered(request: Request, asked: Asked, order: Order, form: Form) -> Response:
    if asked.stream:
        return _Stream(_events(asked, order, form), order)
    try:
        await _while_connected(request.receive, order.all_of_it())
    finally:
        order.give_up()
    return _json(form.answer([form.whole(choice) for choice in order.choices], usage=usage(order.choices, asked.n)))


async def _events(asked: Asked, order: Order, form: Form) -> AsyncIterator[str]:
    """The answer as server-sent events, each a chunk, as OpenAI's API has them."""
    more: Json = {"usage": None} if asked.include_usage else {}
    for choice in order.choices:
        if opening := form.opening(choice):
            yield _event(form.chunk([opening], **more))
    open_choices = list(order.choices)
    try:
        async for _ in order.as_it_comes():
            for choice in list(open_choices):
                piece, finish = choice.news(), choice.finish  # at one time: more may come while this is sent
                if piece.text or piece.tokens:
                    yield _event(form.chunk([form.part(choice, piece)], **more))
                if finish is not None:
                    open_choices.remove(choice)
                    yield _event(form.chunk([form.closing(choice, finish)], **more))
    except Refusal as refusal:  # the status was sent long ago
        yield _event(refusal.body())
        return
    if asked.include_usage:
        yield _event(form.chunk([], usage=usage(order.choices, asked.n)))
    yield "data: [DONE]\n\n"


def _event(content: Json) -> str:
    return f"data: {json.dumps(content, allow_nan=False)}\n\n"


class _Stream(Response):
    """Events as they come, for as long as somebody listens."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], order: Order) -> None:
        self.status_code, self.background, self._events, self._order = 200, None, events, order
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with contextlib.suppress(ClientDisconnect):
                await _while_connected(receive, self._send_all(send))
        finally:
            self._order.give_up()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for event in self._events:
            await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work; ClientDisconnect, and an end to it, when whoever asked for it goes."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_departure(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
    if not working.done() or working.cancelled():
        raise ClientDisconnect
    await working


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _json(content: Json, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(content, allow_nan=False)  # in ASCII: an error may quote half a surrogate pair
    return Response(body, status, headers, media_type="application/json")


def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return _json(refusal.body(), refusal.status, refusal.headers())


def _no_such_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}. This server has GET /health, GET /v1/models, "
    refusal = Refusal(
        message + "POST /v1/completions and POST /v1/chat/completions.", status=error.status_code, code="no_such_path"
    )
    return _json(refusal.body(), refusal.status)


def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # which nobody reads


def _failed(request: Request, error: Exception) -> Response:
    refusal = Refusal("The server failed at this request; its log says why.", status=500)
    return _json(refusal.body(), refusal.status)
