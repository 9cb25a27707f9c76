"""Who holds SQLite's one write lock, as far as this process knows.

SQLite itself makes writers wait for one another. What it cannot see is that a task waits for
itself: a second write session inside a first one would wait until the time limit, because the
first cannot go on before the second has ended. That is told at once instead.
"""

import asyncio
import threading
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.pool import ConnectionPoolEntry

from fastdb.errors import WriteLockHeld


@dataclass(frozen=True, slots=True)
class _Holder:
    owner: object
    name: str
    # The pool's `info` dictionary lives exactly as long as the SQLite connection that holds the
    # lock, whatever wraps it: its identity is the connection's.
    info: dict[Any, Any]


class WriteLock:
    """The write lock of one database file, shared by all engines of one Database."""

    def __init__(self) -> None:
        self._holder: _Holder | None = None

    def refuse_own_holder(self, connection: Connection) -> None:
        """Raise WriteLockHeld if another connection of the calling task holds the lock."""
        holder = self._holder
        if holder is None or holder.info is connection.info or holder.owner is not _caller()[0]:
            return
        raise WriteLockHeld(
            f"{holder.name} asks for the SQLite write lock, which another session of the same"
            f" {'task' if isinstance(holder.owner, asyncio.Task) else 'thread'} already holds:"
            " it would wait for itself. Use the session that is open, or end it first;"
            " for reading beside it, open db.read_session()."
        )

    def taken(self, connection: Connection) -> None:
        """Note that `connection` has just been given the lock."""
        owner, name = _caller()
        self._holder = _Holder(owner, name, connection.info)

    def held_by(self, info: dict[Any, Any]) -> bool:
        """Return whether the connection with this `info` holds the lock."""
        return self._holder is not None and self._holder.info is info

    def freed(self, info: dict[Any, Any]) -> None:
        """Note that the connection with this `info` no longer holds the lock."""
        if self.held_by(info):
            self._holder = None


def watch(engine: Engine, lock: WriteLock) -> None:
    """Keep `lock` true for everything that ends a transaction on `engine`."""

    def ended(connection: Connection) -> None:
        if not connection.invalidated:  # else told already, and it has no `info` any more
            lock.freed(connection.info)

    def returned(_: Any, entry: ConnectionPoolEntry, *_more: Any) -> None:
        lock.freed(entry.info)

    event.listen(engine, "commit", ended)
    event.listen(engine, "rollback", ended)
    event.listen(engine, "checkin", returned)
    event.listen(engine, "invalidate", returned)


# A thread of a pool is nobody: a request's blocking work may run in several, and each of them
# works for other requests in between. Worker threads inherit the context of whom they work for.
_working_for: ContextVar[asyncio.Task[Any] | None] = ContextVar("fastdb_working_for", default=None)


def work_for_this_task() -> None:
    """Let what threads do from now on in this context count as done by the current task."""
    _working_for.set(asyncio.current_task())


def _caller() -> tuple[object, str]:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = _working_for.get()
    if task is not None:
        return task, f"Task {task.get_name()!r}"
    thread = threading.current_thread()
    return thread, f"Thread {thread.name!r}"
