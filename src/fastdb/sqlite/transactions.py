"""Begin SQLite's transactions by events, on engines that have not the fast dialect.

That is the synchronous twin, and plain aiosqlite where it is asked for. The fast dialect does the
same by itself: it sends BEGIN along with the first statement (see `accelerated`).
"""

import sqlite3
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from fastdb.options import TIMEOUTS_OPTION, BeginIntent, Timeouts, normal_isolation
from fastdb.sqlite.intent import (
    Begin,
    begin_for,
    intent_of,
    is_begin,
    is_write,
    rolled_back_by_sqlite,
)
from fastdb.sqlite.writelock import WriteLock, watch

_WANTED = "fastdb.begin"
_OPEN = "fastdb.open"
_SQLITE3 = "fastdb.sqlite3"  # the connection that has the statements' limit
_WAITS = "fastdb.waits"  # for so many seconds, for locks, where it is not the engine's limit


def begin_ourselves(
    engine: Engine,
    lock: WriteLock,
    *,
    default: BeginIntent,
    autocommit: bool,
    reads_only: bool,
    lock_seconds: float,
    statement_seconds: float | None,
) -> None:
    """Send BEGIN before the first statement of every transaction of `engine`.

    Args:
        engine: The engine to listen on.
        lock: The writers' queue, which is told who takes and frees the write lock.
        default: What a transaction is for where the execution option BEGIN_OPTION says nothing.
        autocommit: The engine was made with `isolation_level="AUTOCOMMIT"`: nothing is begun.
        reads_only: SQLite refuses what the engine's connections write.
        lock_seconds: How long a writer waits for its turn.
        statement_seconds: How long a statement may run; None for no limit. For connections that
            are `LimitsStatements`.
    """
    # Here, so that `import fastdb` need not load SQLAlchemy's dialects of SQLite.
    from fastdb.sqlite.compiler import LockingCompiler

    engine.dialect.statement_compiler = LockingCompiler
    transactions = _Transactions(
        lock, default, autocommit, reads_only, lock_seconds, statement_seconds
    )
    event.listen(engine, "connect", _async_connected if engine.dialect.is_async else _connected)
    event.listen(engine, "begin", transactions.want)
    event.listen(engine, "commit", transactions.commit)
    event.listen(engine, "rollback", transactions.end)
    event.listen(engine, "before_cursor_execute", transactions.before)
    event.listen(engine, "after_cursor_execute", transactions.after)
    event.listen(engine, "handle_error", transactions.failed)
    watch(engine, lock)


@dataclass(frozen=True, slots=True)
class _Transactions:
    lock: WriteLock
    default: BeginIntent
    autocommit: bool
    reads_only: bool
    lock_seconds: float
    statement_seconds: float | None

    def want(self, connection: Connection) -> None:
        """Begin with the next statement."""
        options = connection.get_execution_options()
        level = options.get("isolation_level", "AUTOCOMMIT" if self.autocommit else None)
        connection.info[_WANTED] = normal_isolation(level) != "AUTOCOMMIT"
        connection.info[_OPEN] = False  # whatever became of the last one

    def end(self, connection: Connection) -> None:
        """Begin no more."""
        if not connection.invalidated:
            connection.info.pop(_WANTED, None)
            connection.info.pop(_OPEN, None)

    def commit(self, connection: Connection) -> None:
        """Refuse to commit what SQLite has rolled back."""
        if not connection.invalidated:
            self._refuse_lost(connection, "COMMIT")
        self.end(connection)

    def before(
        self,
        connection: Connection,
        _cursor: Any,
        statement: str,
        _values: Any,
        context: Any,
        _: Any,
    ) -> None:
        """Send BEGIN, if it was not sent yet."""
        self._refuse_lost(connection, statement)
        timeouts = context.execution_options.get(TIMEOUTS_OPTION)
        self._limit(connection, timeouts)
        if connection.info.get(_WANTED) and not is_begin(statement):
            intent = intent_of(context.compiled, context.execution_options, self.default)
            begin = "BEGIN DEFERRED" if self.reads_only else begin_for(statement, intent)
            self._begin(connection, begin, timeouts)
        elif is_write(statement) and not self.reads_only:
            self.lock.refuse_own_holder(_identity(connection))

    def _limit(self, connection: Connection, timeouts: Timeouts | None) -> None:
        """Set the limits of what comes next: the session's own, or the engine's."""
        limited = connection.info.get(_SQLITE3)
        if limited is not None:
            limited.statement_seconds = timeouts.statement if timeouts else self.statement_seconds
        lock_seconds = timeouts.lock if timeouts else self.lock_seconds
        if lock_seconds != connection.info.get(_WAITS, self.lock_seconds):
            _let_wait(connection, lock_seconds)

    def after(self, connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        """A deferred transaction takes the lock with its first write, not with its BEGIN."""
        # Asked of SQLite itself: under AUTOCOMMIT the lock is free again by now.
        is_open = connection.info[_OPEN] = _in_transaction(connection)
        identity = _identity(connection)
        if is_open and is_write(statement) and not self.lock.held_by(identity):
            self.lock.taken(identity)

    def failed(self, context: ExceptionContext) -> None:
        """A write that was in conflict has found so with the lock, and keeps it."""
        connection = context.connection
        if connection is None or not isinstance(context.original_exception, sqlite3.IntegrityError):
            return
        if _in_transaction(connection):
            self.lock.taken(_identity(connection))

    def _refuse_lost(self, connection: Connection, statement: str) -> None:
        if connection.info.get(_OPEN) and not _in_transaction(connection):
            self.lock.freed(_identity(connection))
            raise OperationalError(statement, None, rolled_back_by_sqlite())

    def _begin(self, connection: Connection, begin: Begin, timeouts: Timeouts | None) -> None:
        lock_seconds = timeouts.lock if timeouts else self.lock_seconds
        # Taken away first: BEGIN is a statement as well, and comes to `before` again.
        connection.info[_WANTED] = False
        identity = _identity(connection)
        try:
            if begin == "BEGIN IMMEDIATE":
                self._wait_for_turn(connection, lock_seconds)
            connection.exec_driver_sql(begin, execution_options={TIMEOUTS_OPTION: timeouts})
        except BaseException as error:
            if not connection.invalidated:
                connection.info[_WANTED] = True
            self.lock.freed(identity)
            if isinstance(error, sqlite3.OperationalError):  # the queue's
                raise OperationalError(begin, None, error) from error
            if isinstance(error, OperationalError) and _is_busy(error.orig):
                raise OperationalError(begin, None, self.lock.not_had(lock_seconds)) from error
            raise
        if begin == "BEGIN IMMEDIATE":
            self.lock.taken(identity)

    def _wait_for_turn(self, connection: Connection, seconds: float) -> None:
        adapted: Any = _identity(connection)
        if connection.dialect.is_async:
            adapted.run_async(lambda _: self.lock.take_turn(adapted, seconds=seconds))
        else:
            self.lock.refuse_own_holder(adapted)  # threads wait in SQLite


def _connected(dbapi_connection: Any, entry: ConnectionPoolEntry) -> None:
    if hasattr(dbapi_connection, "statement_seconds"):  # else somebody else has made it
        entry.info[_SQLITE3] = dbapi_connection


def _async_connected(dbapi_connection: Any, entry: ConnectionPoolEntry) -> None:
    _connected(dbapi_connection.run_async(_inside), entry)


async def _inside(driver_connection: Any) -> Any:
    """Return the connection inside aiosqlite's, which says so only of a cursor's."""
    async with driver_connection.cursor() as cursor:
        return cursor.connection


def _let_wait(connection: Connection, seconds: float) -> None:
    # Past SQLAlchemy's events, which it comes from.
    cursor = connection.connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
    finally:
        cursor.close()
    connection.info[_WAITS] = seconds


def _in_transaction(connection: Connection) -> bool:
    driver_connection = connection.connection.driver_connection
    return driver_connection is not None and bool(driver_connection.in_transaction)


def _is_busy(error: BaseException | None) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _identity(connection: Connection) -> object:
    return connection.connection.dbapi_connection
