"""The pool of async engines: who has waited longest gets the next connection.

SQLAlchemy's own leaves this to `asyncio.Queue`, where a returned connection is free for whoever
asks first. Under load that is somebody who has just come, while the waiter that was woken goes back
to the end of the queue: some wait for seconds, up to the time limit, beside others that never wait.
Here a connection goes from hand to hand.

SQLAlchemy has no public name for the queue of a pool: `_queue_class` is private, and a test notices
when it is not asked for any more.
"""

import asyncio
from collections import deque
from typing import TypeVar

from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util import await_only
from sqlalchemy.util.queue import Empty, Full, QueueCommon

T = TypeVar("T")


class FairQueue(QueueCommon[T]):
    """The idle connections of a pool, and those who wait for one, first come, first served."""

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self._items: deque[T] = deque()
        self._waiters: deque[asyncio.Future[T]] = deque()

    def empty(self) -> bool:
        """Return whether nothing is idle."""
        return not self._items

    def full(self) -> bool:
        """Return whether no more can be kept."""
        return 0 < self.maxsize <= len(self._items)

    def qsize(self) -> int:
        """Return how many are idle."""
        return len(self._items)

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Give `item` to who has waited longest, or keep it.

        Raises:
            Full: Nobody waits, and no more can be kept.
        """
        self.put_nowait(item)

    def put_nowait(self, item: T) -> None:
        """Give `item` to who has waited longest, or keep it; as `put`."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(item)
                return
        if self.full():
            raise Full
        self._items.append(item)

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take what is idle, or wait for it.

        Args:
            block: Whether to wait.
            timeout: For how many seconds. Default: without limit.

        Raises:
            Empty: Nothing was idle or came back in time.
        """
        if self._items or not block:
            return self.get_nowait()
        return await_only(self._wait(timeout))

    def get_nowait(self) -> T:
        """Take what is idle.

        Raises:
            Empty: Nothing is.
        """
        if not self._items:
            raise Empty
        return self._items.pop() if self.use_lifo else self._items.popleft()

    async def _wait(self, seconds: float | None) -> T:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[T] = loop.create_future()
        self._waiters.append(waiter)
        limit = None if seconds is None else loop.call_later(seconds, _give_up, waiter)
        try:
            return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.put_nowait(waiter.result())  # it was handed over in the same moment
            raise
        finally:
            if limit is not None:
                limit.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)


class FairQueuePool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool of async engines, with a fair queue."""

    _queue_class: type[QueueCommon[ConnectionPoolEntry]] = FairQueue


def _give_up(waiter: "asyncio.Future[T]") -> None:
    if not waiter.done():
        waiter.set_exception(Empty())
