"""A transaction in which a statement failed may not be committed.

PostgreSQL answers the COMMIT of a failed transaction with a silent ROLLBACK, SQLite and MySQL
commit the statements that did work: both would let a handler that caught the error answer 2xx
for something that is half done or not done at all. So a failure is remembered until what failed
has been undone, and COMMIT is refused meanwhile.

Only the error itself is listened for on the engine. The rest is listened for on the one connection
that has failed: a listener on the engine makes every statement of every connection slower.
"""

import weakref
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext

from fastdb.errors import SessionInUse, TransactionFailed

_KEY = "fastdb.failure"

_PROBES = ("DESCRIBE", "SHOW")


def refuse_failed_commits(engine: Engine) -> None:
    """Make COMMIT raise TransactionFailed on `engine` while a failed statement is not undone."""
    event.listen(engine, "handle_error", _remember)


def failed(error: BaseException) -> TransactionFailed:
    """Return the exception to raise from `error` where its transaction should be committed."""
    return TransactionFailed(
        f"A statement of this transaction failed ({type(error).__name__}) and the error was"
        " caught, so its COMMIT was refused and everything was rolled back. Put what may fail"
        " into `async with atomic(session):`, so that only that part is undone; or let the error"
        " go on; or `await session.rollback()` and start over."
    )


def incomplete(refused: SessionInUse) -> TransactionFailed:
    """Return the exception to raise in place of the COMMIT of a session that `refused` a call."""
    return TransactionFailed(
        "A call of this session was refused, because another task was using it, and the error was"
        f" caught ({refused}) What that call was to do is missing, so COMMIT was refused, and what"
        " was not committed before was rolled back. Open a session for each task."
    )


class _Failure:
    """A failed statement of the transaction that is open on a connection, until it is undone.

    Savepoints are counted from the one in which it happened: below zero are those around it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = weakref.ref(connection)
        self._error: BaseException | None = None
        event.listen(connection, "savepoint", self._savepoint)
        event.listen(connection, "release_savepoint", self._released)
        event.listen(connection, "rollback_savepoint", self._rolled_back)
        event.listen(connection, "rollback", self._undone)
        event.listen(connection, "commit", self._refuse)

    def belongs_to(self, connection: Connection) -> bool:
        """Return whether this listens on `connection` already."""
        return self._connection() is connection

    def happened(self, error: BaseException) -> None:
        """Remember `error`, unless an earlier one is not undone yet."""
        if self._error is None:
            self._error = error
            self._savepoints = self._failed_at = 0

    def _savepoint(self, _connection: Connection, _name: str | None) -> None:
        self._savepoints += 1

    def _released(self, _connection: Connection, _name: str, _context: Any) -> None:
        """What failed inside the savepoint now belongs to what is around it."""
        self._savepoints -= 1
        self._failed_at = min(self._failed_at, self._savepoints)

    def _rolled_back(self, _connection: Connection, _name: str, _context: Any) -> None:
        if self._failed_at >= self._savepoints:
            self._error = None
        self._savepoints -= 1

    def _undone(self, _connection: Connection) -> None:
        self._error = None

    def _refuse(self, _connection: Connection) -> None:
        if self._error is not None:
            raise failed(self._error) from self._error


def _remember(context: ExceptionContext) -> None:
    connection = context.connection
    # A lost connection has no transaction to commit, and no `info` to write to.
    if connection is None or context.is_disconnect or not connection.in_transaction():
        return
    # SQLAlchemy asks MySQL for tables that may not exist, and expects the error.
    if context.statement is not None and context.statement.startswith(_PROBES):
        return
    failure = connection.info.get(_KEY)
    if failure is None or not failure.belongs_to(connection):
        failure = connection.info[_KEY] = _Failure(connection)
    failure.happened(context.sqlalchemy_exception or context.original_exception)
