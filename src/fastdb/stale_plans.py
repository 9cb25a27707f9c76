"""Statements that PostgreSQL's connections have prepared, when a table changes beneath them.

asyncpg prepares every statement, psycopg those that come often. After an ALTER TABLE, whoever made
it, PostgreSQL refuses such a statement ("cached plan must not change result type") on each
connection that has it prepared. With psycopg in autocommit, it would for as long as the connection
lives.

So the statement is prepared anew and run once more, where nothing else was done in its transaction,
or it is one by itself: that cannot be told from one try. Elsewhere the error goes on, of the kind
STALE_PLAN; what the other connections have prepared is given up in either case.

This is done where SQLAlchemy hands a statement to the driver: above it, objects of the session
would have to be restored, and batches that an INSERT is cut into would be sent again.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExecutionContext
from sqlalchemy.pool import ConnectionPoolEntry

from fastdb.errors import ErrorKind, classify

_KEY = "fastdb.plans"


def renew_stale_plans(engine: Engine, *, read_only: bool) -> None:
    """Let no ALTER TABLE fail the first statement of a transaction on `engine`.

    Args:
        engine: Of any database; it matters to those of PostgreSQL whose driver prepares.
        read_only: Whether the database refuses writes on it.
    """
    plans = _PLANS.get(engine.dialect.driver)
    if plans is not None:
        plans(engine, read_only)


class _Plans:
    """What the connections of one engine have prepared."""

    def __init__(self, engine: Engine, read_only: bool) -> None:
        dialect: Any = engine.dialect
        self._dialect = dialect
        self._read_only = read_only
        # Not events, which would come in place of the user's. And not `do_executemany`: a statement
        # without rows has no type of result to be changed.
        dialect.do_execute = partial(self._run, dialect.do_execute)
        dialect.do_execute_no_params = partial(self._run, dialect.do_execute_no_params)

    def _run(self, execute: Callable[..., None], *arguments: Any) -> None:
        """Run a statement, and once more if that is the same."""
        context: ExecutionContext = arguments[-1]
        connection = context.root_connection
        # Both drivers send BEGIN with the first statement.
        is_first = not self._in_transaction(connection.connection.driver_connection)
        if is_first:
            self._renew(connection)
        try:
            execute(*arguments)
        except Exception as error:
            if classify(error) is not ErrorKind.STALE_PLAN:
                raise
            self._give_up(context)
            if not (is_first and self._undo(connection, error)):
                raise
        else:
            return
        self._renew(connection)
        context.pre_exec()  # tells asyncpg's cursor what was given up
        execute(*arguments)

    def _undo(self, connection: Connection, error: Exception) -> bool:
        """Return whether it is as if the statement had never been sent."""
        if self._in_transaction(connection.connection.driver_connection):
            connection.connection.rollback()
            return True
        # asyncpg finds out about composite types when it reads rows of what is committed by then.
        return self._read_only or isinstance(error, self._dialect.loaded_dbapi.NotSupportedError)

    def _in_transaction(self, driver_connection: Any) -> bool:
        raise NotImplementedError

    def _renew(self, connection: Connection) -> None:
        """Give up what `connection`, which is in no transaction, has prepared before a change."""

    def _give_up(self, context: ExecutionContext) -> None:
        """Give up what is prepared on all connections."""


class _AsyncpgPlans(_Plans):
    """SQLAlchemy keeps what is prepared, and gives it up by the time of the last such error."""

    def _in_transaction(self, driver_connection: Any) -> bool:
        in_transaction: bool = driver_connection.is_in_transaction()
        return in_transaction

    def _give_up(self, context: ExecutionContext) -> None:
        # It knows only one of the two errors. After the other one, asyncpg has closed the statement
        # that SQLAlchemy would go on using.
        dbapi: Any = self._dialect.loaded_dbapi
        context.handle_dbapi_exception(dbapi.InvalidCachedStatementError("Stale plan"))


class _PsycopgPlans(_Plans):
    """psycopg keeps what is prepared on each connection, until a ROLLBACK.

    Changes are counted; each connection knows how many there had been when it last began anew.
    """

    def __init__(self, engine: Engine, read_only: bool) -> None:
        super().__init__(engine, read_only)
        self._changes = 0
        event.listen(engine, "connect", self._connected)

    def _connected(self, _dbapi_connection: Any, entry: ConnectionPoolEntry) -> None:
        entry.info[_KEY] = self._changes

    def _in_transaction(self, driver_connection: Any) -> bool:
        in_transaction: bool = driver_connection.pgconn.transaction_status != 0
        return in_transaction

    def _renew(self, connection: Connection) -> None:
        if not self._changes or connection.info.get(_KEY) == self._changes:
            return
        changes, pooled = self._changes, connection.connection
        cursor = pooled.cursor()
        driver_connection: Any = pooled.driver_connection
        # In autocommit, psycopg sends no BEGIN of its own.
        cursor.execute("BEGIN" if driver_connection.autocommit else "SELECT 1")
        cursor.close()
        pooled.rollback()
        connection.info[_KEY] = changes

    def _give_up(self, context: ExecutionContext) -> None:
        # A connection that has not heard of the last change yet tells nothing new.
        if context.root_connection.info.get(_KEY) == self._changes:
            self._changes += 1


_PLANS: dict[str, type[_Plans]] = {"asyncpg": _AsyncpgPlans, "psycopg": _PsycopgPlans}
