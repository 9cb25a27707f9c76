"""What every new SQLite connection is told before anything else uses it.

The settings are made by a subclass of `sqlite3.Connection`, given to `sqlite3.connect` as its
`factory`: they run once, in the thread that opens the connection (aiosqlite's, for the async
engines), the same for both twins, and outside of any transaction, where `PRAGMA foreign_keys`
would be a silent no-op.
"""

import logging
import sqlite3
import time
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol, Self
from weakref import WeakSet

from sqlalchemy import Engine, event
from sqlalchemy.pool import ConnectionPoolEntry

from fastdb.errors import ConnectionRefused, ForeignKeysNotEnforced
from fastdb.options import SQLiteOptions
from fastdb.sqlite.intent import is_begin
from fastdb.sqlite.watchdog import execute_many_within, statement_limit

logger = logging.getLogger("fastdb.sqlite")

_RETRY_SECONDS = 0.01


class LimitsStatements(Protocol):
    """A connection whose cursors keep to a time limit.

    Attributes:
        statement_seconds: How long each of their calls may take; None for no limit.
    """

    statement_seconds: float | None


def connection_class(
    options: SQLiteOptions,
    *,
    lock_seconds: float,
    query_only: bool = False,
    base: type[sqlite3.Connection] = sqlite3.Connection,
) -> type[sqlite3.Connection]:
    """Return a connection class whose instances are set up as `options` say.

    They are `LimitsStatements`, and have no limit at first.

    Args:
        options: Foreign keys, journal and durability.
        lock_seconds: How long a statement waits for another connection's write lock.
        query_only: Let SQLite refuse every write on this connection.
        base: The class to extend, `sqlite3.Connection` or the caller's own factory.
    """

    class Connection(base):  # type: ignore[misc, valid-type]
        statement_seconds: float | None = None

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._cursors: WeakSet[sqlite3.Cursor] = WeakSet()
            self._is_in_use = True
            super().__init__(*args, **kwargs)
            try:
                _set_up(self, options, lock_seconds, query_only)
            except BaseException:
                self.close()
                raise
            self._is_in_use = False

        def __del__(self) -> None:
            if self._is_in_use:
                getattr(super(), "__del__", _nothing)()  # from Python 3.13 on: warns
            else:
                # aiosqlite has opened it for a task that was cancelled, and gives it to nobody.
                with suppress(sqlite3.ProgrammingError):  # closed, by a thread that it belongs to
                    self.close()

        def cursor(self, factory: Any = None) -> sqlite3.Cursor:
            self._is_in_use = True
            cursor: sqlite3.Cursor = super().cursor(factory or _Cursor)
            self._cursors.add(cursor)
            return cursor

        def close(self) -> None:
            # A cursor that a cancelled task has left behind keeps its statement, and this keeps
            # what is closed alive inside SQLite, with its transaction and the write lock.
            with suppress(sqlite3.Error):  # closed already
                for cursor in list(self._cursors):
                    cursor.close()
                if self.in_transaction:
                    self.rollback()
            super().close()

    return Connection


def _nothing() -> None: ...


def verify_foreign_connections(engine: Engine, options: SQLiteOptions, *, query_only: bool) -> None:
    """Refuse connections that the user makes, with a `creator` or a pool, unless they are set up.

    Raises (when connecting):
        ForeignKeysNotEnforced: Foreign keys are off although `options` want them.
        ConnectionRefused: The connection may write although it is to read only.
    """

    def connected(dbapi_connection: Any, _entry: ConnectionPoolEntry) -> None:
        if options.foreign_keys and not _pragma(dbapi_connection, "foreign_keys"):
            raise ForeignKeysNotEnforced(
                "This engine was given its own way to connect (creator, async_creator or pool),"
                " and foreign keys are off there. Send PRAGMA foreign_keys = ON in it, or leave it"
                " out; sqlite3's own arguments go into connect_args."
            )
        if query_only and not _pragma(dbapi_connection, "query_only"):
            raise ConnectionRefused(
                "This Database was given its own way to connect (creator, async_creator or pool),"
                " which also opens the connections that must not write. Leave it out; sqlite3's"
                " own arguments go into connect_args."
            )

    event.listen(engine, "connect", connected)


def _pragma(dbapi_connection: Any, name: str) -> bool:
    cursor = dbapi_connection.cursor()
    try:
        cursor.execute(f"PRAGMA {name}")
        return bool(cursor.fetchone()[0])
    finally:
        cursor.close()


class _Cursor(sqlite3.Cursor):
    """A cursor that keeps to its connection's limit, and lets go of its statement when it fails.

    Otherwise the traceback keeps it, until the garbage collector resets the statement in whichever
    thread it runs. SQLite makes that wait for the connection, which others use by then, and which
    may itself be waiting for a lock: on the event loop's thread, everything would stop.
    """

    def execute(self, *args: Any) -> Self:
        try:
            if is_begin(args[0]):  # it waits for the lock, which has a limit of its own
                return super().execute(*args)
            with self._limit():
                return super().execute(*args)
        except BaseException:
            self.close()
            raise

    def executemany(self, statement: str, parameters: Any, /) -> Self:
        connection: Any = self.connection
        try:
            execute_many_within(connection.statement_seconds, self, statement, parameters)
        except BaseException:
            self.close()
            raise
        return self

    def fetchone(self) -> Any:
        connection: Any = self.connection
        if connection.statement_seconds is None:  # at once, as it is asked for each row
            return super().fetchone()
        with statement_limit(connection, connection.statement_seconds):
            return super().fetchone()

    def fetchmany(self, *args: Any, **kwargs: Any) -> list[Any]:
        with self._limit():
            return super().fetchmany(*args, **kwargs)

    def fetchall(self) -> list[Any]:
        with self._limit():
            return super().fetchall()

    def _limit(self) -> AbstractContextManager[None]:
        connection: Any = self.connection
        return statement_limit(connection, connection.statement_seconds)


def _set_up(
    connection: sqlite3.Connection, options: SQLiteOptions, lock_seconds: float, query_only: bool
) -> None:
    # First of all: the statements below need locks too.
    connection.execute(f"PRAGMA busy_timeout = {round(lock_seconds * 1000)}")
    _set_journal_mode(connection, options.journal_mode, deadline=time.monotonic() + lock_seconds)
    connection.execute(f"PRAGMA synchronous = {options.synchronous}")
    if options.foreign_keys:
        _enforce_foreign_keys(connection)
    if query_only:
        connection.execute("PRAGMA query_only = ON")


def _set_journal_mode(connection: sqlite3.Connection, wanted: str, *, deadline: float) -> None:
    """Change the journal mode, waiting for other processes that do the same.

    The change needs an exclusive lock for which SQLite does not call the busy handler, so that
    many processes opening a new file at once meet "database is locked" without any wait. WAL is
    a property of the file: where it is set already, nothing is locked.
    """
    while True:
        try:
            (current,) = connection.execute("PRAGMA journal_mode").fetchone()
            if current.upper() in (wanted, "MEMORY"):
                return
            (current,) = connection.execute(f"PRAGMA journal_mode = {wanted}").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_READONLY:
                return
            if not _is_busy(error) or time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_SECONDS)
        else:
            if current.upper() != wanted:
                # SQLite answers with the old mode instead of an error, for instance on a
                # network file system that has no shared memory for WAL.
                logger.warning("SQLite kept journal_mode=%s; %s is not possible", current, wanted)
            return


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _enforce_foreign_keys(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    # Read back: the pragma says nothing where it has no effect (inside a transaction, or in an
    # SQLite built without foreign keys, which answers with no row at all).
    if connection.execute("PRAGMA foreign_keys").fetchone() != (1,):
        raise ForeignKeysNotEnforced(
            "SQLite does not enforce foreign keys on this connection although PRAGMA foreign_keys"
            " = ON was sent. Use an SQLite library built with foreign keys, or say"
            " SQLiteOptions(foreign_keys=False)."
        )
