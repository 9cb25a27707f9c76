"""The pool's connections: how many, still alive when handed out, clean when they come back."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import Engine, Pool, event, exc
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, PoolResetState, QueuePool

from fastdb.completion import run_within
from fastdb.options import PoolOptions, Timeouts
from fastdb.sockets import look_at
from fastdb.urls import Backend
from fastdb.waits import Waits

_IDLE_SINCE = "fastdb.idle_since"
_LOOK = "fastdb.look"


def pool_arguments(
    backend: Backend, options: PoolOptions, timeouts: Timeouts, *, queue: type[QueuePool]
) -> dict[str, Any]:
    """Return the keyword arguments of SQLAlchemy's `create_engine` that say the same.

    Args:
        backend: The kind of database.
        options: What was asked for.
        timeouts: The time limits in force.
        queue: The class of a pool that keeps connections.
    """
    if options.mode == "null":
        arguments: dict[str, Any] = {"poolclass": NullPool}
    else:
        arguments = {
            "poolclass": queue,
            "pool_size": options.size,
            "max_overflow": options.max_overflow,
            "pool_timeout": timeouts.pool,
            "pool_recycle": -1 if options.recycle is None else options.recycle,
            # Those used last have the warmest caches, prepared statements included, and have
            # proved that they live.
            "pool_use_lifo": True,
        }
    if backend == "sqlite" and options.mode != "null":
        # A connection is a thread and an open file: to close what comes beyond `size` saves
        # nothing, and costs more than a hundred reads.
        arguments |= {"pool_size": options.size + options.max_overflow, "max_overflow": 0}
    if backend != "postgresql":
        # SQLAlchemy would send a ROLLBACK at each return, after the session's own COMMIT: a round
        # trip on MySQL, a hop to the connection's thread on SQLite. `roll_back_at_return` sends
        # it where a transaction is open. PostgreSQL's drivers know that and send nothing.
        arguments["pool_reset_on_return"] = None
    return arguments


def check_idle_connections(engine: Engine, ping_after: float | None, waits: Waits) -> None:
    """Replace dead connections before they are handed out, at no cost for busy ones.

    A server that ends a connection says so, and whether it has said anything is looked at each
    time: that takes a microsecond. One that is gone without a word, with its network or its
    power, has to be asked, which costs a round trip (asyncpg: three). So only a connection is
    asked that has been idle for longer than `ping_after` seconds, or on which something has come.
    """
    dialect = engine.dialect

    def connected(_: Any, entry: ConnectionPoolEntry) -> None:
        entry.info[_LOOK] = look_at(dialect.driver, entry.driver_connection)

    def checked_in(_: Any, entry: ConnectionPoolEntry) -> None:
        entry.info[_IDLE_SINCE] = time.monotonic()

    def checked_out(dbapi_connection: Any, entry: ConnectionPoolEntry, _: Any) -> None:
        idle_since = entry.info.pop(_IDLE_SINCE, None)
        if idle_since is None:
            return
        if ping_after is None or time.monotonic() - idle_since < ping_after:
            look = entry.info.get(_LOOK)
            if look is None or not look():
                return
        try:
            with waits.for_ping(entry.driver_connection):
                dialect.do_ping(dbapi_connection)
        except Exception as error:
            # Not only the driver's own errors: asyncpg lets OSError through. The pool answers
            # by replacing this connection and all that are as old.
            raise exc.InvalidatePoolError from error

    event.listen(engine, "connect", connected)
    event.listen(engine, "checkin", checked_in)
    event.listen(engine, "checkout", checked_out)


def roll_back_at_return(engine: Engine) -> None:
    """Never let a connection back into the pool with a transaction open.

    Where `pool_arguments` has turned SQLAlchemy's own ROLLBACK off, this is the only one. Elsewhere
    it is one more: SQLAlchemy leaves its own out where a COMMIT was attempted, even one that
    failed. SQLite's COMMIT leaves the transaction open when it fails with "database is locked":
    every other writer would stay locked out, and the next user of the connection would commit the
    rows of a request that has answered 500.
    """
    in_transaction = _TRANSACTION_CHECKS[engine.dialect.driver]

    def reset(dbapi_connection: Any, entry: ConnectionPoolEntry, state: PoolResetState) -> None:
        if state.terminate_only or not state.asyncio_safe:
            return  # about to be closed, which rolls back as well
        if in_transaction(entry.driver_connection):
            dbapi_connection.rollback()
            if in_transaction(entry.driver_connection):
                # Begun behind the driver's back, with a BEGIN of the user's: asyncpg's rollback
                # does nothing then. The pool closes a connection whose reset fails.
                raise exc.InvalidRequestError("A connection came back with its transaction open.")

    event.listen(engine, "reset", reset)


def stop_cancelled_statements(engine: Engine, seconds: float) -> None:
    """Let PostgreSQL stop the statement of a task that a scope of anyio has cancelled.

    asyncpg asks the server to stop it and waits for that, but the scope cancels this wait too: the
    connection would be cut, and the statement run on with its locks. psycopg does as much by
    itself, unless a scope interrupts it; then it cuts the connection, and nobody else can ask.
    MySQL has no such request. There a statement runs on until its end, and is then rolled back.
    """
    if engine.dialect.driver != "asyncpg":
        return

    async def close(driver_connection: Any) -> None:
        # The caller is about to raise the cancellation; another one makes no difference.
        with suppress(Exception, asyncio.CancelledError):
            await run_within(
                driver_connection.close(timeout=seconds),
                seconds=seconds,
                give_up=driver_connection.terminate,
            )

    def given_up(
        dbapi_connection: Any, _entry: ConnectionPoolEntry, error: BaseException | None
    ) -> None:
        if isinstance(error, asyncio.CancelledError):
            dbapi_connection.run_async(close)

    event.listen(engine, "invalidate", given_up)


def leave_streams_to_their_transaction(engine: Engine) -> None:
    """Let psycopg say nothing of a cursor on the server that was left open.

    Nobody closes it where a stream is cancelled or left early. It ends on the server with its
    transaction, or with its connection, which psycopg's warning at its collection does not know.
    """
    if engine.dialect.driver != "psycopg":
        return
    silent: dict[type, type] = {}

    def connected(_: Any, entry: ConnectionPoolEntry) -> None:
        connection: Any = entry.driver_connection
        loud: type = connection.server_cursor_factory
        if loud not in silent:
            silent[loud] = type(loud.__name__, (loud,), {"__del__": lambda _: None})
        connection.server_cursor_factory = silent[loud]

    event.listen(engine, "connect", connected)


def held_open(pool: Pool) -> int:
    """Return how many connections `pool` holds open, in use or idle; NullPool does not count."""
    return pool.checkedin() + pool.checkedout() if isinstance(pool, QueuePool) else 0


def _mysql_in_transaction(connection: Any) -> bool:
    # Bit 0 of the status that the server sends with every answer: SERVER_STATUS_IN_TRANS.
    return bool(connection.server_status & 1)


_TRANSACTION_CHECKS: dict[str, Callable[[Any], bool]] = {
    "pysqlite": lambda connection: connection.in_transaction,
    "aiosqlite": lambda connection: connection.in_transaction,
    "fastdb": lambda connection: connection.in_transaction,
    "asyncpg": lambda connection: not connection.is_closed() and connection.is_in_transaction(),
    "psycopg": lambda connection: connection.pgconn.transaction_status != 0,
    "psycopg2": lambda connection: connection.info.transaction_status != 0,
    "pymysql": _mysql_in_transaction,
    "aiomysql": _mysql_in_transaction,
    "asyncmy": _mysql_in_transaction,
}
