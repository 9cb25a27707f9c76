"""`all_awaited`: a coroutine that nobody awaits fails the test that made it."""

import asyncio
import gc
import pickle
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker

from backends import Backend
from fastdb import Database
from fastdb.testing.lines import Line
from fastdb.testing.unawaited import Forgotten, NeverAwaited, all_awaited
from pytest_runs import MODES, run_pytest


async def work() -> None:
    pass


def forget() -> None:
    work()  # type: ignore[unused-coroutine]


FILTERS: list[Any] = ["ignore", "default", "always", "error"]


@contextmanager
def restored() -> Iterator[None]:
    """Fail if the block leaves behind anything but what it found."""

    def state() -> tuple[object, ...]:
        warn = warnings._warn_unawaited_coroutine  # type: ignore[attr-defined]
        return warn, sys.get_coroutine_origin_tracking_depth(), [*warnings.filters]

    before = state()
    yield
    assert state() == before


@pytest.mark.parametrize("action", FILTERS)
def test_a_forgotten_await_is_named(action: Any) -> None:
    """Whatever the filters say about warnings."""
    with (
        restored(),
        pytest.raises(NeverAwaited) as raised,
        all_awaited(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter(action)
        forget()
    (forgotten,) = raised.value.coroutines
    line = forget.__code__.co_firstlineno + 1
    assert forgotten.line == Line(__file__, line, "forget")
    assert str(raised.value) == (
        "A coroutine was never awaited, so that nothing of it was done:\n"
        f"  work() at {__file__}:{line} in forget(): work()  # type: ignore[unused-coroutine]\n"
        "Write `await`."
    )


CALLS: list[Callable[[AsyncSession], object]] = [
    lambda session: session.commit(),
    lambda session: session.rollback(),
    lambda session: session.flush(),
    lambda session: session.close(),
    lambda session: session.refresh(None),
    lambda session: session.merge(None),
    lambda session: session.delete(None),
    lambda session: session.execute(select(1)),
    lambda session: session.scalar(select(1)),
    lambda session: session.scalars(select(1)),
    lambda session: session.stream(select(1)),
    lambda session: session.get(object, 1),
    lambda session: session.connection(),
]


@pytest.mark.backends("sqlite-memory")
async def test_methods_of_sessions(backend: Backend) -> None:
    """Of fastdb's, of SQLAlchemy's own, and of those that pass the call on."""
    async with Database(backend.url) as db:
        maker = async_sessionmaker(db.engine)
        scoped: Any = async_scoped_session(maker, scopefunc=asyncio.current_task)
        async with db.session() as session, maker() as plain:
            for each in (session, plain, scoped):
                with pytest.raises(NeverAwaited) as raised, all_awaited():
                    for call in CALLS:
                        call(each)
                assert [forgotten.line for forgotten in raised.value.coroutines] == [
                    Line(__file__, call.__code__.co_firstlineno, "<lambda>") for call in CALLS
                ]
        await scoped.remove()


async def test_what_is_awaited_passes() -> None:
    """By the task itself, by another one, or never begun because it was cancelled."""
    with restored(), all_awaited():
        await work()
        await asyncio.gather(work(), asyncio.create_task(work()))
        task = asyncio.create_task(work())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_what_a_cycle_holds_is_found() -> None:
    """At its end, the block collects garbage."""
    with pytest.raises(NeverAwaited), all_awaited():
        held: list[object] = [work()]
        held.append(held)
        del held


def test_a_library_that_makes_it_is_not_named() -> None:
    """But the line that had it do so, as with a callback that is to be awaited."""
    with pytest.raises(NeverAwaited) as raised, all_awaited(), ExitStack() as stack:
        stack.callback(work)
    (forgotten,) = raised.value.coroutines
    assert forgotten.line is not None
    assert forgotten.line.path == __file__


def test_in_other_threads() -> None:
    """As where a test client runs the app; there, only the function is known."""
    with pytest.raises(NeverAwaited) as raised, all_awaited():
        thread = threading.Thread(target=forget)
        thread.start()
        thread.join()
    (forgotten,) = raised.value.coroutines
    assert forgotten.line is None
    defined = f"{__file__}:{work.__code__.co_firstlineno} in work(): async def work() -> None:"
    assert str(forgotten) == f"work() of {defined}"


def test_what_was_made_before_is_not_counted() -> None:
    """What a test that failed has left is not held against a later one; Python warns as ever."""
    left: list[object] = [work()]
    with pytest.warns(RuntimeWarning, match="work' was never awaited"), all_awaited():
        left.clear()


def test_nested_blocks() -> None:
    """The inner one tells of what it has seen made, the outer one of the rest."""
    with restored(), pytest.raises(NeverAwaited) as outer, all_awaited():
        left: list[object] = [work()]
        with pytest.raises(NeverAwaited) as inner, all_awaited():
            forget()
            left.clear()
    assert [each.name for each in inner.value.coroutines] == ["work"]
    assert [each.line and each.line.function for each in outer.value.coroutines] == [
        "test_nested_blocks"
    ]


def test_other_warnings_are_left_alone() -> None:
    """Nobody's filters or recordings are touched."""
    with all_awaited(), pytest.warns(RuntimeWarning, match="another") as seen:
        warnings.warn("another", RuntimeWarning, stacklevel=1)
    assert len(seen) == 1


def test_a_deeper_tracking_stays() -> None:
    """Whoever wants to know more, as asyncio's debug mode may, still does."""
    depth = sys.get_coroutine_origin_tracking_depth()
    sys.set_coroutine_origin_tracking_depth(50)
    try:
        with restored(), all_awaited():
            assert sys.get_coroutine_origin_tracking_depth() == 50
    finally:
        sys.set_coroutine_origin_tracking_depth(depth)


def test_an_error_keeps_its_type() -> None:
    """What the block raises is what one has to read; it notes what was forgotten."""
    with restored(), pytest.raises(ValueError, match="its own") as raised, all_awaited():
        forget()
        raise ValueError("its own")
    (note,) = raised.value.__notes__
    assert note.startswith("A coroutine was never awaited")


def test_several_are_listed() -> None:
    """One error tells of all; test runners may send it to other processes."""
    lines = Line("a.py", 1, "f"), Line("b.py", 2, "g")
    error = NeverAwaited([Forgotten("g", lines[0], lines[1]), Forgotten("g", None, lines[1])])
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert str(copy) == (
        "Coroutines were never awaited, so that nothing of them was done:\n"
        "  g() at a.py:1 in f()\n  g() of b.py:2 in g()\nWrite `await`."
    )


def test_nothing_is_kept() -> None:
    """The error holds lines, not the coroutines or what they would have used."""

    class Held:
        pass

    async def use(_: Held) -> None:
        pass

    with pytest.raises(NeverAwaited) as raised, all_awaited():
        use(Held())  # type: ignore[unused-coroutine]
    assert raised.value.coroutines
    assert not any(type(each) is Held for each in gc.get_objects())


CONFTEST = """
import pytest
from fastdb.testing.unawaited import all_awaited

@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    with all_awaited():
        return (yield)
"""
TESTS = """
import asyncio

async def work(): pass

async def test_forgotten():
    work()

async def test_fine():
    await work()

async def test_fails():
    coroutine = work()
    coroutine.scalars()

async def test_after_a_failure():
    await work()
"""


@pytest.mark.timeout(180)  # a whole run of pytest
@pytest.mark.parametrize(
    ("mode", "action"), [*((mode, "error") for mode in MODES), ("asyncio-auto", "default")]
)
def test_around_each_test(mode: str, action: str, tmp_path: Path) -> None:
    """A hook around the tests fails those that forget, whichever plugin runs them."""
    output = run_pytest(tmp_path, mode, TESTS, "-W", action, conftest=CONFTEST)
    assert "NeverAwaited: A coroutine was never awaited" in output, output
    assert "in test_forgotten(): work()" in output
    assert "FAILED test_app.py::test_forgotten" in output
    assert "FAILED test_app.py::test_fails - AttributeError" in output
    assert "2 failed, 2 passed" in output
