"""Greenlets that are used again: nothing of one call is left for the next."""

import asyncio
import gc
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from greenlet import getcurrent, greenlet
from sqlalchemy import select
from sqlalchemy.exc import MissingGreenlet
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util import await_only

from fastdb import Database
from fastdb.greenlets import GreenletCall, in_greenlet

_variable: ContextVar[Any] = ContextVar("_variable", default=None)


class Thing:
    """Something that a weak reference can point to."""


def wait(answer: Any = None) -> Any:
    return await_only(asyncio.sleep(0, answer))


def idle_workers() -> list[greenlet]:
    gc.collect()
    return [each for each in gc.get_objects() if type(each).__name__ == "_Worker"]


async def test_a_greenlet_is_used_again() -> None:
    first = await in_greenlet(getcurrent)
    assert await in_greenlet(getcurrent) is first
    assert await in_greenlet(lambda: (wait(), getcurrent())[1]) is first
    assert first is not getcurrent()


async def test_arguments_and_answers() -> None:
    assert await in_greenlet(dict, [("a", 1)], b=2) == {"a": 1, "b": 2}
    assert await in_greenlet(wait, 3) == 3


async def test_it_has_ended_where_nothing_was_waited_for() -> None:
    call = GreenletCall(int, "5")
    assert call.has_ended
    assert await call.end() == 5
    waiting = GreenletCall(wait, 5)
    assert not waiting.has_ended
    assert await waiting.end() == 5
    assert waiting.has_ended


@pytest.mark.parametrize("before", [lambda: None, wait])
async def test_what_the_function_raises_comes_out(before: Callable[[], Any]) -> None:
    def fail() -> None:
        before()
        raise LookupError("this")

    for _ in range(3):
        with pytest.raises(LookupError, match="this"):
            await in_greenlet(fail)
        assert await in_greenlet(wait, 1) == 1


async def test_what_is_awaited_raises_in_the_function() -> None:
    async def fail() -> None:
        raise LookupError

    def survive() -> Any:
        try:
            await_only(fail())
        except LookupError:
            return wait("survived")

    first = await in_greenlet(getcurrent)
    assert await in_greenlet(survive) == "survived"
    assert await in_greenlet(getcurrent) is first


async def test_a_cancellation_arrives_in_the_function() -> None:
    seen = []

    def sleep() -> None:
        try:
            await_only(asyncio.sleep(60))
        except asyncio.CancelledError:
            seen.append(wait("cleaned up"))
            raise

    task = asyncio.create_task(in_greenlet(sleep))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cleaned up"]


async def test_a_call_that_nobody_waits_for_any_more_is_unwound() -> None:
    seen = []

    def sleep() -> None:
        try:
            await_only(asyncio.sleep(60))
        finally:
            seen.append("unwound")

    coroutine = in_greenlet(sleep)
    coroutine.send(None)
    coroutine.close()
    assert seen == ["unwound"]


async def test_many_at_once_do_not_meet() -> None:
    def many(number: int) -> list[Any]:
        return [wait(number), *(wait(number) for _ in range(5)), _variable.get()]

    async def ask(number: int) -> None:
        _variable.set(number)
        assert await in_greenlet(many, number) == [number] * 7

    for _ in range(3):
        await asyncio.gather(*(ask(number) for number in range(200)))


async def test_few_are_kept() -> None:
    async def hold(everybody: asyncio.Barrier) -> None:
        await in_greenlet(lambda: await_only(everybody.wait()))

    before = len(idle_workers())
    everybody = asyncio.Barrier(300)
    await asyncio.gather(*(hold(everybody) for _ in range(300)))
    assert before <= len(idle_workers()) <= before + 32


async def test_the_context_is_that_of_the_task() -> None:
    async def ask(value: str) -> Any:
        _variable.set(value)
        before = await in_greenlet(_variable.get)
        await in_greenlet(_variable.set, value + " changed")
        return before, _variable.get()

    first = asyncio.create_task(ask("first"))
    assert await first == ("first", "first changed")
    assert await asyncio.create_task(ask("second")) == ("second", "second changed")
    assert _variable.get() is None
    assert await in_greenlet(_variable.get) is None


async def test_nothing_of_a_call_is_kept() -> None:
    async def ask() -> list[weakref.ref[Thing]]:
        argument, held, answer = Thing(), Thing(), Thing()
        _variable.set(held)
        await in_greenlet(lambda _: answer, argument)
        return [weakref.ref(each) for each in (argument, held, answer)]

    references = await asyncio.create_task(ask())
    await asyncio.sleep(0)  # asyncio holds the context until then
    gc.collect()
    assert [reference() for reference in references] == [None, None, None]


def test_they_end_with_their_thread() -> None:
    async def ask() -> None:
        await asyncio.gather(*(in_greenlet(wait) for _ in range(50)))

    before = len(idle_workers())
    for _ in range(5):
        thread = threading.Thread(target=lambda: asyncio.run(ask()))
        thread.start()
        thread.join()
    assert len(idle_workers()) <= before


def test_inside_of_somebody_elses_greenlet() -> None:
    async def ask() -> list[Any]:
        nested = await in_greenlet(lambda: await_only(in_greenlet(wait, 1)))
        return [nested, await in_greenlet(wait, 2)]

    def elsewhere() -> None:
        answers.append(asyncio.run(ask()))

    answers: list[list[Any]] = []
    for _ in range(3):
        answers.append(asyncio.run(ask()))
        greenlet(elsewhere).switch()
    assert answers == [[1, 2]] * 6


def test_what_was_made_in_somebody_elses_greenlet_is_not_used_again() -> None:
    async def ask() -> None:
        workers.append(await in_greenlet(getcurrent))

    def by_turns() -> None:
        for _ in range(3):
            asyncio.run(ask())
            greenlet(lambda: asyncio.run(ask())).switch()

    workers: list[greenlet] = []
    thread = threading.Thread(target=by_turns)  # which has none yet
    thread.start()
    thread.join()
    own, foreign = workers[::2], workers[1::2]
    assert len(set(own)) == 1
    assert len({*own, *foreign}) == 4


def test_inside_of_a_greenlet_that_has_outlived_its_parent() -> None:
    async def ask() -> Any:
        return await in_greenlet(wait, 1)

    def by_turns() -> None:
        answers.append(asyncio.run(ask()))
        orphan = greenlet(lambda: greenlet(lambda: answers.append(asyncio.run(ask())))).switch()
        assert orphan.parent.dead
        orphan.switch()
        answers.append(asyncio.run(ask()))

    answers: list[Any] = []
    thread = threading.Thread(target=by_turns)
    thread.start()
    thread.join()
    assert answers == [1, 1, 1]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks do not begin eagerly before 3.12")
@pytest.mark.parametrize("fails", [False, True])
async def test_a_task_that_begins_inside_of_a_greenlet(fails: bool) -> None:
    """It goes on in the event loop, when the greenlet serves somebody else already."""

    async def fail() -> None:
        raise LookupError

    def wait_often() -> list[int]:
        if fails:
            with pytest.raises(LookupError):
                await_only(fail())
        return [wait(number) for number in range(5)]

    def begin_task() -> asyncio.Task[list[int]]:
        # As a loop with asyncio.eager_task_factory does at create_task().
        options: Any = {"loop": asyncio.get_running_loop(), "eager_start": True}
        return asyncio.Task(in_greenlet(wait_often), **options)

    tasks = [await in_greenlet(begin_task) for _ in range(3)]
    assert await in_greenlet(wait_often) == [0, 1, 2, 3, 4]
    assert await asyncio.gather(*tasks) == [[0, 1, 2, 3, 4]] * 3
    assert await in_greenlet(wait, 5) == 5


async def test_a_greenlet_of_another_kind_may_not_wait() -> None:
    waiting = asyncio.sleep(0)
    with pytest.raises(MissingGreenlet):
        await_only(waiting)
    waiting.close()


class Own(AsyncSession):
    """A user's session, with a method of its own for one of SQLAlchemy's."""

    async def scalar(self, *args: Any, **kwargs: Any) -> Any:
        return "own", await super().scalar(*args, **kwargs)


async def test_what_a_session_class_overrides_is_called() -> None:
    async with Database("sqlite://", session_class=Own) as db, db.session() as session:
        assert await session.scalar(select(1)) == ("own", 1)


async def test_run_sync_takes_what_sqlalchemys_takes() -> None:
    def called(session: Any, *args: Any, **kwargs: Any) -> Any:
        return type(session).__name__, args, kwargs

    async with Database("sqlite://") as db, db.session() as session:
        assert await session.run_sync(called, 1, b=2) == ("Session", (1,), {"b": 2})
        assert await session.run_sync(fn=called) == ("Session", (), {})


async def test_an_error_tells_where_it_was_raised() -> None:
    """Inside of what was awaited, also to the function that awaits it."""

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    def function() -> list[str]:
        try:
            await_only(fail())
        except ZeroDivisionError as error:
            return [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        return []

    names = await in_greenlet(function)
    assert names[0] == "function"
    assert names[-1] == "fail"
