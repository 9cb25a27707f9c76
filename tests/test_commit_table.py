"""Who commits and who rolls back, for every kind of endpoint, against the start of the response."""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from fastapi import (
    BackgroundTasks,
    Depends,
    FastAPI,
    HTTPException,
    Request,
    Response,
    Security,
    WebSocket,
    WebSocketException,
)
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse
from fastapi.security import APIKeyHeader
from pydantic import BaseModel
from sqlalchemy import event, func, insert, select, text
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InvalidRequestError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.ext.asyncio import AsyncSession

from asgi import (
    Base,
    Child,
    Client,
    Deferred,
    Item,
    Log,
    cancelled_when,
    checked_out,
    serving,
)
from backends import Backend
from fastdb import (
    CommitOutcomeUnknown,
    Database,
    DatabaseDep,
    ReadSessionDep,
    SessionDep,
    SessionEnded,
    SQLiteOptions,
    SyncSessionDep,
    Timeouts,
    TransactionFailed,
    atomic,
    on_commit,
)

Routes = Callable[[FastAPI], object]

ENDED = (
    "This session has ended with its unit of work: the request's session ends before"
    " the response is sent, so a stream or a background task cannot use it. Open one"
    " there, with `async with db.session() as session:`; for a stream that only"
    " reads, take StreamSessionDep."
)


def ids(routes: Sequence[Routes]) -> list[str]:
    return [function.__name__ for function in routes]


# --- What succeeds -----------------------------------------------------------------------------


class Created(BaseModel):
    """An answer that is validated."""

    id: int


def async_endpoint(app: FastAPI) -> None:
    @app.post("/items", status_code=201)
    async def create(session: SessionDep) -> None:
        session.add(Item(name="a"))


def async_endpoint_that_flushes(app: FastAPI) -> None:
    @app.post("/items", status_code=201)
    async def create(session: SessionDep) -> int:
        item = Item(name="a")
        session.add(item)
        await session.flush()
        return item.id


def async_endpoint_with_plain_sql(app: FastAPI) -> None:
    @app.post("/items", status_code=201)
    async def create(session: SessionDep) -> None:
        await session.execute(insert(Item).values(name="a"))


def sync_endpoint(app: FastAPI) -> None:
    @app.post("/items", status_code=201)
    def create(session: SyncSessionDep) -> None:
        session.add(Item(name="a"))


def sync_endpoint_that_flushes(app: FastAPI) -> None:
    @app.post("/items", status_code=201)
    def create(session: SyncSessionDep) -> int:
        item = Item(name="a")
        session.add(item)
        session.flush()
        return item.id


def response_model(app: FastAPI) -> None:
    @app.post("/items", status_code=201, response_model=Created)
    async def create(session: SessionDep) -> Item:
        item = Item(name="a")
        session.add(item)
        await session.flush()
        return item


def own_response(app: FastAPI) -> None:
    @app.post("/items")
    async def create(session: SessionDep) -> Response:
        session.add(Item(name="a"))
        return Response("made", status_code=201)


def streamed_response(app: FastAPI) -> None:
    @app.post("/items")
    async def create(session: SessionDep) -> StreamingResponse:
        session.add(Item(name="a"))
        return StreamingResponse(iter(["chunk"]), status_code=201)


def redirect(app: FastAPI) -> None:
    @app.post("/items")
    async def create(session: SessionDep) -> RedirectResponse:
        session.add(Item(name="a"))
        return RedirectResponse("/elsewhere", status_code=303)


def no_content(app: FastAPI) -> None:
    @app.post("/items", status_code=204)
    async def create(session: SessionDep) -> None:
        session.add(Item(name="a"))


def dependency_alone(app: FastAPI) -> None:
    async def write(session: SessionDep) -> None:
        session.add(Item(name="a"))

    @app.post("/items", status_code=201, dependencies=[Depends(write)])
    async def create() -> None: ...


def callable_object(app: FastAPI) -> None:
    class Create:
        async def __call__(self, session: SessionDep) -> None:
            session.add(Item(name="a"))

    app.post("/items", status_code=201)(Create())


def partial_endpoint(app: FastAPI) -> None:
    async def create(name: str, session: AsyncSession) -> None:
        session.add(Item(name=name))

    async def endpoint(session: SessionDep) -> None:
        await functools.partial(create, "a")(session)

    app.post("/items", status_code=201)(endpoint)


def returned_client_error(app: FastAPI) -> None:
    @app.post("/items")
    async def create(session: SessionDep) -> JSONResponse:
        session.add(Item(name="a"))
        return JSONResponse({"detail": "no"}, status_code=409)


def returned_server_error(app: FastAPI) -> None:
    @app.post("/items")
    async def create(session: SessionDep) -> JSONResponse:
        session.add(Item(name="a"))
        return JSONResponse({"detail": "no"}, status_code=503)


SUCCESSES: list[Routes] = [
    async_endpoint,
    async_endpoint_that_flushes,
    async_endpoint_with_plain_sql,
    sync_endpoint,
    sync_endpoint_that_flushes,
]

# What differs here is FastAPI's doing, not the driver's.
SHAPES: list[Routes] = [
    response_model,
    own_response,
    streamed_response,
    redirect,
    no_content,
    dependency_alone,
    callable_object,
    partial_endpoint,
    returned_client_error,
    returned_server_error,
]

STATUSES = {
    "no_content": 204,
    "redirect": 303,
    "returned_client_error": 409,
    "returned_server_error": 503,
}


@pytest.mark.parametrize("routes", SUCCESSES, ids=ids(SUCCESSES))
async def test_returning_commits_before_the_response_starts(
    database: Database, routes: Routes
) -> None:
    """An endpoint that returned has committed: its rows are durable when the response starts."""
    await _commits_before_the_response_starts(database, routes)


@pytest.mark.backends("sqlite-memory", "postgresql-asyncpg")
@pytest.mark.parametrize("routes", SHAPES, ids=ids(SHAPES))
async def test_whatever_is_returned_is_committed_before_the_response_starts(
    database: Database, routes: Routes
) -> None:
    """Every kind of response and endpoint, a 4xx or 5xx `Response` included, commits."""
    await _commits_before_the_response_starts(database, routes)


async def _commits_before_the_response_starts(database: Database, routes: Routes) -> None:
    app = FastAPI()
    routes(app)
    async with serving(app, database, sync=routes.__name__.startswith("sync")) as client:
        answer = await client.post("/items")

        status = STATUSES.get(routes.__name__, 201)
        assert client.log[:3] == ["BEGIN", "COMMIT", f"start {status}"]
        assert client.log.count("COMMIT") == 1
        assert "ROLLBACK" not in client.log
        assert (answer.rows_at_start, answer.held_at_start) == (["a"], 0)
        assert answer.error is None


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_background_task_runs_after_commit_and_response(
    database: Database, sync: bool
) -> None:
    """A background task sees what the request wrote and may write with a session of its own."""
    app = FastAPI()
    log: Log

    async def work(db: Database) -> None:
        log.append("background")
        async with db.session() as session:
            session.add(Item(name="b"))

    if sync:

        @app.post("/items", status_code=201)
        def create_sync(session: SyncSessionDep, db: DatabaseDep, tasks: BackgroundTasks) -> None:
            session.add(Item(name="a"))
            tasks.add_task(work, db)

    else:

        @app.post("/items", status_code=201)
        async def create(session: SessionDep, db: DatabaseDep, tasks: BackgroundTasks) -> None:
            session.add(Item(name="a"))
            tasks.add_task(work, db)

    async with serving(app, database, sync=sync) as client:
        log = client.log
        answer = await client.post("/items")

        transaction = ["BEGIN", "COMMIT"]
        assert log == [*transaction, "start 201", "body", "end", "background", *transaction]
        assert answer.rows_at_start == ["a"]
        assert await client.rows() == ["a", "b"]


async def test_session_that_only_read_is_ended_before_the_response(database: Database) -> None:
    """A session that wrote nothing gives its connection back before the response starts."""
    app = FastAPI()

    @app.get("/items")
    async def count(session: SessionDep) -> int | None:
        return await session.scalar(select(func.count()).select_from(Item))

    async with serving(app, database) as client:
        answer = await client.get("/items")

        assert client.log == ["BEGIN", "COMMIT", "start 200", "body", "end"]
        assert answer.json() == 0


async def test_websocket_commits_when_its_endpoint_returns(database: Database) -> None:
    """A WebSocket's own session lives as long as its endpoint, and is committed when it returns."""
    app = FastAPI()

    @app.websocket("/ws")
    async def converse(websocket: WebSocket, session: SessionDep) -> None:
        await websocket.accept()
        session.add(Item(name=await websocket.receive_text()))
        await websocket.send_text("noted")

    async with serving(app, database) as client:
        async with client.websocket("/ws") as socket:
            await socket.accepted()
            assert await socket.ask("a") == "noted"

        assert socket.error is None
        assert client.log == ["accept", "send", "BEGIN", "COMMIT"]
        assert await client.rows() == ["a"]


async def test_websocket_that_fails_rolls_back(database: Database) -> None:
    """An exception in a WebSocket's endpoint undoes what its session wrote."""
    app = FastAPI()

    @app.websocket("/ws")
    async def converse(websocket: WebSocket, session: SessionDep) -> None:
        await websocket.accept()
        session.add(Item(name="a"))
        await session.flush()
        raise WebSocketException(code=1008)

    async with serving(app, database) as client:
        async with client.websocket("/ws") as socket:
            await socket.accepted()

        assert client.log == ["accept", "BEGIN", "ROLLBACK", "close"]
        assert await client.rows() == []


async def test_websocket_whose_client_leaves_rolls_back(database: Database) -> None:
    """A client that hangs up is an exception in the endpoint, as any other."""
    app = FastAPI()

    @app.websocket("/ws")
    async def converse(websocket: WebSocket, session: SessionDep) -> None:
        await websocket.accept()
        session.add(Item(name="a"))
        await session.flush()
        while True:
            await websocket.send_text(await websocket.receive_text())

    async with serving(app, database) as client:
        async with client.websocket("/ws") as socket:
            await socket.accepted()
            assert await socket.ask("still there?") == "still there?"

        assert client.log == ["accept", "BEGIN", "send", "ROLLBACK"]
        assert await client.rows() == []


async def test_websocket_commits_each_message_with_a_session_of_its_own(
    database: Database,
) -> None:
    """`db.session()` per message: answered means durable, and nothing is held in between."""
    app = FastAPI()

    @app.websocket("/ws")
    async def converse(websocket: WebSocket, db: DatabaseDep) -> None:
        await websocket.accept()
        while True:
            name = await websocket.receive_text()
            async with db.session() as session:
                session.add(Item(name=name))
            await websocket.send_text(str(checked_out(db)))

    async with serving(app, database) as client:
        async with client.websocket("/ws") as socket:
            await socket.accepted()
            assert await socket.ask("a") == "0"
            assert await client.rows() == ["a"]
            assert await socket.ask("b") == "0"
            assert await client.rows() == ["a", "b"]

        assert client.log == ["accept", *["BEGIN", "COMMIT", "send"] * 2]


# --- What raises -------------------------------------------------------------------------------


def raised_http_exception(app: FastAPI) -> None:
    @app.post("/items")
    async def create(session: SessionDep) -> None:
        session.add(Item(name="a"))
        await session.flush()
        raise HTTPException(409)


def raised_http_exception_in_def(app: FastAPI) -> None:
    @app.post("/items")
    def create(session: SyncSessionDep) -> None:
        session.add(Item(name="a"))
        session.flush()
        raise HTTPException(409)


def raised_error(app: FastAPI) -> None:
    @app.post("/items")
    async def create(session: SessionDep) -> None:
        session.add(Item(name="a"))
        await session.flush()
        raise RuntimeError("broken")


def raised_error_in_def(app: FastAPI) -> None:
    @app.post("/items")
    def create(session: SyncSessionDep) -> None:
        session.add(Item(name="a"))
        session.flush()
        raise RuntimeError("broken")


def raised_error_with_background_task(app: FastAPI) -> None:
    @app.post("/items")
    async def create(session: SessionDep, tasks: BackgroundTasks) -> None:
        session.add(Item(name="a"))
        await session.flush()
        tasks.add_task(pytest.fail, "a task of a failed request ran")
        raise RuntimeError("broken")


def invalid_response(app: FastAPI) -> None:
    @app.post("/items", response_model=Created)
    async def create(session: SessionDep) -> Any:
        session.add(Item(name="a"))
        await session.flush()
        return {"id": "no number"}


def invalid_response_in_def(app: FastAPI) -> None:
    @app.post("/items", response_model=Created)
    def create(session: SyncSessionDep) -> Any:
        session.add(Item(name="a"))
        session.flush()
        return {"id": "no number"}


def response_that_no_json_can_say(app: FastAPI) -> None:
    @app.post("/items", response_model=None)
    async def create(session: SessionDep) -> Any:
        session.add(Item(name="a"))
        await session.flush()
        return {"value": float("nan")}


def raised_validation_error(app: FastAPI) -> None:
    @app.post("/items")
    async def create(session: SessionDep) -> None:
        session.add(Item(name="a"))
        await session.flush()
        raise RequestValidationError([])


def error_in_a_later_dependency(app: FastAPI) -> None:
    async def write(session: SessionDep) -> None:
        session.add(Item(name="a"))
        await session.flush()

    async def refuse() -> None:
        raise HTTPException(403)

    @app.post("/items", dependencies=[Depends(write), Depends(refuse)])
    async def create() -> None: ...


def error_after_the_yield_of_a_dependency(app: FastAPI) -> None:
    async def write(session: SessionDep) -> AsyncIterator[None]:
        session.add(Item(name="a"))
        await session.flush()
        yield
        raise RuntimeError("broken")

    @app.post("/items", dependencies=[Depends(write, scope="function")])
    async def create() -> None: ...


def integrity_error(app: FastAPI) -> None:
    @app.post("/items")
    async def create(session: SessionDep) -> None:
        session.add(Item(name="a"))
        await session.flush()
        session.add(Item(name="a"))
        await session.flush()


def integrity_error_at_the_end(app: FastAPI) -> None:
    @app.post("/items")
    async def create(session: SessionDep) -> None:
        session.add_all([Item(name="a"), Item(name="a")])


def integrity_error_at_the_end_of_def(app: FastAPI) -> None:
    @app.post("/items")
    def create(session: SyncSessionDep) -> None:
        session.add_all([Item(name="a"), Item(name="a")])


FAILURES: list[Routes] = [
    raised_http_exception,
    raised_error_in_def,
    integrity_error,
    integrity_error_at_the_end,
    integrity_error_at_the_end_of_def,
]

# What differs here is FastAPI's doing, not the driver's.
FAILING_SHAPES: list[Routes] = [
    raised_http_exception_in_def,
    raised_error,
    raised_error_with_background_task,
    invalid_response,
    invalid_response_in_def,
    response_that_no_json_can_say,
    raised_validation_error,
    error_in_a_later_dependency,
    error_after_the_yield_of_a_dependency,
]

FAILURE_STATUSES = {
    "raised_http_exception": 409,
    "raised_http_exception_in_def": 409,
    "raised_validation_error": 422,
    "error_in_a_later_dependency": 403,
}


@pytest.mark.parametrize("routes", FAILURES, ids=ids(FAILURES))
async def test_raising_rolls_back_before_the_response_starts(
    database: Database, routes: Routes
) -> None:
    """An error undoes the whole request, and leaves nothing for the next one."""
    await _rolls_back_before_the_response_starts(database, routes)


@pytest.mark.backends("sqlite-memory", "postgresql-asyncpg")
@pytest.mark.parametrize("routes", FAILING_SHAPES, ids=ids(FAILING_SHAPES))
async def test_whatever_is_raised_rolls_back_before_the_response_starts(
    database: Database, routes: Routes
) -> None:
    """Wherever it is raised: endpoint, response validation, encoding, another dependency."""
    await _rolls_back_before_the_response_starts(database, routes)


async def _rolls_back_before_the_response_starts(database: Database, routes: Routes) -> None:
    app = FastAPI()
    routes(app)

    @app.post("/next", status_code=201)
    async def write_on(session: SessionDep) -> None:
        session.add(Item(name="next"))

    async with serving(app, database, sync=True) as client:
        answer = await client.post("/items")

        status = FAILURE_STATUSES.get(routes.__name__, 500)
        assert client.log[:3] == ["BEGIN", "ROLLBACK", f"start {status}"]
        assert "COMMIT" not in client.log
        assert (answer.rows_at_start, answer.held_at_start) == ([], 0)
        assert (await client.post("/next")).status == 201
        assert await client.rows() == ["next"]


async def test_stream_whose_endpoint_raised_never_starts(database: Database) -> None:
    """An error in the endpoint comes before its stream, which is not even begun."""
    app = FastAPI()

    @app.post("/items")
    async def create(session: SessionDep) -> StreamingResponse:
        session.add(Item(name="a"))
        await session.flush()
        response = StreamingResponse(iter(["chunk"]))
        raise HTTPException(409, headers=dict(response.headers))

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert answer.status == 409
        assert await client.rows() == []


# --- What takes no connection ------------------------------------------------------------------


async def test_unused_session_takes_no_connection(database: Database) -> None:
    """A request that never touches the database never takes a connection, on either twin."""
    app = FastAPI()

    @app.post("/async")
    async def untouched(session: SessionDep, reading: ReadSessionDep) -> None: ...

    @app.post("/sync")
    def untouched_sync(session: SyncSessionDep) -> None: ...

    async with serving(app, database, sync=True) as client:
        for path in ("/async", "/sync"):
            assert (await client.post(path)).status == 200

        assert client.log == ["start 200", "body", "end"] * 2
        assert (client.log.connects, client.log.checkouts) == (0, 0)


async def test_unprocessable_request_takes_no_connection(database: Database) -> None:
    """A 422 costs the database nothing, although the session was resolved already."""
    app = FastAPI()

    @app.post("/items")
    async def create(session: SessionDep, number: int) -> None: ...

    async with serving(app, database) as client:
        assert (await client.post("/items?number=one")).status == 422

        assert client.log == ["start 422", "body", "end"]
        assert (client.log.connects, client.log.checkouts) == (0, 0)


async def test_unauthenticated_request_takes_no_connection(database: Database) -> None:
    """A 401 costs the database nothing, although the session was resolved already."""
    app = FastAPI()
    key = APIKeyHeader(name="X-Key")

    @app.post("/items")
    async def create(session: SessionDep, key: str = Security(key)) -> None: ...

    async with serving(app, database) as client:
        assert (await client.post("/items")).status == 401

        assert client.log == ["start 401", "body", "end"]
        assert (client.log.connects, client.log.checkouts) == (0, 0)


# --- COMMIT that fails -------------------------------------------------------------------------


def _orphans(app: FastAPI) -> None:
    """Add endpoints whose COMMIT finds a foreign key without its parent."""

    @app.post("/async", status_code=201)
    async def orphan(session: SessionDep) -> None:
        session.add_all([Item(name="a"), Child(id=1, parent_id=404)])
        await session.flush()

    @app.post("/sync", status_code=201)
    def orphan_sync(session: SyncSessionDep) -> None:
        session.add_all([Item(name="a"), Child(id=1, parent_id=404)])
        session.flush()

    @app.post("/stream", status_code=201)
    async def orphan_stream(session: SessionDep) -> StreamingResponse:
        session.add_all([Item(name="a"), Child(id=1, parent_id=404)])
        return StreamingResponse(iter(["chunk"]), status_code=201)

    @app.post("/task", status_code=201)
    async def orphan_task(session: SessionDep, tasks: BackgroundTasks) -> None:
        session.add_all([Item(name="a"), Child(id=1, parent_id=404)])
        tasks.add_task(pytest.fail, "a task of a failed request ran")

    @app.post("/next", status_code=201)
    async def write_on(session: SessionDep) -> None:
        session.add(Item(name="next"))

    @app.post("/next-sync", status_code=201)
    def write_on_sync(session: SyncSessionDep) -> None:
        session.add(Item(name="next-sync"))


@pytest.mark.backends("sqlite", "postgresql")
@pytest.mark.parametrize("path", ["/async", "/sync", "/stream", "/task"])
async def test_commit_that_fails_is_never_a_success(database: Database, path: str) -> None:
    """Row 1: a deferred constraint fails at COMMIT: 500, no rows, and a clean next request."""
    app = FastAPI()
    _orphans(app)
    tables = (Base.metadata, Deferred.metadata)
    async with serving(app, database, metadata=tables, sync=True) as client:
        answer = await client.post(path)

        assert client.log == ["BEGIN", "COMMIT", "start 500", "body", "end"]
        assert isinstance(answer.error, IntegrityError)
        assert (answer.rows_at_start, answer.held_at_start) == ([], 0)
        assert (await client.post("/next")).status == 201
        assert (await client.post("/next-sync")).status == 201
        assert await client.rows() == ["next", "next-sync"]
        assert await client.look(select(Child.id)) == []


@pytest.mark.backends("sqlite", "postgresql")
@pytest.mark.parametrize("path", ["/async", "/sync"])
async def test_app_handles_the_commit_that_fails(database: Database, path: str) -> None:
    """Row 1: the app's own exception handler sees why COMMIT failed, and answers."""
    app = FastAPI()
    _orphans(app)

    @app.exception_handler(SQLAlchemyError)
    async def explain(request: Request, error: SQLAlchemyError) -> Response:
        return JSONResponse({"error": type(error).__name__}, status_code=409)

    tables = (Base.metadata, Deferred.metadata)
    async with serving(app, database, metadata=tables, sync=True) as client:
        answer = await client.post(path)

        assert (answer.status, answer.json()) == (409, {"error": "IntegrityError"})
        assert answer.error is None
        assert answer.rows_at_start == []


@pytest.mark.backends("sqlite", "postgresql")
async def test_commit_in_the_middle_that_fails_raises_there(database: Database) -> None:
    """An explicit commit that fails rolls back; who catches it goes on with a clean session."""
    app = FastAPI()

    @app.post("/items")
    async def create(session: SessionDep) -> str:
        session.add_all([Item(name="a"), Child(id=1, parent_id=404)])
        try:
            await session.commit()
        except IntegrityError:
            session.add(Item(name="b"))
            return "second try"
        return "first try"

    tables = (Base.metadata, Deferred.metadata)
    async with serving(app, database, metadata=tables) as client:
        answer = await client.post("/items")

        assert answer.json() == "second try"
        assert answer.rows_at_start == ["b"]


@pytest.mark.backends("postgresql", "mysql")
@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_commit_on_a_dead_connection_has_an_unknown_outcome(
    backend: Backend, database: Database, sync: bool
) -> None:
    """A server session killed just before COMMIT: the client is told 500, not 201."""
    app = FastAPI()
    client: Client

    async def kill(server_session: Any) -> None:
        if backend.name == "mysql":
            await client.execute(text(f"KILL {server_session}"))
        else:
            await client.execute(text(f"SELECT pg_terminate_backend({server_session}, 5000)"))

    own_id = text("SELECT " + {"mysql": "connection_id()"}.get(backend.name, "pg_backend_pid()"))

    @app.post("/async", status_code=201)
    async def create(session: SessionDep) -> None:
        session.add(Item(name="a"))
        await session.flush()
        await kill(await session.scalar(own_id))

    @app.post("/next", status_code=201)
    async def write_on(session: SessionDep) -> None:
        session.add(Item(name="next"))

    def create_sync(session: SyncSessionDep) -> Any:
        session.add(Item(name="a"))
        session.flush()
        return session.scalar(own_id)

    @app.post("/sync", status_code=201)
    async def endpoint(server_session: Any = Depends(create_sync)) -> None:
        await kill(server_session)

    async with serving(app, database, sync=True) as client:
        answer = await client.post("/sync" if sync else "/async")

        assert answer.status == 500
        assert isinstance(answer.error, CommitOutcomeUnknown)
        assert isinstance(answer.error.__cause__, (DBAPIError, OSError))
        assert str(answer.error) == (
            "The connection was lost while COMMIT was in flight: the transaction may or"
            " may not have been committed. Look for its rows before you run it again."
        )
        assert (await client.post("/next")).status == 201
        assert await client.rows() == ["next"]


@pytest.mark.backends("postgresql", "mysql")
async def test_a_block_of_begin_has_an_unknown_outcome_too(
    backend: Backend, database: Database
) -> None:
    """And `db.run` does not repeat it: it may be there already."""
    await database.create_all(Base.metadata)
    own_id = text("SELECT " + {"mysql": "connection_id()"}.get(backend.name, "pg_backend_pid()"))
    kill = {"mysql": "KILL {}"}.get(backend.name, "SELECT pg_terminate_backend({}, 5000)")
    attempts = 0

    async def unit(session: AsyncSession) -> None:
        nonlocal attempts
        attempts += 1
        async with session.begin():
            session.add(Item(name="a"))
            await session.flush()
            server_session = await session.scalar(own_id)
            async with database.session() as other:
                await other.execute(text(kill.format(server_session)))

    with pytest.raises(CommitOutcomeUnknown):
        await database.run(unit)
    assert attempts == 1


@pytest.mark.backends("sqlite-file")
@pytest.mark.parametrize("path", ["/async", "/sync"])
async def test_commit_that_sqlite_finds_busy_leaves_nothing_behind(
    sqlite_url: str, path: str
) -> None:
    """Row 5: COMMIT meets a reader and fails; the next request does not commit those rows."""
    app = FastAPI()
    _orphans(app)

    @app.post("/items", status_code=201)
    async def create(session: SessionDep) -> None:
        session.add(Item(name="a"))

    @app.post("/items-sync", status_code=201)
    def create_sync(session: SyncSessionDep) -> None:
        session.add(Item(name="a"))

    database = Database(
        sqlite_url, sqlite=SQLiteOptions(journal_mode="DELETE"), timeouts=Timeouts(lock=0.05)
    )
    async with serving(app, database, sync=True) as client:
        async with database.read_session() as reader:
            await reader.scalars(select(Item))
            answer = await client.post(
                path.replace("/async", "/items").replace("/sync", "/items-sync")
            )

            assert answer.status == 500
            assert isinstance(answer.error, OperationalError)
        assert (await client.post("/next")).status == 201
        assert (await client.post("/next-sync")).status == 201
        assert await client.rows() == ["next", "next-sync"]


# --- Errors that were caught -------------------------------------------------------------------


async def _duplicate(session: AsyncSession) -> None:
    session.add(Item(name="before"))
    await session.flush()


async def _bad_statement(session: AsyncSession) -> None:
    await session.execute(text("SELECT * FROM nowhere"))


async def _bad_insert(session: AsyncSession) -> None:
    await session.execute(insert(Item).values(name="before"))


@pytest.mark.parametrize("fail", [_duplicate, _bad_statement, _bad_insert])
async def test_caught_database_error_is_not_half_committed(
    database: Database, fail: Callable[[AsyncSession], Awaitable[None]]
) -> None:
    """Returning after a caught error is refused, and undoes what had worked before."""
    app = FastAPI()

    @app.post("/items", status_code=201)
    async def create(session: SessionDep) -> None:
        session.add(Item(name="before"))
        await session.flush()
        try:
            await fail(session)
        except DBAPIError:
            return

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert answer.status == 500
        assert isinstance(answer.error, TransactionFailed)
        assert str(answer.error) == (
            f"A statement of this transaction failed ({type(answer.error.__cause__).__name__}) and"
            " the error was caught, so its COMMIT was refused and everything was rolled back. Put"
            " what may fail into `async with atomic(session):`, so that only that part is undone;"
            " or let the error go on; or `await session.rollback()` and start over."
        )
        assert isinstance(answer.error.__cause__, DBAPIError)
        assert answer.rows_at_start == []


@pytest.mark.parametrize(
    "statement", ["INSERT INTO item (name) VALUES ('before')", "SELECT 1 FROM x"]
)
async def test_caught_database_error_in_def_is_not_half_committed(
    database: Database, statement: str
) -> None:
    """The same in a `def` endpoint."""
    app = FastAPI()

    @app.post("/items", status_code=201)
    def create(session: SyncSessionDep) -> None:
        session.add(Item(name="before"))
        session.flush()
        try:
            session.execute(text(statement))
        except DBAPIError:
            return

    async with serving(app, database, sync=True) as client:
        answer = await client.post("/items")

        assert answer.status == 500
        assert isinstance(answer.error, TransactionFailed)
        assert answer.rows_at_start == []


async def test_caught_error_around_atomic_is_fine(database: Database) -> None:
    """What failed inside `atomic()` is undone alone; the rest of the request is committed."""
    app = FastAPI()

    @app.post("/items", status_code=201)
    async def create(session: SessionDep) -> str:
        session.add(Item(name="before"))
        await session.flush()
        try:
            async with atomic(session):
                session.add(Item(name="inside"))
                await session.flush()
                session.add(Item(name="before"))
        except IntegrityError:
            session.add(Item(name="after"))
            return "known"
        return "new"

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert (answer.status, answer.json()) == (201, "known")
        assert answer.rows_at_start == ["before", "after"]


async def test_caught_error_around_atomic_in_def_is_fine(database: Database) -> None:
    """The same in a `def` endpoint, with a plain `with`."""
    app = FastAPI()

    @app.post("/items", status_code=201)
    def create(session: SyncSessionDep) -> None:
        session.add(Item(name="before"))
        session.flush()
        try:
            with atomic(session):
                session.add(Item(name="before"))
        except IntegrityError:
            session.add(Item(name="after"))

    async with serving(app, database, sync=True) as client:
        answer = await client.post("/items")

        assert answer.status == 201
        assert answer.rows_at_start == ["before", "after"]


async def test_what_atomic_wrote_is_undone_by_a_later_error(database: Database) -> None:
    """`atomic()` is a savepoint also where nothing was begun: raising later undoes it."""
    app = FastAPI()

    @app.post("/items")
    async def create(session: SessionDep) -> None:
        async with atomic(session):
            session.add(Item(name="a"))
        raise HTTPException(409)

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert answer.status == 409
        assert answer.rows_at_start == []


async def test_rollback_after_a_caught_error_starts_over(database: Database) -> None:
    """Who catches an error and rolls back may write again, and that is committed."""
    app = FastAPI()

    @app.post("/items", status_code=201)
    async def create(session: SessionDep) -> None:
        session.add(Item(name="before"))
        try:
            await _bad_statement(session)
        except DBAPIError:
            await session.rollback()
        session.add(Item(name="after"))

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert answer.status == 201
        assert answer.rows_at_start == ["after"]


# --- COMMIT and ROLLBACK in the middle ---------------------------------------------------------


async def test_explicit_commit_keeps_what_came_before_a_later_error(database: Database) -> None:
    """What was committed in the middle stays; what came after it is undone."""
    app = FastAPI()

    @app.post("/items")
    async def create(session: SessionDep) -> None:
        session.add(Item(name="a"))
        await session.commit()
        session.add(Item(name="b"))
        await session.flush()
        raise HTTPException(409)

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert client.log[:5] == ["BEGIN", "COMMIT", "BEGIN", "ROLLBACK", "start 409"]
        assert answer.rows_at_start == ["a"]


async def test_what_follows_an_explicit_commit_is_committed_too(database: Database) -> None:
    """The end of the request commits what came after a commit in the middle."""
    app = FastAPI()

    @app.post("/items")
    async def create(session: SessionDep) -> None:
        session.add(Item(name="a"))
        await session.commit()
        session.add(Item(name="b"))

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert client.log[:5] == ["BEGIN", "COMMIT", "BEGIN", "COMMIT", "start 200"]
        assert answer.rows_at_start == ["a", "b"]


async def test_nothing_is_left_to_do_after_a_last_commit(database: Database) -> None:
    """A request that committed itself is not committed again."""
    app = FastAPI()

    @app.post("/items")
    async def create(session: SessionDep) -> str:
        item = Item(name="a")
        session.add(item)
        await session.commit()
        return item.name

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert client.log[:3] == ["BEGIN", "COMMIT", "start 200"]
        assert answer.json() == "a"


async def test_explicit_commit_gives_the_connection_back(database: Database) -> None:
    """After a commit in the middle nothing is held, for instance while a slow service is asked."""
    app = FastAPI()

    @app.post("/items")
    async def create(session: SessionDep) -> int:
        session.add(Item(name="a"))
        await session.commit()
        return checked_out(database)

    async with serving(app, database) as client:
        assert (await client.post("/items")).json() == 0


async def test_explicit_rollback_undoes_only_what_came_before(database: Database) -> None:
    """What follows a rollback in the middle is committed at the end."""
    app = FastAPI()

    @app.post("/items")
    async def create(session: SessionDep) -> None:
        session.add(Item(name="a"))
        await session.flush()
        await session.rollback()
        session.add(Item(name="b"))

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert client.log[:5] == ["BEGIN", "ROLLBACK", "BEGIN", "COMMIT", "start 200"]
        assert answer.rows_at_start == ["b"]


async def test_explicit_rollback_at_the_end_commits_nothing(database: Database) -> None:
    """A last rollback is the way to answer without raising and without writing."""
    app = FastAPI()

    @app.post("/items")
    async def create(session: SessionDep) -> Response:
        session.add(Item(name="a"))
        await session.flush()
        await session.rollback()
        return JSONResponse({"detail": "no"}, status_code=409)

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert client.log[:3] == ["BEGIN", "ROLLBACK", "start 409"]
        assert answer.rows_at_start == []


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_explicit_end_in_def(database: Database, ending: str) -> None:
    """A `def` endpoint may end its transaction itself, and go on."""
    app = FastAPI()

    @app.post("/items")
    def create(session: SyncSessionDep) -> None:
        session.add(Item(name="a"))
        session.flush()
        getattr(session, ending)()
        session.add(Item(name="b"))

    async with serving(app, database, sync=True) as client:
        answer = await client.post("/items")

        assert answer.rows_at_start == (["a", "b"] if ending == "commit" else ["b"])


# --- COMMIT while the request is cancelled -----------------------------------------------------


Block = Callable[[], Awaitable[object]]


async def _blocked_already() -> None: ...


@asynccontextmanager
async def commits_blocked(
    backend: Backend, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Database, Block]]:
    """Let COMMIT of a row in `item` wait on the server, once blocked, until the block is left."""
    if backend.name == "sqlite":
        # In this journal mode a reader holds the writer's COMMIT up.
        options = SQLiteOptions(journal_mode="DELETE")
        async with Database(backend.url, sqlite=options) as database:
            await database.create_all(Base.metadata)
            async with database.read_session() as reader:
                await reader.scalars(select(Item))
                yield database, _blocked_already
        return
    async with Database(backend.url) as database:
        await database.create_all(Base.metadata)
        if backend.name == "mysql":
            with request.getfixturevalue("mysql_admin").cursor() as cursor:
                lock = "FLUSH TABLES WITH READ LOCK"  # blocks INSERT too: taken after it
                try:
                    yield database, lambda: asyncio.to_thread(cursor.execute, lock)
                finally:
                    await asyncio.to_thread(cursor.execute, "UNLOCK TABLES")
            return
        async with database.session() as session:
            await session.execute(text(WAIT_AT_COMMIT))
            await session.execute(text(WAIT_AT_COMMIT_TRIGGER))
        async with database.session() as holder:
            await holder.execute(text("SELECT pg_advisory_xact_lock(7)"))
            yield database, _blocked_already


WAIT_AT_COMMIT = """
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END'
"""
WAIT_AT_COMMIT_TRIGGER = """
    CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION wait()
"""


@pytest.mark.parametrize("cancel", ["task", "timeout", "anyio"])
@pytest.mark.parametrize("path", ["/async", "/sync"])
async def test_request_cancelled_in_commit_has_all_its_rows(
    backend: Backend, request: pytest.FixtureRequest, path: str, cancel: str
) -> None:
    """A COMMIT that was sent is waited for: all rows are there, and the connection is back."""
    app = FastAPI()
    block: Block
    in_commit = asyncio.Event()

    @app.post("/async")
    async def create(session: SessionDep) -> None:
        session.add_all([Item(name="a"), Item(name="b")])
        await session.flush()
        await block()

    def write(session: SyncSessionDep) -> None:
        session.add_all([Item(name="a"), Item(name="b")])
        session.flush()

    @app.post("/sync", dependencies=[Depends(write)])
    async def create_sync() -> None:
        await block()

    async with AsyncExitStack() as blocked:
        database, block = await blocked.enter_async_context(commits_blocked(backend, request))
        async with database, serving(app, database, metadata=(), sync=True) as client:
            loop = asyncio.get_running_loop()
            for engine in (database.engine.sync_engine, database.sync.engine):
                event.listen(engine, "commit", lambda _: loop.call_soon_threadsafe(in_commit.set))
            call = asyncio.ensure_future(
                cancelled_when(in_commit, cancel, lambda: client.post(path))
            )
            await in_commit.wait()
            # Time for a cancellation that is not held back to reach the server.
            done, _ = await asyncio.wait({call}, timeout=0.1)
            assert not done, "the request did not wait for its COMMIT"
            unblock = asyncio.ensure_future(blocked.aclose())
            await call
            await unblock

            assert checked_out(database) == 0
            assert client.log[:2] == ["BEGIN", "COMMIT"]
            assert not any(entry.startswith("start") for entry in client.log)
            assert await client.rows() == ["a", "b"]


@pytest.mark.backends("postgresql", "mysql")
async def test_commit_that_never_ends_is_given_up_after_a_cancellation(
    backend: Backend, request: pytest.FixtureRequest
) -> None:
    """A cancelled request waits for its COMMIT `Timeouts.close` seconds, then cuts it off."""
    app = FastAPI()
    block: Block
    in_commit = asyncio.Event()

    @app.post("/items")
    async def create(session: SessionDep) -> None:
        session.add_all([Item(name="a"), Item(name="b")])
        await session.flush()
        await block()

    async with commits_blocked(backend, request) as (_, block):
        database = Database(backend.url, timeouts=Timeouts(close=0.05))
        async with serving(app, database, metadata=()) as client:
            event.listen(
                database.engine.sync_engine,
                "commit",
                lambda _: asyncio.get_running_loop().call_soon(in_commit.set),
            )
            await cancelled_when(in_commit, "task", lambda: client.post("/items"))

            assert checked_out(database) == 0
            assert await client.rows() in ([], ["a", "b"])


# --- on_commit ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_callback_runs_after_commit_and_before_the_response(
    database: Database, sync: bool
) -> None:
    """A callback finds the transaction committed, and every connection and lock given back."""
    app = FastAPI()
    log: Log

    def note() -> None:
        log.append(f"callback, {checked_out(database)} connections held")

    if sync:

        @app.post("/items", status_code=201)
        def create_sync(session: SyncSessionDep) -> None:
            on_commit(session, note)
            session.add(Item(name="a"))

    else:

        @app.post("/items", status_code=201)
        async def create(session: SessionDep) -> None:
            on_commit(session, note)
            session.add(Item(name="a"))

    async with serving(app, database, sync=sync) as client:
        log = client.log
        await client.post("/items")

        assert log[:4] == ["BEGIN", "COMMIT", "callback, 0 connections held", "start 201"]


async def test_callback_may_write_with_a_session_of_its_own(database: Database) -> None:
    """A callback is awaited, and finds SQLite's write lock free."""
    app = FastAPI()

    @app.post("/items", status_code=201)
    async def create(session: SessionDep, db: DatabaseDep) -> None:
        async def write() -> None:
            async with db.session() as another:
                another.add(Item(name="b"))

        on_commit(session, write)
        session.add(Item(name="a"))

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert answer.rows_at_start == ["a", "b"]


async def test_callbacks_run_in_the_order_of_their_registration(database: Database) -> None:
    """Callbacks run one after the other, each awaited before the next."""
    app = FastAPI()
    ran: list[int] = []

    @app.post("/items", status_code=201)
    async def create(session: SessionDep) -> None:
        async def second() -> None:
            await asyncio.sleep(0)
            ran.append(2)

        on_commit(session, lambda: ran.append(1))
        on_commit(session, second)
        on_commit(session, lambda: ran.append(3))
        session.add(Item(name="a"))

    async with serving(app, database) as client:
        await client.post("/items")

        assert ran == [1, 2, 3]


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_callback_is_dropped_with_the_transaction(database: Database, sync: bool) -> None:
    """Nothing is told of what was rolled back."""
    app = FastAPI()
    ran: list[str] = []

    if sync:

        @app.post("/items")
        def create_sync(session: SyncSessionDep) -> None:
            session.add(Item(name="a"))
            on_commit(session, lambda: ran.append("told"))
            raise HTTPException(409)

    else:

        @app.post("/items")
        async def create(session: SessionDep) -> None:
            session.add(Item(name="a"))
            on_commit(session, lambda: ran.append("told"))
            raise HTTPException(409)

    async with serving(app, database, sync=sync) as client:
        assert (await client.post("/items")).status == 409
        assert ran == []


@pytest.mark.backends("sqlite", "postgresql")
async def test_callback_is_dropped_when_commit_fails(database: Database) -> None:
    """A COMMIT that fails is no commit."""
    app = FastAPI()
    ran: list[str] = []

    @app.post("/items")
    async def create(session: SessionDep) -> None:
        session.add(Child(id=1, parent_id=404))
        on_commit(session, lambda: ran.append("told"))

    async with serving(app, database, metadata=(Base.metadata, Deferred.metadata)) as client:
        assert (await client.post("/items")).status == 500
        assert ran == []


async def test_callback_follows_its_savepoint(database: Database) -> None:
    """What was registered in a savepoint that was rolled back is dropped, the rest is told."""
    app = FastAPI()
    ran: list[str] = []

    @app.post("/items")
    async def create(session: SessionDep) -> None:
        on_commit(session, lambda: ran.append("before"))
        async with atomic(session):
            on_commit(session, lambda: ran.append("kept"))
        try:
            async with atomic(session):
                on_commit(session, lambda: ran.append("dropped"))
                async with atomic(session):
                    on_commit(session, lambda: ran.append("dropped too"))
                await session.execute(text("SELECT * FROM nowhere"))
        except DBAPIError:
            on_commit(session, lambda: ran.append("after"))

    async with serving(app, database) as client:
        assert (await client.post("/items")).status == 200
        assert ran == ["before", "kept", "after"]


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_failing_callback_is_logged_and_changes_nothing(
    database: Database, sync: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A failing callback is logged; the others run and the answer is kept."""
    app = FastAPI()
    ran: list[str] = []

    def fail() -> None:
        raise ValueError("broken")

    if sync:

        @app.post("/items", status_code=201)
        def create_sync(session: SyncSessionDep) -> None:
            session.add(Item(name="a"))
            on_commit(session, fail)
            on_commit(session, lambda: ran.append("told"))

    else:

        @app.post("/items", status_code=201)
        async def create(session: SessionDep) -> None:
            session.add(Item(name="a"))
            on_commit(session, fail)
            on_commit(session, lambda: ran.append("told"))

    async with serving(app, database, sync=sync) as client:
        with caplog.at_level(logging.ERROR, "fastdb"):
            answer = await client.post("/items")

        assert (answer.status, answer.error) == (201, None)
        assert answer.rows_at_start == ["a"]
        assert ran == ["told"]
        messages = [record.getMessage() for record in caplog.records]
        assert messages == [f"An on_commit callback failed: {fail!r}"]
        assert caplog.records[0].exc_info is not None


async def test_callback_runs_at_an_explicit_commit(database: Database) -> None:
    """A commit in the middle tells at once, and an error after it takes nothing back."""
    app = FastAPI()
    log: Log

    @app.post("/items")
    async def create(session: SessionDep) -> None:
        session.add(Item(name="a"))
        on_commit(session, lambda: log.append("first"))
        await session.commit()
        log.append("committed")
        on_commit(session, lambda: log.append("second"))
        raise HTTPException(409)

    async with serving(app, database) as client:
        log = client.log
        await client.post("/items")

        assert log[:4] == ["BEGIN", "COMMIT", "first", "committed"]
        assert "second" not in log


async def test_callback_without_any_statement_runs(database: Database) -> None:
    """A callback of a transaction that had nothing to write is told too, at no connection."""
    app = FastAPI()
    ran: list[str] = []

    @app.post("/items")
    async def create(session: SessionDep) -> None:
        on_commit(session, lambda: ran.append("told"))

    async with serving(app, database) as client:
        await client.post("/items")

        assert ran == ["told"]
        assert client.log.checkouts == 0


# --- Closed by the endpoint itself --------------------------------------------------------------


async def test_session_that_the_endpoint_has_closed_is_refused(database: Database) -> None:
    """Who closes the session and goes on using it is told; nothing is lost without a word."""
    app = FastAPI()

    @app.post("/items", status_code=201)
    async def create(session: SessionDep) -> None:
        await session.close()
        session.add(Item(name="a"))
        await session.flush()

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert answer.status == 500
        assert isinstance(answer.error, InvalidRequestError)
        assert client.log.checkouts == 0


# --- Used after its end ------------------------------------------------------------------------


USES: dict[str, Callable[[AsyncSession], Awaitable[object]]] = {
    "execute": lambda session: session.execute(select(1)),
    "scalar": lambda session: session.scalar(select(1)),
    "scalars": lambda session: session.scalars(select(Item)),
    "get": lambda session: session.get(Item, 1),
    "stream": lambda session: session.stream(select(Item)),
    "stream_scalars": lambda session: session.stream_scalars(select(Item)),
    "refresh": lambda session: session.refresh(Item(id=1, name="a")),
    "connection": lambda session: session.connection(),
    "merge": lambda session: session.merge(Item(id=1, name="b")),
    "commit": lambda session: session.commit(),
    "flush": lambda session: session.flush(),
    "run_sync": lambda session: session.run_sync(lambda inner: inner.execute(select(1))),
}


async def _add(session: AsyncSession) -> None:
    session.add(Item(name="b"))


async def _add_all(session: AsyncSession) -> None:
    session.add_all([Item(name="b")])


async def _delete(session: AsyncSession) -> None:
    await session.delete(Item(id=1, name="a"))


async def _begin(session: AsyncSession) -> None:
    async with session.begin():
        pass


async def _atomic(session: AsyncSession) -> None:
    async with atomic(session):
        pass


async def _on_commit(session: AsyncSession) -> None:
    on_commit(session, lambda: None)


USES |= {
    "add": _add,
    "add_all": _add_all,
    "delete": _delete,
    "begin": _begin,
    "atomic": _atomic,
    "on_commit": _on_commit,
}


@pytest.mark.backends("sqlite-memory", "postgresql-asyncpg")
@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_session_used_in_a_background_task_is_refused(
    database: Database, use: Callable[[AsyncSession], Awaitable[object]]
) -> None:
    """Row 3: a session used after its end says what to open instead, and leaks nothing."""
    app = FastAPI()

    @app.post("/items", status_code=201)
    async def create(session: SessionDep, tasks: BackgroundTasks) -> None:
        session.add(Item(name="a"))

        async def misuse() -> None:
            await use(session)

        tasks.add_task(misuse)

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert answer.status == 201
        assert isinstance(answer.error, SessionEnded)
        assert str(answer.error) == ENDED
        assert checked_out(database) == 0
        assert await client.rows() == ["a"]


@pytest.mark.parametrize("touched", [False, True], ids=["untouched", "used before"])
async def test_read_session_used_in_a_background_task_is_refused(
    database: Database, touched: bool
) -> None:
    """Row 3, for read sessions."""
    app = FastAPI()

    @app.get("/items")
    async def read(session: ReadSessionDep, tasks: BackgroundTasks) -> None:
        if touched:
            await session.scalars(select(Item))
        tasks.add_task(session.scalars, select(Item))

    async with serving(app, database) as client:
        answer = await client.get("/items")

        assert isinstance(answer.error, SessionEnded)
        assert str(answer.error) == ENDED


async def test_sync_session_used_in_a_background_task_is_refused(database: Database) -> None:
    """Row 3, for the twin, whose background tasks run in a thread."""
    app = FastAPI()

    @app.post("/items", status_code=201)
    def create(session: SyncSessionDep, tasks: BackgroundTasks) -> None:
        session.add(Item(name="a"))
        tasks.add_task(session.execute, select(1))

    async with serving(app, database, sync=True) as client:
        answer = await client.post("/items")

        assert isinstance(answer.error, SessionEnded)
        assert str(answer.error) == ENDED
        assert await client.rows() == ["a"]


async def test_session_used_after_a_failed_request_is_refused(database: Database) -> None:
    """Row 3: the end after an error is an end as well."""
    app = FastAPI()
    kept: list[AsyncSession] = []

    @app.post("/items")
    async def create(session: SessionDep) -> None:
        kept.append(session)
        session.add(Item(name="a"))
        await session.flush()
        raise HTTPException(409)

    async with serving(app, database) as client:
        await client.post("/items")

        with pytest.raises(SessionEnded) as ended:
            await kept[0].scalars(select(Item))
        assert str(ended.value) == ENDED


async def test_what_was_loaded_stays_readable_after_the_end(database: Database) -> None:
    """The attributes of loaded rows do not expire with COMMIT, for who makes the response."""
    app = FastAPI()
    seen: list[str] = []

    @app.post("/items", status_code=201)
    async def create(session: SessionDep, tasks: BackgroundTasks) -> None:
        item = Item(name="a")
        session.add(item)
        tasks.add_task(lambda: seen.append(item.name))

    async with serving(app, database) as client:
        answer = await client.post("/items")

        assert answer.error is None
        assert seen == ["a"]
