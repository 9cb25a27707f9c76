"""Who has the connections of a pool, since when, and where they are now.

A connection that is held through a slow call (a language model, a download, a stream) is one that
everybody else waits for. It is seen in two ways: by a warning while it happens, and by who finds
the pool empty.
"""

import asyncio
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from types import CodeType, FrameType
from typing import Any
from weakref import ref

from sqlalchemy.pool import PoolProxiedConnection

from fastdb.callers import Caller, current_owner, is_library, served_request

logger = logging.getLogger("fastdb.pool")

# What holds connections for long does so again and again: one line a minute is enough.
_SECONDS_BETWEEN_WARNINGS = 60.0
_MOST_REMEMBERED = 1000


class Holding:
    """A connection that somebody has taken."""

    # Made for every transaction: a plain class with slots is the quickest there is.
    __slots__ = ("_owner", "is_told", "request", "since")

    def __init__(self) -> None:
        self.since = monotonic()
        self.request = served_request()
        self.is_told = False
        # Weak: a task that has ended keeps its exception, with all that was on its stack.
        self._owner: Callable[[], object] = ref(current_owner())

    @property
    def caller(self) -> Caller:
        """Who has taken it."""
        return Caller(self._owner(), self.request)

    @property
    def seconds(self) -> float:
        """For how long it has been held."""
        return monotonic() - self.since

    def is_ours(self) -> bool:
        """Return whether the current task has taken it."""
        return self._owner() is current_owner()

    def is_of_our_request(self) -> bool:
        """Return whether it was taken for the request that is being served."""
        return self.request is not None and self.request is served_request()

    def __str__(self) -> str:
        return f"{self.caller} for {self.seconds:.1f} s{_where(self.caller)}"


class Holders:
    """Who has which connection of one pool.

    Args:
        name: Of the database.
        size: How many connections the pool may hold at most.
        warn_after: Seconds for which one may be held before a warning is logged; None for never.
    """

    def __init__(self, name: str, size: int, warn_after: float | None) -> None:
        self.name = name
        self.size = size
        self.refusals = 0  # how often none was free in time: for `fastdb.testing`
        self._warn_after = warn_after
        self._taken: dict[ref[PoolProxiedConnection], Holding] = {}
        self._next_look: asyncio.TimerHandle | None = None
        self._warned: dict[str, float] = {}

    def took(self, connection: PoolProxiedConnection) -> None:
        """Note that the caller has just taken `connection`.

        When it is given back, nothing is called: the pool lets go of what it has handed out, and
        the note goes with it. A listener would make each checkout slower.
        """
        self._taken[ref(connection, self._taken.pop)] = Holding()

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look after those that hold a connection, as long as somebody does."""
        if self._next_look is None and self._warn_after is not None:
            self._next_look = loop.call_later(self._warn_after, self._look_again, loop)

    def forget_loop(self) -> None:
        """Let go of the event loop in which `watch` was called."""
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None

    def look(self) -> None:
        """Warn of those that have held a connection for too long, each once."""
        if self._warn_after is None:
            return
        held = list(self._held())
        for holding in held:
            if holding.seconds >= self._warn_after and not holding.is_told:
                holding.is_told = True
                self._warn(holding, len(held))

    def longest(self) -> Holding | None:
        """Return the connection that has been held longest."""
        return min(self._held(), key=lambda holding: holding.since, default=None)

    def has_ours(self) -> bool:
        """Return whether who calls holds one."""
        return any(holding.is_ours() for holding in self._held())

    def has_our_requests(self) -> bool:
        """Return whether one is held for the request that is being served."""
        return any(holding.is_of_our_request() for holding in self._held())

    def renewed(self) -> "Holders":
        """Return the same for a new pool, whose connections nobody has yet."""
        return Holders(self.name, self.size, self._warn_after)

    def _held(self) -> Iterator[Holding]:
        for reference, holding in self._taken.copy().items():
            connection = reference()
            if connection is not None and connection.is_valid and not connection.is_detached:
                yield holding

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        self._next_look = None
        self.look()
        waits = [self._seconds_left(holding) for holding in self._held() if not holding.is_told]
        if waits:
            self._next_look = loop.call_later(max(0.0, min(waits)), self._look_again, loop)

    def _seconds_left(self, holding: Holding) -> float:
        return (self._warn_after or 0.0) - holding.seconds

    def _warn(self, holding: Holding, in_use: int) -> None:
        who = holding.caller.kind
        now = monotonic()
        if now < self._warned.get(who, 0.0):
            return
        if len(self._warned) >= _MOST_REMEMBERED:
            self._warned.clear()  # rather too many warnings than all the names of tasks
        self._warned[who] = now + _SECONDS_BETWEEN_WARNINGS
        logger.warning(
            "A connection of %s is held by %s, and %d of %d are in use. Others will wait for it:"
            " end the session before what is slow, or read in a session of its own before it.",
            self.name,
            holding,
            in_use,
            self.size,
        )


def _where(caller: Caller) -> str:
    """Tell where a task or a thread is now, by the innermost line that is the user's."""
    owner, endpoint = caller.owner, (caller.request or {}).get("endpoint")
    if isinstance(owner, asyncio.Task) and not owner.done():
        places = list(_places_of_task(owner))
    elif isinstance(owner, threading.Thread) and owner.is_alive():
        places = list(_places_of_thread(owner))
    else:
        return ", which has ended without giving it back"
    # What is around the endpoint, such as a middleware of the user's, is not at fault.
    code = getattr(endpoint, "__code__", None)
    inside = next((at for at, (each, _) in enumerate(places) if each is code), None)
    if code is not None and inside is None:
        return f", in {code.co_name}()"  # a thread, or a stream
    theirs = [place for place in places[inside:] if not is_library(place[0].co_filename)]
    if not theirs:
        return ""
    code, line = theirs[-1]
    return f", now at {code.co_filename}:{line} in {code.co_name}()"


def _places_of_task(task: "asyncio.Task[Any]") -> Iterator[tuple[CodeType, int]]:
    """Yield where each coroutine waits that `task` is in, from the outermost."""
    waiting: Any = task.get_coro()
    while waiting is not None:
        for kind in ("cr", "ag", "gi"):
            frame = getattr(waiting, f"{kind}_frame", None)
            if frame is not None:
                yield frame.f_code, frame.f_lineno
                break
        else:
            return
        waiting = getattr(waiting, f"{kind}_yieldfrom" if kind == "gi" else f"{kind}_await")


def _places_of_thread(thread: threading.Thread) -> Iterator[tuple[CodeType, int]]:
    """Yield the lines that `thread` is in, from the outermost."""
    # Its name looks private; it is documented, and there is no other way.
    frames_now = sys._current_frames()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    frame: FrameType | None = frames_now.get(thread.ident or 0)
    frames = []
    while frame is not None:
        frames.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    yield from reversed(frames)
