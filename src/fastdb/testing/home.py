"""The event loop in which the connections of tests live, in a thread of its own.

A connection belongs to one event loop. Tests have many: one for each test, that of a `TestClient`,
none at all in a synchronous test. So the connection that they share lives at home, and whoever
needs it sends its work there, from whichever loop or thread.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from sqlalchemy.util import await_only

from fastdb.errors import NotUndone
from fastdb.greenlets import may_wait

T = TypeVar("T")

OVER = (
    "This unit of work belongs to a test that has ended, and was rolled back with it. End what a"
    " test has begun, its tasks too, before it ends."
)


class Home:
    """A thread with an event loop; made with `Home()`, started by first use, ended by `close()`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop, which runs.

        Raises:
            NotUndone: It has ended.
        """
        if self._loop is not None:
            return self._loop
        with self._lock:
            if self._is_closed:
                raise NotUndone(OVER)
            if self._loop is None:
                started = threading.Event()
                loop = self._loop = asyncio.new_event_loop()
                loop.call_soon(started.set)
                self._thread = threading.Thread(
                    target=loop.run_forever, name="fastdb.testing", daemon=True
                )
                self._thread.start()
                started.wait()
            return self._loop

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` there and wait for it, in a thread that has no other work meanwhile.

        Raises:
            BaseException: What the coroutine raised.
        """
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    async def visit(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run `coroutine` there and await it, from any event loop.

        Raises:
            BaseException: What the coroutine raised.
        """
        if asyncio.get_running_loop() is self.loop:
            return await coroutine
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine there, from synchronous code of SQLAlchemy's, wherever that runs.

        On an event loop it waits without holding that up; in a thread without one, the thread
        waits.

        Raises:
            BaseException: What the coroutine raised.
        """
        home = self.loop  # before anything is made that would not be awaited
        if may_wait():
            waiting: Awaitable[T] = self.visit(make())
            return await_only(waiting)
        if home is _running_loop():
            raise RuntimeError("Synchronous code on the thread that its database lives in")
        return self.run(make())

    def close(self) -> None:
        """End the thread; idempotent. What is still being done is cancelled first."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop, self._thread, self._is_closed = None, None, True
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
