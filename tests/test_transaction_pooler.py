"""Many clients on few server connections: no errors, and nothing of one tenant reaches another."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from fastdb import Database, PoolOptions, Timeouts
from models import Base, Hero

pytestmark = pytest.mark.faults

CLIENTS = 8
TRANSACTIONS = 1000

Turn = Callable[[Database, int, int], Awaitable[None]]

# What a session may have been told, as the server tells it.
SETTINGS = (
    "app.tenant",
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "default_transaction_read_only",
    "transaction_isolation",
)
LOOK = text("SELECT " + ", ".join(f"current_setting('{name}', true)" for name in SETTINGS))
ASK_FOR_TENANT = text("SELECT current_setting('app.tenant', true)")
SET_TENANT = text("SELECT set_config('app.tenant', :tenant, true)")


@pytest.fixture(params=["asyncpg", "psycopg"])
def pooled_url(pgbouncer_url: str, request: pytest.FixtureRequest) -> str:
    """PgBouncer in transaction mode with two server connections, for each driver."""
    return pgbouncer_url.replace("postgresql://", f"postgresql+{request.param}://")


async def load(
    db: Database, turn: Turn, transactions: int, *, most_errors: int = TRANSACTIONS
) -> list[Exception]:
    """Let the clients take turns, up to so many errors; return what was raised."""
    errors: list[Exception] = []

    async def work(client: int) -> None:
        for number in range(transactions // CLIENTS):
            if len(errors) >= most_errors:
                break
            try:
                await turn(db, client, number)
            except DBAPIError as error:
                errors.append(error)

    await asyncio.gather(*(work(client) for client in range(CLIENTS)))
    return errors


async def write_and_read(db: Database, client: int, number: int) -> None:
    """Write in one turn what is read in the next, with statements that come again and again."""
    if number % 2 == 0:
        async with db.session() as session:
            session.add(Hero(name=f"{client}/{number}"))
    else:
        async with db.read_session() as session:
            await session.scalar(select(Hero.id).where(Hero.name == f"{client}/{number - 1}"))


async def test_a_thousand_transactions(pooled_url: str) -> None:
    """Eight clients, two server connections, no error, and every row."""
    async with Database(pooled_url, pool=PoolOptions.transaction_pooler(size=CLIENTS)) as db:
        await db.create_all(Base.metadata)
        assert await load(db, write_and_read, TRANSACTIONS) == []
        async with db.read_session() as session:
            rows = (await session.scalars(select(Hero.name))).all()
        assert len(rows) == CLIENTS * len(range(0, TRANSACTIONS // CLIENTS, 2))


async def test_the_same_without_the_option_fails(pooled_url: str, pgbouncer_url: str) -> None:
    """The canary: the load above does find what the option is for."""
    async with Database(pooled_url, pool=PoolOptions.transaction_pooler()) as db:
        await db.create_all(Base.metadata)
    async with Database(pooled_url, pool=PoolOptions(size=CLIENTS)) as db:
        assert len(await load(db, write_and_read, TRANSACTIONS // 2, most_errors=1)) > 0


# --- Tenants ------------------------------------------------------------------------------------


async def as_tenant(db: Database, client: int, number: int) -> None:
    """Work under settings of one's own, each client in another way; see what is in force."""
    tenant = f"tenant-{client}"
    if client % 4 == 0:
        async with db.session(isolation="SERIALIZABLE") as session:
            await look_as(session, tenant, "serializable")
    elif client % 4 == 1:
        async with db.session(timeouts=Timeouts(statement=7 + client, lock=3)) as session:
            await look_as(session, tenant, "read committed", f"{7 + client}s", "3s")
    elif client % 4 == 2:
        async with db.read_session(snapshot=number % 2 == 0) as session:
            level = "repeatable read" if number % 2 == 0 else "read committed"
            await look_as(session, tenant, level)
    else:
        async with db.session() as session:
            await look_as(session, tenant, "read committed")


async def look_as(
    session: AsyncSession, tenant: str, isolation: str, statement: str = "0", lock: str = "0"
) -> None:
    """Nothing is there before the tenant is set; then only what this session was given."""
    assert (await session.scalar(ASK_FOR_TENANT)) in (None, "")
    await session.execute(SET_TENANT, {"tenant": tenant})
    found = (await session.execute(LOOK)).one()
    idle = "0" if lock == "0" else "5min"
    assert tuple(found) == (tenant, statement, lock, idle, "off", isolation)


async def test_no_setting_of_a_tenant_reaches_another(pooled_url: str, pgbouncer_url: str) -> None:
    """Whatever is set is the transaction's; a client that comes afterwards finds nothing."""
    async with Database(pooled_url, pool=PoolOptions.transaction_pooler(size=CLIENTS)) as db:
        assert await load(db, as_tenant, TRANSACTIONS // 2) == []
    assert await seen_by_strangers(pooled_url) == {(None, "0", "0", "0", "off", "read committed")}


async def test_the_settings_of_a_session_do_reach_others(pooled_url: str) -> None:
    """The canary: what is set for a session stays on the server connection, for whoever comes."""
    db = Database(pooled_url, pool=PoolOptions.transaction_pooler())
    async with db, db.session() as session:
        await session.execute(text("SELECT set_config('app.tenant', 'tenant-1', false)"))
    seen = {tenant for tenant, *_ in await seen_by_strangers(pooled_url)}
    assert "tenant-1" in seen


async def seen_by_strangers(url: str) -> set[tuple[str | None, ...]]:
    """Connect as another program would, at once on both server connections, and look."""
    arguments = {"statement_cache_size": 0} if "asyncpg" in url else {"prepare_threshold": None}
    engine = create_async_engine(url, poolclass=NullPool, connect_args=arguments)
    both = asyncio.Barrier(2)

    async def look() -> tuple[str | None, ...]:
        async with engine.connect() as connection:
            await connection.scalar(select(1))
            await both.wait()
            tenant, *rest = (await connection.execute(LOOK)).one()
            return tenant or None, *rest

    return {await each for each in [asyncio.create_task(look()) for _ in range(2)]}
