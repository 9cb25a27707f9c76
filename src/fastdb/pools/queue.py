"""The queue of an async engine's pool: who has waited longest gets the next connection.

SQLAlchemy's own leaves this to `asyncio.Queue`, where a returned connection is free for whoever
asks first. Under load that is somebody who has just come, while the waiter that was woken goes back
to the end of the queue: some wait for seconds, up to the time limit, beside others that never wait.
Here a connection goes from hand to hand.

SQLAlchemy documents neither `sqlalchemy.util.queue` nor how a pool is given another queue (its
attribute `_queue_class`), nor where it keeps it (`_pool`). They are used in this package only, and
a test notices when a pool does not ask for its queue there any more.
"""

import asyncio
from collections import deque
from typing import TypeVar

from sqlalchemy.util import await_only
from sqlalchemy.util.queue import Empty, Full, QueueCommon

T = TypeVar("T")


class FairQueue(QueueCommon[T]):
    """The idle connections of a pool, and those who wait for one, first come, first served."""

    def __init__(self, maxsize: int = 0, use_lifo: bool = False) -> None:
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self.is_closed = False
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
            Full: Nobody waits, and no more can be kept; the pool then closes what it is.
        """
        self.put_nowait(item)

    def put_nowait(self, item: T) -> None:
        """Give `item` to who has waited longest, or keep it; as `put`."""
        if self._hand_on(item):
            return
        if self.is_closed or self.full():
            raise Full
        self._items.append(item)

    def _hand_on(self, item: T) -> bool:
        """Return whether somebody was waiting, who has it now."""
        while self._waiters:
            waiter = self._waiters.popleft()
            loop = waiter.get_loop()
            if waiter.done() or loop.is_closed():
                continue
            if loop is _running_loop():
                waiter.set_result(item)
            else:
                # The garbage collector gives back what was forgotten, in whichever thread it runs.
                loop.call_soon_threadsafe(self._give, waiter, item)
            return True
        return False

    def _give(self, waiter: "asyncio.Future[T]", item: T) -> None:
        if not waiter.done():
            waiter.set_result(item)
        else:
            self._keep(item)

    def _keep(self, item: T) -> None:
        """Hand on or keep what has its place in the pool, though for the moment it is full."""
        if not self._hand_on(item):
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
                self._keep(waiter.result())  # it was handed over in the same moment
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            raise
        finally:
            if limit is not None:
                limit.cancel()


def _give_up(waiter: "asyncio.Future[T]") -> None:
    if not waiter.done():
        waiter.set_exception(Empty())


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
