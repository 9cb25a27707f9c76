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

from fastdb.options import BeginIntent, normal_isolation
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


def begin_ourselves(
    engine: Engine,
    lock: WriteLock,
    *,
    default: BeginIntent,
    autocommit: bool,
    reads_only: bool,
    lock_seconds: float,
) -> None:
    """Send BEGIN before the first statement of every transaction of `engine`.

    Args:
        engine: The engine to listen on.
        lock: The writers' queue, which is told who takes and frees the write lock.
        default: What a transaction is for where the execution option BEGIN_OPTION says nothing.
        autocommit: The engine was made with `isolation_level="AUTOCOMMIT"`: nothing is begun.
        reads_only: SQLite refuses what the engine's connections write.
        lock_seconds: How long a writer waits for its turn.
    """
    # Here, so that `import fastdb` need not load SQLAlchemy's dialects of SQLite.
    from fastdb.sqlite.compiler import LockingCompiler

    engine.dialect.statement_compiler = LockingCompiler
    transactions = _Transactions(lock, default, autocommit, reads_only, lock_seconds)
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
            _refuse_lost(connection, "COMMIT")
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
        _refuse_lost(connection, statement)
        if connection.info.get(_WANTED) and not is_begin(statement):
            intent = intent_of(context.compiled, context.execution_options, self.default)
            self._begin(
                connection, "BEGIN DEFERRED" if self.reads_only else begin_for(statement, intent)
            )
        elif is_write(statement) and not self.reads_only:
            self.lock.refuse_own_holder(_identity(connection))

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

    def _begin(self, connection: Connection, begin: Begin) -> None:
        # Taken away first: BEGIN is a statement as well, and comes to `before` again.
        connection.info[_WANTED] = False
        identity = _identity(connection)
        try:
            if begin == "BEGIN IMMEDIATE":
                self._wait_for_turn(connection)
            connection.exec_driver_sql(begin)
        except BaseException as error:
            if not connection.invalidated:
                connection.info[_WANTED] = True
            self.lock.freed(identity)
            if isinstance(error, sqlite3.OperationalError):  # the queue's
                raise OperationalError(begin, None, error) from error
            if isinstance(error, OperationalError) and _is_busy(error.orig):
                raise OperationalError(begin, None, self.lock.not_had(self.lock_seconds)) from error
            raise
        if begin == "BEGIN IMMEDIATE":
            self.lock.taken(identity)

    def _wait_for_turn(self, connection: Connection) -> None:
        adapted: Any = _identity(connection)
        if connection.dialect.is_async:
            adapted.run_async(lambda _: self.lock.take_turn(adapted, seconds=self.lock_seconds))
        else:
            self.lock.refuse_own_holder(adapted)  # threads wait in SQLite


def _in_transaction(connection: Connection) -> bool:
    driver_connection = connection.connection.driver_connection
    return driver_connection is not None and bool(driver_connection.in_transaction)


def _refuse_lost(connection: Connection, statement: str) -> None:
    if connection.info.get(_OPEN) and not _in_transaction(connection):
        raise OperationalError(statement, None, rolled_back_by_sqlite())


def _is_busy(error: BaseException | None) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _identity(connection: Connection) -> object:
    return connection.connection.dbapi_connection
