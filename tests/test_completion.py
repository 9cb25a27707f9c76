"""Ending in bounded time: cancelled callers, networks that swallow packets, COMMIT in flight."""

import asyncio
from collections.abc import AsyncIterator

import anyio
import pytest
from sqlalchemy import select, text

from backends import Backend
from fastdb import CommitOutcomeUnknown, Database, Timeouts
from fastdb.completion import run_to_completion, run_within
from models import Base, Hero
from proxy import Proxy

pytestmark = pytest.mark.faults

network = pytest.mark.backends("postgresql", "mysql")


@pytest.fixture
async def proxy(backend: Backend) -> AsyncIterator[Proxy]:
    """A proxy before the server, with the tables of `models` behind it."""
    async with Database(backend.url) as direct:
        await direct.create_all(Base.metadata)
    async with Proxy.before(backend.url) as proxy:
        yield proxy


@pytest.fixture
async def db(proxy: Proxy, backend: Backend) -> AsyncIterator[Database]:
    """The database through the proxy, in plain text so that it hears, with little patience."""
    plain = "?sslmode=disable" if backend.name == "postgresql" else ""
    async with Database(proxy.url + plain, timeouts=Timeouts(close=0.2)) as db:
        yield db
        proxy.hear_again()


async def rows(backend: Backend) -> list[str]:
    """What is in the table, asked past the proxy."""
    async with Database(backend.url) as direct, direct.read_session() as session:
        return list(await session.scalars(select(Hero.name)))


# --- The two helpers ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["task.cancel", "anyio"])
async def test_work_goes_on_when_its_caller_is_cancelled(how: str) -> None:
    """The cancellation is raised, after the work has ended."""
    started, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        await go_on.wait()
        ended.set()

    async def call() -> None:
        await run_to_completion(work(), seconds=10, give_up=lambda: None)

    if how == "anyio":
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await started.wait()
            group.cancel_scope.cancel()
            asyncio.get_running_loop().call_later(0.01, go_on.set)
    else:
        caller = asyncio.create_task(call())
        await started.wait()
        for _ in range(3):  # again and again, as an impatient caller does
            caller.cancel()
            await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
    assert ended.is_set()


@pytest.mark.parametrize("run", [run_to_completion, run_within])
async def test_results_and_errors_pass_through(run: object) -> None:
    """Without a cancellation nothing is different from awaiting the work itself."""

    async def work(error: type[Exception] | None) -> str:
        await asyncio.sleep(0)
        if error:
            raise error
        return "done"

    assert await run(work(None), seconds=1, give_up=lambda: None) == "done"  # type: ignore[operator]
    with pytest.raises(ZeroDivisionError):
        await run(work(ZeroDivisionError), seconds=1, give_up=lambda: None)  # type: ignore[operator]


async def test_an_error_after_the_cancellation_is_looked_at() -> None:
    """The caller sees its cancellation; asyncio does not report the error as forgotten."""
    go_on = asyncio.Event()

    async def work() -> None:
        await go_on.wait()
        raise ZeroDivisionError

    caller = asyncio.create_task(run_within(work(), seconds=10, give_up=lambda: None))
    await asyncio.sleep(0)
    caller.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_work_that_does_not_end_is_given_up() -> None:
    """First whoever can make it fail is asked to, then it is cancelled."""
    given_up: list[str] = []

    async def deaf() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            given_up.append("cancelled")
            raise

    with pytest.raises(TimeoutError):
        await run_within(deaf(), seconds=0.01, give_up=lambda: given_up.append("asked"))
    assert given_up == ["asked", "cancelled"]


# --- A network that swallows everything ---------------------------------------------------------


@network
async def test_rollback_into_a_black_hole_ends(
    db: Database, proxy: Proxy, backend: Backend
) -> None:
    """The connection is cut, the slot is free, and the next session works when packets do."""
    with pytest.raises(ZeroDivisionError):
        async with db.session() as session:
            session.add(Hero(name="a"))
            await session.flush()
            proxy.go_deaf()
            raise ZeroDivisionError
    assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    proxy.cut()
    proxy.hear_again()
    async with db.session() as session:
        session.add(Hero(name="b"))
    assert await rows(backend) == ["b"]


@network
async def test_a_cancelled_commit_into_a_black_hole_ends(db: Database, proxy: Proxy) -> None:
    """COMMIT in flight is waited for, but not for ever."""
    in_flight = asyncio.Event()

    async def work() -> None:
        async with db.session() as session:
            session.add(Hero(name="a"))
            await session.flush()
            proxy.go_deaf()
            asyncio.get_running_loop().call_later(0.05, in_flight.set)

    task = asyncio.create_task(work())
    await in_flight.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@network
async def test_a_commit_that_was_sent_is_waited_for(
    db: Database, proxy: Proxy, backend: Backend
) -> None:
    """Cancelled between COMMIT and its answer, the unit is committed all the same."""
    async with db.session() as session:  # so that the connection is there
        await session.execute(text("SELECT 1"))
    loop = asyncio.get_running_loop()

    async def work() -> None:
        async with db.session() as session:
            session.add(Hero(name="a"))
            await session.flush()
            proxy.go_deaf()
            loop.call_later(0.02, task.cancel)
            loop.call_later(0.05, proxy.hear_again)

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await rows(backend) == ["a"]


@network
async def test_a_connection_lost_during_commit_is_of_unknown_outcome(
    db: Database, proxy: Proxy
) -> None:
    """The network breaks after COMMIT was sent: it is not known whether it arrived."""
    loop = asyncio.get_running_loop()
    with pytest.raises(CommitOutcomeUnknown) as raised:
        async with db.session() as session:
            session.add(Hero(name="a"))
            await session.flush()
            proxy.when(b"COMMIT", proxy.go_deaf)
            loop.call_later(0.05, proxy.cut)
    assert raised.value.__cause__ is not None
    assert str(raised.value) == (
        "The connection was lost while COMMIT was in flight: the transaction may or may not have"
        " been committed. Look for its rows before you run it again."
    )
    assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@network
async def test_a_connection_lost_before_commit_is_an_ordinary_error(
    db: Database, proxy: Proxy, backend: Backend
) -> None:
    """Nothing was sent that could have been committed."""
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each driver has its own
        async with db.session() as session:
            session.add(Hero(name="a"))
            await session.flush()
            proxy.cut()
            await asyncio.sleep(0.05)
            session.add(Hero(name="b"))
    assert not isinstance(raised.value, CommitOutcomeUnknown)
    assert await rows(backend) == []
