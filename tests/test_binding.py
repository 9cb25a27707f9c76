"""Which Database serves which app, when there are several of either, and in which loop."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from starlette.types import Receive, Scope, Send

from asgi import Base, Client, Item, TestClient, checked_out, serving
from backends import Backend
from fastdb import (
    Database,
    DatabaseDep,
    DatabaseNotBound,
    ReadSessionDep,
    SessionDep,
    StreamSessionDep,
    SyncSessionDep,
)


def items_app(title: str = "FastAPI", **arguments: Any) -> FastAPI:
    """Return an app that writes and reads names, and is bound to nothing yet."""
    app = FastAPI(title=title, **arguments)

    @app.post("/items", status_code=201)
    async def create(session: SessionDep, name: str) -> None:
        session.add(Item(name=name))

    @app.get("/items")
    async def read(session: ReadSessionDep) -> list[str]:
        return list(await session.scalars(select(Item.name).order_by(Item.name)))

    return app


async def names(client: Client) -> list[str]:
    answer: list[str] = (await client.get("/items")).json()
    return answer


# --- None, or too many -------------------------------------------------------------------------


def not_bound(title: str) -> str:
    return (
        f"No database is bound to the app {title!r}, or its lifespan did not run. Write"
        " `FastAPI(lifespan=db.lifespan)`, or `async with db.lifespan(app): yield` in a"
        " lifespan of your own. A test client runs the lifespan only inside `with"
        " TestClient(app)`; httpx.ASGITransport never does."
    )


@pytest.mark.parametrize(
    "dependency", [SessionDep, ReadSessionDep, StreamSessionDep, SyncSessionDep, DatabaseDep]
)
async def test_app_without_a_database(dependency: Any) -> None:
    """Every dependency of an app that is bound to nothing says how to bind it."""
    app = FastAPI(title="Shop")

    async def read(needed: Any) -> None: ...

    read.__annotations__["needed"] = dependency
    app.get("/")(read)
    answer = await Client(app).get("/")

    assert answer.status == 500
    assert isinstance(answer.error, DatabaseNotBound)
    assert str(answer.error) == not_bound("Shop")


async def test_app_is_not_bound_after_its_lifespan() -> None:
    """When the lifespan is over, the app is bound to nothing again."""
    app = items_app("Shop")
    async with Database("sqlite://").lifespan(app):
        pass
    answer = await Client(app).get("/items")

    assert str(answer.error) == not_bound("Shop")


async def test_app_with_two_databases(tmp_path: Path) -> None:
    """`get_session` cannot choose between two databases, and names both."""
    app = items_app("Shop")
    first = Database(f"sqlite:///{tmp_path}/first.db")
    second = Database(f"sqlite:///{tmp_path}/second.db")
    async with first.lifespan(app), second.lifespan(app):
        answer = await Client(app).get("/items")

    assert answer.status == 500
    assert isinstance(answer.error, DatabaseNotBound)
    assert str(answer.error) == (
        f"The app 'Shop' has 2 databases ({first!r}, {second!r}), and get_session cannot know"
        " which one is meant. Depend on the method of the one you mean:"
        " `Depends(db.get_session)`; a mounted app of its own can be bound to one, with `async"
        " with db.lifespan(mounted_app)`."
    )
    assert repr(first) == f"Database('sqlite+aiosqlite:///{tmp_path}/first.db')"


async def test_message_about_two_databases_hides_passwords() -> None:
    """The databases are named without their passwords."""
    app = items_app()
    first = Database("sqlite://")
    second = Database("postgresql+asyncpg://app:s3cret@localhost/shop")
    async with first.lifespan(app), second.lifespan(app):
        answer = await Client(app).get("/items")

    assert "s3cret" not in str(answer.error)
    assert "postgresql+asyncpg://app:***@localhost/shop" in str(answer.error)


async def test_same_database_twice_is_one(database: Database) -> None:
    """A Database that one app enters twice is still the only one."""
    app = items_app()
    async with serving(app, database) as client:
        async with database.lifespan(app):
            assert (await client.post("/items?name=a")).status == 201
        assert (await client.post("/items?name=b")).status == 201
        assert await names(client) == ["a", "b"]


# --- Two apps ----------------------------------------------------------------------------------


async def test_two_apps_in_one_process_never_mix(backend: Backend, tmp_path: Path) -> None:
    """Two apps with a database each, asked at the same time, keep to their own."""
    first, second = items_app(), items_app()
    async with (
        Database(backend.url) as database,
        Database(f"sqlite:///{tmp_path}/another.db") as another,
        serving(first, database) as one,
        serving(second, another) as two,
    ):
        await asyncio.gather(
            *(one.post(f"/items?name=one{n}") for n in range(5)),
            *(two.post(f"/items?name=two{n}") for n in range(5)),
        )

        assert await names(one) == [f"one{n}" for n in range(5)]
        assert await names(two) == [f"two{n}" for n in range(5)]


async def test_one_database_serves_two_apps(database: Database) -> None:
    """Two apps may share a Database; the last one out closes it."""
    first, second = items_app(), items_app()
    async with serving(first, database) as one:
        async with serving(second, database) as two:
            engine = database.engine
            await asyncio.gather(one.post("/items?name=a"), two.post("/items?name=b"))
            assert await names(one) == await names(two) == ["a", "b"]

        assert database.engine is engine
        assert (await one.post("/items?name=c")).status == 201
        assert await names(one) == ["a", "b", "c"]


async def test_shared_database_is_closed_by_the_last_app(backend: Backend) -> None:
    """While one app is left, connections stay; with the last one they go."""
    first, second = items_app(), items_app()
    database = Database(backend.url)
    async with database.lifespan(first):
        async with database.lifespan(second):
            await database.create_all(Base.metadata)
            pool: Any = database.engine.pool
        assert pool.checkedin() == 1
    assert pool.checkedin() == 0


async def test_mounted_app_with_a_database_of_its_own(backend: Backend, tmp_path: Path) -> None:
    """A mounted app that is bound itself uses its own database, not the outer one."""
    outer, mounted = items_app(), items_app()
    outer.mount("/mounted", mounted)
    async with (
        Database(backend.url) as database,
        Database(f"sqlite:///{tmp_path}/another.db") as another,
        serving(outer, database) as client,
        serving(mounted, another) as inner,
    ):
        assert (await client.post("/items?name=outer")).status == 201
        assert (await client.post("/mounted/items?name=inner")).status == 201
        assert await client.rows() == ["outer"]
        assert await inner.rows() == ["inner"]


async def test_middleware_around_a_mounted_app_hides_it_from_nobody(database: Database) -> None:
    """A mounted app finds the database also when it serves behind middleware of its own."""
    outer, mounted = FastAPI(), items_app()

    class Middleware:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self.app(scope, receive, send)

    mounted.add_middleware(Middleware)
    outer.mount("/mounted", mounted)
    async with serving(outer, database) as client:
        assert (await client.post("/mounted/items?name=a")).status == 201
        assert await client.rows() == ["a"]


# --- Several databases in one request ----------------------------------------------------------


@asynccontextmanager
async def two_databases(
    backend: Backend, tmp_path: Path, app: FastAPI, first: Database, second: Database
) -> AsyncIterator[tuple[Client, Client]]:
    async with first, second, serving(app, first) as one, serving(app, second) as two:
        two.log = one.log
        yield one, two


def writing_both(first: Database, second: Database, *, then: Any = None) -> FastAPI:
    app = FastAPI()

    @app.post("/items", status_code=201)
    async def create(
        one: Annotated[AsyncSession, Depends(first.get_session)],
        two: Annotated[AsyncSession, Depends(second.get_session)],
        twice: bool = False,
    ) -> None:
        one.add(Item(name="one"))
        two.add(Item(name="two"))
        if twice:
            two.add(Item(name="two"))
        if then is not None:
            await one.flush()
            await two.flush()
            raise then

    @app.post("/sync", status_code=201)
    async def create_with_twin(
        one: Annotated[Session, Depends(first.get_sync_session)],
        two: Annotated[AsyncSession, Depends(second.get_session)],
    ) -> None:
        one.add(Item(name="one"))
        two.add_all([Item(name="two"), Item(name="two")])

    return app


async def test_two_databases_in_one_request_are_both_committed(
    backend: Backend, tmp_path: Path
) -> None:
    """Each database has a session of its own, and both are committed before the response."""
    first, second = Database(backend.url), Database(f"sqlite:///{tmp_path}/another.db")
    app = writing_both(first, second)
    async with two_databases(backend, tmp_path, app, first, second) as (one, two):
        answer = await one.post("/items")

        assert answer.status == 201
        assert (answer.rows_at_start, answer.held_at_start) == (["one"], 0)
        assert await two.rows() == ["two"]


async def test_neither_database_is_committed_when_the_second_cannot_be_written(
    backend: Backend, tmp_path: Path
) -> None:
    """All that is pending is written before the first COMMIT: an error in one undoes both."""
    first, second = Database(backend.url), Database(f"sqlite:///{tmp_path}/another.db")
    app = writing_both(first, second)
    async with two_databases(backend, tmp_path, app, first, second) as (one, two):
        answer = await one.post("/items?twice=true")

        assert answer.status == 500
        assert isinstance(answer.error, IntegrityError)
        assert (answer.rows_at_start, answer.held_at_start) == ([], 0)
        assert await two.rows() == []


async def test_twin_of_one_database_is_undone_with_the_other(
    backend: Backend, tmp_path: Path
) -> None:
    """The same when one of the two sessions is the synchronous twin's."""
    first, second = Database(backend.url), Database(f"sqlite:///{tmp_path}/another.db")
    app = writing_both(first, second)
    async with two_databases(backend, tmp_path, app, first, second) as (one, two):
        answer = await one.post("/sync")

        assert isinstance(answer.error, IntegrityError)
        assert answer.rows_at_start == []
        assert await two.rows() == []


async def test_error_undoes_both_databases(backend: Backend, tmp_path: Path) -> None:
    """An exception rolls back every database of the request."""
    first, second = Database(backend.url), Database(f"sqlite:///{tmp_path}/another.db")
    app = writing_both(first, second, then=HTTPException(409))
    async with two_databases(backend, tmp_path, app, first, second) as (one, two):
        answer = await one.post("/items")

        assert answer.status == 409
        assert (answer.rows_at_start, answer.held_at_start) == ([], 0)
        assert await two.rows() == []


# --- Lifespans ---------------------------------------------------------------------------------


async def test_lifespan_composes_with_the_users_own(backend: Backend, tmp_path: Path) -> None:
    """A lifespan of the user's may open several databases, and use them, around its own work."""
    first = Database(backend.url)
    second = Database(f"sqlite:///{tmp_path}/another.db")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        async with first.lifespan(app), second.lifespan(app):
            await first.create_all(Base.metadata)
            await second.create_all(Base.metadata)
            async with first.session() as session:
                session.add(Item(name="from the lifespan"))
            yield {"key": "value"}
            async with first.session() as session:
                session.add(Item(name="at the end"))

    app = writing_both(first, second)
    app.router.lifespan_context = lifespan
    async with app.router.lifespan_context(app) as state:
        assert state == {"key": "value"}
        assert (await Client(app).post("/items")).status == 201
    async with Database(backend.url) as again:
        if backend.id != "sqlite-memory":
            async with again.read_session() as session:
                found = list(await session.scalars(select(Item.name).order_by(Item.id)))
            assert found == ["from the lifespan", "one", "at the end"]


async def test_lifespan_closes_when_start_up_fails_later(backend: Backend) -> None:
    """What fails after the database was opened closes it again."""
    app = items_app()
    database = Database(backend.url)
    pools: list[Any] = []

    async def start() -> None:
        async with database.lifespan(app):
            await database.ping()
            pools.append(database.read_engine.pool)
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await start()
    assert pools[0].checkedin() == 0
    answer = await Client(app).get("/items")
    assert isinstance(answer.error, DatabaseNotBound)


async def test_database_is_entered_again(backend: Backend) -> None:
    """After it was closed, the same Database may be opened once more."""
    app = items_app()
    database = Database(backend.url)
    for _ in range(2):
        async with serving(app, database) as client:
            await client.post("/items?name=a")
            assert await names(client) == ["a"]
            assert checked_out(database) == 0


# --- Event loops -------------------------------------------------------------------------------


def test_database_serves_in_one_loop_after_another(backend: Backend) -> None:
    """Each loop has connections of its own; none meets another loop's."""
    app = items_app()
    database = Database(backend.url)

    async def serve(name: str) -> list[str]:
        async with serving(app, database) as client:
            assert (await client.post(f"/items?name={name}")).status == 201
            return await names(client)

    first = asyncio.run(serve("a"))
    second = asyncio.run(serve("b"))

    kept = [] if backend.id == "sqlite-memory" else ["a"]
    assert (first, second) == (["a"], [*kept, "b"])


def test_two_test_clients_one_after_the_other(backend: Backend) -> None:
    """An app that is started again by another TestClient, in another loop, works."""
    database = Database(backend.url)
    app = items_app(lifespan=database.lifespan)
    for name in ("a", "b"):
        with TestClient(app) as client:
            assert client.portal is not None
            client.portal.call(database.create_all, Base.metadata)
            assert client.post(f"/items?name={name}").status_code == 201
            assert name in client.get("/items").json()


def test_two_test_clients_at_the_same_time(backend: Backend) -> None:
    """Two TestClients are two loops at the same time, on one Database."""
    database = Database(backend.url)
    app = items_app(lifespan=database.lifespan)
    with TestClient(app) as one:
        assert one.portal is not None
        one.portal.call(database.create_all, Base.metadata)
        assert one.post("/items?name=a").status_code == 201
        with TestClient(app) as two:
            assert two.post("/items?name=b").status_code == 201
            assert one.get("/items").json() == ["a", "b"]
        assert one.post("/items?name=c").status_code == 201
        assert one.get("/items").json() == ["a", "b", "c"]


def test_two_loops_write_at_the_same_time(backend: Backend) -> None:
    """Requests in two loops, in two threads, at the same time."""
    database = Database(backend.url)
    app = items_app(lifespan=database.lifespan)
    errors: list[BaseException] = []

    def write(client: TestClient, prefix: str) -> None:
        try:
            for n in range(10):
                assert client.post(f"/items?name={prefix}{n}").status_code == 201
        except BaseException as error:  # noqa: BLE001 - told to the test
            errors.append(error)

    with TestClient(app) as one:
        assert one.portal is not None
        one.portal.call(database.create_all, Base.metadata)
        with TestClient(app) as two:
            threads = [
                threading.Thread(target=write, args=(client, prefix))
                for client, prefix in ((one, "one"), (two, "two"))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert errors == []
            assert len(one.get("/items").json()) == 20


async def test_databases_opened_in_an_exit_stack(backend: Backend, tmp_path: Path) -> None:
    """A number of databases that is known only at run time is opened with an AsyncExitStack."""
    app = FastAPI()
    databases = [Database(f"sqlite:///{tmp_path}/{n}.db") for n in range(3)]
    databases.append(Database(backend.url))
    async with AsyncExitStack() as stack:
        for database in databases:
            await stack.enter_async_context(database.lifespan(app))
        for database in databases:
            await database.ping()
