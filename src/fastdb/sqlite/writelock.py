"""SQLite's one write lock: who waits for it in which order, and who holds it.

SQLite makes writers wait by letting each of them sleep and try again: whoever happens to wake up
first is next, and some never are. Here the writers of one event loop form a queue, first come,
first served, and only its head asks SQLite. It may still meet other processes, other event loops
and the threads of the synchronous twin; for those it tries again (see `accelerated`).

What SQLite cannot see is a task that waits for itself: a second write session inside a first one
would wait until the time limit, because the first cannot go on before the second has ended. That
is told at once instead.
"""

import asyncio
import os
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from sqlalchemy import Engine, event

from fastdb.callers import Caller, caller
from fastdb.errors import WriteLockHeld


@dataclass(frozen=True, slots=True)
class _Holder:
    caller: Caller
    connection: object
    since: float = field(default_factory=time.monotonic)


class WriteLock:
    """The write lock of one database file, as far as this process knows.

    Connections are known by their identity: SQLAlchemy's `dbapi_connection`, whatever wraps it.
    """

    def __init__(self) -> None:
        self._holder: _Holder | None = None
        self._queues: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = (
            WeakKeyDictionary()
        )
        self._turns: dict[object, tuple[asyncio.AbstractEventLoop, asyncio.Lock]] = {}

    async def take_turn(self, connection: object, *, seconds: float) -> None:
        """Wait until all who came earlier on this event loop have ended their transactions.

        Args:
            connection: For which `freed` is called in the end, whatever happens.
            seconds: How long at most.

        Raises:
            WriteLockHeld: The calling task itself holds the lock, with another connection.
            sqlite3.OperationalError: "database is locked", and by whom.
        """
        self.refuse_own_holder(connection)
        loop = asyncio.get_running_loop()
        queue = self._queues.get(loop)
        if queue is None:
            queue = self._queues[loop] = asyncio.Lock()
        try:
            # asyncio's lock is first come, first served, and loses no wake-up when one of those
            # who wait is cancelled.
            async with asyncio.timeout(seconds):
                await queue.acquire()
        except TimeoutError:
            raise self.not_had(seconds) from None
        self._turns[connection] = loop, queue

    def refuse_own_holder(self, connection: object) -> None:
        """Raise WriteLockHeld if another connection of the calling task holds the lock."""
        holder = self._holder
        if holder is None or holder.connection is connection:
            return
        asking = caller()
        if holder.caller.owner is not asking.owner:
            return
        raise WriteLockHeld(
            f"{asking} asks for the SQLite write lock, which another session of the same"
            f" {'task' if isinstance(asking.owner, asyncio.Task) else 'thread'} already holds:"
            " it would wait for itself. Use the session that is open, or end it first;"
            " for reading beside it, open db.read_session()."
        )

    def taken(self, connection: object) -> None:
        """Note that `connection` has just been given the lock."""
        self._holder = _Holder(caller(), connection)

    def held_by(self, connection: object) -> bool:
        """Return whether `connection` holds the lock."""
        return self._holder is not None and self._holder.connection is connection

    def freed(self, connection: object) -> None:
        """Note that `connection` no longer holds the lock, and let the next one have it."""
        if self.held_by(connection):
            self._holder = None
        loop, queue = self._turns.pop(connection, (None, None))
        if loop is None or queue is None:
            return
        if loop is _running_loop():
            queue.release()
            return
        with suppress(RuntimeError):  # that loop has ended, and its queue with it
            loop.call_soon_threadsafe(queue.release)

    def not_had(self, seconds: float) -> sqlite3.OperationalError:
        """Return the error for one who has waited so long in vain: SQLite's own, with names."""
        holder = self._holder
        by_whom = "another process or connection that fastdb does not know of holds it"
        if holder is not None:
            held = time.monotonic() - holder.since
            by_whom = f"{holder.caller} has held it for {held:.1f} s"
        error = sqlite3.OperationalError(
            f"database is locked: {caller()} waited {seconds:g} s for the SQLite write lock, and"
            f" {by_whom}"
        )
        error.sqlite_errorcode = sqlite3.SQLITE_BUSY
        error.sqlite_errorname = "SQLITE_BUSY"
        return error


# A file has one write lock, however many engines an application makes for it.
_locks: WeakValueDictionary[str, WriteLock] = WeakValueDictionary()


def write_lock_of(path: str | None) -> WriteLock:
    """Return the lock of the database file at `path`, the same one as long as it is in use."""
    if path is None or path.startswith("file:"):
        return WriteLock()
    # Nothing is asked of the disk, as this may run on an event loop. Two spellings of one path are
    # two queues then, whose heads wait for one another as other processes do.
    return _locks.setdefault(os.path.normpath(path), WriteLock())


def watch(engine: Engine, lock: WriteLock) -> None:
    """Keep `lock` true for everything that ends a transaction on `engine`."""

    def ended(connection: Any) -> None:
        if not connection.invalidated:  # else told already
            lock.freed(connection.connection.dbapi_connection)

    def returned(dbapi_connection: Any, *_: Any) -> None:
        lock.freed(dbapi_connection)

    event.listen(engine, "commit", ended)
    event.listen(engine, "rollback", ended)
    event.listen(engine, "checkin", returned)
    event.listen(engine, "invalidate", returned)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
