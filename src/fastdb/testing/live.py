"""A real server for the app under test: for browsers, WebSockets, clients in other languages."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from fastdb.testing.home import Home

_HOST = "127.0.0.1"
_START_SECONDS = 10.0


@contextmanager
def live_server(home: Home, app: Any) -> Iterator[str]:
    """Serve `app`, whose lifespan has begun, with uvicorn, and give its URL.

    Args:
        home: Where the app runs.
        app: Any ASGI app.

    Raises:
        ImportError: uvicorn is not installed.
    """
    try:
        uvicorn = import_module("uvicorn")
    except ModuleNotFoundError as missing:
        raise ImportError(
            f'The fixture live_server needs uvicorn ({missing}): pip install "uvicorn>=0.32.1"'
        ) from missing
    with socket.socket() as listener:
        listener.bind((_HOST, 0))
        config = uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=5)
        server = uvicorn.Server(config)
        running = home.run(_started(server, listener))
        try:
            yield f"http://{_HOST}:{listener.getsockname()[1]}"
        finally:
            home.run(_stopped(server, running))


async def _started(server: Any, listener: socket.socket) -> "asyncio.Future[None]":
    running: asyncio.Future[None] = asyncio.ensure_future(server.serve(sockets=[listener]))
    async with asyncio.timeout(_START_SECONDS):
        while not server.started and not running.done():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.001)
    if running.done():
        running.result()
    return running


async def _stopped(server: Any, running: "asyncio.Future[None]") -> None:
    server.should_exit = True
    await running
