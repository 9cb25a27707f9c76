"""A network that swallows everything: whoever waits is let go in time, and the pool recovers.

Each wait has a bound of its own (`SECONDS`), which is far above what it is to take and far below
what drivers wait for without a limit. That the limits themselves are kept is `Timeouts`' affair.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anyio
import pytest
from sqlalchemy import event, func, insert, literal, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from backends import Backend
from databases import wait_until_none
from fastdb import CommitOutcomeUnknown, Database, PoolOptions, Timeouts, on_commit
from fastdb.errors import ErrorKind, classify
from fastdb.sockets import keepalive_arguments
from models import Base, Hero
from proxy import Proxy

pytestmark = [pytest.mark.faults, pytest.mark.backends("postgresql", "mysql")]

SECONDS = 4.0
PATIENCE = Timeouts(connect=1, statement=0.4, close=0.3)


@pytest.fixture
async def proxy(backend: Backend) -> AsyncIterator[Proxy]:
    """A proxy before the server, with the tables of `models` behind it."""
    async with Database(backend.url) as direct:
        await direct.create_all(Base.metadata)
    async with Proxy.before(backend.url) as proxy:
        yield proxy


@pytest.fixture
def open_through(backend: Backend, proxy: Proxy) -> Callable[..., Any]:
    """Open the database through the proxy, in plain text so that it can read along."""

    @asynccontextmanager
    async def open_it(
        timeouts: Timeouts | None = PATIENCE, **options: Any
    ) -> AsyncIterator[Database]:
        plain = "?sslmode=disable" if backend.name == "postgresql" else ""
        async with Database(proxy.url + plain, timeouts=timeouts, **options) as db:
            try:
                yield db
                assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
                await serves_again(db, proxy)
            finally:
                proxy.hear_again()

    return open_it


@asynccontextmanager
async def soon(seconds: float = SECONDS) -> AsyncIterator[None]:
    """Fail where the block takes longer; also where it swallows being cancelled for that."""
    async with asyncio.timeout(seconds) as limit:
        yield
    assert not limit.expired()


async def serves_again(db: Database, proxy: Proxy) -> None:
    """The network heals, and every slot of the pool can be used."""
    proxy.cut()
    proxy.hear_again()

    async def ask() -> int | None:
        async with db.session() as session:
            answer: int | None = await session.scalar(ONE)
            return answer

    async with soon():
        answers = await asyncio.gather(*(ask() for _ in range(12)), return_exceptions=True)
        # Those that were cut while idle are found out by who takes them.
        assert 1 in answers
        assert await ask() == 1


ONE: Any = select(literal(1))


async def ask(session: AsyncSession) -> int | None:
    answer: int | None = await session.scalar(ONE)
    return answer


async def names(backend: Backend) -> list[str]:
    async with Database(backend.url) as direct, direct.read_session() as session:
        return list(await session.scalars(select(Hero.name)))


async def cancel_task(work: Awaitable[None], at: asyncio.Event) -> None:
    task = asyncio.ensure_future(work)
    await at.wait()
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# Their time begins when the work is in the black hole: on a slow machine, that alone takes long.


async def time_out(work: Awaitable[None], at: asyncio.Event) -> None:
    async def begin(limit: asyncio.Timeout) -> None:
        await at.wait()
        limit.reschedule(asyncio.get_running_loop().time() + 0.05)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit:
            begun = asyncio.ensure_future(begin(limit))
            await work
    await begun


async def leave_scope(work: Awaitable[None], at: asyncio.Event) -> None:
    async def begin(scope: anyio.CancelScope) -> None:
        await at.wait()
        scope.deadline = anyio.current_time() + 0.05

    with anyio.CancelScope() as scope:
        begun = asyncio.ensure_future(begin(scope))
        await work
    assert scope.cancelled_caught
    await begun


Cancel = Callable[[Awaitable[None], asyncio.Event], Awaitable[None]]

by_every_cancellation = pytest.mark.parametrize("cancel", [cancel_task, time_out, leave_scope])


# --- Cancelled in a black hole -------------------------------------------------------------------


@by_every_cancellation
async def test_a_cancelled_statement_lets_go(
    open_through: Callable[..., Any], proxy: Proxy, cancel: Cancel, backend: Backend
) -> None:
    """Leaving takes `Timeouts.close` at most, whatever the driver would do to be polite."""
    async with open_through(Timeouts(close=0.3)) as db:
        sent = asyncio.Event()

        async def work() -> None:
            async with db.session() as session:
                session.add(Hero(name="a"))
                await session.flush()
                proxy.go_deaf()
                sent.set()
                await session.scalar(ONE)

        async with soon():
            await cancel(work(), sent)
    assert await names(backend) == []


async def test_a_cancelled_read_lets_go(open_through: Callable[..., Any], proxy: Proxy) -> None:
    """Also in autocommit, where nothing is to be rolled back."""
    async with open_through(Timeouts(close=0.3)) as db:
        sent = asyncio.Event()

        async def work() -> None:
            async with db.read_session() as session:
                await session.scalar(ONE)
                proxy.go_deaf()
                sent.set()
                await session.scalar(ONE)

        async with soon():
            await cancel_task(work(), sent)


async def test_a_cancelled_write_of_megabytes_lets_go(
    open_through: Callable[..., Any], proxy: Proxy, backend: Backend
) -> None:
    """Most of it is still to be sent: closing politely would wait for that."""
    async with open_through(Timeouts(close=0.3)) as db:
        sent = asyncio.Event()

        async def work() -> None:
            async with db.session() as session:
                await session.scalar(ONE)
                proxy.go_deaf()
                sent.set()
                await session.scalar(select(func.length(literal("x" * 14_000_000))))

        async with soon():
            await cancel_task(work(), sent)
            left = await asyncio.to_thread(wait_until_none, lambda: sockets_to(proxy.port))
        assert not left, f"the driver has left open: {left}"


async def test_many_rows_that_are_cancelled_let_go(
    open_through: Callable[..., Any], proxy: Proxy, backend: Backend
) -> None:
    """`executemany` is another way into the driver."""
    async with open_through(Timeouts(close=0.3)) as db:
        sent = asyncio.Event()

        async def work() -> None:
            async with db.session() as session:
                await session.scalar(ONE)
                proxy.go_deaf()
                sent.set()
                await session.execute(
                    text("INSERT INTO hero (name) VALUES (:name)"), [{"name": "a"}, {"name": "b"}]
                )

        async with soon():
            await cancel_task(work(), sent)
    assert await names(backend) == []


async def test_a_cancelled_stream_lets_go(open_through: Callable[..., Any], proxy: Proxy) -> None:
    """Between two batches of rows; psycopg takes its own time here, which is bounded."""
    async with open_through(Timeouts(close=0.3)) as db:
        async with db.session() as session:
            await session.execute(insert(Hero), [{"name": f"{n:050}"} for n in range(5000)])
        sent = asyncio.Event()

        async def work() -> None:
            async with db.read_session() as session:
                async for _ in await session.stream(select(Hero)):
                    if not sent.is_set():
                        proxy.go_deaf()
                        sent.set()

        async with soon(SECONDS + 10):
            await cancel_task(work(), sent)


def sockets_to(port: int) -> list[str]:
    """The connections to a port of this machine that nobody has closed (on Linux)."""
    table = Path("/proc/self/net/tcp")
    rows = [row.split() for row in table.read_text().splitlines()[1:]] if table.exists() else []
    return [row[1] for row in rows if row[2].endswith(f":{port:04X}") and row[3] == "01"]


# --- Not cancelled -------------------------------------------------------------------------------


async def test_a_statement_without_an_answer_fails(
    open_through: Callable[..., Any], proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """The server was to end it, and has said nothing: the connection is cut, and that is told."""
    async with open_through() as db:
        async with soon():
            with pytest.raises(Exception) as raised:  # noqa: PT011 - each driver has its own
                async with db.session() as session:
                    await session.scalar(ONE)
                    proxy.go_deaf()
                    await session.scalar(ONE)
        assert classify(raised.value) is ErrorKind.DISCONNECTED
        assert "The server has not answered for" in caplog.text


async def test_a_session_of_its_own_patience(
    open_through: Callable[..., Any], proxy: Proxy
) -> None:
    """The limits of the session are the ones that count."""
    async with open_through(Timeouts(statement=60, close=0.3)) as db, soon():
        with pytest.raises(Exception) as raised:  # noqa: PT011
            async with db.session(timeouts=PATIENCE) as session:
                await session.scalar(ONE)
                proxy.go_deaf()
                await session.scalar(ONE)
        assert classify(raised.value) is ErrorKind.DISCONNECTED


@pytest.mark.parametrize("limits", [Timeouts(statement=None, close=0.1), None])
async def test_a_long_statement_is_left_alone(
    open_through: Callable[..., Any], limits: Timeouts | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has asked for no limit has none but the server's, which fastdb does not know."""
    # What would be waited for by default, in time for a test.
    monkeypatch.setattr(Timeouts, "answer", property(lambda _: 0.2 if limits is None else None))
    async with open_through(limits) as db, db.session() as session:
        sleep = "pg_sleep" if session.bind.dialect.name == "postgresql" else "sleep"
        await session.execute(text(f"SELECT {sleep}(0.8)"))
        assert await session.scalar(ONE) == 1


async def test_many_rows_may_take_as_long_as_each_of_them(
    open_through: Callable[..., Any], backend: Backend
) -> None:
    """The limit is for a statement, and the server counts each row as one."""
    sleep = "pg_sleep(0.1)" if backend.name == "postgresql" else "sleep(0.1)"
    async with open_through() as db, db.session() as session:
        await session.execute(
            text(f"UPDATE hero SET name = :name WHERE {sleep} IS NULL AND id = 0"),
            [{"name": "a"}] * 3,
        )
        await session.execute(
            text(f"INSERT INTO hero (name) SELECT :name FROM (SELECT {sleep} AS s) AS slept"),
            [{"name": str(number)} for number in range(12)],
        )
    assert len(await names(backend)) == 12


async def test_what_follows_commit_has_its_own_time(open_through: Callable[..., Any]) -> None:
    """A callback may take longer than COMMIT may, on the same session's next connection."""
    ran: list[int | None] = []
    async with open_through() as db, db.session() as session:
        await session.scalar(ONE)

        async def callback() -> None:
            await asyncio.sleep(PATIENCE.answer or 0)
            ran.append(await session.scalar(ONE))
            await asyncio.sleep(0.2)
            ran.append(await session.scalar(ONE))

        on_commit(session, callback)
        await session.commit()
    assert ran == [1, 1]


async def test_what_the_server_was_not_told_is_not_asked_of_it(
    backend: Backend, proxy: Proxy
) -> None:
    """Through a transaction pooler, the server's own limits stay, whatever they are."""
    sleep = "pg_sleep" if backend.name == "postgresql" else "sleep"
    pool = PoolOptions.transaction_pooler()
    autocommit = {"isolation": "AUTOCOMMIT"} if backend.name == "postgresql" else {}
    db = Database(backend.url, pool=pool, timeouts=PATIENCE, **autocommit)  # type: ignore[arg-type]
    async with db, db.session() as session:
        await session.execute(text(f"SELECT {sleep}(1.0)"))
        assert await ask(session) == 1


async def test_a_connection_that_was_never_set_up_troubles_nobody_later(
    open_through: Callable[..., Any], proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a warning nor a cancellation comes after the error."""
    async with open_through(Timeouts(connect=1, close=0.1)) as db:
        proxy.when(b"statement_time", proxy.cut)
        with pytest.raises(Exception) as raised:  # noqa: PT011
            async with db.session() as session:
                await session.scalar(ONE)
        assert classify(raised.value) in (ErrorKind.UNAVAILABLE, ErrorKind.DISCONNECTED)
        with suppress(asyncio.CancelledError):
            asyncio.current_task().cancel()  # type: ignore[union-attr]
            await asyncio.sleep(0)
        await asyncio.sleep(1.3)
        asyncio.current_task().uncancel()  # type: ignore[union-attr]
    assert "has not answered" not in caplog.text


async def test_a_loop_that_stood_still_has_not_waited(
    open_through: Callable[..., Any], backend: Backend
) -> None:
    """The answers have come meanwhile; nobody could read them."""
    sleep = "pg_sleep" if backend.name == "postgresql" else "sleep"
    statement = text(f"SELECT {sleep}(:seconds)")
    async with open_through(Timeouts(statement=1, close=0.3)) as db, db.session() as session:
        # Prepared before: or the loop could stand still between the parts that are sent of it,
        # while the server's own limit runs.
        await session.execute(statement, {"seconds": 0.0})
        asyncio.get_running_loop().call_later(0.1, stand_still, 2.0)
        await session.execute(statement, {"seconds": 0.2})
        assert await session.scalar(ONE) == 1


def stand_still(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def test_what_the_user_listens_to_is_told(backend: Backend) -> None:
    """SQLAlchemy's own hooks, for tokens and for statements, are asked as without fastdb."""
    told: list[str] = []
    async with Database(backend.url) as direct:
        await direct.create_all(Base.metadata)
    async with Database(backend.url) as db:
        for name in ("do_connect", "do_execute", "do_executemany"):
            event.listen(db.engine.sync_engine, name, lambda *_, name=name, **__: told.append(name))
        async with db.session() as session:
            await session.execute(insert(Hero).values(name="a"))
            await session.execute(
                text("INSERT INTO hero (name) VALUES (:name)"), [{"name": "b"}, {"name": "c"}]
            )
    assert set(told) == {"do_connect", "do_execute", "do_executemany"}


async def test_a_session_in_flight_survives_the_closing(
    open_through: Callable[..., Any], backend: Backend, proxy: Proxy
) -> None:
    """What another task uses is not cut because what is idle takes too long to close."""
    proxied = asyncio.Event()
    closed = asyncio.Event()
    plain = "?sslmode=disable" if backend.name == "postgresql" else ""
    async with Database(proxy.url + plain, timeouts=Timeouts(close=0.2)) as db:

        async def work() -> int | None:
            async with db.session() as session:
                await session.execute(insert(Hero).values(name="a"))
                proxied.set()
                await closed.wait()
                answer: int | None = await session.scalar(ONE)
                return answer

        task = asyncio.create_task(work())
        await proxied.wait()
        twin = db.sync  # it is made, and so it is closed
        with patch.object(type(twin), "close", lambda _: time.sleep(0.6)):
            await db.aclose()
        closed.set()
        assert await task == 1
    assert await names(backend) == ["a"]


async def test_commit_without_an_answer_is_of_unknown_outcome(
    open_through: Callable[..., Any], proxy: Proxy
) -> None:
    """Nobody is kept waiting for ever, and nobody is told that it failed."""
    async with open_through() as db, soon():
        with pytest.raises(CommitOutcomeUnknown):
            async with db.session() as session:
                session.add(Hero(name="a"))
                await session.flush()
                proxy.when(b"COMMIT", proxy.go_deaf)


async def test_rollback_without_an_answer_ends(
    open_through: Callable[..., Any], proxy: Proxy, backend: Backend
) -> None:
    """The error that led to it is the one that is seen."""
    async with open_through() as db, soon():
        with pytest.raises(ZeroDivisionError):
            async with db.session() as session:
                session.add(Hero(name="a"))
                await session.flush()
                proxy.go_deaf()
                raise ZeroDivisionError
    assert await names(backend) == []


# --- Taking and closing connections --------------------------------------------------------------


async def test_a_ping_without_an_answer_ends(
    open_through: Callable[..., Any], proxy: Proxy
) -> None:
    """What was idle is given up, a new connection is tried, and that fails in time as well."""
    async with open_through(pool=PoolOptions(ping_after=0)) as db:
        async with db.session() as session:
            await session.scalar(ONE)
        proxy.go_deaf()
        async with soon(SECONDS + 2):
            with pytest.raises(Exception) as raised:  # noqa: PT011
                async with db.session() as session:
                    await session.scalar(ONE)
        assert classify(raised.value) is ErrorKind.UNAVAILABLE


@by_every_cancellation
async def test_a_cancelled_ping_lets_go(
    open_through: Callable[..., Any], proxy: Proxy, cancel: Cancel
) -> None:
    """As a statement."""
    async with open_through(Timeouts(close=0.3), pool=PoolOptions(ping_after=0)) as db:
        async with db.session() as session:
            await session.scalar(ONE)
        sent = asyncio.Event()

        async def work() -> None:
            proxy.go_deaf()
            sent.set()
            async with db.session() as session:
                await session.scalar(ONE)

        async with soon():
            await cancel(work(), sent)


async def test_connecting_without_an_answer_fails(
    open_through: Callable[..., Any], proxy: Proxy
) -> None:
    """The socket opens, and nobody says a word on it."""
    async with open_through() as db:
        proxy.go_deaf()
        async with soon():
            with pytest.raises(Exception) as raised:  # noqa: PT011
                async with db.session() as session:
                    await session.scalar(ONE)
        assert classify(raised.value) is ErrorKind.UNAVAILABLE


async def test_a_new_connection_that_falls_silent_fails(
    open_through: Callable[..., Any], proxy: Proxy
) -> None:
    """After the driver's part, while it is told its limits."""
    async with open_through() as db:
        proxy.when(b"statement_time", proxy.go_deaf)
        async with soon():
            with pytest.raises(Exception) as raised:  # noqa: PT011
                async with db.session() as session:
                    await session.scalar(ONE)
        assert classify(raised.value) in (ErrorKind.UNAVAILABLE, ErrorKind.DISCONNECTED)


@pytest.mark.backends("postgresql-psycopg", "mysql-aiomysql")
async def test_the_twin_does_not_wait_for_a_greeting(
    open_through: Callable[..., Any], proxy: Proxy
) -> None:
    """A server that is connected to and says nothing: within the limit, and a little."""

    def ask_twin(db: Database) -> int | None:
        with db.sync.session() as session:
            answer: int | None = session.scalar(ONE)
            return answer

    async with open_through() as db:
        proxy.go_deaf()
        async with soon():
            with pytest.raises(DBAPIError) as raised:
                await asyncio.to_thread(ask_twin, db)
        assert classify(raised.value) in (ErrorKind.DISCONNECTED, ErrorKind.UNAVAILABLE)
        proxy.cut()
        proxy.hear_again()
        assert await asyncio.to_thread(ask_twin, db) == 1


@pytest.mark.backends("postgresql-psycopg", "mysql-aiomysql")
async def test_the_twins_statements_take_longer_than_a_greeting(backend: Backend) -> None:
    """What holds until a connection is open, is not meant for what is done with it."""
    slow = text("SELECT pg_sleep(1.3)" if backend.name == "postgresql" else "SELECT SLEEP(1.3)")

    def ask_twin(db: Database) -> int | None:
        with db.sync.session() as session:
            session.execute(slow)
            answer: int | None = session.scalar(ONE)
            return answer

    async with Database(backend.url, timeouts=Timeouts(connect=1)) as db:
        assert await asyncio.to_thread(ask_twin, db) == 1


@pytest.mark.backends("mysql-aiomysql")
async def test_the_limits_of_whoever_connects_himself_stay(backend: Backend) -> None:
    """PyMySQL's, where somebody listens on `do_connect`."""

    def limit(db: Database) -> float:
        with db.sync.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            return float(driver._read_timeout)

    async with Database(backend.url) as db:

        @event.listens_for(db.sync.engine, "do_connect")
        def connect(_dialect: Any, _entry: Any, _arguments: Any, keywords: dict[str, Any]) -> None:
            keywords["read_timeout"] = 30

        assert await asyncio.to_thread(limit, db) == 30


@by_every_cancellation
async def test_cancelled_connecting_lets_go(
    open_through: Callable[..., Any], proxy: Proxy, cancel: Cancel
) -> None:
    """A connection that was being made is nobody's."""
    async with open_through(Timeouts(close=0.3)) as db:
        sent = asyncio.Event()

        async def work() -> None:
            proxy.go_deaf()
            sent.set()
            async with db.session() as session:
                await session.scalar(ONE)

        async with soon():
            await cancel(work(), sent)


async def test_closing_without_an_answer_ends(
    backend: Backend, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """All connections of the pool, in the time that one of them may take."""
    plain = "?sslmode=disable" if backend.name == "postgresql" else ""
    async with Database(proxy.url + plain, timeouts=PATIENCE) as db:

        async def ask() -> None:
            async with db.session() as session:
                await session.scalar(ONE)

        await asyncio.gather(*(ask() for _ in range(4)))
        proxy.go_deaf()
        async with soon():
            await db.aclose()
    proxy.cut()
    assert "never closed" not in caplog.text


# --- What the system does -------------------------------------------------------------------------


async def test_the_system_asks_whether_the_other_side_lives(backend: Backend) -> None:
    """Where packets really vanish, who waits is told after half a minute, without any limit."""
    async with Database(backend.url) as db, db.engine.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        its = options_of(raw)
        twin = await asyncio.to_thread(options_of_twin, db)
    asked = keepalive_arguments(None)
    assert twin == its
    assert its == {
        "SO_KEEPALIVE": 1,
        "TCP_KEEPIDLE": asked["keepalives_idle"],
        "TCP_KEEPINTVL": asked["keepalives_interval"],
        "TCP_KEEPCNT": asked["keepalives_count"],
        "TCP_USER_TIMEOUT": asked["tcp_user_timeout"],
    }


def options_of_twin(db: Database) -> dict[str, int]:
    with db.sync.engine.connect() as connection:
        return options_of(connection.connection.driver_connection)


def options_of(driver_connection: Any) -> dict[str, int]:
    """Read the socket's options; by the driver's own attributes, not by fastdb's."""
    match type(driver_connection).__module__.partition(".")[0]:
        case "psycopg":
            number = driver_connection.pgconn.socket
        case "pymysql":
            number = driver_connection._sock.fileno()
        case "aiomysql":
            number = driver_connection._writer.get_extra_info("socket").fileno()
        case _:
            transport = getattr(driver_connection, "_transport", None)
            transport = transport or driver_connection._writer.transport
            number = transport.get_extra_info("socket").fileno()
    its = socket.socket(fileno=socket.dup(number))
    with its:
        alive = its.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        return {
            "SO_KEEPALIVE": alive,
            **{n: its.getsockopt(socket.IPPROTO_TCP, getattr(socket, n)) for n in names},
        }
