"""Call an app as a server does, and keep one ordered list of what happened.

    async with serving(app, database) as client:
        answer = await client.post("/items")
        assert client.log == ["BEGIN", "COMMIT", "start 201", "body", "end"]
        assert answer.rows_at_start == ["a"]

The client speaks raw ASGI, so that the order of COMMIT and `http.response.start` is recorded, not
assumed; and at the start of every response it looks, through a connection of its own, at the
rows that are durable by then.
"""

import asyncio
import json as jsonlib
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import fastapi.routing
import pytest
from fastapi import FastAPI
from sqlalchemy import URL, Engine, ForeignKey, MetaData, String, event, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool

from fastdb import Database
from sqlite_trace import trace

with warnings.catch_warnings():
    # Starlette 1.10 wants to be used with another distribution of httpx.
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient as TestClient  # noqa: PLC0414 - re-exported

try:
    from fastapi.sse import EventSourceResponse as EventSourceResponse  # noqa: PLC0414
except ImportError:  # FastAPI before 0.135 has neither these nor JSON lines
    GENERATOR_ENDPOINTS = False
    EventSourceResponse: Any = None  # type: ignore[no-redef]
else:
    GENERATOR_ENDPOINTS = True

needs_generator_endpoints = pytest.mark.skipif(
    not GENERATOR_ENDPOINTS, reason="this FastAPI has no generator endpoints"
)
needs_mounts_in_routers = pytest.mark.skipif(
    not hasattr(fastapi.routing, "iter_route_contexts"),
    reason="this FastAPI forgets what is mounted in an included router",
)

Message = MutableMapping[str, Any]
SpecVersion = Literal["2.3", "2.4"]
HangUp = Literal["between chunks", "while sending"]


class Base(DeclarativeBase):
    """The tables that every database has."""


class Item(Base):
    """A row with a name that may occur once."""

    __tablename__ = "item"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)


class Counter(Base):
    """A row to read, change and write."""

    __tablename__ = "counter"

    id: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int] = mapped_column(default=0)


class Deferred(DeclarativeBase):
    """A table that only COMMIT finds fault with; MySQL knows no such thing."""

    metadata = MetaData()


class Child(Deferred):
    """A row whose parent is looked for by COMMIT."""

    __tablename__ = "child"

    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int] = mapped_column(
        ForeignKey("child.id", deferrable=True, initially="DEFERRED")
    )


# --- What happened -----------------------------------------------------------------------------


class Log(list[str]):
    """What happened, in order: of the transactions, of the response, and what a test adds."""

    def __init__(self) -> None:
        super().__init__()
        self.connects = 0
        self.checkouts = 0
        self.begins: list[str] = []

    def watch(self, engine: AsyncEngine | Engine, prefix: str = "") -> None:
        """Note BEGIN, COMMIT and ROLLBACK on `engine`, and who takes a connection."""
        sync_engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
        for name in ("begin", "commit", "rollback"):
            event.listen(sync_engine, name, self._noting(prefix + name.upper()))
        event.listen(sync_engine, "connect", self._count_connect)
        event.listen(sync_engine, "checkout", self._count_checkout)
        if sync_engine.name == "sqlite":
            trace(sync_engine, self._note_begin)

    def _noting(self, what: str) -> Callable[..., None]:
        return lambda *_: self.append(what)

    def _count_connect(self, *_: object) -> None:
        self.connects += 1

    def _count_checkout(self, *_: object) -> None:
        self.checkouts += 1

    def _note_begin(self, statement: str) -> None:
        if statement.startswith("BEGIN"):
            self.begins.append(statement)


# --- The client --------------------------------------------------------------------------------


@dataclass
class Answer:
    """What a client was sent, and what the server saw.

    Attributes:
        status: None where no response was started.
        body: All chunks.
        error: What the app raised to the server, after its response or instead of one.
        rows_at_start: The names in `item` that were durable when the response started.
        held_at_start: How many connections the app held then.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: Exception | None = None
    rows_at_start: list[str] | None = None
    held_at_start: int | None = None

    def json(self) -> Any:
        return jsonlib.loads(self.body)


class Exchange:
    """One request and its response, as a server and its client live through it."""

    def __init__(
        self,
        client: "Client",
        body: bytes,
        *,
        spec_version: SpecVersion,
        hang_up_after: int | None,
        hang_up: HangUp,
    ) -> None:
        self.answer = Answer()
        self.gone = asyncio.Event()
        self._client = client
        self._unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        self._spec_version = spec_version
        self._chunks_left = hang_up_after
        self._hang_up = hang_up

    async def receive(self) -> Message:
        if self._unread:
            return self._unread.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.gone.is_set():
            if self._spec_version == "2.4":
                raise OSError("the client is gone")
            return
        if message["type"] == "http.response.start":
            await self._start(message)
        elif message["type"] == "http.response.body":
            await self._body(message)

    async def _start(self, message: Message) -> None:
        self._client.log.append(f"start {message['status']}")
        self.answer.status = message["status"]
        self.answer.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        self.answer.held_at_start = self._client.held()
        self.answer.rows_at_start = await self._client.rows()

    async def _body(self, message: Message) -> None:
        if body := message.get("body", b""):
            self._client.log.append("body")
            self.answer.body += body
            await self._hang_up_in_time()
        if not message.get("more_body", False):
            self._client.log.append("end")

    async def _hang_up_in_time(self) -> None:
        if self._chunks_left is None:
            return
        self._chunks_left -= 1
        if self._chunks_left > 0:
            return
        self._client.log.append("hung up")
        self.gone.set()
        if self._hang_up == "while sending":
            if self._spec_version == "2.4":
                raise OSError("the client is gone")
            await asyncio.Event().wait()  # until Starlette, told by `receive`, cancels


class Client:
    """Calls an app with raw ASGI messages and keeps the log; `exchange` is the latest one."""

    def __init__(self, app: Any, witness: AsyncEngine | None = None, *databases: Database) -> None:
        self.app = app
        self.log = Log()
        self.exchange: Exchange | None = None
        self._witness = witness
        self._databases = databases

    def held(self) -> int:
        """Return how many connections are in use."""
        return sum(map(checked_out, self._databases))

    async def rows(self) -> list[str]:
        """Return the names in `item` that everybody sees, in the order of their ids."""
        return await self.look(select(Item.name).order_by(Item.id))

    async def look(self, statement: Any) -> list[Any]:
        """Return the first column of `statement`, through a connection that is not fastdb's."""
        if self._witness is None:
            return []
        async with self._witness.connect() as connection:
            return list((await connection.execute(statement)).scalars())

    async def execute(self, statement: Any) -> None:
        """Execute and commit, through a connection that is not fastdb's."""
        assert self._witness is not None
        async with self._witness.begin() as connection:
            await connection.execute(statement)

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        spec_version: SpecVersion = "2.4",
        hang_up_after: int | None = None,
        hang_up: HangUp = "between chunks",
    ) -> Answer:
        """Make one request; `hang_up_after` that many chunks the client is gone."""
        body = b"" if json is None else jsonlib.dumps(json).encode()
        exchange = Exchange(
            self, body, spec_version=spec_version, hang_up_after=hang_up_after, hang_up=hang_up
        )
        plain_path, _, query = path.partition("?")
        scope = {
            **_scope("http", plain_path, query, headers or {}, spec_version),
            "method": method,
        }
        self.exchange = exchange
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except Exception as error:  # noqa: BLE001 - as a server does
            exchange.answer.error = _without_frames(error)
        return exchange.answer

    async def get(self, path: str, **arguments: Any) -> Answer:
        return await self.request("GET", path, **arguments)

    async def post(self, path: str, **arguments: Any) -> Answer:
        return await self.request("POST", path, **arguments)

    @asynccontextmanager
    async def websocket(self, path: str) -> AsyncIterator["Socket"]:
        """Open a WebSocket; leaving the block closes it and waits for the app."""
        socket = Socket(self.log)
        scope = _scope("websocket", path, "", {}, "2.4") | {"subprotocols": []}
        running = asyncio.ensure_future(self.app(scope, socket.receive, socket.send))
        try:
            yield socket
        finally:
            socket.hang_up()
            try:
                await running
            except Exception as error:  # noqa: BLE001 - as a server does
                socket.error = _without_frames(error)


class Socket:
    """The client's end of a WebSocket."""

    def __init__(self, log: Log) -> None:
        self.error: Exception | None = None
        self._log = log
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._from_app: asyncio.Queue[Message] = asyncio.Queue()
        self._to_app.put_nowait({"type": "websocket.connect"})

    async def receive(self) -> Message:
        return await self._to_app.get()

    async def send(self, message: Message) -> None:
        self._log.append(message["type"].removeprefix("websocket."))
        self._from_app.put_nowait(message)

    async def accepted(self) -> None:
        """Wait until the app has accepted."""
        assert (await self._from_app.get())["type"] == "websocket.accept"

    async def ask(self, text: str) -> str:
        """Send a message and return the answer."""
        self._to_app.put_nowait({"type": "websocket.receive", "text": text})
        message = await self._from_app.get()
        assert message["type"] == "websocket.send", message
        answer: str = message["text"]
        return answer

    def hang_up(self) -> None:
        self._to_app.put_nowait({"type": "websocket.disconnect", "code": 1001})


def _without_frames(error: Exception) -> Exception:
    """Drop the tracebacks, as a server does that has logged them.

    Kept, they would keep the frames of the app alive, and with them the generators of a stream
    whose client has left.
    """
    chain: list[BaseException | None] = [error]
    seen = set()
    while chain:
        one = chain.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            chain += [one.__cause__, one.__context__]
            chain += getattr(one, "exceptions", ())
    return error


def _scope(
    kind: str, path: str, query: str, headers: Mapping[str, str], spec_version: str
) -> dict[str, Any]:
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": spec_version},
        "http_version": "1.1",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"host", b"test"), (b"content-type", b"application/json")]
        + [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
    }


# --- Serving -----------------------------------------------------------------------------------


@asynccontextmanager
async def serving(
    app: FastAPI,
    database: Database,
    *,
    metadata: Iterable[MetaData] = (Base.metadata,),
    sync: bool = False,
) -> AsyncIterator[Client]:
    """Run `app` on `database` with its tables, and watch; nothing may stay checked out.

    Args:
        app: Bound to `database`.
        database: Given the tables of `metadata`.
        metadata: Default: the tables of `Base`.
        sync: Watch the synchronous twin too.
    """
    async with database.lifespan(app):
        for tables in metadata:
            await database.create_all(tables)
        async with witness(database) as engine:
            client = Client(app, engine, database)
            client.log.watch(database.engine)
            client.log.watch(database.read_engine)
            if sync:
                client.log.watch(database.sync.engine)
            yield client
            assert checked_out(database) == 0


@asynccontextmanager
async def witness(database: Database) -> AsyncIterator[AsyncEngine]:
    """Give a plain SQLAlchemy engine on the same database, whose connections nobody keeps."""
    url: URL = database.engine.url
    engine = create_async_engine(url.difference_update_query([]), poolclass=NullPool)
    try:
        yield engine
    finally:
        await engine.dispose()


def checked_out(database: Database) -> int:
    """Return how many connections of `database` are in use, on all engines that exist."""
    engines: list[Any] = [database.engine, database.read_engine]
    if database.supply.twin:
        engines += [database.sync.engine, database.sync.read_engine]
    return sum(engine.pool.checkedout() for engine in engines)


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    """Give way to the loop until `condition` holds; fail when that takes far too long."""
    async with asyncio.timeout(4):
        while not await _holds(condition):
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), 0.002)


async def _holds(condition: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> bool:
    held = condition()
    return await held if isinstance(held, Awaitable) else held


async def cancelled_when(
    reached: asyncio.Event, how: str, call: Callable[[], Awaitable[Any]]
) -> None:
    """Make the call, and cancel it once `reached` is set: its task, by a time limit or a scope."""
    if how == "task":
        task = asyncio.ensure_future(call())
        await reached.wait()
        task.cancel()
        await _must_raise(task, asyncio.CancelledError)
    elif how == "timeout":
        limit = asyncio.timeout(None)
        task = asyncio.ensure_future(_within(limit, call))
        await reached.wait()
        limit.reschedule(0)
        await _must_raise(task, TimeoutError)
    else:
        scopes: list[anyio.CancelScope] = []
        task = asyncio.ensure_future(_within_scope(scopes, call))
        await reached.wait()
        scopes[0].deadline = 0
        await _must_raise(task, TimeoutError)


async def _within(limit: asyncio.Timeout, call: Callable[[], Awaitable[Any]]) -> None:
    async with limit:
        await call()


async def _within_scope(
    scopes: list[anyio.CancelScope], call: Callable[[], Awaitable[Any]]
) -> None:
    with anyio.fail_after(None) as scope:
        scopes.append(scope)
        await call()


async def _must_raise(task: asyncio.Future[None], expected: type[BaseException]) -> None:
    try:
        await task
    except expected:
        return
    raise AssertionError("the request was not cancelled")
