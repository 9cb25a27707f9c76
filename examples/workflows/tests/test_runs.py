"""Runs: in the background, in parallel, and holding nothing while the model thinks."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from ai_server import TOKENS, AIServer
from openai import OpenAI
from sqlalchemy.pool import QueuePool
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession
from stories import DIAMOND, create, ended, outcomes, start, until

from fastdb import Database
from fastdb.testing import fail_commit
from workflows import units
from workflows.ai import AI, Answer
from workflows.models import Run, Step
from workflows.runner import Runner
from workflows.units import TakenOver, Turn

# Background tasks have sessions of their own, which must not share a transaction here.
pytestmark = pytest.mark.fastdb(isolation="database")

MANY: list[dict[str, Any]] = [
    {"name": f"word_{number}", "component": "word"} for number in range(12)
]


@asynccontextmanager
async def running(
    db: Database[AsyncSession], ai: AIServer, *, parallel: int = 8, lease_seconds: float = 60.0
) -> AsyncIterator[Runner]:
    """Run a runner of our own, beside that of the app: as another server would."""
    with OpenAI(base_url=ai.url, api_key="none", max_retries=0) as client:
        model = AI(client, "test")
        async with Runner(db, model, parallel=parallel, lease_seconds=lease_seconds) as runner:
            yield runner


async def begin(db: Database[AsyncSession], workflow: int) -> tuple[Turn, list[int]]:
    """Write down a run that nobody carries out yet; return the ids of its steps as well."""
    async with db.session() as session:
        steps = list(await session.exec(select(Step).where(Step.workflow_id == workflow)))
        run = await units.begin(session, workflow, "tea", steps, 60)
        return Turn(run.id, run.turn), [step.id for step in steps]


async def read(db: Database[AsyncSession], turn: Turn) -> Run:
    async with db.read_session() as session:
        return await session.get_one(Run, turn.run_id)


async def test_each_step_has_what_it_needs(client: httpx.AsyncClient, ai: AIServer) -> None:
    """Answers go into the prompts of those that need them."""
    found = await ended(client, await start(client, await create(client, DIAMOND)))
    assert outcomes(found) == {
        "facts": ("done", "<Facts of tea>"),
        "pros": ("done", "<Pros of <Facts of tea>>"),
        "cons": ("done", "<Cons of <Facts of tea>>"),
        "verdict": ("done", "<<Pros of <Facts of tea>> or <Cons of <Facts of tea>>?>"),
    }
    assert found["run"]["status"] == "done"
    assert found["run"]["tokens"] == 4 * TOKENS


async def test_no_token_is_lost(client: httpx.AsyncClient, ai: AIServer) -> None:
    """Steps that end at once all add to one row: `db.run` repeats who is refused."""
    ai.hold_back("Say", wanted=8)
    run = await start(client, await create(client, MANY))
    assert await asyncio.to_thread(ai.holds.wait, 30)
    ai.let_go()
    found = await ended(client, run)
    assert found["run"]["tokens"] == len(MANY) * TOKENS
    assert {status for status, _ in outcomes(found).values()} == {"done"}


async def test_units_that_meet(db: Database[AsyncSession], client: httpx.AsyncClient) -> None:
    """Of two that have read the same tokens, one is refused, and adds its own to the sum."""
    turn, steps = await begin(db, await create(client, MANY))
    both = asyncio.Barrier(2)
    attempts = 0

    async def finish(session: AsyncSession, step: int) -> None:
        nonlocal attempts
        attempts += 1
        await session.get_one(Run, turn.run_id)
        if attempts <= 2:
            await both.wait()
        await units.finish_step(session, turn, step, Answer("tea", TOKENS))

    async with asyncio.timeout(30):
        await asyncio.gather(
            *(db.run(finish, step, isolation="SERIALIZABLE") for step in steps[:2])
        )
    assert attempts == 3
    assert (await read(db, turn)).tokens == 2 * TOKENS


@pytest.mark.responsive_loop(1.0)
async def test_steps_are_parallel_and_hold_nothing(
    db: Database[AsyncSession], client: httpx.AsyncClient, ai: AIServer, responsive_loop: None
) -> None:
    """While eight wait for the model, no connection is taken, and the event loop is free."""
    turn, _ = await begin(db, await create(client, MANY))
    ai.hold_back("Say", wanted=8)
    async with running(db, ai) as runner:
        runner.start(turn)
        assert await asyncio.to_thread(ai.holds.wait, 30)
        pools = [p for p in (db.engine.pool, db.read_engine.pool) if isinstance(p, QueuePool)]
        assert [pool.checkedout() for pool in pools] == [0, 0]
        assert pools[0].checkedin() > 0  # they were taken, and given back
        assert ai.most_at_once == 8
        ai.let_go()
        await ended(client, turn.run_id)


async def test_a_run_that_waits_stays_alive(
    db: Database[AsyncSession], client: httpx.AsyncClient, ai: AIServer
) -> None:
    """Its time is moved on also while it only waits for its turn to ask."""
    workflow = await create(client, DIAMOND)
    (asking, _), (waiting, _) = await begin(db, workflow), await begin(db, workflow)
    before = (await read(db, waiting)).alive_until
    ai.hold_back("Facts")
    async with running(db, ai, parallel=1, lease_seconds=6) as runner:
        runner.start(asking)
        assert await asyncio.to_thread(ai.holds.wait, 30)
        runner.start(waiting)
        await until(lambda: read(db, waiting), lambda run: run.alive_until != before)
        assert not await runner.resume(waiting.run_id)
        ai.let_go()
        await ended(client, asking.run_id)
        assert (await ended(client, waiting.run_id))["run"]["tokens"] == 4 * TOKENS
    assert len(ai.asked) == 8


async def test_who_was_thought_dead(
    db: Database[AsyncSession],
    client: httpx.AsyncClient,
    ai: AIServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A run that was taken over is finished by the one who took it; the other changes nothing."""
    turn, _ = await begin(db, await create(client, DIAMOND))

    async def said() -> str:
        return caplog.text

    ai.hold_back("Facts")
    async with running(db, ai) as silent, running(db, ai) as other:
        silent.start(turn)
        assert await asyncio.to_thread(ai.holds.wait, 30)
        await db.run(units.let_go, [turn])  # as if its time were up
        assert await other.resume(turn.run_id)
        ai.let_go()
        found = await ended(client, turn.run_id)
        await until(said, lambda text: "was taken over by somebody else" in text)
    assert found["run"]["status"] == "done"
    assert found["run"]["tokens"] == 4 * TOKENS


async def test_one_of_two_takes_over(db: Database[AsyncSession], client: httpx.AsyncClient) -> None:
    """The other one is refused, and so is whoever had the run before."""
    before, steps = await begin(db, await create(client, MANY))
    await db.run(units.let_go, [before])
    turns = await asyncio.gather(
        *(db.run(units.take_over, before.run_id, 60.0, isolation="SERIALIZABLE") for _ in range(2))
    )
    assert sorted(turns, key=bool) == [None, Turn(before.run_id, 2)]
    with pytest.raises(TakenOver):
        await db.run(units.finish_step, before, steps[0], Answer("tea", TOKENS))
    assert (await read(db, before)).tokens == 0


async def test_a_step_that_fails(
    client: httpx.AsyncClient, ai: AIServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What needs it is skipped, what does not is done, and the run has failed."""
    steps: list[dict[str, Any]] = [
        {"name": "facts", "component": "facts"},
        {"name": "broken", "component": "fails"},
        {"name": "after", "component": "word", "needs": ["broken"]},
        {"name": "later", "component": "word", "needs": ["after", "facts"]},
    ]
    with caplog.at_level(logging.WARNING, logger="workflows"):
        found = await ended(client, await start(client, await create(client, steps)))
    assert outcomes(found) == {
        "facts": ("done", "<Facts of tea>"),
        "broken": ("failed", None),
        "after": ("skipped", None),
        "later": ("skipped", None),
    }
    assert found["run"]["status"] == "failed"
    assert "Step broken" in caplog.text


async def test_an_answer_that_no_column_can_hold(client: httpx.AsyncClient, ai: AIServer) -> None:
    """What PostgreSQL cannot keep is left out of it."""
    steps = [{"name": "hostile", "component": "hostile"}]
    found = await ended(client, await start(client, await create(client, steps)))
    assert outcomes(found) == {"hostile": ("done", "ab?")}


async def test_nothing_runs_that_was_not_committed(
    client: httpx.AsyncClient, db: Database[AsyncSession], ai: AIServer
) -> None:
    """Where COMMIT fails there is no run, and so nobody begins one."""
    workflow = await create(client, DIAMOND)
    with fail_commit(db, "serialization"):
        answer = await client.post(f"/workflows/{workflow}/runs", json={"input": "tea"})
    assert answer.status_code == 503
    await ended(client, await start(client, workflow, "coffee"))
    assert not [prompt for prompt in ai.asked if "tea" in prompt]


async def test_a_run_that_somebody_is_at_work_on(client: httpx.AsyncClient, ai: AIServer) -> None:
    """It cannot be taken over, and neither can one that has ended."""
    ai.hold_back("Facts")
    run = await start(client, await create(client, DIAMOND))
    assert (await client.post(f"/runs/{run}/resume")).status_code == 409
    ai.let_go()
    await ended(client, run)
    assert (await client.post(f"/runs/{run}/resume")).status_code == 409
    assert len(ai.asked) == 4
