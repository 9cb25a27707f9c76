"""A responsive loop: a test fails where a line of code held the event loop for too long.

Written here, as no detector serves: blockbuster knows calls by name, and no computing; asyncio's
debug mode and aiodebug name a callback, not a line; aiocop patches loops for good and, as pyleak,
takes a machine that is busy, or a loop that nobody runs, for a loop that is held.

A thread sends the loop a heartbeat and looks, until that is answered, at what the loop's thread
does. It accuses nobody without proof: a hold is one step of one task, or one callback, and only
that time counts of which this is known.
"""

import asyncio
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE
from itertools import chain
from types import FrameType
from typing import NamedTuple
from weakref import ref

from greenlet import getcurrent

from fastdb.testing.lines import Line, users_line

_LOOKS_PER_LIMIT = 10
_MOST_SHOWN = 5

# A thread that wants to go on waits for the interpreter, in turns of 5 ms: a few for each look.
_TURNS_SECONDS = 0.025

# In their prompt the loop stands still because somebody reads. Their trace functions would tell of
# them too, but coverage has one as well.
_DEBUGGERS = {"bdb", "pydevd", "_pydevd_bundle", "debugpy"}


@dataclass(frozen=True, slots=True)
class Hold:
    """A time for which the event loop could do nothing else.

    Attributes:
        seconds: How long it was at least.
        line: The innermost line of the user's own code, where it was for most of that time.
        inside: The innermost line of all, if that is in a library.
    """

    seconds: float
    line: Line
    inside: Line | None

    def __str__(self) -> str:
        inside = f"\n    inside {self.inside}" if self.inside else ""
        return f"{self.seconds * 1000:.0f} ms: {self.line}{inside}"


class EventLoopHeld(AssertionError):
    """The event loop was held for longer than the limit.

    Attributes:
        limit: The limit, in seconds.
        holds: Each hold, the longest first.
    """

    def __init__(self, limit: float, holds: Sequence[Hold]) -> None:
        self.limit = limit
        self.holds = tuple(sorted(holds, key=lambda hold: hold.seconds, reverse=True))
        super().__init__(limit, self.holds)

    def __str__(self) -> str:
        count, shown = len(self.holds), self.holds[:_MOST_SHOWN]
        times = "" if count == 1 else f", {count} times"
        more = [f"… and {count - _MOST_SHOWN} more"] if count > _MOST_SHOWN else []
        lines = "\n  ".join([*map(str, shown), *more])
        return (
            f"The event loop was held for longer than {self.limit * 1000:g} ms{times}. No other"
            f" task could run meanwhile:\n  {lines}\n"
            "Await an asynchronous driver there, or call what blocks in a thread: `await"
            " asyncio.to_thread(…)`."
        )


@asynccontextmanager
async def responsive_loop(limit: float = 0.1) -> AsyncIterator[None]:
    """Fail if the running event loop is held for longer than `limit` within the block.

    Only what is certain counts, so that a hold may go unnoticed that is longer by less than a half.
    An idle loop, a debugger's prompt and a machine that is busy with others are nobody's fault.

    Args:
        limit: The longest time that one step of a task may take, in seconds.

    Raises:
        EventLoopHeld: At the end of the block, if that ended well. Else the error is what came out
            of the block, with a note that tells of the holds.
    """
    watchdog = _Watchdog(limit)
    await watchdog.begin(sys._getframe())  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    try:
        yield
        await watchdog.end()
    except Exception as error:
        await watchdog.end()
        if watchdog.holds:
            error.add_note(str(EventLoopHeld(limit, watchdog.holds)))
        raise
    finally:
        watchdog.stop()
    if watchdog.holds:
        raise EventLoopHeld(limit, watchdog.holds)


class _Account(NamedTuple):
    """What a thread has had of a processor, in seconds."""

    used: float
    waited: float


class _Look(NamedTuple):
    """What is to be seen at one moment.

    Attributes:
        at: The moment.
        heartbeat: The one that has waited for an answer since before; 0 if none has.
        step: The task, or the code of the callback, that runs; None if the loop waits, too.
        lines: Where it is, from the innermost.
        loop: What the loop's thread has had so far.
        watchdog: What the thread that looks has had so far.
        working: How long that thread was at it, until it paused.
    """

    at: float
    heartbeat: int
    step: object
    lines: Sequence[Line]
    loop: _Account
    watchdog: _Account
    working: float = 0.0


@dataclass(slots=True)
class _Ongoing:
    heartbeat: int
    step: object
    computed: float = 0.0
    waited: float = 0.0
    passed: defaultdict[Line, float] = field(default_factory=lambda: defaultdict(float))
    inside: dict[Line, Line] = field(default_factory=dict)

    def add(self, passed: float, computed: float, lines: Sequence[Line]) -> None:
        line = users_line(lines) or lines[0]
        self.passed[line] += passed
        self.computed += computed
        self.inside[line] = lines[0]

    def hold(self) -> Hold:
        line = max(self.passed, key=lambda each: self.passed[each])
        inside = self.inside[line]
        return Hold(self._seconds(), line, inside if inside != line else None)

    def _seconds(self) -> float:
        # What it has computed would take as long elsewhere. Of a wait for something else one can be
        # sure only where it did not mostly wait for a processor.
        elsewhere = sum(self.passed.values()) - self.waited
        return max(self.computed, elsewhere if elsewhere > self.waited else 0.0)


class _Watchdog:
    """A thread that looks at the running loop's, from `start` until `stop` or `end`."""

    def __init__(self, limit: float) -> None:
        self.holds: list[Hold] = []
        self._limit = limit
        self._pause = max(limit / _LOOKS_PER_LIMIT, 0.001)
        self._stopped = threading.Event()
        self._sent = self._answered = 0
        self._ongoing: _Ongoing | None = None

    async def begin(self, coroutine: FrameType) -> None:
        """Start, and come back when the loop is being watched."""
        self._loop = asyncio.get_running_loop()
        self._begun, self._ended = self._loop.create_future(), self._loop.create_future()
        self._thread = threading.current_thread()
        self._stack = _Stack(coroutine)
        threading.Thread(target=self._watch, name="fastdb_responsive_loop", daemon=True).start()
        await self._begun

    def stop(self) -> None:
        self._stopped.set()

    async def end(self) -> None:
        """Stop, once a hold that has just ended is noted."""
        self.stop()
        await self._ended

    def _watch(self) -> None:
        # A closed loop takes neither heartbeats nor results: RuntimeError.
        with suppress(RuntimeError):
            try:
                self._watch_until_stopped()
            finally:
                self._tell(self._begun)
                self._tell(self._ended)

    def _watch_until_stopped(self) -> None:
        accounts = (_account_of(self._thread), _account_of(threading.current_thread()))
        with accounts[0] as loop, accounts[1] as watchdog:
            before = self._look(loop, watchdog)
            self._tell(self._begun)
            # Due from the last look on: whatever waits after it, such as the sending, may wait for
            # the interpreter, as the pause does.
            while not self._stopped.wait(max(0.0, before.at + self._pause - time.monotonic())):
                now = self._look(loop, watchdog)
                self._judge(before, now)
                if not now.heartbeat:
                    self._sent += 1
                    self._loop.call_soon_threadsafe(self._answer, self._sent)
                before = now._replace(working=time.monotonic() - now.at)
            self._judge(before, self._look(loop, watchdog))
            self._close()

    def _tell(self, future: asyncio.Future[None]) -> None:
        def tell() -> None:
            if not future.done():  # nor cancelled with the task that waits for it
                future.set_result(None)

        self._loop.call_soon_threadsafe(tell)

    def _answer(self, heartbeat: int) -> None:
        self._answered = heartbeat

    def _look(self, loop: Callable[[], _Account], watchdog: Callable[[], _Account]) -> _Look:
        # Where the loop's thread is comes first. Whatever else waits, as reading a file does, lets
        # it run on, away from the call for which this thread could not look earlier.
        at = time.monotonic()
        heartbeat = self._sent if self._answered < self._sent else 0
        step, lines = self._stack.look(self._loop, self._thread)
        return _Look(at, heartbeat, step, lines, loop(), watchdog())

    def _judge(self, before: _Look, now: _Look) -> None:
        """Add to the hold that goes on, or end it."""
        passed = now.at - before.at
        computed = now.loop.used - before.loop.used
        # How long this thread slept beyond its pause, when it did not wait for a processor: as long
        # as it waited for the interpreter, or as the whole process was stopped. In the latter case
        # the loop's thread has not computed. In the former, it was in one call that did not let
        # go, as of json.dumps(), or collected garbage; or it was not this thread's turn.
        asleep = passed - self._pause - (now.watchdog.waited - before.watchdog.waited)
        asleep = asleep if asleep > _TURNS_SECONDS else 0.0
        if now.heartbeat and (now.heartbeat, now.step) == (before.heartbeat, before.step):
            # The heartbeat is in the loop's queue, and a task is there only once: the same step.
            # While this thread worked, the loop's may have waited for it.
            uncertain = asleep + before.working
            passed += min(uncertain, computed) - uncertain
        else:
            passed = computed = max(0.0, min(asleep, computed) - _TURNS_SECONDS)
        heartbeat = now.heartbeat or self._sent + 1  # the one that is about to be sent
        if self._ongoing:
            # Of a thread that waits for a processor, this is known when it has one again: perhaps
            # only after its step.
            self._ongoing.waited += now.loop.waited - before.loop.waited
            if (heartbeat, now.step) != (self._ongoing.heartbeat, self._ongoing.step):
                self._close()
        if passed and now.step is not None:
            self._ongoing = self._ongoing or _Ongoing(heartbeat, now.step)
            self._ongoing.add(passed, computed, now.lines)

    def _close(self) -> None:
        hold = self._ongoing.hold() if self._ongoing else None
        self._ongoing = None
        if hold is not None and hold.seconds > self._limit:
            str(hold)  # reads the source here, and not on the loop's thread
            self.holds.append(hold)


class _Stack:
    """The frames of the running loop's thread, in which `coroutine` runs."""

    def __init__(self, coroutine: FrameType) -> None:
        # SQLAlchemy calls synchronous code in greenlets. Whoever awaits it stands in this one.
        self._main_greenlet = getcurrent()
        while self._main_greenlet.parent is not None:
            self._main_greenlet = self._main_greenlet.parent
        # Around the coroutines: first what runs a step or a callback, then the loop itself. Of a
        # loop in C, as uvloop's, there is nothing to be seen: both are whoever runs the loop.
        around = [frame.f_code for frame in _outwards(coroutine)]
        while around and around[0].co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR):
            del around[0]
        self._runner, self._around = around[0], frozenset(around)

    def look(
        self, loop: asyncio.AbstractEventLoop, thread: threading.Thread
    ) -> tuple[object, Sequence[Line]]:
        """Return which task or callback runs, and its lines from the innermost."""
        # Between the tests of a loop that several share, nobody runs it.
        frames = self._inside(thread) if loop.is_running() else []
        if not frames or any(_is_of_debugger(frame) for frame in frames):
            return None, ()
        task = asyncio.current_task(loop)
        step = frames[-1].f_code if task is None else ref(task)
        return step, [
            Line(frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_name)
            for frame in frames
        ]

    def _inside(self, thread: threading.Thread) -> list[FrameType]:
        # Its name looks private; it is documented, and there is no other way.
        frames_now = sys._current_frames()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        # In a greenlet that calls a function in C there is none; outside of one, no other.
        every = chain(
            _outwards(frames_now.get(thread.ident or 0)), _outwards(self._main_greenlet.gr_frame)
        )
        inside: list[FrameType] = []
        for frame in every:
            if frame.f_code in self._around:
                return inside if frame.f_code is self._runner else []  # the loop's own: it waits
            inside.append(frame)
        return inside


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_of_debugger(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _DEBUGGERS


@contextmanager
def _account_of(thread: threading.Thread) -> Iterator[Callable[[], _Account]]:
    """Yield what tells how much of a processor a thread has had."""
    path = f"/proc/self/task/{thread.native_id}/schedstat"
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        # Not on Linux: a thread's waiting is nowhere to be seen. A machine that is busy enough for
        # false alarms makes the thread that looks late, too, and then only computing counts.
        yield lambda: _Account(time.process_time(), 0.0)
        return

    def read() -> _Account:
        used, waited, _ = os.pread(file, 100, 0).split()
        return _Account(int(used) / 1e9, int(waited) / 1e9)

    try:
        yield read
    finally:
        os.close(file)
