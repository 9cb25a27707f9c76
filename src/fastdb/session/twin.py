"""What fastdb adds to a `Session` of the synchronous twin: only one thread at a time is inside.

A request whose task is cancelled does not stop the thread that its `def` endpoint runs in. The
session must not be ended beneath that thread: ending waits until the statement is over, and what
the thread does next is refused. Nor may it block an event loop.
"""

import threading
from typing import Any

from sqlalchemy.orm import Session

from fastdb.blocking import refuse_if_it_blocks
from fastdb.session.unit import UnitSession, unit_session_class


class TwinSession(UnitSession):
    """A session that may be ended by another thread than the one that uses it."""

    close_seconds = 5.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.was_used = False
        self._inside = threading.RLock()

    def get_bind(self, *args: Any, **kwargs: Any) -> Any:
        """Return the engine, where it may block: not on the thread of an event loop."""
        bind = super().get_bind(*args, **kwargs)
        # Already here, as taking a connection may block for as long as a statement.
        refuse_if_it_blocks(bind.get_execution_options())
        return bind

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Execute, while no other thread is inside."""
        with self._enter():
            return super().execute(*args, **kwargs)

    def scalar(self, *args: Any, **kwargs: Any) -> Any:
        """Execute and return a value, while no other thread is inside."""
        with self._enter():
            return super().scalar(*args, **kwargs)

    def scalars(self, *args: Any, **kwargs: Any) -> Any:
        """Execute and return values, while no other thread is inside."""
        with self._enter():
            return super().scalars(*args, **kwargs)

    def connection(self, *args: Any, **kwargs: Any) -> Any:
        """Return the connection, taken while no other thread is inside."""
        with self._enter():
            return super().connection(*args, **kwargs)

    def flush(self, *args: Any, **kwargs: Any) -> None:
        """Write what is pending, while no other thread is inside."""
        with self._enter():
            super().flush(*args, **kwargs)

    def commit_only(self) -> None:
        """COMMIT, while no other thread is inside."""
        with self._enter():
            super().commit_only()

    def rollback(self) -> None:
        """Roll back, while no other thread is inside."""
        with self._enter():
            super().rollback()

    def end(self) -> None:
        """End, when no other thread is inside any more."""
        with self._inside:
            super().end()

    def _enter(self) -> threading.RLock:
        self.was_used = True
        return self._inside


def twin_session_class(session_class: type[Session], *, close_seconds: float) -> type[TwinSession]:
    """Return `session_class` with what a session of the twin needs added in front."""
    made = unit_session_class(session_class, TwinSession)
    made.close_seconds = close_seconds
    return made
