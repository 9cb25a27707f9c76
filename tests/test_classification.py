"""What an exception means: each kind is provoked on each database, by each driver."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from decimal import Decimal
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    CheckConstraint,
    Double,
    ForeignKey,
    LargeBinary,
    Numeric,
    String,
    TypeDecorator,
    UniqueConstraint,
    bindparam,
    exc,
    extract,
    func,
    insert,
    literal,
    select,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from backends import Backend
from databases import MySQLConnection, render
from fastdb import (
    CommitOutcomeUnknown,
    Database,
    DatabaseNotBound,
    PoolOptions,
    SQLiteOptions,
    Timeouts,
    TLSNotEstablished,
    create_sync_engine,
)
from fastdb.errors import ErrorKind, classify, constraint_name
from server_process import free_port


class Base(DeclarativeBase):
    """The tables of these tests."""


class Thing(Base):
    """A row that can be wrong in many ways."""

    __tablename__ = "thing"
    __table_args__ = (
        UniqueConstraint("code", name="one_code"),
        CheckConstraint("amount >= 0", name="no_debt"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(String(5))
    amount: Mapped[int]
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("thing.id", name="of_parent"))
    version: Mapped[int] = mapped_column()

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - as SQLAlchemy wants it


@pytest.fixture
async def db(backend: Backend) -> AsyncIterator[Database]:
    """A database with two things in it."""
    waits = Timeouts(lock=1, pool=0.2)
    async with Database(backend.url, timeouts=waits) as db:
        await db.create_all(Base.metadata)
        async with db.session() as session:
            session.add_all([Thing(id=1, code="a", amount=1), Thing(id=2, code="b", amount=1)])
        yield db


async def error_of(work: Awaitable[Any]) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is what is tested
        await work
    return caught.value


def rows(**values: Any) -> Any:
    return insert(Thing).values({"id": 3, "code": "c", "amount": 1, "version": 1} | values)


async def run(db: Database, statement: Any, *arguments: Any) -> None:
    async with db.session() as session:
        await session.execute(statement, *arguments)


def assert_kind(error: BaseException, kind: ErrorKind) -> None:
    """The exception is of this kind, and so is the driver's own, taken out of SQLAlchemy's."""
    assert classify(error) is kind, repr(error)
    if isinstance(error, exc.DBAPIError):
        assert error.orig is not None
        assert classify(error.orig) is kind
        assert classify(error.orig.__cause__ or error.orig) is kind
    around = RuntimeError("the user's own")
    around.__cause__ = error
    assert classify(around) is kind


# --- Constraints and values ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind", "constraint"),
    [
        ({"code": "a"}, ErrorKind.UNIQUE, "one_code"),
        ({"id": 1}, ErrorKind.UNIQUE, "thing_pkey"),
        ({"parent_id": 99}, ErrorKind.FOREIGN_KEY, "of_parent"),
        ({"code": None}, ErrorKind.NOT_NULL, None),
        ({"amount": -1}, ErrorKind.CHECK, "no_debt"),
    ],
)
async def test_constraints(
    db: Database, backend: Backend, values: dict[str, Any], kind: ErrorKind, constraint: str | None
) -> None:
    """With the constraint's name, where the driver tells it."""
    error = await error_of(run(db, rows(**values)))
    assert_kind(error, kind)
    assert constraint_name(error) == (constraint if backend.name == "postgresql" else None)


async def test_a_row_that_is_still_referred_to(db: Database) -> None:
    """The other way to violate a foreign key."""
    await run(db, rows(parent_id=1))
    error = await error_of(run(db, text("DELETE FROM thing WHERE id = 1")))
    assert_kind(error, ErrorKind.FOREIGN_KEY)


@pytest.mark.parametrize(
    ("values", "backends"),
    [
        ({"code": "too long"}, {"postgresql", "mysql"}),  # SQLite keeps any length
        ({"amount": 2**40}, {"postgresql", "mysql"}),
        ({"amount": 2**70}, {"sqlite", "postgresql", "mysql"}),
        ({"code": "\ud800"}, {"sqlite", "postgresql", "mysql"}),
        ({"code": "\0"}, {"postgresql"}),  # the others take it
    ],
    ids=["long", "large", "huge", "surrogate", "nul"],
)
async def test_values_that_no_row_can_hold(
    db: Database, backend: Backend, values: dict[str, Any], backends: set[str]
) -> None:
    """Whether the driver refuses them or the database."""
    if backend.name not in backends:
        await run(db, rows(**values))
        return
    assert_kind(await error_of(run(db, rows(**values))), ErrorKind.BAD_VALUE)


@pytest.mark.backends("sqlite")
async def test_a_strict_table(db: Database) -> None:
    """SQLite has types, where it is asked to."""
    await run(db, text("CREATE TABLE strict_thing (amount INTEGER) STRICT"))
    error = await error_of(run(db, text("INSERT INTO strict_thing VALUES ('one')")))
    assert_kind(error, ErrorKind.BAD_VALUE)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("statement", "values", "backends"),
    [
        (select(bindparam("value", type_=Double())), float("nan"), {"mysql"}),
        (select(bindparam("value", type_=Double())), float("-inf"), {"mysql"}),
        (select(bindparam("value", type_=Numeric(10, 2))), Decimal("NaN"), {"mysql"}),
        (select(Thing.id).limit(bindparam("value")), -1, {"mysql", "postgresql"}),
        (select(Thing.id).limit(1).offset(bindparam("value")), -1, {"mysql", "postgresql"}),
        (
            select(Thing.id).limit(1).offset(bindparam("value")),
            2**64,
            {"mysql", "postgresql", "sqlite"},
        ),
        (select(Thing.id).where(Thing.code.contains(bindparam("value"))), "a" * 50_000, {"sqlite"}),
        (select(bindparam("value", type_=Numeric(10, 2))), Decimal("sNaN"), {"mysql", "sqlite"}),
        (
            select(bindparam("value", type_=JSON())),
            nested(100_000),
            {"mysql", "postgresql", "sqlite"},
        ),
    ],
    ids=["nan", "-inf", "Decimal", "limit", "offset", "huge", "pattern", "sNaN", "nested"],
)
async def test_values_that_no_sql_can_be_written_for(
    db: Database, backend: Backend, statement: Any, values: Any, backends: set[str]
) -> None:
    """Whose code is that of wrong SQL, or that have none."""
    if backend.name not in backends:
        await run(db, statement, {"value": values})
        return
    error = await error_of(run(db, statement, {"value": values}))
    assert classify(error) is ErrorKind.BAD_VALUE


async def test_many_rows_of_which_one_is_wrong(db: Database, backend: Backend) -> None:
    """Any of them may be the one."""
    statement = text("UPDATE thing SET amount = :amount")
    many = [{"amount": 1.0}, {"amount": float("nan")}]
    error = await error_of(run(db, statement, many))
    kind = ErrorKind.NOT_NULL if backend.name == "sqlite" else ErrorKind.BAD_VALUE
    assert classify(error) is kind


@pytest.mark.parametrize("name", ["nope", "code DESC", "", "\0", "1; DROP TABLE thing"])
async def test_sorting_by_what_is_no_column(db: Database, name: str) -> None:
    """SQLAlchemy knows the names, and puts no other string into SQL."""
    await run(db, select(Thing.id).order_by("code"))
    error = await error_of(run(db, select(Thing.id).order_by(name)))
    assert_kind(error, ErrorKind.BAD_VALUE)


@pytest.mark.backends("postgresql")
async def test_limits_of_postgresql(db: Database) -> None:
    """They are a value's, which is too long to be found by it, or nested too deeply.

    That is seen by the parameters, which the driver's exception does not have.
    """
    await run(db, text("CREATE TABLE found (name text UNIQUE)"))
    name = "".join(sha256(str(number).encode()).hexdigest() for number in range(300))
    error = await error_of(run(db, text("INSERT INTO found VALUES (:name)"), {"name": name}))
    assert classify(error) is ErrorKind.BAD_VALUE
    value = "[" * 100_000
    error = await error_of(run(db, text("SELECT CAST(:value AS json)"), {"value": value}))
    assert classify(error) is ErrorKind.BAD_VALUE


@pytest.mark.backends("mysql")
async def test_a_packet_that_is_too_large(db: Database) -> None:
    """Which the server ends the connection for; the next one is another."""
    error = await error_of(run(db, text("SELECT :value"), {"value": "a" * 17_000_000}))
    assert_kind(error, ErrorKind.BAD_VALUE)
    await run(db, select(1))


# --- Others -------------------------------------------------------------------------------------


async def add(session: AsyncSession, thing_id: int) -> None:
    await session.execute(
        text("UPDATE thing SET amount = amount + 1 WHERE id = :id"), {"id": thing_id}
    )


@pytest.mark.backends("postgresql", "mysql")
async def test_deadlock(db: Database, backend: Backend) -> None:
    """One of two that wait for each other is told so, and the other one goes on."""
    both = asyncio.Barrier(2)

    async def change(first: int, second: int) -> None:
        async with patient.session() as session:
            await add(session, first)
            await both.wait()
            await add(session, second)

    async with Database(backend.url) as patient:  # PostgreSQL looks after one second of waiting
        work = (change(1, 2), change(2, 1))
        errors = await asyncio.gather(*work, return_exceptions=True)
    (error,) = [each for each in errors if each is not None]
    assert_kind(error, ErrorKind.DEADLOCK)


async def test_somebody_else_has_changed_what_was_read(db: Database, backend: Backend) -> None:
    """In an isolation level that notices."""
    options: dict[str, Any] = {"isolation": "REPEATABLE READ"}
    if backend.name == "sqlite":
        options = {"begin": "deferred"}

    async def too_late() -> None:
        async with db.session(**options) as session:
            if backend.name == "mysql":
                await session.execute(text("SET innodb_snapshot_isolation = ON"))
            await session.scalar(select(Thing.amount).where(Thing.id == 1))
            async with db.session() as other:
                await add(other, 1)
            await add(session, 1)

    assert_kind(await error_of(too_late()), ErrorKind.SERIALIZATION)


async def test_a_version_that_is_not_there_any_more(db: Database) -> None:
    """SQLAlchemy's optimistic locking."""

    async def too_late() -> None:
        async with db.session(begin="deferred") as session:
            thing = await session.get_one(Thing, 1)
            await session.commit()
            await run(db, text("UPDATE thing SET version = version + 1"))
            thing.amount = 5

    assert_kind(await error_of(too_late()), ErrorKind.SERIALIZATION)


@asynccontextmanager
async def locked_by_somebody_else(db: Database) -> AsyncIterator[None]:
    """Hold SQLite's write lock, on a connection that fastdb does not know of."""
    connect = partial(sqlite3.connect, isolation_level=None, check_same_thread=False)
    connection = await asyncio.to_thread(connect, str(db.engine.url.database))
    await asyncio.to_thread(connection.execute, "BEGIN IMMEDIATE")
    try:
        yield
    finally:
        await asyncio.to_thread(connection.close)


async def test_a_lock_that_is_not_free_in_time(db: Database, backend: Backend) -> None:
    """Held by another session; on SQLite, by another connection to the file."""

    async def wait_for_lock() -> None:
        async with db.session() as session, db.session() as other:
            await add(session, 1)
            await add(other, 1)

    if backend.name == "sqlite":
        async with locked_by_somebody_else(db):
            error = await error_of(run(db, rows()))
    else:
        error = await error_of(wait_for_lock())
    assert_kind(error, ErrorKind.LOCK_TIMEOUT)


@pytest.mark.backends("sqlite")
async def test_a_lock_that_sqlite_waits_for_itself(backend: Backend) -> None:
    """As it does outside of WAL."""
    options = SQLiteOptions(journal_mode="DELETE")
    async with Database(backend.url, sqlite=options, timeouts=Timeouts(lock=0.1)) as db:
        await db.create_all(Base.metadata)
        async with locked_by_somebody_else(db):
            assert_kind(await error_of(run(db, rows())), ErrorKind.LOCK_TIMEOUT)


@pytest.mark.backends("postgresql", "mysql")
async def test_a_statement_that_takes_too_long(db: Database, backend: Backend) -> None:
    """The server stops it."""

    async def sleep() -> None:
        async with db.session() as session:
            if backend.name == "postgresql":
                await session.execute(text("SET LOCAL statement_timeout = 50"))
                await session.execute(text("SELECT pg_sleep(5)"))
            else:
                limited = "SET STATEMENT max_statement_time = 0.05 FOR SELECT SLEEP(5)"
                await session.execute(text(limited))

    assert_kind(await error_of(sleep()), ErrorKind.STATEMENT_TIMEOUT)


@pytest.mark.backends("sqlite")
async def test_a_statement_that_is_interrupted(db: Database) -> None:
    """SQLite has no time limit; who interrupts it has one."""

    def interrupted() -> None:
        with closing(sqlite3.connect(str(db.engine.url.database))) as connection:
            connection.set_progress_handler(lambda: 1, 1)
            connection.execute("SELECT count(*) FROM thing")

    assert_kind(await error_of(asyncio.to_thread(interrupted)), ErrorKind.STATEMENT_TIMEOUT)


async def test_a_session_that_only_reads(db: Database) -> None:
    """The database refuses the write."""

    async def write() -> None:
        async with db.read_session() as session:
            await session.execute(rows())

    assert_kind(await error_of(write()), ErrorKind.READ_ONLY)


async def test_a_full_pool(backend: Backend) -> None:
    """It is SQLAlchemy that says so."""
    options, waits = PoolOptions(size=1), Timeouts(pool=0.05)
    async with Database(backend.url, pool=options, timeouts=waits) as db:
        async with db.engine.connect():
            error = await error_of(db.engine.connect().start())
        assert_kind(error, ErrorKind.POOL_EXHAUSTED)


# --- Connections --------------------------------------------------------------------------------


@pytest.mark.backends("postgresql", "mysql")
async def test_a_connection_that_the_server_ends(db: Database, backend: Backend) -> None:
    """An administrator does it, or a restart."""
    # PostgreSQL's waits until the connection has ended, for 5 seconds at most.
    own, end = "SELECT pg_backend_pid()", "SELECT pg_terminate_backend({}, 5000)"
    if backend.name == "mysql":
        own, end = "SELECT connection_id()", "KILL {}"

    async def lose_connection() -> None:
        async with db.session() as session:
            number = await session.scalar(text(own))
            await run(db, text(end.format(number)))
            await session.execute(select(Thing))

    error = await error_of(lose_connection())
    assert classify(error) is ErrorKind.DISCONNECTED
    assert isinstance(error, exc.DBAPIError)
    assert error.connection_invalidated  # the next session gets another one
    await run(db, rows())


@pytest.mark.backends("postgresql", "mysql")
@pytest.mark.parametrize("change", ["port", "database"])
async def test_a_server_that_does_not_let_us_in(backend: Backend, change: str) -> None:
    """Nobody listens there, or there is no such database."""
    url = make_url(backend.url)
    url = url.set(port=free_port()) if change == "port" else url.set(database="nowhere")
    async with Database(render(url)) as db:
        error = await error_of(db.ping())
    assert_kind(error, ErrorKind.UNAVAILABLE)


@pytest.mark.backends("sqlite-file")
async def test_a_file_that_cannot_be_opened(backend: Backend) -> None:
    """Its folder is not there; or it is no database."""
    path = make_url(backend.url).database
    async with Database(f"sqlite:///{path}/nowhere/test.db") as db:
        assert_kind(await error_of(db.ping()), ErrorKind.UNAVAILABLE)
    await asyncio.to_thread(Path(str(path)).write_bytes, b"this is not a database" * 100)
    async with Database(backend.url) as db:
        assert_kind(await error_of(db.ping()), ErrorKind.UNAVAILABLE)


@pytest.mark.backends("postgresql")
async def test_a_server_with_too_many_connections(db: Database, backend: Backend) -> None:
    """psycopg cannot tell: libpq gives no code where connecting fails."""
    name = make_url(backend.url).database
    await run(db, text(f"ALTER DATABASE {name} CONNECTION LIMIT 1"))
    async with Database(backend.url) as other:
        error = await error_of(other.ping())
    known = backend.driver == "asyncpg"
    assert_kind(error, ErrorKind.TOO_MANY_CONNECTIONS if known else ErrorKind.UNAVAILABLE)


@pytest.fixture
def few_url(backend: Backend, mysql_admin: MySQLConnection) -> Iterator[str]:
    """The URL of a user who may connect once."""
    url = make_url(backend.url)
    with mysql_admin.cursor() as cursor:
        cursor.execute(
            "CREATE USER few IDENTIFIED BY %s WITH MAX_USER_CONNECTIONS 1", [url.password or ""]
        )
        cursor.execute(f"GRANT ALL ON {url.database}.* TO few")
        yield render(url.set(username="few"))
        cursor.execute("DROP USER few")


@pytest.mark.backends("mysql")
async def test_a_user_with_too_many_connections(few_url: str) -> None:
    """The server's own limit has the same kind, and another number."""
    async with Database(few_url) as db, db.session() as session:
        await session.execute(select(1))
        async with Database(few_url) as other:
            error = await error_of(other.ping())
    assert_kind(error, ErrorKind.TOO_MANY_CONNECTIONS)


# --- The twin's drivers -------------------------------------------------------------------------


SYNC_DRIVERS = {
    "sqlite-file": ["sqlite"],
    "postgresql-psycopg": ["postgresql+psycopg", "postgresql+psycopg2"],
    "mysql-aiomysql": ["mysql+pymysql"],
}


@pytest.mark.backends(*SYNC_DRIVERS)
def test_synchronous_drivers(backend: Backend) -> None:
    """The same codes, by other attributes."""
    for driver in SYNC_DRIVERS[backend.id]:
        url = make_url(backend.url).set(drivername=driver)
        engine = create_sync_engine(url)
        Base.metadata.create_all(engine)
        for values, kind, constraint in (
            ({"id": 1, "code": "a"}, None, None),
            ({"code": "a"}, ErrorKind.UNIQUE, "one_code"),
            ({"parent_id": 99}, ErrorKind.FOREIGN_KEY, "of_parent"),
            ({"code": None}, ErrorKind.NOT_NULL, None),
            ({"amount": -1}, ErrorKind.CHECK, "no_debt"),
            ({"amount": 2**70}, ErrorKind.BAD_VALUE, None),
            ({"code": "\ud800"}, ErrorKind.BAD_VALUE, None),
        ):
            with engine.connect() as connection:
                if kind is None:
                    connection.execute(rows(**values))
                    connection.commit()
                    continue
                with pytest.raises(Exception) as caught:  # noqa: PT011
                    connection.execute(rows(**values))
            assert_kind(caught.value, kind)
            is_told = backend.name == "postgresql"
            assert constraint_name(caught.value) == (constraint if is_told else None)
        Base.metadata.drop_all(engine)
        engine.dispose()
        if backend.name != "sqlite":
            nowhere = create_sync_engine(url.set(port=free_port()))
            with pytest.raises(exc.DBAPIError) as refused:
                nowhere.connect()
            assert_kind(refused.value, ErrorKind.UNAVAILABLE)


# --- What is none of these ----------------------------------------------------------------------


async def test_mistakes_in_the_program_are_of_no_kind(db: Database) -> None:
    """Neither wrong SQL nor anything else."""
    assert_kind(await error_of(run(db, text("SELEKT 1"))), ErrorKind.OTHER)
    assert_kind(await error_of(run(db, text("SELECT * FROM nowhere"))), ErrorKind.OTHER)
    assert_kind(await error_of(run(db, text("SELECT :missing"))), ErrorKind.OTHER)


@pytest.mark.parametrize(
    "statement", ["SELEKT :value LIMIT :rows", "SELECT nope FROM thing WHERE code LIKE :value"]
)
async def test_mistakes_with_ordinary_values(db: Database, statement: str) -> None:
    """What could have been a value's fault, and is not."""
    values = {"value": "a", "rows": 5}
    wanted = {name: value for name, value in values.items() if f":{name}" in statement}
    assert_kind(await error_of(run(db, text(statement), wanted)), ErrorKind.OTHER)


async def test_a_failure_that_was_caught_is_a_mistake_too(db: Database) -> None:
    """Whatever it was: the request would have answered with less than it has promised."""

    async def catch() -> None:
        async with db.session() as session:
            with suppress(exc.IntegrityError):
                await session.execute(rows(code="a"))

    error = await error_of(catch())
    assert classify(error) is ErrorKind.OTHER
    assert classify(error.__cause__ or error) is ErrorKind.UNIQUE


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("x"), ErrorKind.OTHER),
        (FileNotFoundError(), ErrorKind.OTHER),
        (KeyboardInterrupt(), ErrorKind.OTHER),
        (asyncio.CancelledError(), ErrorKind.OTHER),
        (exc.InvalidRequestError(), ErrorKind.OTHER),
        (exc.CompileError(), ErrorKind.OTHER),
        (RecursionError(), ErrorKind.OTHER),
        (exc.TimeoutError(), ErrorKind.POOL_EXHAUSTED),
        (ConnectionRefusedError(), ErrorKind.UNAVAILABLE),
        (TimeoutError(), ErrorKind.UNAVAILABLE),
        (CommitOutcomeUnknown(), ErrorKind.DISCONNECTED),
        (TLSNotEstablished(), ErrorKind.UNAVAILABLE),
        (DatabaseNotBound(), ErrorKind.OTHER),
        (sqlite3.OperationalError("without a code"), ErrorKind.OTHER),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_exceptions_without_a_database(error: BaseException, kind: ErrorKind) -> None:
    """What is no error of a database is of no kind, unless connecting raises such."""
    assert classify(error) is kind
    assert constraint_name(error) is None


def test_a_chain_that_bites_its_tail() -> None:
    """Does not take for ever."""
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert classify(first) is ErrorKind.OTHER


@pytest.mark.backends("sqlite-file")
async def test_what_the_program_has_written_wrongly_is_no_value(backend: Backend) -> None:
    """A field of `extract` that there is not is looked up in a dict, too."""
    async with Database(backend.url) as db, db.session() as session:
        with pytest.raises(exc.CompileError) as raised:
            await session.execute(select(extract("wekk", func.current_date())))
    assert_kind(raised.value, ErrorKind.OTHER)


class Undecodable(TypeDecorator[str]):
    """Stored as what cannot be read."""

    impl = LargeBinary
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Any) -> str:
        return bytes(value).decode("ascii")


async def test_what_is_stored_and_cannot_be_read_is_no_value(backend: Backend) -> None:
    """Nobody who asks for it has sent it."""
    async with Database(backend.url) as db, db.session() as session:
        with pytest.raises(UnicodeDecodeError) as raised:
            await session.scalar(select(literal(b"\xff", Undecodable)))
    assert_kind(raised.value, ErrorKind.OTHER)


@pytest.mark.backends("postgresql")
async def test_a_function_that_calls_itself_is_no_value(backend: Backend) -> None:
    """Though PostgreSQL has the same code for JSON that is nested too deeply."""
    async with Database(backend.url) as db:
        with pytest.raises(exc.DBAPIError) as raised:
            async with db.session() as session:
                await session.execute(
                    text(
                        "CREATE FUNCTION again(n int) RETURNS int LANGUAGE plpgsql AS"
                        " $$ BEGIN RETURN again(n + 1); END $$"
                    )
                )
                await session.execute(text("SELECT again(:n)"), {"n": 1})
    assert_kind(raised.value, ErrorKind.OTHER)
