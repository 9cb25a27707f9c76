"""A session belongs to one task at a time: overlapping calls are refused, and nothing is lost."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sqlmodel
from fastapi import FastAPI
from sqlalchemy import event, insert, select, text
from sqlalchemy.ext.asyncio import AsyncAttrs, AsyncEngine, AsyncSession
from sqlalchemy.pool import QueuePool
from sqlalchemy.util import await_only
from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelSession

from asgi import serving
from backends import Backend
from fastdb import (
    Database,
    SessionDep,
    SessionEnded,
    SessionInUse,
    Timeouts,
    TransactionFailed,
    atomic,
    on_commit,
)
from models import Base, Hero, Team

HELD = text("SELECT 1 AS held")

IN_USE = (
    "Task '{}' calls session.{}() while Task '{}' is inside session.{}(): a session is one"
    " transaction on one connection, and serves one task at a time. Open a session for each task,"
    " `async with db.session() as session:`; or await one call before the next."
)
INCOMPLETE = (
    "A call of this session was refused, because another task was using it, and the error was"
    f" caught ({IN_USE}) What that call was to do is missing, so COMMIT was refused, and what was"
    " not committed before was rolled back. Open a session for each task."
)


class Gate:
    """Holds what executes a statement with `held` in it, until it is opened."""

    def __init__(self, engine: AsyncEngine, word: str = "held") -> None:
        self.reached, self.open = asyncio.Event(), asyncio.Event()
        self._word = word
        event.listen(engine.sync_engine, "before_cursor_execute", self._wait)

    def _wait(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if self._word in statement and not self.open.is_set():
            self.reached.set()
            await_only(self.open.wait())


@pytest.fixture
async def db(database: Database) -> Database:
    """A database with the tables of `models`."""
    await database.create_all(Base.metadata)
    return database


@pytest.fixture
def gate(db: Database) -> Gate:
    return Gate(db.engine)


async def names(db: Database) -> list[str]:
    """What another connection sees."""
    async with db.read_session() as session:
        return list(await session.scalars(select(Hero.name).order_by(Hero.id)))


def checked_out(db: Database) -> int:
    assert isinstance(db.engine.pool, QueuePool)
    return db.engine.pool.checkedout()


async def hold(session: AsyncSession, gate: Gate) -> asyncio.Task[Any]:
    """Let a task called `first` be inside of `session.execute()`."""
    task = asyncio.create_task(session.execute(HELD), name="first")
    await gate.reached.wait()
    return task


async def in_task(call: Awaitable[Any], name: str = "second") -> Any:
    async def run() -> Any:
        return await call

    return await asyncio.create_task(run(), name=name)


# --- Refused ------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[AsyncSession], Awaitable[Any]]] = {
    "execute": lambda session: session.execute(select(1)),
    "scalar": lambda session: session.scalar(select(1)),
    "get": lambda session: session.get(Hero, 1),
    "refresh": lambda session: session.refresh(Hero(name="a")),
    "flush": lambda session: session.flush(),
    "commit": lambda session: session.commit(),
    "rollback": lambda session: session.rollback(),
    "close": lambda session: session.close(),
    "reset": lambda session: session.reset(),
    "invalidate": lambda session: session.invalidate(),
    "merge": lambda session: session.merge(Hero(id=1, name="a")),
    "delete": lambda session: session.delete(Hero(name="a")),
    "connection": lambda session: session.connection(),
    "run_sync": lambda session: session.run_sync(lambda _: None),
    "begin_nested": lambda session: session.begin_nested().start(),
}
OTHERS: dict[str, Callable[[AsyncSession], Awaitable[Any]]] = {
    "get": lambda session: session.get_one(Hero, 1),
    "execute": lambda session: session.scalars(select(1)),
    "execute ": lambda session: session.stream(select(1)),
    "execute  ": lambda session: session.stream_scalars(select(1)),
    "close": lambda session: session.aclose(),
    "begin_nested": lambda session: atomic(session).start(),
}


@pytest.mark.backends("sqlite-file", "postgresql-asyncpg")
@pytest.mark.parametrize(
    ("name", "call"),
    [(name.strip(), call) for calls in (CALLS, OTHERS) for name, call in calls.items()],
)
async def test_every_call_that_may_wait_is_refused(
    db: Database, gate: Gate, name: str, call: Callable[[AsyncSession], Awaitable[Any]]
) -> None:
    """The error names both tasks and both calls; the first call has its result."""
    with pytest.raises(SessionInUse) as raised:
        async with db.session() as session:
            first = await hold(session, gate)
            try:
                await in_task(call(session))
            finally:
                gate.open.set()
                assert (await first).scalar() == 1
    assert str(raised.value) == IN_USE.format("second", name, "first", "execute")
    assert checked_out(db) == 0


async def test_gather_on_one_session_rolls_back(db: Database, gate: Gate) -> None:
    """The error leaves the block while the first call is still running; that one ends it."""
    answers: list[Any] = []

    async def first(session: AsyncSession) -> None:
        await session.execute(insert(Hero).values(name="a"))
        answers.append((await session.execute(HELD)).scalar())
        with pytest.raises(SessionEnded):
            await session.execute(select(1))
        answers.append("ended")

    async def second(session: AsyncSession) -> None:
        await gate.reached.wait()
        asyncio.get_running_loop().call_later(0.02, gate.open.set)
        await session.execute(insert(Hero).values(name="b"))

    with pytest.raises(SessionInUse):
        async with db.session() as session:
            await asyncio.gather(first(session), second(session))
    assert answers == [1, "ended"]
    assert checked_out(db) == 0
    assert await names(db) == []


async def test_a_real_gather_is_refused_too(db: Database) -> None:
    """Without any gate: the second comes while the first waits for the database."""
    with pytest.raises(SessionInUse):
        async with db.session() as session:
            await asyncio.gather(
                session.execute(insert(Hero).values(name="a")),
                session.execute(insert(Hero).values(name="b")),
            )
    assert checked_out(db) == 0
    assert await names(db) == []


async def test_a_refused_call_that_was_swallowed_refuses_commit(db: Database, gate: Gate) -> None:
    """What it was to write is missing: the rest alone is half of the work."""
    with pytest.raises(TransactionFailed) as raised:
        async with db.session() as session:
            session.add(Hero(name="a"))
            first = await hold(session, gate)
            with contextlib.suppress(SessionInUse):
                await in_task(session.execute(insert(Hero).values(name="b")))
            gate.open.set()
            await first
    assert str(raised.value) == INCOMPLETE.format("second", "execute", "first", "execute")
    assert isinstance(raised.value.__cause__, SessionInUse)
    assert await names(db) == []


async def test_a_block_of_begin_is_not_committed_either(db: Database, gate: Gate) -> None:
    """It does not matter who commits."""
    with pytest.raises(TransactionFailed):
        async with db.session() as session, session.begin():
            session.add(Hero(name="a"))
            first = await hold(session, gate)
            with contextlib.suppress(SessionInUse):
                await in_task(session.flush())
            gate.open.set()
            await first
    assert await names(db) == []


async def test_a_call_refused_during_a_commit_is_told_at_the_end(db: Database) -> None:
    """The COMMIT in flight is good; the unit as a whole is not, though nothing is open any more."""
    gate = Gate(db.engine, "INSERT")
    with pytest.raises(TransactionFailed):
        async with db.session() as session:
            session.add(Hero(name="a"))
            commit = asyncio.create_task(session.commit(), name="first")
            await gate.reached.wait()
            with pytest.raises(SessionInUse, match=r"second.*inside session\.flush\(\)"):
                await in_task(session.execute(select(1)))
            session.sync_session.one_task.refused = None  # type: ignore[attr-defined]
            committing = asyncio.Event()

            @event.listens_for(session.sync_session, "before_commit")
            def wait(_: object) -> None:
                committing.set()
                await_only(asyncio.sleep(0.02))

            gate.open.set()
            await committing.wait()
            with pytest.raises(SessionInUse, match=r"second.*inside session\.commit\(\)"):
                await in_task(session.execute(select(1)))
            await commit
            assert not session.in_transaction()
    assert await names(db) == ["a"]


async def test_rollback_starts_over(db: Database, gate: Gate) -> None:
    """As the message says."""
    async with db.session() as session:
        session.add(Hero(name="a"))
        first = await hold(session, gate)
        with contextlib.suppress(SessionInUse):
            await in_task(session.flush())
        gate.open.set()
        await first
        await session.rollback()
        session.add(Hero(name="b"))
    assert await names(db) == ["b"]


async def test_a_read_session_has_nothing_to_refuse_at_its_end(db: Database) -> None:
    """Nothing is missing where nothing is ever committed."""
    gate = Gate(db.read_engine)
    async with db.read_session() as session:
        first = await hold(session, gate)
        with pytest.raises(SessionInUse):
            await in_task(session.execute(select(1)))
        gate.open.set()
        await first


@pytest.mark.backends("sqlite-file")
async def test_methods_of_other_session_classes_are_guarded(backend: Backend) -> None:
    """SQLModel's `exec` goes past the methods of AsyncSession."""
    async with Database(backend.url, session_class=SQLModelSession) as db:
        gate = Gate(db.engine)
        with pytest.raises(SessionInUse):
            async with db.session() as session:
                assert isinstance(session, SQLModelSession)
                held = session.run_sync(lambda inner: inner.scalar(HELD))
                first = asyncio.create_task(held)
                await gate.reached.wait()
                try:
                    await in_task(session.exec(sqlmodel.select(1)))
                finally:
                    gate.open.set()
                    await first


class Sidekick(AsyncAttrs, Base):
    """A class whose attributes can be awaited."""

    __table__ = Hero.__table__
    __mapper_args__ = {"include_properties": ["id", "name"]}  # noqa: RUF012 - SQLAlchemy's way


@pytest.mark.backends("sqlite-file")
async def test_awaitable_attributes_are_guarded(db: Database, gate: Gate) -> None:
    """`AsyncAttrs` too goes past the methods of the session."""
    with pytest.raises(SessionInUse):
        async with db.session() as session:
            await session.execute(insert(Hero).values(name="a"))
            sidekick = (await session.scalars(select(Sidekick))).one()
            session.expire(sidekick)
            first = await hold(session, gate)
            try:
                await in_task(sidekick.awaitable_attrs.name)
            finally:
                gate.open.set()
                await first


async def test_a_request_is_answered_with_500(db: Database) -> None:
    """It is a mistake in the program, like any other exception."""
    app = FastAPI(lifespan=db.lifespan)

    @app.post("/heroes")
    async def create(session: SessionDep) -> None:
        await asyncio.gather(
            session.execute(insert(Hero).values(name="a")),
            session.execute(insert(Hero).values(name="b")),
        )

    async with serving(app, db) as client:
        answer = await client.request("POST", "/heroes")
        assert answer.status == 500
        assert isinstance(answer.error, SessionInUse)
    assert await names(db) == []


# --- Allowed ------------------------------------------------------------------------------------


async def test_tasks_may_take_turns(db: Database) -> None:
    """Only what overlaps is refused: `asyncio.wait_for` of Python 3.11 makes a task too."""
    async with db.session() as session:
        session.add(Hero(name="a"))
        await in_task(session.flush())
        assert await asyncio.wait_for(session.scalar(select(Hero.name)), 5) == "a"
        async with atomic(session):
            session.add(Hero(name="b"))
            await in_task(session.flush())
        await in_task(session.commit())
    assert await names(db) == ["a", "b"]


class Flushing(AsyncSession):
    """A session class whose calls are made of others."""

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        await self.flush()
        return await super().execute(*args, **kwargs)


async def test_calls_may_be_made_inside_of_a_call(backend: Backend) -> None:
    """In an overriding method, in a listener, and in one that awaits the async session."""
    async with Database(backend.url, session_class=Flushing) as db:
        await db.create_all(Base.metadata)
        async with db.session() as session:

            def listen(state: Any) -> None:
                if "held" not in str(state.statement):
                    state.session.scalar(HELD)
                    await_only(session.scalar(HELD))

            event.listen(session.sync_session, "do_orm_execute", listen)
            session.add(Hero(name="a"))
            assert (await session.execute(select(Hero.name))).all() == [("a",)]
            await session.run_sync(lambda inner: inner.execute(select(Hero)))
        assert await names(db) == ["a"]


async def test_a_callback_uses_its_own_session(db: Database) -> None:
    """After an explicit COMMIT, `on_commit` may use the session that has committed."""
    found: list[Any] = []
    async with db.session() as session:

        async def look() -> None:
            found.append(await session.scalar(select(Hero.name)))

        session.add(Hero(name="a"))
        on_commit(session, look)
        await session.commit()
    assert found == ["a"]


# --- The end ------------------------------------------------------------------------------------


async def test_a_block_that_ends_well_beneath_a_call_is_not_committed(
    db: Database, gate: Gate
) -> None:
    """Whoever forgets to await a task is told, and the task has its answer."""
    asyncio.current_task().set_name("block")  # type: ignore[union-attr]
    with pytest.raises(SessionInUse) as raised:
        async with db.session() as session:
            await session.execute(insert(Hero).values(name="a"))
            first = await hold(session, gate)
            asyncio.get_running_loop().call_later(0.02, gate.open.set)
    assert str(raised.value) == IN_USE.format("block", "commit", "first", "execute")
    assert (await first).scalar() == 1
    assert checked_out(db) == 0
    assert await names(db) == []


async def test_a_block_that_is_left_beneath_a_call_waits_for_it(db: Database, gate: Gate) -> None:
    """The exception is the block's own, and nothing is ended beneath the call."""
    with pytest.raises(ZeroDivisionError):
        async with db.session() as session:
            await session.execute(insert(Hero).values(name="a"))
            first = await hold(session, gate)
            asyncio.get_running_loop().call_later(0.02, gate.open.set)
            raise ZeroDivisionError
    assert checked_out(db) == 0
    assert (await first).scalar() == 1
    with pytest.raises(SessionEnded):
        await session.execute(select(1))
    assert await names(db) == []


async def test_who_never_comes_out_does_not_hold_up_the_block(backend: Backend) -> None:
    """The block is left in bounded time; the session is ended when the call has returned."""
    async with Database(backend.url, timeouts=Timeouts(close=0.05)) as db:
        gate = Gate(db.engine)
        with pytest.raises(ZeroDivisionError):
            async with db.session() as session:
                first = await hold(session, gate)
                raise ZeroDivisionError
        assert checked_out(db) == 1
        gate.open.set()
        await asyncio.wait([first])
        assert isinstance(first.exception(), Exception)  # its connection was cut
        assert checked_out(db) == 0


async def test_a_cancelled_block_waits_for_who_is_inside(
    db: Database, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the cancellation comes again while it waits."""
    sessions: list[AsyncSession] = []
    is_idle = asyncio.Event()

    async def work() -> None:
        async with db.session() as session:
            sessions.append(session)
            await session.execute(insert(Hero).values(name="a"))
            is_idle.set()
            await asyncio.Event().wait()

    with caplog.at_level(logging.WARNING, "fastdb.session"):
        task = asyncio.create_task(work())
        await is_idle.wait()
        first = await hold(sessions[0], gate)
        task.cancel()
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        gate.open.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await first).scalar() == 1
    assert checked_out(db) == 0
    assert not caplog.records
    assert await names(db) == []


# --- Blocks -------------------------------------------------------------------------------------


async def test_a_block_is_not_left_while_another_task_is_inside(db: Database, gate: Gate) -> None:
    """Its savepoint would be released beneath the other's statement."""
    asyncio.current_task().set_name("block")  # type: ignore[union-attr]
    with pytest.raises(TransactionFailed):
        async with db.session() as session:
            with pytest.raises(SessionInUse) as raised:
                async with atomic(session):
                    session.add(Hero(name="a"))
                    first = await hold(session, gate)
            gate.open.set()
            await first
    assert str(raised.value) == IN_USE.format("block", "begin_nested", "first", "execute")
    assert await names(db) == []


async def test_the_exception_of_a_block_is_its_own(db: Database, gate: Gate) -> None:
    """Where a block raises while another task is inside, what it raised comes out."""
    with pytest.raises(TransactionFailed):
        async with db.session() as session:
            with pytest.raises(ZeroDivisionError):
                async with atomic(session):
                    first = await hold(session, gate)
                    raise ZeroDivisionError
            gate.open.set()
            await first


async def test_a_savepoint_by_hand_is_guarded(db: Database, gate: Gate) -> None:
    """`commit()` and `rollback()` of the transaction object, too."""
    with pytest.raises(TransactionFailed):
        async with db.session() as session:
            savepoint = await session.begin_nested()
            first = await hold(session, gate)
            for end in (savepoint.commit, savepoint.rollback):
                with pytest.raises(SessionInUse):
                    await in_task(end())
            gate.open.set()
            await first
            await savepoint.commit()


@pytest.mark.parametrize("fails", [False, True])
async def test_blocks_of_two_tasks_that_overlap_are_refused(db: Database, fails: bool) -> None:
    """The inner one would end with the outer one, and its task would not know."""
    begun, left = asyncio.Event(), asyncio.Event()

    async def outer(session: AsyncSession) -> None:
        async with atomic(session):
            session.add(Hero(name="outer"))
            begun.set()
            await asyncio.sleep(0.02)
            if fails:
                raise ZeroDivisionError

    async def inner(session: AsyncSession) -> None:
        await begun.wait()
        async with atomic(session):
            session.add(Hero(name="inner"))
            await session.flush()
            await left.wait()

    with pytest.raises(TransactionFailed) as raised:
        async with db.session() as session:
            task = asyncio.create_task(inner(session), name="inner")
            with pytest.raises(ZeroDivisionError if fails else SessionInUse):
                await asyncio.create_task(outer(session), name="outer")
            left.set()
            await task
    assert str(raised.value) == INCOMPLETE.format("outer", "begin_nested", "inner", "begin_nested")
    assert await names(db) == []


# --- Streams ------------------------------------------------------------------------------------


@pytest.mark.backends("sqlite", "postgresql")
async def test_a_stream_and_another_task(db: Database) -> None:
    """A call between two fetches takes its turn; during one, asyncpg refuses. No row is lost."""
    async with db.session() as session:
        session.add_all([Team(name=f"{n:04}") for n in range(2000)])

    async def read(session: AsyncSession) -> int:
        names = await session.stream_scalars(select(Team.name), execution_options={"yield_per": 10})
        return len([name async for name in names])

    async def ask(session: AsyncSession) -> int:
        await asyncio.sleep(0.005)
        return len((await session.scalars(select(Team.id).where(Team.id < 100))).all())

    outcomes: list[Any] = []
    with contextlib.suppress(Exception):  # a COMMIT that is refused
        async with db.session() as session:
            outcomes += await asyncio.gather(read(session), ask(session), return_exceptions=True)
    for outcome, rows in zip(outcomes, (2000, 99), strict=True):
        assert outcome == rows or isinstance(outcome, Exception)
    assert checked_out(db) == 0


# --- Who goes around the session's own calls ----------------------------------------------------


async def test_exec_of_sqlmodel_is_inside_too(backend: Backend) -> None:
    """It calls SQLAlchemy's `execute`, past what is in front of that."""
    async with Database(backend.url, session_class=SQLModelSession) as db:
        gate = Gate(db.engine)
        with pytest.raises(SessionInUse, match=r"inside session\.exec\(\)"):
            async with db.session() as session:
                assert isinstance(session, SQLModelSession)
                first = asyncio.create_task(session.exec(HELD), name="first")  # type: ignore[call-overload]
                await gate.reached.wait()
                asyncio.get_running_loop().call_later(0.05, gate.open.set)
                await in_task(session.exec(sqlmodel.select(1)))
        assert (await first).scalar() == 1
        assert checked_out(db) == 0


async def test_nothing_is_committed_around_a_block_of_another_task(db: Database) -> None:
    """Half of what is all or nothing is nothing: by `commit()`, and at the unit's end."""
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def transfer(session: AsyncSession) -> None:
        async with atomic(session):
            session.add(Hero(name="half"))
            await session.flush()
            inside.set()
            await go_on.wait()
            session.add(Hero(name="other half"))
            await session.flush()

    with pytest.raises(SessionInUse, match=r"calls session\.commit\(\) while Task 'transfer'"):
        async with db.session() as session:
            task = asyncio.create_task(transfer(session), name="transfer")
            await inside.wait()
            with pytest.raises(SessionInUse):
                await session.commit()
    go_on.set()
    with pytest.raises(SessionEnded):
        await task
    assert await names(db) == []
    assert checked_out(db) == 0


async def test_an_open_savepoint_hides_no_refused_call(db: Database, gate: Gate) -> None:
    """The block of `begin()` ends with COMMIT, and what its savepoint holds is half of the work."""

    async def fail_inside(session: AsyncSession) -> None:
        with pytest.raises(ZeroDivisionError):
            async with atomic(session):
                session.add(Hero(name="undone"))
                await session.flush()
                holding.append(await hold(session, gate))
                raise ZeroDivisionError

    holding: list[asyncio.Task[Any]] = []
    with pytest.raises(TransactionFailed):
        async with db.session() as session, session.begin():
            await in_task(fail_inside(session))
            gate.open.set()
            await holding[0]
    assert await names(db) == []
    assert checked_out(db) == 0


async def test_rollback_starts_over_after_a_commit_too(db: Database) -> None:
    """Though there is nothing to roll back: the refused call is forgotten."""
    gate = Gate(db.engine, "INSERT")
    async with db.session() as session:
        session.add(Hero(name="a"))
        commit = asyncio.create_task(session.commit(), name="first")
        await gate.reached.wait()
        with pytest.raises(SessionInUse):
            await in_task(session.execute(select(1)))
        gate.open.set()
        with contextlib.suppress(TransactionFailed):
            await commit
        await session.rollback()
        session.add(Hero(name="b"))
    assert "b" in await names(db)


async def test_arguments_of_run_sync_have_any_names(db: Database) -> None:
    """Also those that its own helpers have."""
    async with db.session() as session:
        told = await session.run_sync(lambda _session, **named: named, function=1, call=2)
    assert told == {"function": 1, "call": 2}


async def test_the_end_of_a_request_waits_once(backend: Backend) -> None:
    """For a call that another task is inside of: its time limit is not waited for again."""
    limits = Timeouts(close=0.5)
    app = FastAPI()
    tasks: list[asyncio.Task[Any]] = []
    db = Database(backend.url, timeouts=limits)

    @app.post("/items")
    async def leave(session: SessionDep) -> None:
        entered = asyncio.Event()

        def wait(_: object) -> None:
            entered.set()
            await_only(asyncio.sleep(20))

        tasks.append(asyncio.create_task(session.run_sync(wait)))
        await entered.wait()

    async with serving(app, db) as client:
        begun = asyncio.get_running_loop().time()
        answer = await client.post("/items")
        assert asyncio.get_running_loop().time() - begun < 2 * limits.close + 1.5
        assert answer.status == 500
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
