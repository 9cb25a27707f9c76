"""Let a database fail where a test wants it to, as it does in earnest.

    with fail_commit(db, "serialization"):
        answer = await client.post("/heroes", json={"name": "Deadpond"})
    assert answer.status_code == 503

Servers are asked to raise the error themselves, on the connection that it is to happen on: driver,
SQLAlchemy and fastdb then do all that they always do.
"""

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from typing import Any, Literal, get_args

from sqlalchemy import Connection, Engine, Pool, event
from sqlalchemy.engine import ExecutionContext

from fastdb.database import Database
from fastdb.errors import ConfigurationError
from fastdb.options import is_count
from fastdb.pools import FairQueuePool, WatchedQueuePool
from fastdb.pools.holders import Holders
from fastdb.sync import SyncDatabase
from fastdb.testing.origins import find_origin
from fastdb.testing.queries import check_database, is_query

CommitError = Literal["serialization", "deadlock", "lock_timeout", "unknown"]

_FAULT = "fastdb_fault"

_DO_EVENTS = ("do_execute", "do_execute_no_params", "do_executemany")

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_SQLSTATES: dict[str, str] = {
    "serialization": "40001",
    "deadlock": "40P01",
    "lock_timeout": "55P03",
    "statement_timeout": "57014",
}

# SQLSTATE and number: https://mariadb.com/docs/server/reference/error-codes. MariaDB's statement
# limit has a number that MySQL does not know.
_MYSQL_ERRORS: dict[str, tuple[str, int]] = {
    "serialization": ("HY000", 1020),
    "deadlock": ("40001", 1213),
    "lock_timeout": ("HY000", 1205),
    "statement_timeout": ("HY000", 3024),
}
_MARIADB_STATEMENT_TIMEOUT = ("70100", 1969)

# SQLite has nobody who could be asked: its errors are made.
_SQLITE_ERRORS: dict[str, tuple[str, str]] = {
    "serialization": ("SQLITE_BUSY_SNAPSHOT", "database is locked"),
    "lock_timeout": ("SQLITE_BUSY", "database is locked"),
    "statement_timeout": ("SQLITE_INTERRUPT", "interrupted: the statement ran for too long"),
}


class Fault:
    """What is to happen in a block.

    Args:
        name: The call, as in the test.
        times: How often it is to happen.
    """

    def __init__(self, name: str, times: int) -> None:
        if not is_count(times) or times < 1:
            raise ConfigurationError(f"{name}, times={times!r}: must be a whole number, 1 or more.")
        self._name = name
        self._times = times
        self._left = [None] * times

    @property
    def happened(self) -> int:
        """How often it has happened."""
        return self._times - len(self._left)

    def is_due(self) -> bool:
        """Return whether it is to happen now; then it counts as happened."""
        try:
            self._left.pop()  # by one thread alone
        except IndexError:
            return False
        return True

    def assert_happened(self) -> None:
        """Fail unless it has happened as often as it was to: the test has not tested it.

        Raises:
            AssertionError: It has not.
        """
        __tracebackhide__ = True
        if self._left:
            raise AssertionError(
                f"{self._name}: happened {self.happened} of {self._times} times in its block, so"
                " the test has not seen what it is about."
            )


@contextmanager
def fail_commit(
    db: Database, error: CommitError = "serialization", *, times: int = 1
) -> Iterator[Fault]:
    """Let the next COMMIT on any engine of `db` fail; nothing is written then.

    Args:
        db: The Database. Others are left alone.
        error: "serialization", "deadlock" or "lock_timeout", of which the database tells, so that
            all is rolled back (SQLite knows no deadlocks); or "unknown", a connection that is lost
            while COMMIT is in flight, of which sessions say CommitOutcomeUnknown.
        times: How many COMMITs are to fail. Default 1.

    Raises:
        AssertionError: The block has ended well, without so many COMMITs.
        ConfigurationError: An argument is wrong.
    """
    __tracebackhide__ = True
    check_database("fail_commit", db)
    name = f"fail_commit({db!r}, {error!r})"
    if error not in get_args(CommitError):
        raise ConfigurationError(
            f"{name}: no such failure of COMMIT; use one of {', '.join(get_args(CommitError))}."
        )
    if error == "deadlock" and db.engine.dialect.name == "sqlite":
        raise ConfigurationError(
            f'{name}: SQLite knows no deadlocks. Use "serialization" or "lock_timeout".'
        )
    fault = Fault(name, times)

    def commit(connection: Connection) -> None:
        if connection.engine.pool not in db.pools() or not fault.is_due():
            return
        if error == "unknown":
            raise ConnectionResetError("The connection was lost, as fail_commit() has it")
        # In place of the COMMIT itself: what fails here is for SQLAlchemy the driver's doing.
        connection.exec_driver_sql("COMMIT", execution_options={_FAULT: fault})

    def execute(*arguments: Any) -> None:
        context: ExecutionContext = arguments[-1]
        if context.execution_options.get(_FAULT) is fault:
            _fail(context.root_connection, error)

    with _listening("commit", commit), _listening("do_execute", execute):
        yield fault
    fault.assert_happened()


@contextmanager
def time_out_query(db: Database, matching: str | None = None, *, times: int = 1) -> Iterator[Fault]:
    """Let the next query of `db` fail as one that has run for longer than it may.

    What counts as a query, see `count_queries`.

    Args:
        db: The Database. Others are left alone.
        matching: Only a query whose text contains this, in capitals or not. Default: any.
        times: How many queries are to fail. Default 1.

    Raises:
        AssertionError: The block has ended well, without so many queries.
        ConfigurationError: An argument is wrong.
    """
    __tracebackhide__ = True
    check_database("time_out_query", db)
    if matching is not None and not isinstance(matching, str):
        raise ConfigurationError(f"time_out_query(matching={matching!r}): must be a string.")
    fault = Fault(f"time_out_query({db!r}, matching={matching!r})", times)

    def execute(*arguments: Any) -> None:
        statement: str = arguments[1]
        context: ExecutionContext = arguments[-1]
        if (
            is_query(db, context.root_connection, statement)
            and (matching or "").casefold() in statement.casefold()
            and find_origin() is not None
            and fault.is_due()
        ):
            _fail(context.root_connection, "statement_timeout")

    with ExitStack() as listening:
        for name in _DO_EVENTS:
            listening.enter_context(_listening(name, execute))
        yield fault
    fault.assert_happened()


@asynccontextmanager
async def full_pool(db: Database, *, read: bool = False) -> AsyncIterator[None]:
    """Hold all connections of a pool of `db`, so that nobody else gets one.

    Who needs one waits for `Timeouts.pool` seconds and is refused with PoolExhausted; a short limit
    in the tests keeps them quick.

    Args:
        db: The Database.
        read: Hold those of `db.read_engine`, which ReadSessionDep uses. Default: of `db.engine`.

    Raises:
        AssertionError: The block has ended well, and nobody was refused.
        ConfigurationError: It is no pool of fastdb's with a limit.
    """
    __tracebackhide__ = True
    check_database("full_pool", db)
    engine = db.read_engine if read else db.engine
    holders = _holders(engine.pool, f"full_pool({db!r})")
    async with AsyncExitStack() as held:
        while _has_room(engine.pool, holders):
            await held.enter_async_context(engine.connect())
        before = holders.refusals
        yield
    _assert_refused(holders, before)


@contextmanager
def full_sync_pool(db: SyncDatabase, *, read: bool = False) -> Iterator[None]:
    """Hold all connections of a pool of the twin, `db.sync`; as `full_pool`.

    Args:
        db: The twin.
        read: Hold those of its `read_engine`. Default: of its `engine`.

    Raises:
        AssertionError: The block has ended well, and nobody was refused.
        ConfigurationError: It is no pool of fastdb's with a limit.
    """
    __tracebackhide__ = True
    if not isinstance(db, SyncDatabase):
        raise ConfigurationError(f"full_sync_pool({db!r}): must be a twin, `db.sync`.")
    engine = db.read_engine if read else db.engine
    holders = _holders(engine.pool, "full_sync_pool(db.sync)")
    with ExitStack() as held:
        while _has_room(engine.pool, holders):
            held.enter_context(engine.connect())
        before = holders.refusals
        yield
    _assert_refused(holders, before)


@contextmanager
def _listening(name: str, listener: Callable[..., Any]) -> Iterator[None]:
    # On the class, for engines that are made in the block, too.
    event.listen(Engine, name, listener)
    try:
        yield
    finally:
        event.remove(Engine, name, listener)


def _fail(connection: Connection, kind: str) -> None:
    """Raise the driver's own error, where SQLAlchemy takes it for that of a statement.

    Raises:
        Exception: Always; of the driver's class.
    """
    dialect: Any = connection.dialect
    if dialect.name == "sqlite":
        raise _sqlite_error(kind)
    if dialect.name == "postgresql":
        statement = (
            "DO $$ BEGIN RAISE EXCEPTION 'this is a test of failures'"
            f" USING ERRCODE = '{_SQLSTATES[kind]}'; END $$"
        )
    else:
        state, number = _MYSQL_ERRORS[kind]
        if kind == "statement_timeout" and dialect.is_mariadb:
            state, number = _MARIADB_STATEMENT_TIMEOUT
        statement = (
            f"SIGNAL SQLSTATE '{state}' SET MYSQL_ERRNO = {number},"
            " MESSAGE_TEXT = 'this is a test of failures'"
        )
    # Another cursor than the statement's, which may be one on the server.
    cursor = connection.connection.cursor()
    try:
        cursor.execute(statement)
    finally:
        cursor.close()


def _sqlite_error(kind: str) -> sqlite3.OperationalError:
    name, message = _SQLITE_ERRORS[kind]
    error = sqlite3.OperationalError(message)
    error.sqlite_errorname = name
    error.sqlite_errorcode = getattr(sqlite3, name)
    return error


def _holders(pool: Pool, name: str) -> Holders:
    holders = pool.holders if isinstance(pool, FairQueuePool | WatchedQueuePool) else None
    if holders is None:
        raise ConfigurationError(
            f"{name}: its pool is a {type(pool).__name__}, which is never full. Give the Database"
            " of this test a queue, `pool=PoolOptions(size=1)`."
        )
    return holders


def _has_room(pool: Any, holders: Holders) -> bool:
    return bool(pool.checkedout() < holders.size)


def _assert_refused(holders: Holders, before: int) -> None:
    __tracebackhide__ = True
    if holders.refusals == before:
        raise AssertionError(
            f"The pool of {holders.name} was full, and nobody was refused a connection, so the test"
            " has not seen what it is about."
        )
