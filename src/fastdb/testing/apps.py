"""The app under test: its lifespan, which runs once, and clients from any event loop.

The app runs at home, where its database lives; requests go there as they would to a server.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from importlib import import_module
from typing import Any, TypeVar

from fastdb.testing.home import Home

try:
    httpx = import_module("httpx")
except ModuleNotFoundError as missing:
    raise ImportError(
        f"The clients of fastdb.testing need httpx ({missing}):"
        ' pip install "fastapi-fastdb[testing]"'
    ) from missing

T = TypeVar("T")
Message = MutableMapping[str, Any]


class RunningApp:
    """An ASGI app whose lifespan has begun, as an app: its requests get the lifespan's state.

    Args:
        app: Any ASGI app.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self._state: dict[str, Any] = {}
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._from_app: asyncio.Queue[Message] = asyncio.Queue()
        self._running: asyncio.Future[None] | None = None

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Serve a request with the state that the lifespan has made."""
        await self.app({**scope, "state": dict(self._state)}, receive, send)

    async def start(self) -> None:
        """Begin the lifespan.

        Raises:
            Exception: What the app raised.
        """
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self._state}
        running = asyncio.ensure_future(self.app(scope, self._to_app.get, self._from_app.put))
        self._running = running
        await self._ask(running, "lifespan.startup")

    async def stop(self) -> None:
        """End the lifespan.

        Raises:
            Exception: What the app raised.
        """
        if self._running is not None and not self._running.done():
            await self._ask(self._running, "lifespan.shutdown")
            await self._running

    async def _ask(self, running: "asyncio.Future[None]", what: str) -> None:
        self._to_app.put_nowait({"type": what})
        answer = asyncio.ensure_future(self._from_app.get())
        either: set[asyncio.Future[Any]] = {answer, running}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            running.result()  # raises, unless the app has no lifespan
        elif answer.result()["type"].endswith(".failed"):
            await asyncio.wait({running})
            running.result()
            raise RuntimeError(f"{what}: {answer.result().get('message', '')}")


class AppInAnyLoop:
    """A running app, for a client with an event loop of its own, who would begin its lifespan.

    Args:
        app: It runs.
        close: Called in that loop when the client is done.
    """

    def __init__(self, app: RunningApp, close: Callable[[], Awaitable[None]]) -> None:
        self._app = app
        self._close = close

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Serve a request; answer a lifespan, which has begun elsewhere."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        what = ""
        while what != "lifespan.shutdown":
            what = (await receive())["type"]
            if what == "lifespan.shutdown":
                await self._close()
            await send({"type": f"{what}.complete"})


class HomeTransport(httpx.AsyncBaseTransport, httpx.BaseTransport):  # type: ignore[misc, name-defined]
    """Sends requests to an app that runs at home, from any event loop or none.

    Args:
        home: Where it runs.
        app: Any ASGI app.
        raise_app_exceptions: Raise what no handler of the app's has caught, as httpx does. Default
            True; else the client gets its 500.
    """

    def __init__(self, home: Home, app: Any, *, raise_app_exceptions: bool = True) -> None:
        self._home = home
        self._inner = httpx.ASGITransport(app, raise_app_exceptions=raise_app_exceptions)

    async def handle_async_request(self, request: Any) -> Any:
        """Send, and wait for all of the answer."""
        await request.aread()  # a body that is made in this loop
        return await self._home.visit(self._answer(request))

    def handle_request(self, request: Any) -> Any:
        """Send, and wait for all of the answer, with nothing else to do meanwhile."""
        request.read()
        return self._home.run(self._answer(request))

    async def _answer(self, request: Any) -> Any:
        answer = await self._inner.handle_async_request(request)
        # As it was sent: who reads it decodes it.
        content = b"".join([chunk async for chunk in answer.stream])
        stream = httpx.ByteStream(content)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=stream)


def async_client(home: Home, app: Any, **options: Any) -> Any:
    """Return an `httpx.AsyncClient` of an app that runs at home."""
    options = {"base_url": "http://test", **options}
    return httpx.AsyncClient(transport=HomeTransport(home, app), **options)


def sync_client(home: Home, app: Any, **options: Any) -> Any:
    """Return an `httpx.Client` of an app that runs at home."""
    options = {"base_url": "http://test", **options}
    return httpx.Client(transport=HomeTransport(home, app), **options)
