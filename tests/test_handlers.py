"""Answers for database errors: their status, what they give away, and whom they leave alone."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Body, FastAPI, Request, WebSocket
from fastapi.responses import PlainTextResponse
from sqlalchemy import JSON, bindparam, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from asgi import Child, Deferred, TestClient
from backends import Backend
from databases import render
from fastdb import (
    CommitOutcomeUnknown,
    ConfigurationError,
    Database,
    PoolOptions,
    ReadSessionDep,
    SessionDep,
    Timeouts,
    TransactionFailed,
    install_error_handlers,
)
from fastdb.handlers import error_responses
from models import Base, Hero
from server_process import free_port

SECRET = "ssn-123-45-6789"


def make_app(db: Database) -> FastAPI:
    app = FastAPI(lifespan=db.lifespan)
    install_error_handlers(app, retry_after=7)

    @app.post("/heroes")
    async def create(session: SessionDep, values: Annotated[dict[str, Any], Body()]) -> None:
        await session.execute(insert(Hero).values(values))

    @app.get("/slow")
    async def slow(session: SessionDep) -> None:
        if session.get_bind().dialect.name == "postgresql":
            await session.execute(text("SET LOCAL statement_timeout = 50"))
            await session.execute(text("SELECT pg_sleep(5)"))
        await session.execute(text("SET STATEMENT max_statement_time = 0.05 FOR SELECT SLEEP(5)"))

    @app.get("/write")
    async def write(session: ReadSessionDep) -> None:
        await session.execute(insert(Hero).values(name=SECRET))

    @app.get("/read")
    async def read(session: SessionDep) -> None:
        await session.execute(select(1))

    @app.get("/wrong")
    async def wrong(session: SessionDep) -> None:
        await session.execute(text(f"SELEKT '{SECRET}'"))

    return app


@asynccontextmanager
async def calling(
    app: FastAPI, db: Database, *, raises: bool = False
) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=raises)
    async with db.lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://a") as it:
        yield it


@pytest.fixture
async def db(backend: Backend) -> AsyncIterator[Database]:
    """A database with one hero in it."""
    limits = Timeouts(pool=0.1, lock=1)
    async with Database(backend.url, pool=PoolOptions(size=1), timeouts=limits) as db:
        await db.create_all(Base.metadata)
        async with db.session() as session:
            session.add(Hero(id=1000, name=SECRET))
        yield db


def assert_problem(answer: httpx.Response, status: int, kind: str, backend: Backend) -> None:
    """The answer is a problem of this kind, and says nothing that the client did not know."""
    assert (answer.status_code, answer.headers["content-type"]) == (
        status,
        "application/problem+json",
    )
    problem = answer.json()
    assert problem.keys() == {"type", "title", "status", "detail", "kind"}
    assert (problem["type"], problem["status"], problem["kind"]) == ("about:blank", status, kind)
    assert answer.headers.get("retry-after") == ("7" if status == 503 else None)
    url = make_url(backend.url)
    given_away = [SECRET, "INSERT", "SELECT", "hero", "127.0.0.1", url.host, url.password]
    assert [each for each in given_away if each and each.lower() in answer.text.lower()] == []


@pytest.mark.parametrize(
    ("values", "status", "kind"),
    [
        ({"name": SECRET}, 409, "unique"),
        ({"name": "b", "team_id": 99}, 409, "foreign_key"),
        ({"name": None}, 422, "not_null"),
        ({"name": "b", "id": 2**70}, 422, "bad_value"),
    ],
)
async def test_wrong_values(
    db: Database, backend: Backend, values: dict[str, Any], status: int, kind: str
) -> None:
    """Nothing of them comes back; PostgreSQL's DETAIL and SQLAlchemy's text would hold them."""
    async with calling(make_app(db), db) as client:
        assert_problem(await client.post("/heroes", json=values), status, kind, backend)
        assert (await client.post("/heroes", json={"name": "c"})).status_code == 200


@pytest.mark.backends("sqlite", "postgresql")
async def test_what_only_commit_finds(database: Database, backend: Backend) -> None:
    """The endpoint has returned by then."""
    app = make_app(database)

    @app.post("/children")
    async def create(session: SessionDep) -> None:
        session.add(Child(id=1, parent_id=99))

    await database.create_all(Deferred.metadata)
    async with calling(app, database) as client:
        assert_problem(await client.post("/children"), 409, "foreign_key", backend)


async def test_a_full_pool(db: Database, backend: Backend) -> None:
    """Others are told when to come again, and served when they do."""
    async with calling(make_app(db), db) as client:
        async with db.engine.connect():
            assert_problem(await client.get("/read"), 503, "pool_exhausted", backend)
        assert (await client.get("/read")).status_code == 200


@pytest.mark.backends("postgresql", "mysql")
async def test_a_time_limit(db: Database, backend: Backend) -> None:
    """It is the database's, and so 504."""
    async with calling(make_app(db), db) as client:
        assert_problem(await client.get("/slow"), 504, "statement_timeout", backend)


async def test_a_database_that_takes_no_changes(db: Database, backend: Backend) -> None:
    """As after a fail-over."""
    async with calling(make_app(db), db) as client:
        assert_problem(await client.get("/write"), 503, "read_only", backend)


@pytest.mark.backends("postgresql", "mysql")
@pytest.mark.parametrize("change", ["port", "database"])
async def test_a_server_that_cannot_be_reached(backend: Backend, change: str) -> None:
    """asyncpg raises the system's own error, which is SQLAlchemy's with other drivers."""
    url = make_url(backend.url)
    url = url.set(port=free_port()) if change == "port" else url.set(database="nowhere")
    async with Database(render(url)) as db, calling(make_app(db), db) as client:
        assert_problem(await client.get("/read"), 503, "unavailable", backend)


@pytest.mark.backends("postgresql", "mysql")  # on SQLite, writers take turns
async def test_deadlocks(db: Database, backend: Backend) -> None:
    """Whatever was only unlucky can be tried again."""
    both = asyncio.Barrier(2)
    async with Database(backend.url) as patient:
        app = make_app(patient)

        @app.post("/swap/{first}/{second}")
        async def swap(session: SessionDep, first: int, second: int) -> None:
            change = text("UPDATE hero SET name = :name WHERE id = :id")
            await session.execute(change, {"name": f"{first} first", "id": first})
            await both.wait()
            await session.execute(change, {"name": f"{second} second", "id": second})

        async with calling(app, patient) as client:
            await client.post("/heroes", json={"id": 1001, "name": "b"})
            answers = await asyncio.gather(
                client.post("/swap/1000/1001"), client.post("/swap/1001/1000")
            )
    good, bad = sorted(answers, key=lambda answer: answer.status_code)
    assert good.status_code == 200
    assert_problem(bad, 503, "deadlock", backend)


# --- What they leave alone ----------------------------------------------------------------------

only_one = pytest.mark.backends("sqlite-memory")


@only_one
async def test_mistakes_stay_mistakes(db: Database) -> None:
    """Wrong SQL is raised, for the app's own handler of 500 and its tools."""
    app = make_app(db)

    @app.get("/caught")
    async def caught(session: SessionDep) -> None:
        with suppress(IntegrityError):
            await session.execute(insert(Hero).values(name=SECRET))

    async with calling(app, db, raises=True) as client:
        with pytest.raises(DBAPIError):
            await client.get("/wrong")
        with pytest.raises(TransactionFailed):
            await client.get("/caught")


@only_one
@pytest.mark.parametrize(
    "error",
    [
        OverflowError(),
        UnicodeEncodeError("x", "x", 0, 1, "x"),
        FileNotFoundError(),
        TimeoutError(),
        RecursionError(),
    ],
    ids=repr,
)
async def test_what_is_not_the_databases_goes_on(db: Database, error: Exception) -> None:
    """The same exceptions, raised by something else."""
    app = make_app(db)

    @app.get("/fail")
    async def fail(session: SessionDep) -> None:
        await session.execute(select(1))
        raise error

    async with calling(app, db, raises=True) as client:
        with pytest.raises(type(error)):
            await client.get("/fail")


@only_one
async def test_json_that_is_not_the_databases_goes_on(db: Database) -> None:
    """Nested too deeply, but for somebody else."""
    app = make_app(db)

    @app.get("/fail")
    async def fail(session: SessionDep) -> None:
        await session.execute(select(1))
        json.loads("[" * 100_000)

    async with calling(app, db, raises=True) as client:
        with pytest.raises(RecursionError):
            await client.get("/fail")


async def test_json_that_is_nested_too_deeply(db: Database, backend: Backend) -> None:
    """Where the driver encodes it, and where SQLAlchemy does."""
    app = make_app(db)

    @app.get("/nested")
    async def nested(session: SessionDep) -> None:
        value: list[Any] = []
        for _ in range(100_000):
            value = [value]
        await session.execute(select(bindparam("value", type_=JSON())), {"value": value})

    async with calling(app, db) as client:
        assert_problem(await client.get("/nested"), 422, "bad_value", backend)


async def test_a_page_that_no_database_has(db: Database, backend: Backend) -> None:
    """The first after the largest number of MySQL, which has the largest; and a column of it."""
    app = make_app(db)

    @app.get("/page")
    async def page(session: SessionDep, offset: int = 0, order_by: str = "id") -> list[int]:
        wanted = select(Hero.id).order_by(order_by).limit(1).offset(offset)
        return list(await session.scalars(wanted))

    async with calling(app, db) as client:
        for query in (f"offset={2**64}", "order_by=nope"):
            assert_problem(await client.get(f"/page?{query}"), 422, "bad_value", backend)
        assert (await client.get("/page?order_by=name")).json() == [1000]


async def own(_request: Request, _error: Exception) -> PlainTextResponse:
    """Answer as the app wants it."""
    return PlainTextResponse("own", 418)


@only_one
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("raised", [IntegrityError, SQLAlchemyError])
async def test_the_apps_own_handlers_go_before(
    db: Database, raised: type[Exception], first: bool
) -> None:
    """For a narrower class or the same, and whenever they were added."""
    app = FastAPI(lifespan=db.lifespan)
    if first:
        app.add_exception_handler(raised, own)
    install_error_handlers(app)
    if not first:
        app.add_exception_handler(raised, own)

    @app.get("/twice")
    async def twice(session: SessionDep) -> None:
        await session.execute(insert(Hero).values(name=SECRET))

    async with calling(app, db) as client:
        assert (await client.get("/twice")).status_code == 418


@only_one
@pytest.mark.parametrize("path", ["/unknown", "/from-unknown"])
async def test_a_commit_that_nobody_knows_of(
    db: Database, backend: Backend, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    """Is not to be sent again by itself: no Retry-After, whatever was raised from it."""
    app = make_app(db)

    @app.get("/unknown")
    async def unknown() -> None:
        raise CommitOutcomeUnknown(SECRET)

    @app.get("/from-unknown")
    async def from_unknown() -> None:
        raise SQLAlchemyError(SECRET) from CommitOutcomeUnknown(SECRET)

    async with calling(app, db) as client:
        answer = await client.get(path)
    assert_problem(answer, 500, "commit_outcome_unknown", backend)
    assert [each.getMessage() for each in caplog.records if each.name == "fastdb.handlers"] == [
        f"GET {path}: 500, commit_outcome_unknown"
    ]


@only_one
def test_web_sockets_are_left_alone(backend: Backend) -> None:
    """They have no status to answer with."""
    app = make_app(Database(backend.url))

    @app.websocket("/ws")
    async def talk(socket: WebSocket, session: SessionDep) -> None:
        await socket.accept()
        await session.execute(text("CREATE TABLE one (id INTEGER PRIMARY KEY)"))
        for _ in range(2):
            await session.execute(text("INSERT INTO one VALUES (1)"))

    with TestClient(app) as client, pytest.raises(IntegrityError):  # noqa: SIM117
        with client.websocket_connect("/ws") as socket:
            socket.receive_text()


@only_one
async def test_5xx_are_logged(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise nobody would hear of them; what the client has done wrong is no news."""
    async with calling(make_app(db), db) as client:
        with caplog.at_level(logging.DEBUG, "fastdb.handlers"):
            await client.post("/heroes", json={"name": SECRET})
            assert not caplog.records
            await client.get("/write")
            async with db.engine.connect():
                await client.get("/read")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "GET /write: 503, read_only"),
        ("ERROR", "GET /read: 503, pool_exhausted"),
    ]
    assert [bool(record.exc_info) for record in caplog.records] == [True, False]


@only_one
async def test_logs_name_the_route(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    """By its template, without the values that were in the path and after it."""
    app = make_app(db)

    @app.put("/heroes/{name}")
    async def rename(session: ReadSessionDep, name: str) -> None:
        await session.execute(insert(Hero).values(name=name))

    async with calling(app, db) as client:
        assert (await client.put(f"/heroes/{SECRET}?q={SECRET}")).status_code == 503
    messages = [each.getMessage() for each in caplog.records if each.name == "fastdb.handlers"]
    assert messages == ["PUT /heroes/{name}: 503, read_only"]


@pytest.mark.parametrize("retry_after", [-1, 1.5, True, "1"])
def test_what_no_header_can_say(retry_after: Any) -> None:
    """Retry-After counts whole seconds."""
    with pytest.raises(ConfigurationError) as caught:
        install_error_handlers(FastAPI(), retry_after=retry_after)
    assert str(caught.value) == (
        f"install_error_handlers(retry_after={retry_after!r}): must be a whole number of seconds,"
        " 0 or more."
    )


# --- OpenAPI ------------------------------------------------------------------------------------


@only_one
async def test_openapi_tells_of_them_where_it_is_asked_to(db: Database) -> None:
    """And the answers are as it says."""
    app = make_app(db)

    @app.post("/told", responses=error_responses(409, 422))
    async def told(session: SessionDep, values: Annotated[dict[str, Any], Body()]) -> None:
        await session.execute(insert(Hero).values(values))

    @app.get("/default", responses=error_responses())
    async def default() -> None: ...

    paths = app.openapi()["paths"]
    assert set(paths["/told"]["post"]["responses"]) == {"200", "409", "422"}
    assert set(paths["/default"]["get"]["responses"]) == {"200", "409", "503", "504"}
    assert set(paths["/read"]["get"]["responses"]) == {"200"}
    async with calling(app, db) as client:
        for values, status in (({"name": SECRET}, "409"), ({"name": None}, "422")):
            answer = await client.post("/told", json=values)
            content = paths["/told"]["post"]["responses"][status]["content"]
            schema = content[answer.headers["content-type"]]["schema"]
            problem = answer.json()
            assert problem.keys() == set(schema["required"])
            for name, value in problem.items():
                rule = schema["properties"][name]
                assert rule.get("const", value) == value
                assert value in rule.get("enum", [value])


def test_openapi_knows_these_only() -> None:
    """A status that is never answered is a mistake."""
    with pytest.raises(ConfigurationError) as caught:
        error_responses(409, 418)
    assert str(caught.value) == "error_responses(418): must be one of 409, 422, 503, 504."


async def test_handlers_of_base_classes_are_not_hidden(backend: Backend) -> None:
    """An error that is none of the database's goes on to the app's handler of what it is."""
    db = Database(backend.url)
    app = FastAPI()

    @app.exception_handler(ValueError)
    async def bad_request(_request: Request, error: ValueError) -> PlainTextResponse:
        return PlainTextResponse(type(error).__name__, 400)

    @app.exception_handler(RuntimeError)
    def teapot(_request: Request, error: RuntimeError) -> PlainTextResponse:
        return PlainTextResponse(type(error).__name__, 418)

    install_error_handlers(app)

    @app.get("/decode")
    async def decode() -> None:
        b"\xff".decode()

    @app.get("/recurse")
    async def recurse() -> None:
        raise RecursionError

    async with calling(app, db) as client:
        answer = await client.get("/decode")
        assert (answer.status_code, answer.text) == (400, "UnicodeDecodeError")
        answer = await client.get("/recurse")
        assert (answer.status_code, answer.text) == (418, "RecursionError")
