"""An end for every wait on a server: who waits for one that is silent is let go.

A server ends a statement itself, within `Timeouts.statement`. But a network that swallows
everything never answers, and a driver waits for ever; psycopg for ten seconds more, when the task
that waits has been cancelled. Who waits is let go by cutting the connection beneath.

One timer looks at all who wait, some times within the shortest limit: to set one for each statement
would cost each of them, and hardly any waits for so long.
"""

import asyncio
import logging
from asyncio import AbstractEventLoop, Task
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import Dialect, ExecutionContext
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util import await_only, greenlet_spawn

from fastdb.options import TIMEOUTS_OPTION, Timeouts
from fastdb.sockets import abort

logger = logging.getLogger("fastdb.pool")

Execute = Callable[..., None]

_KEY = "fastdb.being_set_up"
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
    """

    def __init__(self, engine: Engine, limits: Timeouts, asked_for: Timeouts | None) -> None:
        self._engine = engine
        self._limits = limits
        self._asked_for = asked_for
        pause = max(limits.close / 5, _SHORTEST_PAUSE_SECONDS)
        self._pause = min(pause, _LONGEST_PAUSE_SECONDS)
        self._round: _Round | None = None

    def bound_statements(self) -> None:
        """Let no statement wait for ever that runs past `around`."""
        dialect = self._engine.dialect
        if dialect.is_async:
            for name in ("do_execute", "do_execute_no_params", "do_executemany"):
                event.listen(self._engine, name, _in_place_of(self.around(getattr(dialect, name))))

    def around(self, execute: Execute) -> Execute:
        """Return one of the dialect's `do_execute…` that does not wait for ever."""
        if not self._engine.dialect.is_async:
            return execute

        def run(*arguments: Any) -> None:
            with self._for_statement(arguments[-1]):
                execute(*arguments)

        return run

    def bound_connecting(self) -> None:
        """Let nobody wait for ever for a new connection, nor for what is asked on it first.

        To be called before others listen to new connections of the engine, and `end_connecting`
        after them.
        """
        if self._engine.dialect.is_async:
            event.listen(self._engine, "do_connect", self._connect)

    def end_connecting(self) -> None:
        """Count no more on new connections, from here on: all is said that comes first."""
        if self._engine.dialect.is_async:
            event.listen(self._engine, "connect", _connected)

    def _connect(
        self, dialect: Dialect, entry: ConnectionPoolEntry, arguments: Any, keywords: Any
    ) -> Any:
        seconds = self._limits.connect
        if dialect.driver in _GREET_WITHOUT_LIMIT:
            connection = await_only(_connect_within(seconds, dialect, arguments, keywords))
        else:
            connection = dialect.connect(*arguments, **keywords)
        wait = entry.info[_KEY] = self._within(seconds, connection.driver_connection)
        wait.begin()
        return connection

    def for_ping(self, driver_connection: Any) -> AbstractContextManager[None]:
        """Return the block in which a connection is asked whether it lives."""
        if not self._engine.dialect.is_async:
            return nullcontext()
        return self._within(self._limits.close, driver_connection)

    def _within(self, seconds: float, driver_connection: Any) -> "Wait":
        return Wait(self._round_here(), seconds, lambda: driver_connection)

    def _for_statement(self, context: ExecutionContext) -> "Wait":
        timeouts = context.execution_options.get(TIMEOUTS_OPTION, self._asked_for)
        seconds = timeouts.answer if timeouts is not None else None
        return Wait(self._round_here(), seconds or _NEVER, partial(_connection_of, context))

    def _round_here(self) -> "_Round":
        loop = asyncio.get_running_loop()
        if self._round is None or self._round.loop is not loop:
            # Engines that keep no connections may be used in several loops.
            self._round = _Round(loop, self._pause, self._limits.close)
        return self._round


def _connection_of(context: ExecutionContext) -> Any:
    return context.root_connection.connection.driver_connection


class _Round:
    """All who wait in one event loop, looked at in turn."""

    __slots__ = ("_close_seconds", "_is_planned", "_pause", "loop", "waiting")

    def __init__(self, loop: AbstractEventLoop, pause: float, close_seconds: float) -> None:
        self.loop = loop
        self.waiting: set[Wait] = set()
        self._pause = pause
        self._close_seconds = close_seconds
        self._is_planned = False

    def add(self, wait: "Wait") -> None:
        self.waiting.add(wait)
        if not self._is_planned:
            self._is_planned = True
            self.loop.call_later(self._pause, self._look)

    def _look(self) -> None:
        now = self.loop.time()
        for wait in list(self.waiting):
            wait.look(now, self._close_seconds)
        self._is_planned = bool(self.waiting)
        if self._is_planned:
            self.loop.call_later(self._pause, self._look)


class Wait:
    """One wait: a block around the call that waits."""

    __slots__ = (
        "_begun", "_cancelled_before", "_connection", "_due", "_round", "_seconds", "_task",
        "_was_cancelled",
    )  # fmt: skip

    def __init__(self, its_round: _Round, seconds: float, connection: Callable[[], Any]) -> None:
        self._round = its_round
        self._seconds = seconds
        self._connection = connection

    def begin(self) -> None:
        """Count the time from now on."""
        task: Task[Any] | None = asyncio.current_task()
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

    def look(self, now: float, close_seconds: float) -> None:
        """Cut the connection if it is time."""
        if self._task is not None and not self._was_cancelled:
            self._was_cancelled = self._task.cancelling() > self._cancelled_before
            if self._was_cancelled:
                self._due = min(self._due, now + close_seconds)
        if now < self._due:
            return
        self.end()
        logger.warning(
            "The server has not answered for %.1f s: its connection is cut", now - self._begun
        )
        abort(self._connection())
        if self._task is not None and self._was_cancelled:
            # psycopg asks the server to stop the statement, on another connection.
            self._task.cancel()
            self._task.uncancel()  # it is the same cancellation, which `timeout()` counts as one


def _connected(_: Any, entry: ConnectionPoolEntry) -> None:
    wait: Wait | None = entry.info.pop(_KEY, None)
    if wait is not None:
        wait.end()


def _in_place_of(execute: Execute) -> Callable[..., bool]:
    def run(*arguments: Any) -> bool:
        execute(*arguments)
        return True

    return run


async def _connect_within(seconds: float, dialect: Dialect, arguments: Any, keywords: Any) -> Any:
    try:
        async with asyncio.timeout(seconds):
            return await greenlet_spawn(dialect.connect, *arguments, **keywords)
    except TimeoutError:
        raise dialect.loaded_dbapi.OperationalError(
            _CANNOT_CONNECT, f"The server has not answered within {seconds:g} s"
        ) from None
