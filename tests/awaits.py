"""Find every place where a coroutine waits, and cancel it at one of them.

    for way in WAYS:
        run = await cancel_at(3, way, work())
        run.reached         # whether it has waited three times
        run.cancelled       # whether it ended by that
        run.where           # what it waited for

A place is a suspension: the coroutine gives way to the event loop until what it awaits is done.
The same line may be several, as a query that waits for its connection and then for its answer.
fastdb runs COMMIT and ROLLBACK in tasks of their own. Their suspensions count as the caller's, who
is cancelled at each of them: it has a single one meanwhile, in which everything happens.
"""

import asyncio
import gc
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from fastdb import completion

Coro = Coroutine[Any, Any, Any]


# --- Ways to cancel ----------------------------------------------------------------------------


class Way:
    """A way to cancel a call: made once for each."""

    when_answered = False  # not as the caller begins to wait, but when what it awaits is done
    again = False  # at all that follow, too
    takes_a_turn = False  # of the event loop, after `cancel()`

    def __str__(self) -> str:
        return type(self).__name__

    async def call(self, work: Coro) -> bool:
        """Await `work`; return whether that ended by `cancel`."""
        raise NotImplementedError

    def cancel(self) -> None:
        raise NotImplementedError


class ByTask(Way):
    """`task.cancel()`, as the task begins to wait."""

    async def call(self, work: Coro) -> bool:
        self._task = asyncio.current_task()
        try:
            await work
        except asyncio.CancelledError:
            return True
        return False

    def cancel(self) -> None:
        assert self._task is not None
        self._task.cancel()


class ByTaskWhenAnswered(ByTask):
    """`task.cancel()` when the answer has come and its reader has not run yet: it may be lost."""

    when_answered = True


class ByTaskAgain(ByTask):
    """`task.cancel()` there, and wherever the task waits on its way out."""

    again = True


class ByTimeout(Way):
    """`asyncio.timeout`, whose time is over as the task begins to wait."""

    takes_a_turn = True

    async def call(self, work: Coro) -> bool:
        try:
            async with asyncio.timeout(None) as self._limit:
                await work
        except TimeoutError:
            if not self._limit.expired():
                raise
            return True
        return False

    def cancel(self) -> None:
        self._limit.reschedule(0)


class ByScope(Way):
    """A cancel scope of anyio's, which cancels again at every further await."""

    async def call(self, work: Coro) -> bool:
        with anyio.CancelScope() as self._scope:
            await work
            # What was shielded to its end has not kept the cancellation for itself.
            await anyio.lowlevel.checkpoint_if_cancelled()
        return self._scope.cancelled_caught

    def cancel(self) -> None:
        self._scope.cancel()


WAYS = {
    "task": ByTask,
    "answered": ByTaskWhenAnswered,
    "again": ByTaskAgain,
    "timeout": ByTimeout,
    "anyio": ByScope,
}


# --- Places ------------------------------------------------------------------------------------


@dataclass
class Run:
    """What became of a call that was cancelled at one of its places.

    Attributes:
        asked: How and where it was to be cancelled.
        places: How often it has waited, up to its end.
        reached: Whether it came to the place, and waited there still when it was cancelled.
        cancelled: Whether it ended by that.
        where: The functions it was in at that place, the innermost last.
    """

    asked: str
    places: int = 0
    reached: bool = False
    cancelled: bool = False
    where: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n  ".join([self.asked, *self.where])


async def cancel_at(
    place: int | None,
    way: Way,
    work: Coro,
    *,
    within: float,
    at_place: Callable[[], object] = lambda: None,
    at_first: Callable[[], object] = lambda: None,
) -> Run:
    """Run `work` and cancel it where it waits for the `place`-th time.

    Args:
        place: From 1; None to let it run to its end.
        way: How it is cancelled.
        work: What is cancelled.
        within: So many seconds after that, it must have ended.
        at_place: Called immediately before it is cancelled.
        at_first: Called when it waits for the first time, after it was cancelled there.
    """
    run = Run("Not cancelled" if place is None else f"Cancelled by {way} at place {place}, in")
    places = _Places(run, place, way, at_place, at_first)
    with places.of_tasks_of_its_own():
        task = asyncio.create_task(way.call(places.watched(work)))
        await asyncio.wait({task}, timeout=within)
        if not task.done():
            places.ended = True
            where = "\n  ".join(_stack(task.get_coro()))
            task.cancel()
            await asyncio.wait({task}, timeout=1)
            pytest.fail(f"{run}\nIt has not ended {within:g} s after that; it waits in\n  {where}")
    try:
        run.cancelled = task.result()
    except BaseException as error:
        error.add_note(str(run))
        raise
    return run


class _Places:
    def __init__(
        self,
        run: Run,
        place: int | None,
        way: Way,
        at_place: Callable[[], object],
        at_first: Callable[[], object],
    ) -> None:
        self.run = run
        self.ended = False
        self._place = place
        self._way = way
        self._at_place = at_place
        self._at_first = at_first

    @contextmanager
    def of_tasks_of_its_own(self) -> Iterator[None]:
        """Count the places of what `fastdb.completion` runs in tasks of their own as well."""
        with pytest.MonkeyPatch.context() as patch:
            start = completion._start
            patch.setattr(completion, "_start", lambda work: start(self._inner(work)))
            yield

    async def _inner(self, work: Coro) -> Any:
        return await _Watched(work, self._waits)

    async def watched(self, work: Coro) -> None:
        try:
            await _Watched(work, self._waits)
        finally:
            self.ended = True

    def _waits(self, work: Coro, awaited: Any) -> None:
        self.run.places += 1
        if self._place is not None:
            if self.run.places == self._place:
                self._cancel_soon(self._reached(_stack(work)), awaited)
            elif self.run.places > self._place and self.run.reached and self._way.again:
                asyncio.get_running_loop().call_soon(self._again)
        if self.run.places == 1:
            self._at_first()

    def _cancel_soon(self, cancel: Callable[[], None], awaited: Any) -> None:
        if self._way.when_answered and asyncio.isfuture(awaited):
            # Called before the task is woken, which asks for that after this.
            awaited.add_done_callback(lambda _: cancel())
        elif self._way.takes_a_turn:
            cancel()
        else:
            asyncio.get_running_loop().call_soon(cancel)

    def _reached(self, where: list[str]) -> Callable[[], None]:
        def cancel() -> None:
            if not self.ended:
                self.run.reached = True
                self.run.where = where
                self._at_place()
                self._way.cancel()

        return cancel

    def _again(self) -> None:
        if not self.ended:
            self._way.cancel()


class _Watched:
    """A coroutine whose suspensions are told of."""

    def __init__(self, work: Coro, waits: Callable[[Coro, Any], None]) -> None:
        self._work = work
        self._waits = waits

    def __await__(self) -> Generator[Any, Any, Any]:
        go_on: Callable[[], Any] = lambda: self._work.send(None)  # noqa: E731
        while True:
            try:
                awaited = go_on()
            except StopIteration as end:
                return end.value
            self._waits(self._work, awaited)
            try:
                value = yield awaited
            except GeneratorExit:
                self._work.close()
                raise
            except BaseException as error:  # noqa: BLE001 - it is raised in there
                go_on = _throwing(self._work, error)
            else:
                go_on = _sending(self._work, value)


def _throwing(work: Coro, error: BaseException) -> Callable[[], Any]:
    return lambda: work.throw(error)


def _sending(work: Coro, value: Any) -> Callable[[], Any]:
    return lambda: work.send(value)


# --- Where it waits ----------------------------------------------------------------------------

_INNERMOST = 8

_SUSPENDED = (CoroutineType, AsyncGeneratorType, GeneratorType)


def _stack(work: Any) -> list[str]:
    """Return the functions that a suspended coroutine is in, the innermost last."""
    lines: list[str] = []
    while work is not None:
        for name in ("cr_frame", "ag_frame", "gi_frame"):
            frame: FrameType | None = getattr(work, name, None)
            if frame is not None:
                code = frame.f_code
                lines.append(f"{code.co_filename}:{frame.f_lineno} {code.co_qualname}")
        work = _awaited_by(work)
    return lines[-_INNERMOST:]


def _awaited_by(work: Any) -> Any:
    for name in ("cr_await", "ag_await", "gi_yieldfrom"):
        awaited = getattr(work, name, None)
        if awaited is not None:
            return awaited
    if isinstance(work, (*_SUSPENDED, asyncio.Future)):
        return None
    # What stands between two of them, as `anext()` does, says only to the garbage collector.
    return next((each for each in gc.get_referents(work) if isinstance(each, _SUSPENDED)), None)
