"""Synchronous code of SQLAlchemy's on an event loop, in greenlets that are used again.

SQLAlchemy's own `greenlet_spawn` makes a new greenlet at each call. CPython maps memory for the
frames in it and gives that back in the end, which costs five times what it costs to switch to one
that has waited for its next function.
"""

import threading
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from traceback import clear_frames
from typing import Any, Generic, ParamSpec, TypeVar, cast

from greenlet import getcurrent, greenlet

P = ParamSpec("P")
T = TypeVar("T")

# Each keeps 16 KiB for its frames. As many are in use as there are tasks that wait for the
# database; what is beyond this number when they are done goes.
_MOST_IDLE = 32

_DONE = object()


class _Worker(greenlet):
    # SQLAlchemy asks for this attribute before it lets a function await.
    __sqlalchemy_greenlet_provider__ = True

    answer: Any = None


class _Idle(threading.local):
    """The workers of this thread that wait: a greenlet cannot be switched to from another."""

    def __init__(self) -> None:
        self.workers: list[_Worker] = []


_idle = _Idle()


class GreenletCall(Generic[T]):
    """A call that has begun, where it may wait for what is asynchronous.

    It has run up to there, in the caller's own task, or to its end.

    Raises:
        BaseException: What the function raised before it waited for anything.
    """

    __slots__ = ("_awaited", "_worker")

    def __init__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> None:
        driver = getcurrent()
        # In somebody else's greenlet, a new one: what is idle may be its parent already.
        # A greenlet that has ended is falsy, and may still be a parent: only the main one has none.
        idle = _idle.workers if driver.parent is None else None
        self._worker = idle.pop() if idle else _Worker(_work, driver)
        self._worker.gr_context = driver.gr_context  # neither a copy nor another task's
        # What the function raises ends the worker and comes out of its switches.
        self._awaited: Any = self._worker.switch(function, args, kwargs)

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, so that `end()` would not wait."""
        return self._awaited is _DONE

    async def end(self) -> T:
        """Wait until it has ended, once; return what it returned.

        Raises:
            BaseException: What the function raised.
        """
        worker = self._worker
        while self._awaited is not _DONE:
            try:
                value = await cast("Awaitable[Any]", self._awaited)
            except BaseException as error:  # noqa: BLE001 - it is raised inside the function
                worker.parent = getcurrent()
                if isinstance(error, CancelledError):
                    empty_frames(error)
                # With its traceback, which Python 3.11 would forget.
                self._awaited = worker.throw(type(error), error, error.__traceback__)
            else:
                # A task that began eagerly, inside of a function in a greenlet, goes on elsewhere.
                worker.parent = getcurrent()
                self._awaited = worker.switch(value)
        answer, worker.answer = worker.answer, None
        worker.gr_context = None
        # Whoever takes it next runs in the main greenlet and is answered there, as its parent. What
        # ended at once in somebody else's greenlet would answer to that one.
        driver = cast("greenlet", worker.parent)
        idle = _idle.workers
        if driver.parent is None and len(idle) < _MOST_IDLE:
            idle.append(worker)
        return cast("T", answer)


def empty_frames(error: BaseException) -> None:
    """Forget the variables of the functions that an error has come through so far.

    A connection of psycopg's that is half open stays so for as long as the frames that opened it.
    SQLAlchemy keeps those in a cycle until somebody collects garbage; the server waits meanwhile
    for the rest of the login.
    """
    clear_frames(error.__traceback__)


def may_wait() -> bool:
    """Return whether synchronous code may wait here for what is asynchronous."""
    return getattr(getcurrent(), "__sqlalchemy_greenlet_provider__", False)


async def in_greenlet(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function` where it may wait for what is asynchronous; as `greenlet_spawn`.

    Raises:
        BaseException: What `function` raised.
    """
    return await GreenletCall(function, *args, **kwargs).end()


def _work(function: Callable[..., Any], args: Any, kwargs: Any) -> None:
    """Call one function after the other, and hold nothing while waiting for the next.

    Nor the worker itself: it would never be freed, as garbage in a greenlet's frames is not found.
    """
    while True:
        cast("_Worker", getcurrent()).answer = function(*args, **kwargs)
        del function, args, kwargs
        function, args, kwargs = cast("greenlet", getcurrent().parent).switch(_DONE)
