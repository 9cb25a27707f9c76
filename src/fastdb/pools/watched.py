"""Pools that say who has their connections when all are taken, and whose event loop they are in."""

import asyncio
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Engine, exc
from sqlalchemy.pool import (
    AsyncAdaptedQueuePool,
    ConnectionPoolEntry,
    PoolProxiedConnection,
    QueuePool,
)
from sqlalchemy.util.queue import QueueCommon

from fastdb.errors import PoolExhausted, WrongEventLoop
from fastdb.pools.holders import Holders
from fastdb.pools.queue import FairQueue

if TYPE_CHECKING:
    _Pool = QueuePool  # what it is put in front of
else:
    _Pool = object


class _Watched(_Pool):
    """What both pools add to SQLAlchemy's."""

    holders: Holders | None = None

    def connect(self) -> PoolProxiedConnection:
        """Take a connection, for `Timeouts.pool` seconds at most.

        Raises:
            PoolExhausted: None was free in time.
        """
        try:
            connection = super().connect()
        except exc.TimeoutError as error:
            if self.holders is None:
                raise
            self.holders.refusals += 1
            raise _exhausted(self.holders, self.checkedout(), self.timeout()) from error
        if self.holders is not None:
            self.holders.took(connection)
        return connection

    def recreate(self) -> QueuePool:
        """Return a new pool like this one: SQLAlchemy's `dispose()` goes on with it."""
        pool = cast("_Watched", super().recreate())
        pool.holders = self.holders and self.holders.renewed()
        return pool


class WatchedQueuePool(_Watched, QueuePool):
    """The pool of synchronous engines."""

    def connect(self) -> PoolProxiedConnection:
        """Take a connection, for `Timeouts.pool` seconds at most.

        Raises:
            PoolExhausted: None was free in time.
        """
        if self.holders is not None and self.checkedin() == 0:
            self.holders.look()  # threads have no clock of their own; who finds nothing idle looks
        return super().connect()


class FairQueuePool(_Watched, AsyncAdaptedQueuePool):
    """The pool of async engines: first come, first served."""

    _queue_class: type[QueueCommon[ConnectionPoolEntry]] = FairQueue
    # Those of aiosqlite are used through futures of whichever loop asks.
    belongs_to_loop = True
    _loop: asyncio.AbstractEventLoop | None = None

    def connect(self) -> PoolProxiedConnection:
        """Take a connection, for `Timeouts.pool` seconds at most.

        Raises:
            PoolExhausted: None was free in time.
            WrongEventLoop: The pool's connections belong to another event loop.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return super().connect()  # SQLAlchemy says what is wrong
        if loop is not self._loop:
            self._move_to(loop)
        connection = super().connect()
        if self.holders is not None:
            self.holders.watch(loop)
        return connection

    def dispose(self) -> None:
        """Close what is idle; what is in use is closed when it comes back, as nobody asks again."""
        super().dispose()
        queue: Any = self._pool
        queue.is_closed = True

    def recreate(self) -> QueuePool:
        """Return a new pool like this one, which belongs to no event loop yet."""
        pool = cast("FairQueuePool", super().recreate())
        pool.belongs_to_loop = self.belongs_to_loop
        return pool

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        old = self._loop
        is_bound = old is not None and (self.belongs_to_loop or not old.is_closed())
        if is_bound and (self.checkedin() or self.checkedout()):
            raise WrongEventLoop(
                "This engine has connections that were opened in another event loop, where they"
                " belong. Use a Database, which has connections for each loop; or `await"
                " engine.dispose()` in the old loop before it ends."
            )
        self._loop = loop
        if self.holders is not None:
            self.holders.forget_loop()


def watch_holders(engine: Engine, *, size: int, warn_after: float | None) -> None:
    """Let the pool of `engine` know who has its connections.

    Args:
        engine: Its pool is one of ours; the user's own are left alone.
        size: How many connections it may hold at most.
        warn_after: Seconds for which a connection may be held before a warning is logged; None for
            never.
    """
    pool = engine.pool
    if isinstance(pool, _Watched):
        pool.holders = Holders(engine.url.database or engine.name, size, warn_after)
    if isinstance(pool, FairQueuePool):
        pool.belongs_to_loop = engine.name != "sqlite"


def watch_nobody(engine: Engine) -> None:
    """Let the pool of `engine` not mind who has its connections, and for how long."""
    if isinstance(engine.pool, _Watched):
        engine.pool.holders = None


def _exhausted(holders: Holders, in_use: int, seconds: float) -> PoolExhausted:
    longest = holders.longest()
    ours, our_requests = holders.has_ours(), holders.has_our_requests()
    message = (
        f"No connection of {holders.name} was free within {seconds:g} s:"
        f" {in_use} of {holders.size} are in use."
    )
    if longest is not None:
        message += f" Held longest by {longest}."
    if ours:
        message += (
            " Who waits here holds one of them, too, and cannot give it back meanwhile. Where"
            " many do that at once, all of them wait for each other: use the session that is"
            " open, or end it before the second one is opened."
        )
    elif our_requests:
        message += (
            " Another task of the same request holds one of them. If it waits for this one, many"
            " such requests at once wait for each other."
        )
    return PoolExhausted(
        message,
        database=holders.name,
        size=holders.size,
        in_use=in_use,
        holder=None if longest is None else str(longest.caller),
        held_seconds=None if longest is None else longest.seconds,
        holds_one_itself=ours or our_requests,
    )
