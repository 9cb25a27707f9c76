"""Interrupt what runs for too long in SQLite, whichever thread it runs in.

One thread of the process sleeps until the first limit is due. It ends when it finds nothing to
watch, and begins again with the next statement.

SQLite's progress handler would need no thread. But it is called between two steps only, and a
million rows are counted in one; and a long statement would ask for the interpreter's lock again
and again, and each time wait for whoever is busy with it.
"""

import logging
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any, TypeVar

logger = logging.getLogger("fastdb.sqlite")

T = TypeVar("T")

# An interrupt that comes before SQLite has begun the statement is lost, so it is repeated.
_REPEAT_SECONDS = 0.005

_NEVER = float("inf")
_NO_LIMIT = nullcontext()


def statement_limit(
    connection: sqlite3.Connection, seconds: float | None
) -> AbstractContextManager[None]:
    """Interrupt what is done in this block, in its thread, when it has taken too long.

    Args:
        connection: On which it is done; by nobody else meanwhile.
        seconds: How long it may take, or None for no limit.

    Raises (at the end of the block):
        sqlite3.OperationalError: SQLITE_INTERRUPT, and how long the statement was allowed to run.
    """
    return _NO_LIMIT if seconds is None else _StatementLimit(connection, seconds)


def execute_many_within(
    seconds: float | None, cursor: sqlite3.Cursor, statement: str, parameters: Iterable[Any]
) -> None:
    """Call `executemany` of sqlite3's own, as one statement with one limit.

    It is many for SQLite, which forgets an interrupt with the end of each. So it is looked for
    between them; and what the first have written is rolled back, with the whole transaction, as
    SQLite does it where it has interrupted a write itself.

    Raises:
        sqlite3.OperationalError: As with `statement_limit`, besides what the statement raises.
    """
    if seconds is None:
        sqlite3.Cursor.executemany(cursor, statement, parameters)
        return
    limit = _StatementLimit(cursor.connection, seconds)
    try:
        with limit:
            sqlite3.Cursor.executemany(cursor, statement, limit.until_interrupted(parameters))
    except sqlite3.OperationalError as error:
        if limit.has_interrupted and _is_interrupt(error) and cursor.connection.in_transaction:
            cursor.connection.rollback()
        raise


class _StatementLimit:
    __slots__ = ("_connection", "_lock", "_seconds", "due", "has_interrupted")

    # Entered and left for each row that is fetched by itself: as little as will do.

    def __init__(self, connection: sqlite3.Connection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._lock = Lock()
        self.has_interrupted = False

    def __enter__(self) -> None:
        self.due = due = monotonic() + self._seconds
        _watchdog.limits.add(self)  # before the clock is looked at: see `_next`
        if due < _watchdog.wakes_at:
            _watchdog.wake()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        _watchdog.limits.discard(self)
        # An interrupt that is under way is to come now, and not to the next statement.
        self._lock.acquire()
        if self.has_interrupted and _is_interrupt(error):
            raise _ran_too_long(self._seconds) from error

    def until_interrupted(self, parameters: Iterable[T]) -> Iterator[T]:
        """Yield the parameters, and raise in place of the next when it is time."""
        for each in parameters:
            if self.has_interrupted:
                raise _ran_too_long(self._seconds)
            yield each

    def interrupt(self) -> None:
        """Interrupt what runs, unless it has ended."""
        if self._lock.acquire(blocking=False):
            self.has_interrupted = True
            with suppress(sqlite3.ProgrammingError):  # somebody has closed it meanwhile
                self._connection.interrupt()
            self._lock.release()


def _is_interrupt(error: BaseException | None) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT


def _ran_too_long(seconds: float) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(
        f"interrupted: the statement ran for longer than Timeouts.statement ({seconds:g} s)"
    )
    error.sqlite_errorcode = sqlite3.SQLITE_INTERRUPT
    error.sqlite_errorname = "SQLITE_INTERRUPT"
    return error


class _Watchdog:
    """The thread, and what it watches. Nearly every statement ends before the thread wakes up."""

    def __init__(self) -> None:
        self.limits: set[_StatementLimit] = set()
        self.wakes_at = _NEVER
        self._lock = Lock()
        self._woken = Event()
        self._thread: Thread | None = None

    def wake(self) -> None:
        """Let the thread look at the limits now."""
        with self._lock:
            if self._thread is not None:
                self._woken.set()
                return
            thread = Thread(target=self._run, name="fastdb SQLite watchdog", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                if not sys.is_finalizing():  # then none is started any more
                    logger.warning("No time limits for SQLite's statements", exc_info=True)
            else:
                self._thread = thread

    def _run(self) -> None:
        while (wakes_at := self._next()) is not None:
            self._woken.wait(max(0, wakes_at - monotonic()))
            self._interrupt_what_is_due()

    def _interrupt_what_is_due(self) -> None:
        now = monotonic()
        for limit in self.limits.copy():
            if limit.due <= now:
                limit.interrupt()
                limit.due = now + _REPEAT_SECONDS

    def _next(self) -> float | None:
        """Return when to look again; None to end."""
        with self._lock:
            self._woken.clear()
            # Whoever comes from here on and is not in the copy finds this, and wakes the thread.
            self.wakes_at = _NEVER
            limits = self.limits.copy()
            if not limits:
                self._thread = None
                return None
            self.wakes_at = min(limit.due for limit in limits)
            return self.wakes_at


# One for all, as threads cannot be stopped: a program that makes many engines would collect them.
_watchdog = _Watchdog()

if hasattr(os, "register_at_fork"):
    # A child has the memory of its parent, but not its threads.
    os.register_at_fork(after_in_child=_watchdog.__init__)  # type: ignore[misc]
