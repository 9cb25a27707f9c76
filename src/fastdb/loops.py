"""The async engines of one Database: one set for each event loop that uses it.

A connection belongs to the event loop it was opened in. Two test clients, or an app that is
started again, are two loops; with a set for each of them none meets another one's connections.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy import Pool
from sqlalchemy.ext.asyncio import AsyncEngine

from fastdb.engines import Engines
from fastdb.errors import DatabaseClosed
from fastdb.pooling import held_open


@dataclass(slots=True)
class _Opened:
    engines: Engines[AsyncEngine]
    users: int = 0


class EnginesByLoop:
    """Makes the engines of a loop when it first needs them, and forgets them when it closes."""

    def __init__(self, name: str, make: Callable[[], Engines[AsyncEngine]]) -> None:
        self._name = name
        self._make = make
        self._opened: dict[asyncio.AbstractEventLoop, _Opened] = {}
        # Made where no loop runs (`db.engine` at import time), for the first loop to adopt.
        self._unclaimed: _Opened | None = None
        self.closed = False

    def here(self) -> Engines[AsyncEngine]:
        """Return the engines of the running loop; without one, of the only loop there is.

        Raises:
            DatabaseClosed: They were closed, or it is unclear which ones are meant.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self._without_loop()
        opened = self._opened.get(loop)
        if opened is None:
            self._refuse_if_closed()
            opened = self._open(loop)
        return opened.engines

    def enter(self) -> None:
        """Count one more block that holds the engines of the running loop open."""
        loop = asyncio.get_running_loop()
        self.closed = False
        opened = self._opened.get(loop) or self._open(loop)
        opened.users += 1

    def leave(self) -> bool:
        """Count one less; return whether it was the last, so that the engines are to be closed."""
        opened = self._opened.get(asyncio.get_running_loop())
        if opened is None:
            return False  # closed meanwhile
        opened.users -= 1
        return opened.users <= 0

    def take(self) -> Engines[AsyncEngine] | None:
        """Return the running loop's engines for the caller to close, if there are any.

        `closed` is set when no other loop has any.
        """
        opened = self._opened.pop(asyncio.get_running_loop(), None) or self._unclaimed
        self._unclaimed = None
        self.closed = not self._opened
        return None if opened is None else opened.engines

    def hold_connections(self) -> bool:
        """Return whether any engine still has connections open."""
        return any(held_open(pool) for pool in self.pools())

    def pools(self) -> Iterator[Pool]:
        """List the pools of all loops."""
        for opened in (*self._opened.values(), self._unclaimed):
            if opened is not None:
                yield from opened.engines.pools()

    def _without_loop(self) -> Engines[AsyncEngine]:
        if len(self._opened) == 1:
            return next(iter(self._opened.values())).engines
        if self._opened:
            raise DatabaseClosed(
                f"{self._name} is open in {len(self._opened)} event loops, and this code runs in"
                " none of them: ask for its engine from within the loop that is to use it."
            )
        self._refuse_if_closed()
        if self._unclaimed is None:
            self._unclaimed = _Opened(self._make())
        return self._unclaimed.engines

    def _open(self, loop: asyncio.AbstractEventLoop) -> _Opened:
        # Loops that have ended without closing theirs: nobody can use or close those any more.
        for ended in [other for other in self._opened if other.is_closed()]:
            del self._opened[ended]
        opened = self._opened[loop] = self._unclaimed or _Opened(self._make())
        self._unclaimed = None
        return opened

    def _refuse_if_closed(self) -> None:
        if self.closed:
            raise DatabaseClosed(
                f"{self._name} was closed. Use it while its app runs, or inside `async with db:`,"
                " which opens it again."
            )
