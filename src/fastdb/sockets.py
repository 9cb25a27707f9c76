"""The sockets beneath the drivers' connections: cut without waiting, kept alive, looked at.

asyncpg, aiomysql, asyncmy and PyMySQL show neither a socket nor a way to end one that swallows
what is written to it: their `close()` first writes what is left. What they have is in private
attributes, which are used in this file only; tests notice when it is somewhere else.
"""

import os
import select
import socket
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, event
from sqlalchemy.pool import ConnectionPoolEntry

from fastdb.options import Timeouts

# After 15 seconds in which nothing was heard, the system asks, three times in 5 seconds each: who
# has not answered until then is gone. Left alone, systems first ask after two hours.
_ASKING = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3}

# It does not ask while it waits for what it has sent to be taken, and gives up on that after a
# quarter of an hour. But who takes nothing may also be a server that is busy with one of many
# statements that were sent at once, so this is more than one may take.
_LEAST_SECONDS_IN_VAIN = 60.0

ANSWER_LIMITS = ("read_timeout", "write_timeout")
"""PyMySQL's arguments: how long an answer may take, and how long the server may take nothing."""

_TRANSPORT = "fastdb.transport"

# Not every system has all of them.
_OPTIONS = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}

_ON_TRANSPORTS = frozenset({"asyncpg", "aiomysql", "asyncmy"})

Look = Callable[[], bool]


def abort(driver_connection: Any) -> None:
    """Cut a driver's connection without waiting for the network, so that who waits on it fails."""
    if isinstance(driver_connection, sqlite3.Connection):
        driver_connection.interrupt()
        return
    with suppress(Exception):
        _ABORTS[type(driver_connection).__module__.partition(".")[0]](driver_connection)


def keepalive_arguments(timeouts: Timeouts | None) -> dict[str, int]:
    """Return when the other side of a connection counts as gone, as libpq's drivers take it.

    https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-KEEPALIVES

    Args:
        timeouts: What was asked for. Where a statement may take for ever, nothing is said of how
            long the server may take nothing.
    """
    answer = (timeouts or Timeouts()).answer
    if answer is None:
        return _ASKING
    return {**_ASKING, "tcp_user_timeout": round(1000 * max(2 * answer, _LEAST_SECONDS_IN_VAIN))}


def keep_alive(engine: Engine, timeouts: Timeouts | None) -> None:
    """Let the system find out that the other side of a connection is gone.

    Not that it is slow: a server that works on a statement for hours answers when it is asked.

    Args:
        engine: Of a server. libpq's drivers are told by their arguments.
        timeouts: What was asked for.
    """
    if engine.dialect.driver not in {*_ON_TRANSPORTS, "pymysql"}:
        return

    def connected(_: Any, entry: ConnectionPoolEntry) -> None:
        with suppress(OSError), _socket_of(entry.driver_connection) as its:
            if its is not None and its.family != getattr(socket, "AF_UNIX", None):
                _keep_alive(its, keepalive_arguments(timeouts))

    event.listen(engine, "connect", connected)


def wait_for_answers(engine: Engine, arguments: Mapping[str, Any], given: Collection[str]) -> None:
    """Let PyMySQL wait for answers as before, once a connection is open and set up.

    Args:
        engine: Of any driver.
        arguments: The driver's, ours among them.
        given: Those that were asked for, which are left alone.
    """
    if engine.dialect.driver != "pymysql":
        return
    ours = {f"_{name}": arguments[name] for name in ANSWER_LIMITS if name not in given}

    def connected(_: Any, entry: ConnectionPoolEntry) -> None:
        for name, limit in ours.items():
            # Another value is that of somebody who listens on `do_connect`.
            if getattr(entry.driver_connection, name, None) == limit:
                setattr(entry.driver_connection, name, None)

    event.listen(engine, "connect", connected)


def drop_unsent(engine: Engine) -> None:
    """Let no connection that is given up stay for what could not be sent on it.

    A transport that is closed first sends what was written to it, for as long as that takes.
    """
    if engine.dialect.driver not in _ON_TRANSPORTS:
        return

    def connected(_: Any, entry: ConnectionPoolEntry) -> None:
        entry.info[_TRANSPORT] = _transport(entry.driver_connection)  # closed, they forget it

    def given_up(_: Any, entry: ConnectionPoolEntry, _error: BaseException | None) -> None:
        transport = entry.info.get(_TRANSPORT)
        if transport is not None and transport.is_closing():
            transport.abort()

    event.listen(engine, "connect", connected)
    event.listen(engine, "invalidate", given_up)


def _keep_alive(its: socket.socket, figures: Mapping[str, int]) -> None:
    its.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, figure in figures.items():
        if hasattr(socket, _OPTIONS[name]):
            its.setsockopt(socket.IPPROTO_TCP, getattr(socket, _OPTIONS[name]), figure)


class OpenConnections:
    """The connections that an engine has opened, to be cut where closing them takes too long."""

    def __init__(self, engine: Engine) -> None:
        # With the process that opened them: a child of it would cut its parent's.
        self._entries: WeakKeyDictionary[ConnectionPoolEntry, int] = WeakKeyDictionary()
        event.listen(engine, "connect", self._connected)

    def _connected(self, _: Any, entry: ConnectionPoolEntry) -> None:
        self._entries[entry] = os.getpid()

    def cut_idle(self) -> None:
        """Cut those that nobody uses; being closed is not being used."""
        for entry, process in list(self._entries.items()):
            if process == os.getpid() and not entry.in_use and entry.driver_connection is not None:
                abort(entry.driver_connection)


def look_at(driver: str, driver_connection: Any) -> Look | None:
    """Return a function that tells whether an idle connection has something to read.

    It does not wait, and is true as well where the connection is closed. None where the driver
    hides its socket.

    Args:
        driver: SQLAlchemy's name of it.
        driver_connection: The driver's own connection, open.
    """
    try:
        return _LOOKS[driver](driver_connection)
    except (AttributeError, KeyError):
        return None


def _look_at_socket(fileno: Callable[[], int]) -> Look:
    number = fileno()
    readable = _readable(number)

    # What is closed has no number any more, and its old one may be somebody else's.
    return lambda: fileno() != number or readable()


def _readable(number: int) -> Look:
    if not hasattr(select, "poll"):  # on Windows
        return lambda: bool(select.select([number], [], [], 0)[0])
    poll = select.poll()
    poll.register(number, select.POLLIN)  # errors and hanging up are told unasked
    return lambda: bool(poll.poll(0))


def _look_at_transport(driver_connection: Any) -> Look:
    transport = _transport(driver_connection)
    look = _look_at_socket(transport.get_extra_info("socket").fileno)
    is_closing = transport.is_closing
    return lambda: is_closing() or look()


def _look_at_psycopg(connection: Any) -> Look:
    pgconn = connection.pgconn

    def fileno() -> int:
        number: int = pgconn.socket if pgconn.status == _CONNECTION_OK else -1
        return number

    return _look_at_socket(fileno)


def _look_at_psycopg2(connection: Any) -> Look:
    return _look_at_socket(lambda: -1 if connection.closed else connection.fileno())


@contextmanager
def _socket_of(driver_connection: Any) -> Iterator[socket.socket | None]:
    """Give a duplicate of a connection's socket, and close it again.

    uvloop's transports show something that only looks like a socket.
    """
    transport = _transport(driver_connection)
    shown = transport.get_extra_info("socket") if transport else _pymysql_socket(driver_connection)
    if shown is None:
        yield None
        return
    with socket.socket(fileno=os.dup(shown.fileno())) as duplicate:
        yield duplicate


def _transport(driver_connection: Any) -> Any:
    """Return the asyncio transport of asyncpg's, aiomysql's and asyncmy's connections."""
    writer = getattr(driver_connection, "_writer", None)  # aiomysql; asyncmy before 0.2.12
    return writer.transport if writer else getattr(driver_connection, "_transport", None)


def _pymysql_socket(driver_connection: Any) -> Any:
    return getattr(driver_connection, "_sock", None)


def _abort_transport(driver_connection: Any) -> None:
    transport = _transport(driver_connection)
    driver_connection.close()
    if transport is not None:
        transport.abort()  # `close()` would first write what is left


def _shut_down(descriptor: int) -> None:
    # libpq has no call for this: closing waits for whoever uses the connection. Shutting down a
    # duplicate of its socket wakes them with an error and leaves the descriptor to libpq.
    with socket.socket(fileno=os.dup(descriptor)) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


_ABORTS: dict[str, Callable[[Any], object]] = {
    "asyncpg": lambda connection: connection.terminate(),
    "psycopg": lambda connection: _shut_down(connection.pgconn.socket),
    "psycopg2": lambda connection: _shut_down(connection.fileno()),
    "aiomysql": _abort_transport,
    "asyncmy": _abort_transport,
    "aiosqlite": lambda connection: connection.stop(),
}

_CONNECTION_OK = 0  # of libpq: https://www.postgresql.org/docs/current/libpq-status.html

_LOOKS: dict[str, Callable[[Any], Look]] = {
    "asyncpg": _look_at_transport,
    "psycopg": _look_at_psycopg,
    "psycopg2": _look_at_psycopg2,
    "aiomysql": _look_at_transport,
    "asyncmy": _look_at_transport,
    "pymysql": lambda connection: _look_at_socket(_pymysql_socket(connection).fileno),
}
