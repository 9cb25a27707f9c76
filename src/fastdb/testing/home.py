"""The event loop in which the connections of tests live, in a thread of its own.

A connection belongs to one event loop. Tests have many: one for each test, that of a `TestClient`,
none at all in a synchronous test. So the connection that they share lives at home, and whoever
needs it sends its work there, from whichever loop or thread.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

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
        return await _Visit(coroutine, self.loop).result()

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


class _Visit(Generic[T]):
    """A coroutine that runs in another event loop than the one that awaits it.

    As `wrap_future(run_coroutine_threadsafe(…))`, whose futures have locks and conditions for
    threads that would wait: each statement of each test would pay for those.

    Args:
        coroutine: What to run.
        home: Where.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], home: asyncio.AbstractEventLoop) -> None:
        self._coroutine = coroutine
        self._home = home
        self._task: asyncio.Task[T] | None = None

    async def result(self) -> T:
        """Run it and return its result; a cancellation goes there, and is not waited for.

        Raises:
            BaseException: What the coroutine raised.
        """
        self._here = asyncio.get_running_loop()
        self._arrival: asyncio.Future[T] = self._here.create_future()
        self._home.call_soon_threadsafe(self._start)
        try:
            return await self._arrival
        except asyncio.CancelledError:
            with suppress(RuntimeError):  # it is closed
                self._home.call_soon_threadsafe(self._cancel)
            raise
        finally:
            # Or an error would keep itself alive, and all who have called: its traceback has this
            # frame, which has the future, which has the error.
            del self

    def _start(self) -> None:
        self._task = self._home.create_task(self._coroutine)
        self._task.add_done_callback(self._return)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _return(self, task: asyncio.Task[T]) -> None:
        error = None if task.cancelled() else task.exception()
        with suppress(RuntimeError):  # the loop of who has left is closed
            self._here.call_soon_threadsafe(self._arrive, task, error)

    def _arrive(self, task: asyncio.Task[T], error: BaseException | None) -> None:
        if self._arrival.done():
            return  # who has been waiting is gone
        if task.cancelled():
            self._arrival.cancel()
        elif error is not None:
            self._arrival.set_exception(error)
        else:
            self._arrival.set_result(task.result())


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
