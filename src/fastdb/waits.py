"""An end for every wait on a server: who waits for one that is silent is let go.

A server ends a statement itself, within `Timeouts.statement`. But a network that swallows
everything never answers, and a driver waits for ever; psycopg for ten seconds more, when the task
that waits has been cancelled. Who waits is let go by cutting the connection beneath.

The dialect's own methods are wrapped, which an engine has for itself. Events would come in place of
those of the user: SQLAlchemy asks no further once one has done the work.

One timer looks at all who wait, some times within the shortest limit: to set one for each statement
would cost each of them, and hardly any waits for so long.
"""

import asyncio
import logging
from asyncio import AbstractEventLoop, Task
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExecutionContext
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only, greenlet_spawn

from fastdb.greenlets import empty_frames
from fastdb.options import TIMEOUTS_OPTION, Timeouts
from fastdb.sockets import abort

logger = logging.getLogger("fastdb.pool")

_NEVER = float("inf")
_SHORTEST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 1.0

# These limit the opening of the socket only, and not what is said on it before the first statement.
_GREET_WITHOUT_LIMIT = frozenset({"aiomysql", "asyncmy"})

# https://dev.mysql.com/doc/mysql-errors/8.0/en/client-error-reference.html#error_cr_conn_host_error
_CANNOT_CONNECT = 2003


class Waits:
    """Who waits for the server behind one engine.

    Threads wait for as long as their driver does: the synchronous twin's engines are left alone.

    Args:
        engine: Of a server.
        limits: The time limits in force. `connect` is for a new connection and what is asked on it
            first; `close` is how long a task may go on waiting after it was cancelled.
        asked_for: The time limits that somebody has asked for. None for the defaults, which give
            way to what is set on the server, so that nobody knows here how long a statement may
            take.
        has_told_server: Whether the server is told the limits of a statement at all.
    """

    def __init__(
        self,
        engine: Engine,
        limits: Timeouts,
        asked_for: Timeouts | None,
        *,
        has_told_server: bool = True,
    ) -> None:
        self._dialect: Any = engine.dialect
        self._limits = limits
        self._asked_for = asked_for
        self._has_told_server = has_told_server
        pause = max(limits.close / 5, _SHORTEST_PAUSE_SECONDS)
        self._pause = min(pause, _LONGEST_PAUSE_SECONDS)
        self._round: _Round | None = None
        if self._dialect.is_async:
            self._wrap_dialect()

    def _wrap_dialect(self) -> None:
        dialect = self._dialect
        dialect.connect = partial(self._connect, dialect.connect)
        dialect.do_execute = partial(self._execute, dialect.do_execute)
        dialect.do_execute_no_params = partial(self._execute, dialect.do_execute_no_params)
        # Each row may take as long as a statement: only who is cancelled is let go.
        dialect.do_executemany = partial(self._execute_many, dialect.do_executemany)
        dialect.set_isolation_level = partial(self._set_level, dialect.set_isolation_level)

    def _execute(self, execute: Callable[..., None], *arguments: Any) -> None:
        context: ExecutionContext = arguments[-1]
        seconds = self._statement_seconds(context)
        with Wait(self._round_here(), seconds, partial(_connection_of, context)):
            execute(*arguments)

    def _execute_many(self, execute: Callable[..., None], *arguments: Any) -> None:
        with Wait(self._round_here(), _NEVER, partial(_connection_of, arguments[-1])):
            execute(*arguments)

    def _set_level(self, set_level: Callable[..., None], dbapi_connection: Any, level: Any) -> None:
        with self._within(self._limits.close, dbapi_connection.driver_connection):
            set_level(dbapi_connection, level)

    def _statement_seconds(self, context: ExecutionContext) -> float:
        timeouts: Timeouts | None = context.execution_options.get(TIMEOUTS_OPTION, self._asked_for)
        if timeouts is None or timeouts.answer is None or not self._has_told_server:
            return _NEVER
        if self._dialect.name in ("mysql", "mariadb") and not self._dialect.is_mariadb:
            # MySQL's own limit is for SELECT: it lets a write take as long as it does.
            return _NEVER
        return timeouts.answer

    def for_ping(self, driver_connection: Any) -> AbstractContextManager[None]:
        """Return the block in which a connection is asked whether it lives."""
        if not self._dialect.is_async:
            return nullcontext()
        return self._within(self._limits.close, driver_connection)

    def end_connecting(self, engine: Engine) -> None:
        """Count no more on new connections of `engine`, from here on: all is said that comes first.

        To be called when everything else listens that says something on new connections.
        """
        if self._dialect.is_async:
            event.listen(engine, "connect", self._connected)

    def _connect(self, connect: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        seconds = self._limits.connect
        try:
            if self._dialect.driver in _GREET_WITHOUT_LIMIT:
                opening = greenlet_spawn(connect, *arguments, **keywords)
                connection = await_only(_connect_within(seconds, opening, self._dialect))
            else:
                connection = connect(*arguments, **keywords)
        except BaseException as error:
            empty_frames(error)  # psycopg's time-out leaves its connection half open, too
            raise
        self._within(seconds, connection.driver_connection, is_set_up=True).begin()
        return connection

    def _connected(self, _: Any, entry: ConnectionPoolEntry) -> None:
        for wait in self._round_here().waiting.copy():
            if wait.sets_up(entry.driver_connection):
                wait.end()

    def _within(self, seconds: float, driver_connection: Any, *, is_set_up: bool = False) -> "Wait":
        its_round = self._round_here()
        return Wait(its_round, seconds, lambda: driver_connection, is_set_up=is_set_up)

    def _round_here(self) -> "_Round":
        loop = asyncio.get_running_loop()
        its_round = self._round
        if its_round is None or its_round.loop is not loop:
            # Engines that keep no connections may be used in several loops.
            its_round = self._round = _Round(loop, self._pause, self._limits.close)
        return its_round


def _connection_of(context: ExecutionContext) -> Any:
    connection = context.root_connection
    if connection.closed or connection.invalidated:
        return None
    return connection.connection.driver_connection


async def _connect_within(seconds: float, opening: Any, dialect: Any) -> Any:
    try:
        async with asyncio.timeout(seconds):
            return await opening
    except TimeoutError:
        raise dialect.loaded_dbapi.OperationalError(
            _CANNOT_CONNECT, f"The server has not answered within {seconds:g} s"
        ) from None


class _Round:
    """All who wait in one event loop, looked at in turn."""

    __slots__ = ("_close_seconds", "_is_planned", "_pause", "_planned_for", "loop", "waiting")

    def __init__(self, loop: AbstractEventLoop, pause: float, close_seconds: float) -> None:
        self.loop = loop
        self.waiting: set[Wait] = set()
        self._pause = pause
        self._close_seconds = close_seconds
        self._is_planned = False
        self._planned_for = 0.0

    def add(self, wait: "Wait") -> None:
        """Look at `wait` from now on."""
        self.waiting.add(wait)
        if not self._is_planned:
            self._plan()

    def _plan(self) -> None:
        self._is_planned = bool(self.waiting)
        if self._is_planned:
            self._planned_for = self.loop.time() + self._pause
            self.loop.call_at(self._planned_for, self._look)

    def _look(self) -> None:
        now = self.loop.time()
        # Where the loop itself stood still, answers may have come that nobody has read yet.
        stood_still = now > self._planned_for + self._pause
        self._plan()
        if not stood_still:
            for wait in self.waiting.copy():
                wait.look(now, self._close_seconds)


class Wait:
    """One wait: a block around the call that waits.

    Args:
        its_round: That looks at it.
        seconds: How long it may take.
        connection: Returns the driver's connection, or None where there is none any more.
        is_set_up: Whether it is for all that is said on a new connection, which ends where nobody
            says so if that fails. Then it is dead already, and to cut it does nothing.
    """

    __slots__ = (
        "_begun", "_cancelled_before", "_connection", "_due", "_is_set_up", "_round", "_seconds",
        "_task", "_was_cancelled",
    )  # fmt: skip

    def __init__(
        self,
        its_round: _Round,
        seconds: float,
        connection: Callable[[], Any],
        *,
        is_set_up: bool = False,
    ) -> None:
        self._round = its_round
        self._seconds = seconds
        self._connection = connection
        self._is_set_up = is_set_up

    def begin(self) -> None:
        """Count the time from now on."""
        task: Task[Any] | None = None if self._is_set_up else asyncio.current_task()
        self._task = task
        # Many tasks have swallowed a cancellation and go on.
        self._cancelled_before = task.cancelling() if task is not None else 0
        self._was_cancelled = False
        self._begun = self._round.loop.time()
        self._due = self._begun + self._seconds
        self._round.add(self)

    def end(self) -> None:
        """Count no more."""
        self._round.waiting.discard(self)

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, *_: object) -> None:
        self.end()

    def sets_up(self, driver_connection: Any) -> bool:
        """Return whether this is the wait for all that is said on a new connection."""
        return self._is_set_up and self._connection() is driver_connection

    def look(self, now: float, close_seconds: float) -> None:
        """Cut the connection if it is time."""
        if self._task is not None and not self._was_cancelled:
            self._was_cancelled = self._task.cancelling() > self._cancelled_before
            if self._was_cancelled:
                self._due = min(self._due, now + close_seconds)
        if now < self._due:
            return
        self.end()
        with suppress(Exception):  # whatever has become of it: the others are to be looked at
            self._cut(now)

    def _cut(self, now: float) -> None:
        driver_connection = self._connection()
        if driver_connection is None:
            return
        if not self._is_set_up:
            logger.warning(
                "The server has not answered for %.1f s: its connection is cut", now - self._begun
            )
        abort(driver_connection)
        if self._task is not None and self._task.cancelling() > self._cancelled_before:
            # psycopg asks the server to stop the statement, on another connection.
            self._task.cancel()
            self._task.uncancel()  # it is the same cancellation, which `timeout()` counts as one
