"""The server: a socket, uvicorn on it, and an end when a signal asks for one."""

import asyncio
import ipaddress
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from scratchlab.errors import ScratchlabError
from scratchlab.serving.writer import Writer

PATIENCE = 5
"""Seconds that clients have to read what they are told at the end."""
LOOK = 0.05
"""Seconds between two looks at whether the server is to end."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; ScratchlabError if it cannot be had. Port 0 is any that is free."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)  # pyright: ignore[reportArgumentType]
    except OSError as error:
        remedy = "Choose another --port, or end what listens there." if port else "Choose another --host."
        raise ScratchlabError(f"{host}, port {port}: {error.strerror or error}. {remedy}") from None


def is_loopback(listening: socket.socket) -> bool:
    """Whether this machine alone can reach it."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def address_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def make_server(app: Starlette) -> uvicorn.Server:
    """uvicorn with our settings: quiet, and with an end to its patience."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, ws="none", server_header=False, proxy_headers=False,
        timeout_graceful_shutdown=PATIENCE,
    )  # fmt: skip
    return uvicorn.Server(config)


async def serve(server: uvicorn.Server, writer: Writer, listening: socket.socket) -> None:
    """Answer until the server is told to end; whoever still waits is told so at once."""
    closing = asyncio.create_task(_close_with(server, writer))
    try:
        await server.serve(sockets=[listening])
    finally:
        closing.cancel()


async def _close_with(server: uvicorn.Server, writer: Writer) -> None:
    while not server.should_exit:
        await asyncio.sleep(LOOK)
    writer.close()


def run(app: Starlette, writer: Writer, listening: socket.socket) -> int | None:
    """Answer until SIGTERM or Ctrl-C. Gives the number of the signal."""
    with _heard_signals() as heard:
        asyncio.run(serve(make_server(app), writer, listening))
    return heard[0] if heard else None


@contextmanager
def _heard_signals() -> Generator[list[int]]:
    """uvicorn ends in peace when a signal comes, and raises it again then: it is only noted."""
    heard: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    before: dict[int, Callable[..., object] | int | None] = {
        number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield heard
    finally:
        for number, action in before.items():
            signal.signal(number, action)
