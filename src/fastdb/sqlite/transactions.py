"""SQLite transactions that are transactions: our own BEGIN, and the intent it is sent with.

Python's `sqlite3` begins before a write only: a second SELECT sees other commits, savepoints and
DDL escape the rollback, and a read-modify-write loses updates. Here the driver is told to begin
nothing (`isolation_level=None`, see `engines/make`) and BEGIN is sent with the first statement:
IMMEDIATE where the transaction means to write, so that it waits for other writers before it
reads, DEFERRED where it means to read.
"""

from typing import Any

from sqlalchemy import Connection, Engine, event

from fastdb.options import BeginIntent, normal_isolation
from fastdb.sqlite.writelock import WriteLock, watch

BEGIN_OPTION = "fastdb_begin"
"""Execution option of an engine or connection: "immediate" or "deferred"."""

_WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "DROP", "ALTER")


def begin_ourselves(
    engine: Engine, lock: WriteLock, *, default: BeginIntent, autocommit: bool
) -> None:
    """Send BEGIN on every transaction of `engine`.

    Args:
        engine: The engine to listen on.
        lock: Told who takes and frees the write lock.
        default: The intent where the execution option BEGIN_OPTION says nothing.
        autocommit: The engine was made with `isolation_level="AUTOCOMMIT"`: nothing is begun.
    """

    def begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        level = options.get("isolation_level", "AUTOCOMMIT" if autocommit else None)
        if normal_isolation(level) == "AUTOCOMMIT":
            return
        if options.get(BEGIN_OPTION, default) == "deferred":
            connection.exec_driver_sql("BEGIN DEFERRED")
            return
        lock.refuse_own_holder(connection)
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        lock.taken(connection)

    event.listen(engine, "begin", begin)
    event.listen(engine, "before_cursor_execute", _before_write(lock))
    event.listen(engine, "after_cursor_execute", _after_write(lock))
    watch(engine, lock)


def _before_write(lock: WriteLock) -> Any:
    """A deferred transaction asks for the lock with its first write, not with its BEGIN."""

    def before(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if _is_write(statement):
            lock.refuse_own_holder(connection)

    return before


def _after_write(lock: WriteLock) -> Any:
    def after(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if not _is_write(statement) or lock.held_by(connection.info):
            return
        # Asked of SQLite itself: under AUTOCOMMIT the lock is free again by now.
        driver_connection = connection.connection.driver_connection
        if driver_connection is not None and driver_connection.in_transaction:
            lock.taken(connection)

    return after


def _is_write(statement: str) -> bool:
    # The first word is enough: what it misses (a CTE in front of an INSERT) waits for the lock
    # until the time limit, as everything would without this check.
    return statement[:12].lstrip().upper().startswith(_WRITES)
