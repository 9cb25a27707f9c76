"""Send an app what it does not expect, and look at what it answers.

    with calling(backend) as client:
        answer = client.send(Request("GET", "/items", {"offset": 2**63}))

Synchronous, so that Hypothesis can drive it: each request is a run of one and the same event loop.
Whatever the app raises and no handler answers is raised here, for what it is.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
from fastapi import FastAPI
from sqlalchemy import select
from sqlalchemy.engine import make_url

from backends import Backend
from fastdb import Database
from hostile_app import Base, Event, make_app

NOTHING: Any = object()
PROBLEM = "application/problem+json"


@dataclass(frozen=True)
class Request:
    """A request: its path's last part and its parameters are percent-encoded here, for any text."""

    method: str
    path: str
    parameters: dict[str, Any] = field(default_factory=dict)
    body: Any = NOTHING
    last: Any = NOTHING
    code_header: bytes | None = None

    def url(self) -> str:
        """Write it, with bytes that are no UTF-8 for lone surrogates."""
        pairs = [
            (name, one)
            for name, value in self.parameters.items()
            for one in (value if isinstance(value, list) else [value])
        ]
        query = "&".join(f"{encoded(name)}={encoded(value)}" for name, value in pairs)
        last = "" if self.last is NOTHING else f"/{encoded(self.last) or '%00'}"
        return f"{self.path}{last}?{query}"


def encoded(value: Any) -> str:
    return quote(str(value), safe="", errors="surrogatepass")


class Client:
    """Sends requests to the app, and judges each answer."""

    def __init__(
        self, runner: asyncio.Runner, app: FastAPI, db: Database, client: httpx.AsyncClient
    ) -> None:
        self.app = app
        self._runner = runner
        self._db = db
        self._client = client
        self._problems: dict[str, Any] = {}
        url = make_url(str(db.engine.url))
        self._secrets = ("insert", "select", "hostile_", "detail:", "127.0.0.1", url.host or "@")
        self.statuses: Counter[int] = Counter()

    def send(self, request: Request) -> httpx.Response:
        """Send it: never a 5xx, always JSON, and no more of it than the client is to know."""
        content = None if request.body is NOTHING else json.dumps(request.body)
        headers = {} if request.code_header is None else {b"x-code": request.code_header}
        return self.send_raw(request.method, request.url(), content, headers)

    def send_raw(
        self,
        method: str,
        url: str,
        content: str | bytes | None,
        headers: Mapping[bytes, bytes] | None = None,
    ) -> httpx.Response:
        """Send what is no JSON, or what has been written by somebody else."""
        headers = {b"content-type": b"application/json", **(headers or {})}
        answer = self._runner.run(
            self._client.request(method, url, content=content, headers=headers)
        )
        self.judge(answer)
        return answer

    def judge(self, answer: httpx.Response) -> None:
        self.statuses[answer.status_code] += 1
        assert answer.status_code < 500, answer.text
        told = json.loads(answer.text, parse_constant=fail)
        if answer.headers["content-type"] == PROBLEM:
            # The same words, whatever the value was.
            assert told == self._problems.setdefault(told["kind"], told)
            assert [each for each in self._secrets if each in answer.text.lower()] == []

    def payload_of(self, event_id: int) -> Any:
        """Read what was kept, not through the app: not all of it can be answered with."""
        return self._runner.run(self._read_payload(event_id))

    async def _read_payload(self, event_id: int) -> Any:
        async with self._db.read_session() as session:
            return await session.scalar(select(Event.payload).where(Event.id == event_id))


def fail(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@contextmanager
def calling(backend: Backend) -> Iterator[Client]:
    """Serve the app; afterwards it answers as ever, and every connection is back in its pool."""
    with asyncio.Runner() as runner:
        db = Database(backend.url)
        app = make_app(db)
        stack, http = runner.run(_serve(db, app))
        try:
            client = Client(runner, app, db, http)
            yield client
            assert client.send(Request("POST", "/items", body={"code": "last"})).status_code == 201
            last = client.send(Request("GET", "/items/by-code/last"))
            assert (last.status_code, last.json()["code"]) == (200, "last")
            checked_out = db.engine.pool.checkedout()  # type: ignore[attr-defined]
            assert checked_out == 0, f"{checked_out} connections were not given back"
        finally:
            runner.run(stack.aclose())


async def _serve(db: Database, app: FastAPI) -> tuple[AsyncExitStack, httpx.AsyncClient]:
    stack = AsyncExitStack()
    await stack.enter_async_context(db.lifespan(app))
    await db.create_all(Base.metadata)
    transport = httpx.ASGITransport(app)
    client = httpx.AsyncClient(transport=transport, base_url="http://a")
    return stack, await stack.enter_async_context(client)
