"""The pool of async engines: first come, first served, and no connection is lost on the way."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest
from sqlalchemy import exc, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from backends import Backend
from fastdb import Database, PoolOptions, Timeouts
from fastdb.pools import FairQueuePool
from fastdb.pools.queue import FairQueue


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.fixture
async def engine(backend: Backend) -> AsyncIterator[AsyncEngine]:
    """An engine with one connection."""
    options = PoolOptions(size=1, max_overflow=0)
    async with Database(backend.url, pool=options, timeouts=Timeouts(pool=5)) as db:
        yield db.engine


def idle(engine: AsyncEngine) -> tuple[int, int]:
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    return pool.checkedin(), pool.checkedout()


async def use(engine: AsyncEngine, name: str, order: list[str]) -> None:
    async with engine.connect() as connection:
        order.append(name)
        await connection.execute(select(1))


async def test_first_come_first_served(engine: AsyncEngine) -> None:
    """Also where somebody asks in the moment in which a connection comes back."""
    order: list[str] = []
    held = await engine.connect()
    waiting = [asyncio.create_task(use(engine, name, order)) for name in "abc"]
    await turns()
    await held.close()
    await asyncio.gather(use(engine, "newcomer", order), *waiting)
    assert order == ["a", "b", "c", "newcomer"]
    assert idle(engine) == (1, 0)


async def test_nobody_is_overtaken(backend: Backend) -> None:
    """Twenty that ask again and again for two connections are served in the order of asking."""
    asked, served = count(), list[int]()

    async def ask(db: Database) -> None:
        while (ticket := next(asked)) < 500:
            async with db.engine.connect() as connection:
                served.append(ticket)
                await connection.execute(select(1))

    async with Database(backend.url, pool=PoolOptions(size=2, max_overflow=0)) as db:
        # Who opens a connection is served late, but was not overtaken.
        async with db.engine.connect(), db.engine.connect():
            pass
        await asyncio.gather(*(ask(db) for _ in range(20)))
    assert served == sorted(served)
    assert len(served) == 500


async def test_who_has_left_is_passed_over(engine: AsyncEngine) -> None:
    """A waiter that was cancelled gets nothing, and the next one all."""
    order: list[str] = []
    held = await engine.connect()
    waiting = [asyncio.create_task(use(engine, name, order)) for name in "abc"]
    await turns()
    waiting[0].cancel()
    await held.close()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert order == ["b", "c"]
    assert isinstance(answers[0], asyncio.CancelledError)
    assert idle(engine) == (1, 0)


@pytest.mark.parametrize("others", ["", "bc"])
async def test_cancelled_in_the_moment_of_being_served(engine: AsyncEngine, others: str) -> None:
    """The connection goes on to the next, or is kept."""
    order: list[str] = []
    held = await engine.connect()
    first = asyncio.create_task(use(engine, "a", order))
    waiting = [asyncio.create_task(use(engine, name, order)) for name in others]
    await turns()
    await held.close()
    first.cancel()
    await asyncio.gather(first, *waiting, return_exceptions=True)
    assert order == list(others)
    assert idle(engine) == (1, 0)
    await use(engine, "afterwards", order)


async def test_who_waits_too_long_is_told_and_nothing_is_lost(backend: Backend) -> None:
    """Later waiters are served."""
    options, limits = PoolOptions(size=1, max_overflow=0), Timeouts(pool=0.05)
    async with Database(backend.url, pool=options, timeouts=limits) as db:
        order: list[str] = []
        async with db.engine.connect():
            for _ in range(3):
                with pytest.raises(exc.TimeoutError, match=r"within 0\.05 s"):
                    await use(db.engine, "late", order)
            assert not db.engine.pool._pool._waiters  # type: ignore[attr-defined]
        await use(db.engine, "afterwards", order)
        assert order == ["afterwards"]
        assert idle(db.engine) == (1, 0)


async def test_cancelled_while_another_one_comes_back(backend: Backend) -> None:
    """There is no room for both in that moment, and none is lost."""
    async with Database(backend.url, pool=PoolOptions(size=1, max_overflow=1)) as db:
        held = [await db.engine.connect() for _ in range(2)]
        order: list[str] = []
        waiting = asyncio.create_task(use(db.engine, "a", order))
        await turns()
        for connection in held:
            await connection.close()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        async with asyncio.timeout(1), db.engine.connect(), db.engine.connect():
            pass


def test_given_back_by_another_thread() -> None:
    """The garbage collector runs in any thread; the waiter's loop is woken."""
    queue: FairQueue[int] = FairQueue(1)

    async def wait() -> int:
        waiting = asyncio.create_task(queue._wait(5))
        await turns()
        await asyncio.to_thread(queue.put, 1)
        return await waiting

    with asyncio.Runner(debug=True) as runner:
        assert runner.run(wait()) == 1


def test_who_waits_in_a_loop_that_has_ended_is_passed_over() -> None:
    """Nobody can wake them; what comes back is kept for others."""
    queue: FairQueue[int] = FairQueue(1)
    loop = asyncio.new_event_loop()
    queue._waiters.append(loop.create_future())
    loop.close()
    queue.put(1)
    assert queue.get(block=False) == 1


async def test_a_lost_connection_makes_room_for_a_waiter(engine: AsyncEngine) -> None:
    """Its place is handed over, and filled with a new one."""
    order: list[str] = []
    held = await engine.connect()
    waiting = asyncio.create_task(use(engine, "a", order))
    await turns()
    await held.invalidate()
    await held.close()
    await waiting
    assert order == ["a"]
    assert idle(engine) == (1, 0)


async def test_beyond_the_size_too(backend: Backend) -> None:
    """A connection of the overflow goes to who waits; where nobody does, SQLite alone keeps it."""
    async with Database(backend.url, pool=PoolOptions(size=1, max_overflow=1)) as db:
        order: list[str] = []
        held: list[AsyncConnection] = [await db.engine.connect() for _ in range(2)]
        waiting = [asyncio.create_task(use(db.engine, name, order)) for name in "abcd"]
        await turns()
        for connection in held:
            await connection.close()
        await asyncio.gather(*waiting)
        assert sorted(order) == list("abcd")
        assert idle(db.engine) == (2 if backend.name == "sqlite" else 1, 0)


@pytest.mark.backends("sqlite-memory")
async def test_it_is_what_engines_get(backend: Backend) -> None:
    """SQLAlchemy still asks for the queue by the name that is used here."""
    async with Database(backend.url) as db:
        assert isinstance(db.engine.pool, FairQueuePool)
        assert isinstance(db.engine.pool._pool, FairQueue)
        assert isinstance(db.read_engine.pool, FairQueuePool)


@pytest.mark.parametrize(("lifo", "expected"), [(False, [1, 2, 3]), (True, [3, 2, 1])])
def test_order_of_the_idle_ones(lifo: bool, expected: list[int]) -> None:
    """The longest idle or the last used, as SQLAlchemy's option says."""
    queue: FairQueue[int] = FairQueue(3, use_lifo=lifo)
    for item in (1, 2, 3):
        queue.put(item, block=False)
    assert queue.full()
    assert [queue.get(block=False) for _ in range(3)] == expected
    assert queue.empty()
