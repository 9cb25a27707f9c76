"""One session per request and database, however it is declared."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Security, WebSocket
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelSession

from asgi import (
    Answer,
    Base,
    Client,
    Counter,
    Item,
    TestClient,
    needs_mounts_in_routers,
    serving,
)
from backends import Backend
from fastdb import (
    Database,
    DatabaseDep,
    ReadSessionDep,
    SessionDep,
    SnapshotSessionDep,
    SQLiteOptions,
    StreamSessionDep,
    SyncSessionDep,
    get_read_session,
    get_session,
    get_snapshot_session,
    get_stream_session,
    get_sync_session,
)
from fastdb.session import UnitSession

ASYNC_GETTERS = [get_session, get_read_session, get_snapshot_session, get_stream_session]
METHODS = ["get_session", "get_read_session", "get_snapshot_session", "get_stream_session"]


# --- One session, however declared -------------------------------------------------------------


async def test_every_declaration_gives_the_same_session(database: Database) -> None:
    """Scopes, caches, Security, aliases and methods: one session, one BEGIN, one COMMIT."""
    app = FastAPI()
    seen: list[AsyncSession] = []

    @app.post("/items", status_code=201)
    async def create(
        plain: Annotated[AsyncSession, Depends(get_session)],
        function: Annotated[AsyncSession, Depends(get_session, scope="function")],
        request: Annotated[AsyncSession, Depends(get_session, scope="request")],
        uncached: Annotated[AsyncSession, Depends(get_session, use_cache=False)],
        secured: Annotated[AsyncSession, Security(get_session, scopes=["write"])],
        secured_again: Annotated[AsyncSession, Security(get_session, scopes=["read"])],
        alias: SessionDep,
        method: Annotated[AsyncSession, Depends(database.get_session)],
        method_in_function: Annotated[
            AsyncSession, Depends(database.get_session, scope="function")
        ],
        method_secured: Annotated[AsyncSession, Security(database.get_session, scopes=["x"])],
    ) -> None:
        sessions = [
            plain,
            function,
            request,
            uncached,
            secured,
            secured_again,
            alias,
            method,
            method_in_function,
            method_secured,
        ]
        seen.extend(sessions)
        for number, session in enumerate(sessions):
            session.add(Item(name=str(number)))
            await session.flush()

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert answer.status == 201
        assert len(seen) == 10
        assert len(set(map(id, seen))) == 1
        assert client.log[:3] == ["BEGIN", "COMMIT", "start 201"]
        assert answer.rows_at_start == [str(number) for number in range(10)]
        assert client.log.checkouts == 1


async def test_every_place_gives_the_same_session(database: Database) -> None:
    """App, routers, sub-dependencies, classes and endpoint share one session and one COMMIT."""
    seen: dict[str, AsyncSession] = {}

    def noting(place: str) -> Callable[..., Any]:
        async def note(session: SessionDep) -> None:
            seen[place] = session
            session.add(Item(name=place))
            await session.flush()

        return note

    class Repository:
        def __init__(self, session: SessionDep) -> None:
            self.session = seen["class"] = session

    def below(session: SessionDep) -> AsyncSession:
        return session

    async def sub_dependency(session: Annotated[AsyncSession, Depends(below)]) -> AsyncSession:
        return session

    async def generator(session: SessionDep) -> AsyncIterator[AsyncSession]:
        yield session

    app = FastAPI(dependencies=[Depends(noting("app"))])
    router = APIRouter(prefix="/inner", dependencies=[Depends(noting("router"))])

    @router.post("/items", status_code=201, dependencies=[Depends(noting("route"))])
    async def create(
        repository: Annotated[Repository, Depends()],
        nested: Annotated[AsyncSession, Depends(sub_dependency)],
        generated: Annotated[AsyncSession, Depends(generator, scope="function")],
        session: SessionDep,
    ) -> None:
        seen["nested"] = nested
        seen["generated"] = generated
        seen["endpoint"] = session

    outer = APIRouter(prefix="/outer")
    outer.include_router(router, dependencies=[Depends(noting("include_router"))])
    app.include_router(outer, dependencies=[Depends(noting("outer include_router"))])

    async with serving(app, database) as client:
        answer = await client.post("/outer/inner/items")

        assert answer.status == 201
        assert set(seen) == {
            "app",
            "router",
            "route",
            "include_router",
            "outer include_router",
            "class",
            "nested",
            "generated",
            "endpoint",
        }
        assert len(set(map(id, seen.values()))) == 1
        assert client.log[:3] == ["BEGIN", "COMMIT", "start 201"]
        assert answer.rows_at_start is not None
        assert len(answer.rows_at_start) == 5


async def test_every_declaration_gives_the_same_sync_session(database: Database) -> None:
    """The same for the twin, in a `def` endpoint and a `def` dependency."""
    app = FastAPI()
    seen: list[Session] = []

    def repository(session: SyncSessionDep) -> Session:
        session.add(Item(name="a"))
        return session

    @app.post("/items", status_code=201)
    def create(
        plain: Annotated[Session, Depends(get_sync_session)],
        function: Annotated[Session, Depends(get_sync_session, scope="function")],
        uncached: Annotated[Session, Depends(get_sync_session, use_cache=False)],
        secured: Annotated[Session, Security(get_sync_session, scopes=["write"])],
        method: Annotated[Session, Depends(database.get_sync_session)],
        repository: Annotated[Session, Depends(repository)],
    ) -> None:
        seen.extend([plain, function, uncached, secured, method, repository])
        plain.add(Item(name="b"))

    async with serving(app, database, sync=True) as client:
        answer = await client.post("/items")

        assert answer.status == 201
        assert len(set(map(id, seen))) == 1
        assert client.log[:3] == ["BEGIN", "COMMIT", "start 201"]
        assert answer.rows_at_start == ["a", "b"]


@pytest.mark.backends("sqlite-memory")
@pytest.mark.parametrize(
    ("getter", "method"), list(zip(ASYNC_GETTERS, METHODS, strict=True)), ids=METHODS
)
async def test_each_kind_is_one_session_of_its_own(
    database: Database, getter: Callable[..., Any], method: str
) -> None:
    """Every kind of session is one per request, however declared, and differs from the others."""
    app = FastAPI()
    seen: list[AsyncSession] = []
    others: list[AsyncSession] = []

    @app.get("/")
    async def read(
        plain: Annotated[AsyncSession, Depends(getter)],
        uncached: Annotated[AsyncSession, Depends(getter, use_cache=False)],
        secured: Annotated[AsyncSession, Security(getter, scopes=["read"])],
        own: Annotated[AsyncSession, Depends(getattr(database, method))],
        write: SessionDep,
        reading: ReadSessionDep,
        snapshot: SnapshotSessionDep,
        stream: StreamSessionDep,
    ) -> None:
        seen.extend([plain, uncached, secured, own])
        others.extend([write, reading, snapshot, stream])

    async with serving(app, database) as client:
        assert (await client.get("/")).status == 200

        assert len(set(map(id, seen))) == 1
        assert len(set(map(id, others))) == 4
        assert seen[0] in others


@pytest.mark.backends("sqlite-memory")
async def test_each_request_has_a_session_of_its_own(database: Database) -> None:
    """Two requests at the same time never share a session."""
    app = FastAPI()
    seen: list[AsyncSession] = []
    both = asyncio.Barrier(2)

    @app.get("/")
    async def read(session: SessionDep) -> None:
        seen.append(session)
        await both.wait()

    async with serving(app, database) as client:
        await asyncio.gather(client.get("/"), client.get("/"))

        assert seen[0] is not seen[1]


# --- Dependencies of the user's, above a session -----------------------------------------------


async def test_yield_dependency_with_function_scope_writes_after_its_yield(
    database: Database,
) -> None:
    """Row 35: in function scope, what follows the `yield` is committed with the rest."""
    app = FastAPI()

    async def audited(session: SessionDep) -> AsyncIterator[AsyncSession]:
        session.add(Item(name="before"))
        yield session
        session.add(Item(name="after"))

    @app.post("/items", status_code=201)
    async def create(
        session: Annotated[AsyncSession, Depends(audited, scope="function")],
    ) -> None:
        session.add(Item(name="inside"))

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert client.log[:3] == ["BEGIN", "COMMIT", "start 201"]
        assert answer.rows_at_start is not None
        assert sorted(answer.rows_at_start) == ["after", "before", "inside"]


async def test_sync_yield_dependency_with_function_scope_writes_after_its_yield(
    database: Database,
) -> None:
    """Row 35, for a `def` dependency on the twin."""
    app = FastAPI()

    def audited(session: SyncSessionDep) -> Iterator[Session]:
        yield session
        session.add(Item(name="after"))

    @app.post("/items", status_code=201)
    def create(session: Annotated[Session, Depends(audited, scope="function")]) -> None: ...

    async with serving(app, database, sync=True) as client:
        answer = await client.post("/items")

        assert answer.rows_at_start == ["after"]


@pytest.mark.filterwarnings("ignore::fastdb.LateWriteWarning")
async def test_yield_dependency_in_default_scope_fails_loudly_when_it_writes_late(
    database: Database,
) -> None:
    """Row 35: who ignores the warning has an error in the log, not a lost write."""
    app = FastAPI()

    async def audited(session: SessionDep) -> AsyncIterator[AsyncSession]:
        yield session
        session.add(Item(name="late"))

    @app.post("/items", status_code=201)
    async def create(session: Annotated[AsyncSession, Depends(audited)]) -> None:
        session.add(Item(name="a"))

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert type(answer.error).__name__ == "SessionEnded"
        assert answer.rows_at_start == ["a"]


@pytest.mark.backends("sqlite-memory")
async def test_dependency_that_catches_and_raises_another_error_rolls_back(
    database: Database,
) -> None:
    """A dependency may turn the endpoint's error into its own; that undoes as well."""
    app = FastAPI()

    async def translating(session: SessionDep) -> AsyncIterator[AsyncSession]:
        try:
            yield session
        except LookupError:
            raise HTTPException(404) from None

    @app.post("/items")
    async def create(
        session: Annotated[AsyncSession, Depends(translating, scope="function")],
    ) -> None:
        session.add(Item(name="a"))
        await session.flush()
        raise LookupError

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert answer.status == 404
        assert answer.rows_at_start == []


@pytest.mark.backends("sqlite-memory")
async def test_session_can_be_overridden(database: Database) -> None:
    """`dependency_overrides[get_session]` replaces it everywhere, `SessionDep` included."""
    app = FastAPI()
    stand_in = object()

    async def another() -> object:
        return stand_in

    @app.get("/")
    async def read(
        session: SessionDep, plain: Annotated[AsyncSession, Depends(get_session)]
    ) -> bool:
        return session is stand_in and plain is stand_in

    app.dependency_overrides[get_session] = another
    async with serving(app, database) as client:
        assert (await client.get("/")).json() is True
        app.dependency_overrides.clear()
        assert (await client.get("/")).json() is False


@pytest.mark.backends("sqlite-memory")
async def test_overriding_session_may_be_a_generator_of_the_tests(database: Database) -> None:
    """The usual override, a session that a test holds and rolls back, works without a bound app."""
    app = FastAPI()

    @app.post("/items")
    async def create(session: SessionDep) -> None:
        session.add(Item(name="a"))
        await session.flush()

    await database.create_all(Base.metadata)
    async with database.session() as held:

        async def override() -> AsyncIterator[AsyncSession]:
            yield held

        app.dependency_overrides[get_session] = override
        client = Client(app, None, database)
        assert (await client.post("/items")).status == 200
        assert (await held.scalars(select(Item.name))).all() == ["a"]
        await held.rollback()


# --- Other places ------------------------------------------------------------------------------


async def test_mounted_apps_find_the_database(database: Database) -> None:
    """Mounted apps, at any depth, are bound to the database of the app they are mounted in."""
    app, middle, inner = FastAPI(), FastAPI(), FastAPI()

    @inner.post("/items", status_code=201)
    async def create(session: SessionDep) -> None:
        session.add(Item(name="a"))

    @inner.post("/sync", status_code=201)
    def create_sync(session: SyncSessionDep) -> None:
        session.add(Item(name="b"))

    middle.mount("/inner", inner)
    app.mount("/middle", middle)
    async with serving(app, database, sync=True) as client:
        assert (await client.post("/middle/inner/items")).status == 201
        answer = await client.post("/middle/inner/sync")

        assert answer.status == 201
        assert answer.rows_at_start == ["a", "b"]


@pytest.mark.backends("sqlite-memory")
@needs_mounts_in_routers
async def test_app_mounted_in_an_included_router_finds_the_database(database: Database) -> None:
    """An app that a router brings along is bound too."""
    app, inner, router, outer = FastAPI(), FastAPI(), APIRouter(), APIRouter()

    @inner.get("/")
    async def read(session: SessionDep) -> int | None:
        return await session.scalar(select(func.count()).select_from(Item))

    router.mount("/inner", inner)
    outer.include_router(router, prefix="/router")
    app.include_router(outer, prefix="/outer")
    async with serving(app, database) as client:
        assert (await client.get("/outer/router/inner/")).json() == 0


@pytest.mark.backends("sqlite-memory")
async def test_router_mounted_as_an_app_finds_the_database(database: Database) -> None:
    """A router that is mounted, not included, serves for the app it is mounted in."""
    app, router = FastAPI(), APIRouter()

    @router.get("/")
    async def read(session: SessionDep) -> int | None:
        return await session.scalar(select(func.count()).select_from(Item))

    app.mount("/router", router)
    async with serving(app, database) as client:
        assert (await client.get("/router/")).json() == 0


async def test_websocket_and_endpoint_share_the_kind_of_session(database: Database) -> None:
    """Every kind of session works in a WebSocket."""
    app = FastAPI()

    @app.websocket("/ws")
    async def converse(
        websocket: WebSocket,
        session: SessionDep,
        reading: ReadSessionDep,
        stream: StreamSessionDep,
        db: DatabaseDep,
    ) -> None:
        await websocket.accept()
        await websocket.receive_text()
        counts = [
            await each.scalar(select(func.count()).select_from(Item))
            for each in (session, reading, stream)
        ]
        await websocket.send_text(f"{counts}, {db is database}")

    async with serving(app, database) as client:
        async with client.websocket("/ws") as socket:
            await socket.accepted()
            assert await socket.ask("count") == "[0, 0, 0], True"
        assert socket.error is None


@pytest.mark.backends("sqlite-memory")
async def test_database_is_handed_over_itself(database: Database) -> None:
    """`DatabaseDep` is the Database that the app is bound to, in every kind of endpoint."""
    app = FastAPI()

    @app.get("/async")
    async def read(db: DatabaseDep) -> bool:
        return db is database

    @app.get("/sync")
    def read_sync(db: DatabaseDep) -> bool:
        return db is database

    async with serving(app, database) as client:
        assert (await client.get("/async")).json() is True
        assert (await client.get("/sync")).json() is True


async def test_sqlmodel_session_class(backend: Backend) -> None:
    """SQLModel's session class works as the request's session, with its own `exec`."""
    from sqlmodel import select as sqlmodel_select

    app = FastAPI()
    seen: list[bool] = []

    @app.post("/items", status_code=201)
    async def create(session: SessionDep) -> str | None:
        assert isinstance(session, SQLModelSession)
        seen.append(isinstance(session.sync_session, UnitSession))
        session.add(Item(name="a"))
        return (await session.exec(sqlmodel_select(Item.name))).first()

    async with (
        Database(backend.url, session_class=SQLModelSession) as database,
        serving(app, database) as client,
    ):
        answer = await client.post("/items")

        assert (answer.status, answer.json()) == (201, "a")
        assert answer.rows_at_start == ["a"]
        assert seen == [True]


# --- Read sessions -----------------------------------------------------------------------------


@pytest.mark.parametrize("getter", ASYNC_GETTERS[1:], ids=METHODS[1:])
async def test_database_refuses_writes_of_a_reader(
    database: Database, getter: Callable[..., Any]
) -> None:
    """A read session cannot write: the database itself refuses, and nothing is there."""
    app = FastAPI()

    @app.post("/items")
    async def create(session: Annotated[AsyncSession, Depends(getter)]) -> None:
        await session.execute(text("INSERT INTO item (name) VALUES ('a')"))

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert answer.status == 500
        assert isinstance(answer.error, DBAPIError)
        assert answer.rows_at_start == []


@pytest.mark.parametrize("getter", ASYNC_GETTERS[1:3], ids=METHODS[1:3])
async def test_change_made_in_a_reader_is_refused_not_dropped(
    database: Database, getter: Callable[..., Any]
) -> None:
    """An object added to a read session by mistake fails the request, before its response."""
    app = FastAPI()

    @app.post("/items", status_code=201)
    async def create(session: Annotated[AsyncSession, Depends(getter)]) -> None:
        session.add(Item(name="a"))

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert answer.status == 500
        assert isinstance(answer.error, DBAPIError)
        assert answer.rows_at_start == []


async def test_snapshot_sees_one_view_in_all_its_statements(database: Database) -> None:
    """What another transaction commits meanwhile stays out of a snapshot."""
    app = FastAPI()
    client: Client

    @app.get("/")
    async def read(session: SnapshotSessionDep) -> list[int | None]:
        count = select(func.count()).select_from(Item)
        first = await session.scalar(count)
        await client.execute(text("INSERT INTO item (name) VALUES ('a')"))
        return [first, await session.scalar(count)]

    async with serving(app, database) as client:
        assert (await client.get("/")).json() == [0, 0]
        assert await client.rows() == ["a"]


@pytest.mark.backends("postgresql", "mysql")
async def test_reader_sees_what_is_committed_at_each_statement(database: Database) -> None:
    """A plain read session is no snapshot on servers: each statement is its own transaction."""
    app = FastAPI()
    client: Client

    @app.get("/")
    async def read(session: ReadSessionDep) -> list[int | None]:
        count = select(func.count()).select_from(Item)
        first = await session.scalar(count)
        await client.execute(text("INSERT INTO item (name) VALUES ('a')"))
        return [first, await session.scalar(count)]

    async with serving(app, database) as client:
        assert (await client.get("/")).json() == [0, 1]


async def test_readers_end_before_the_response(database: Database) -> None:
    """Read sessions give their connections back before the response starts."""
    app = FastAPI()

    @app.get("/")
    async def read(reading: ReadSessionDep, snapshot: SnapshotSessionDep) -> None:
        await reading.scalars(select(Item))
        await snapshot.scalars(select(Item))

    async with serving(app, database) as client:
        answer = await client.get("/")

        assert (answer.status, answer.held_at_start) == (200, 0)


async def test_reader_beside_a_writer_in_one_request(database: Database) -> None:
    """A read session does not see, and does not hinder, what the same request writes."""
    app = FastAPI()

    @app.post("/items", status_code=201)
    async def create(session: SessionDep, reading: ReadSessionDep) -> list[int | None]:
        count = select(func.count()).select_from(Item)
        before = await reading.scalar(count)
        session.add(Item(name="a"))
        await session.flush()
        return [before, await reading.scalar(count), await session.scalar(count)]

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert answer.json() == [0, 0, 1]
        assert answer.rows_at_start == ["a"]


# --- SQLite: the intent ------------------------------------------------------------------------


def _select_in_every_method(app: FastAPI) -> None:
    @app.api_route("/async", methods=["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"])
    async def read(session: SessionDep) -> None:
        await session.scalars(select(Item))

    @app.api_route("/sync", methods=["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"])
    def read_sync(session: SyncSessionDep) -> None:
        session.scalars(select(Item))


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize("path", ["/async", "/sync"])
@pytest.mark.parametrize(
    ("method", "begin"),
    [
        ("GET", "BEGIN DEFERRED"),
        ("HEAD", "BEGIN DEFERRED"),
        ("OPTIONS", "BEGIN DEFERRED"),
        ("POST", "BEGIN IMMEDIATE"),
        ("PUT", "BEGIN IMMEDIATE"),
        ("PATCH", "BEGIN IMMEDIATE"),
        ("DELETE", "BEGIN IMMEDIATE"),
    ],
)
async def test_sqlite_begins_as_the_method_says(
    database: Database, method: str, begin: str, path: str
) -> None:
    """A request that may write takes the write lock before it reads; others only read."""
    app = FastAPI()
    _select_in_every_method(app)
    async with serving(app, database, sync=True) as client:
        assert (await client.request(method, path)).status == 200

        assert client.log.begins == [begin]


@pytest.mark.backends("sqlite-memory")
@pytest.mark.parametrize("intent", ["immediate", "deferred"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/async", "/sync"])
async def test_sqlite_begins_as_the_options_say(
    backend: Backend, intent: Any, method: str, path: str
) -> None:
    """`SQLiteOptions(begin=…)` overrules the method."""
    app = FastAPI()
    _select_in_every_method(app)
    async with (
        Database(backend.url, sqlite=SQLiteOptions(begin=intent)) as database,
        serving(app, database, sync=True) as client,
    ):
        client.log.begins.clear()
        assert (await client.request(method, path)).status == 200

        assert client.log.begins == [f"BEGIN {intent.upper()}"]


@pytest.mark.backends("sqlite")
async def test_sqlite_begins_deferred_in_a_websocket(database: Database) -> None:
    """A WebSocket is open for long: it takes the write lock with its first write only."""
    app = FastAPI()

    @app.websocket("/ws")
    async def converse(websocket: WebSocket, session: SessionDep) -> None:
        await websocket.accept()
        await session.scalars(select(Item))

    async with serving(app, database) as client:
        async with client.websocket("/ws") as socket:
            await socket.accepted()

        assert client.log.begins == ["BEGIN DEFERRED"]


@pytest.mark.backends("sqlite")
async def test_sqlite_readers_begin_deferred_whatever_the_method(database: Database) -> None:
    """A read session never takes the write lock."""
    app = FastAPI()

    @app.post("/")
    async def read(
        reading: ReadSessionDep, snapshot: SnapshotSessionDep, stream: StreamSessionDep
    ) -> None:
        for session in (reading, snapshot, stream):
            await session.scalars(select(Item))

    async with serving(app, database) as client:
        assert (await client.post("/")).status == 200

        assert client.log.begins == ["BEGIN DEFERRED"] * 3


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize("path", ["/async", "/sync"])
async def test_no_update_is_lost_in_concurrent_requests(database: Database, path: str) -> None:
    """Row 4: 12 tasks, each 5 requests that read, change and write: 60 of 60."""
    app = FastAPI()

    @app.post("/async")
    async def increment(session: SessionDep) -> None:
        counter = await session.get_one(Counter, 1)
        value = counter.value
        await asyncio.sleep(0)
        counter.value = value + 1

    @app.post("/sync")
    def increment_sync(session: SyncSessionDep) -> None:
        counter = session.get_one(Counter, 1)
        counter.value += 1

    async with serving(app, database, sync=True) as client:
        await client.execute(text("INSERT INTO counter (id, value) VALUES (1, 0)"))

        async def work() -> list[Answer]:
            return [await client.post(path) for _ in range(5)]

        answers = await asyncio.gather(*(work() for _ in range(12)))

        assert [
            repr(answer.error) for each in answers for answer in each if answer.status != 200
        ] == []
        assert await client.look(select(Counter.value)) == [60]


@pytest.mark.backends("sqlite")
async def test_sqlite_refuses_a_stale_read_instead_of_losing_an_update(database: Database) -> None:
    """Under GET, a write after another commit came between is an error, never a lost update."""
    app = FastAPI()
    client: Client

    @app.get("/")
    async def increment(session: SessionDep) -> None:
        counter = await session.get_one(Counter, 1)
        await client.execute(update(Counter).values(value=Counter.value + 1))
        counter.value += 1

    async with serving(app, database) as client:
        await client.execute(text("INSERT INTO counter (id, value) VALUES (1, 0)"))
        answer = await client.get("/")

        assert answer.status == 500
        assert "database is locked" in str(answer.error)
        assert await client.look(select(Counter.value)) == [1]


# --- Frameworks' own clients -------------------------------------------------------------------


def _items_app(database: Database) -> FastAPI:
    app = FastAPI(lifespan=database.lifespan)

    @app.post("/items", status_code=201)
    async def create(session: SessionDep, name: str) -> None:
        session.add(Item(name=name))

    @app.post("/sync", status_code=201)
    def create_sync(session: SyncSessionDep, name: str) -> None:
        session.add(Item(name=name))

    @app.get("/items")
    async def read(session: ReadSessionDep) -> list[str]:
        return list(await session.scalars(select(Item.name).order_by(Item.id)))

    return app


def test_testclient(backend: Backend) -> None:
    """FastAPI's TestClient runs the lifespan, and its loop is closed without leaving anything."""
    database = Database(backend.url)
    with TestClient(_items_app(database)) as client:
        assert client.portal is not None
        client.portal.call(database.create_all, Base.metadata)
        assert client.post("/items?name=a").status_code == 201
        assert client.post("/sync?name=b").status_code == 201
        assert client.get("/items").json() == ["a", "b"]


async def test_httpx_transport(database: Database) -> None:
    """httpx's ASGITransport serves a bound app, many requests at once."""
    app = _items_app(database)
    async with (
        serving(app, database, sync=True),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        paths = [f"/{kind}?name={kind}{n}" for n in range(5) for kind in ("items", "sync")]
        answers = await asyncio.gather(*map(client.post, paths))

        assert [answer.status_code for answer in answers] == [201] * 10
        assert len((await client.get("/items")).json()) == 10
