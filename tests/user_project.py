"""A small project of a user's, with an app and tests that use the public test kit and no more.

shop/app.py, tests/test_*.py, pyproject.toml
"""

from pathlib import Path

APP = '''
"""A shop; its tables are made by its lifespan."""
import asyncio
import os
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request, WebSocket
from fastapi.middleware.gzip import GZipMiddleware
from fastdb import Database, DatabaseDep, ReadSessionDep, SessionDep, SyncSessionDep, Timeouts
from fastdb import atomic, install_error_handlers, on_commit
from sqlalchemy import ForeignKey, String, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase): ...


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str] = mapped_column(String(50), unique=True)
    lines: Mapped[list["Line"]] = relationship(back_populates="order")


class Line(Base):
    __tablename__ = "lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    title: Mapped[str] = mapped_column(String(50))
    order: Mapped[Order] = relationship(back_populates="lines")


url = os.environ.get("SHOP_URL", "postgresql://nobody@production.invalid/shop")
db = Database(url, timeouts=Timeouts(pool=0.3))
sent: list[str] = []
started: list[str] = []


@asynccontextmanager
async def lifespan(app):
    async with db.lifespan(app):
        await db.create_all(Base.metadata)
        async with db.session() as session:
            if await session.scalar(select(func.count()).select_from(Order)) == 0:
                session.add(Order(customer="seed"))
        started.append("here")
        yield {"from_lifespan": "state"}
        assert await number_of_orders() >= 1


app = FastAPI(lifespan=lifespan)
install_error_handlers(app)
app.add_middleware(GZipMiddleware, minimum_size=100)


@app.get("/long")
async def long() -> str:
    return "long" * 100


@app.post("/orders", status_code=201)
async def create(session: SessionDep, customer: str) -> int:
    order = Order(customer=customer)
    session.add(order)
    await session.flush()
    on_commit(session, lambda: sent.append(customer))
    if customer == "refused":
        raise HTTPException(402)
    return order.id


@app.post("/sync-orders", status_code=201)
def create_sync(session: SyncSessionDep, customer: str) -> None:
    session.add(Order(customer=customer))


@app.post("/read-and-write", status_code=201)
async def both(session: SessionDep, reading: ReadSessionDep, customer: str) -> int:
    session.add(Order(customer=customer))
    await session.flush()
    before = await reading.scalar(select(func.count()).select_from(Line))
    session.add(Line(order_id=(await session.scalar(select(func.max(Order.id)))), title="x"))
    return before


@app.post("/atomic-orders", status_code=201)
async def create_in_savepoint(session: SessionDep, customer: str) -> None:
    async with atomic(session):
        session.add(Order(customer=customer))


@app.post("/orders-at-once", status_code=201)
async def create_at_once(database: DatabaseDep) -> None:
    async def one(number: int) -> None:
        async with database.session() as session:
            session.add(Order(customer=f"c{number}"))
            await session.flush()
            await session.scalar(select(func.count()).select_from(Order))

    await asyncio.gather(*(one(number) for number in range(5)))


@app.get("/orders")
async def read(session: ReadSessionDep) -> list[str]:
    return list(await session.scalars(select(Order.customer).order_by(Order.id)))


@app.get("/slowly")
async def n_plus_one(session: ReadSessionDep) -> int:
    count = 0
    for order in await session.scalars(select(Order)):
        lines = select(Line).where(Line.order_id == order.id)
        count += len((await session.scalars(lines)).all())
    return count


async def number_of_orders() -> int:
    """A service, which uses the module's Database."""
    async with db.read_session() as session:
        return await session.scalar(select(func.count()).select_from(Order)) or 0


@app.get("/state")
async def state(request: Request) -> str:
    return request.state.from_lifespan


@app.websocket("/live")
async def live(socket: WebSocket, database: DatabaseDep) -> None:
    await socket.accept()
    await socket.send_text(str(await number_of_orders()))
    await socket.close()
'''

TESTS = r"""
import asyncio
import socket

import httpx
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError

import shop.app as shop
from fastdb import atomic
from fastdb.testing import (
    assert_no_n_plus_one,
    assert_query_count,
    captured_on_commit,
    fail_commit,
    full_pool,
    time_out_query,
)
from shop.app import Base, Line, Order, number_of_orders

ALL = ["seed"]


async def customers(session):
    return list(await session.scalars(select(Order.customer).order_by(Order.id)))


async def test_writes_are_seen(client, session):
    assert (await client.post("/orders?customer=ann")).status_code == 201
    assert await customers(session) == ["seed", "ann"]
    assert shop.sent[-1] == "ann"


async def test_nothing_is_left(client, session):
    assert await customers(session) == ALL
    assert (await client.get("/orders")).json() == ALL


async def test_commits_are_undone_too(session, db):
    session.add(Order(customer="bob"))
    await session.commit()
    session.add(Order(customer="eve"))
    await session.commit()
    assert await number_of_orders() == 3


async def test_nothing_is_left_of_commits(db):
    assert await number_of_orders() == 1


async def test_app_sees_what_was_flushed(client, session):
    session.add(Order(customer="flushed"))
    await session.flush()
    assert (await client.get("/orders")).json() == ["seed", "flushed"]
    assert (await client.post("/orders?customer=later")).status_code == 201
    await session.rollback()
    assert await customers(session) == ALL


async def test_rollback_in_the_app(client, session):
    assert (await client.post("/orders?customer=refused")).status_code == 402
    assert await customers(session) == ALL


async def test_conflict_is_answered(client, session):
    assert (await client.post("/orders?customer=seed")).status_code == 409
    assert (await client.post("/orders?customer=new")).status_code == 201
    assert await customers(session) == ["seed", "new"]


async def test_savepoints_of_the_tests_own(session):
    with pytest.raises(IntegrityError):
        async with atomic(session):
            session.add(Order(customer="seed"))
            await session.flush()
    async with atomic(session):
        session.add(Order(customer="kept"))
    await session.commit()
    assert await customers(session) == ["seed", "kept"]


async def test_savepoints_of_the_test_and_of_the_app(client, session):
    with pytest.raises(ZeroDivisionError):
        async with atomic(session):
            session.add(Order(customer="mine"))
            await session.flush()
            assert (await client.post("/atomic-orders?customer=theirs")).status_code == 201
            assert await customers(session) == ["seed", "mine", "theirs"]
            raise ZeroDivisionError
    assert await customers(session) == ALL


async def test_reading_and_writing_in_one_request(client):
    assert (await client.post("/read-and-write?customer=x")).status_code == 201


async def test_requests_at_the_same_time(client, session):
    answers = await asyncio.gather(*(client.post(f"/orders?customer=c{n}") for n in range(12)))
    assert [answer.status_code for answer in answers] == [201] * 12
    assert len(await customers(session)) == 13


async def test_tasks_of_one_request_take_turns(client, session):
    assert (await client.post("/orders-at-once")).status_code == 201
    assert sorted(await customers(session)) == ["c0", "c1", "c2", "c3", "c4", "seed"]


async def test_sync_endpoint(client, session):
    assert (await client.post("/sync-orders?customer=thread")).status_code == 201
    assert await customers(session) == ["seed", "thread"]


def test_synchronous_test(sync_client, sync_session):
    assert sync_client.post("/orders?customer=sue").status_code == 201
    assert sync_client.post("/sync-orders?customer=tom").status_code == 201
    assert list(sync_session.scalars(select(Order.customer))) == ["seed", "sue", "tom"]
    sync_session.add(Order(customer="mine"))
    sync_session.commit()
    assert len(sync_client.get("/orders").json()) == 4


def test_nothing_is_left_of_the_synchronous_one(sync_session):
    assert list(sync_session.scalars(select(Order.customer))) == ALL


def test_fastapis_own_client(test_client, sync_session):
    before = list(shop.started)
    assert test_client.post("/orders?customer=ann").status_code == 201
    assert test_client.post("/sync-orders?customer=bob").status_code == 201
    assert test_client.get("/state").json() == "state"
    with test_client.websocket_connect("/live") as socket:
        assert socket.receive_text() == "3"
    assert "ann" in sync_session.scalars(select(Order.customer)).all()
    assert shop.started == before


def test_a_client_that_begins_the_lifespan_again(fastdb_test, sync_session):
    from fastapi.testclient import TestClient

    with TestClient(shop.app) as client:
        assert client.post("/orders?customer=ann").status_code == 201
    assert "ann" in sync_session.scalars(select(Order.customer)).all()


async def test_transport_of_httpx_itself(db, client, session):
    transport = httpx.ASGITransport(shop.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as ours:
        assert (await ours.post("/orders?customer=ann")).status_code == 201
    assert await customers(session) == ["seed", "ann"]


async def test_real_server(live_server, session):
    async with httpx.AsyncClient(base_url=live_server, trust_env=False) as client:
        assert (await client.post("/orders?customer=wire")).status_code == 201
    assert await customers(session) == ["seed", "wire"]


async def test_engine_and_twin(db):
    async with db.engine.begin() as connection:
        await connection.execute(Order.__table__.insert().values(customer="core"))

    def look():
        with db.sync.read_session() as session:
            return session.scalar(select(func.count()).select_from(Order))

    assert await asyncio.to_thread(look) == 2


async def test_callbacks_can_be_captured(client):
    before = list(shop.sent)
    with captured_on_commit(run=False) as captured:
        await client.post("/orders?customer=quiet")
    assert len(captured.callbacks) == 1
    assert shop.sent == before


@pytest.fixture
async def logged_in(client):
    await client.post("/orders?customer=fixture")
    return client


async def test_async_fixture(logged_in, session):
    assert await customers(session) == ["seed", "fixture"]


async def test_lifespan_has_run(client):
    assert shop.started
    assert (await client.get("/state")).json() == "state"


async def test_compressed_answer(client):
    answer = await client.get("/long")
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.json() == "long" * 100


async def test_queries_are_counted(client, queries):
    await client.get("/orders")
    assert_query_count(queries, 1)
    assert "in read()" in str(queries)


@pytest.mark.query_budget(1)
async def test_within_its_budget(client):
    await client.get("/orders")


async def test_n_plus_one_is_found(client, session, queries):
    session.add_all(Order(customer=f"c{n}") for n in range(3))
    await session.commit()
    await client.get("/slowly")
    with pytest.raises(AssertionError, match=r"in n_plus_one\(\)"):
        assert_no_n_plus_one(queries)


async def test_handlers_answer_faults(client, db, session):
    with fail_commit(db, "serialization"):
        assert (await client.post("/orders?customer=a")).status_code == 503
    with fail_commit(db, "unknown"):
        assert (await client.post("/orders?customer=b")).status_code == 500
    with time_out_query(db, matching="INSERT"):
        assert (await client.post("/orders?customer=c")).status_code == 504
    assert (await client.post("/orders?customer=d")).status_code == 201
    assert await customers(session) == ["seed", "d"]


async def test_handler_answers_a_full_pool(client, db, live_server):
    async with full_pool(db):
        assert (await client.post("/orders?customer=a")).status_code == 503
    assert (await client.post("/orders?customer=b")).status_code == 201


@pytest.mark.responsive_loop(2.0)
async def test_loop_is_not_held(client, responsive_loop):
    assert (await client.get("/orders")).json() == ALL


@pytest.mark.fastdb(isolation="database")
async def test_database_of_its_own(db, client, session):
    async def change(name):
        async with db.session() as mine:
            mine.add(Order(customer=name))
            await mine.flush()
            await reached.wait()

    reached = asyncio.Event()
    if db.engine.dialect.name == "sqlite":
        reached.set()
    tasks = [asyncio.create_task(change(name)) for name in "ab"]
    await asyncio.sleep(0.05)
    reached.set()
    await asyncio.gather(*tasks)
    assert (await client.post("/orders?customer=c")).status_code == 201
    assert sorted(await customers(session)) == ["a", "b", "c", "seed"]
    await session.commit()
    async with db.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE extra (id INTEGER)"))


@pytest.mark.fastdb(isolation="database")
async def test_app_writes_after_the_test_has_looked(client, session):
    assert await customers(session) == ALL
    assert (await client.post("/orders?customer=ann")).status_code == 201
    await session.rollback()
    assert await customers(session) == ["seed", "ann"]


@pytest.mark.fastdb(isolation="database")
def test_app_writes_after_a_synchronous_test_has_looked(sync_client, sync_session):
    assert list(sync_session.scalars(select(Order.customer))) == ALL
    assert sync_client.post("/orders?customer=ann").status_code == 201
    sync_session.rollback()
    assert len(sync_session.scalars(select(Order.customer)).all()) == 2


@pytest.mark.fastdb(isolation="database")
def test_database_of_its_own_is_new(db, sync_client, sync_session):
    assert sync_client.get("/orders").json() == ALL
    assert list(sync_session.scalars(select(Order.customer))) == ALL
    assert "extra" not in tables(sync_session)


def tables(session):
    from sqlalchemy import inspect

    return inspect(session.connection()).get_table_names()


def test_afterwards_all_is_as_before(sync_session):
    assert list(sync_session.scalars(select(Order.customer))) == ALL
    assert "extra" not in tables(sync_session)
"""

PYPROJECT = """
[tool.pytest.ini_options]
pythonpath = ["."]
filterwarnings = ["error", "ignore:Using `httpx` with", "ignore:The anyio.abc.BlockingPortal"]
fastdb_app = "shop.app:app"
{settings}
"""


def make(directory: Path, settings: str = "", **tests: str) -> Path:
    """Write the project; `settings` are lines of pytest's configuration, `tests` its modules."""
    (directory / "shop").mkdir(parents=True)
    (directory / "shop" / "__init__.py").touch()
    (directory / "shop" / "app.py").write_text(APP)
    (directory / "tests").mkdir()
    for name, text in (tests or {"test_shop": TESTS}).items():
        (directory / "tests" / f"{name}.py").write_text(text)
    (directory / "pyproject.toml").write_text(PYPROJECT.format(settings=settings))
    return directory
