"""Use a database, fork, and use it in both processes: `python fork_probe.py URL`."""

import asyncio
import gc
import os
import sys
import warnings
import weakref

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from fastdb import Database, create_async_engine

IDS = {
    "postgresql": "SELECT pg_backend_pid()",
    "mysql": "SELECT connection_id()",
    "sqlite": "SELECT 1",
}


def main(url: str) -> None:
    db = Database(url)
    plain = create_async_engine(url)
    backend = db.engine.dialect.name
    ask = text(IDS[backend])

    def ask_twin() -> int:
        with db.sync.session() as session:
            return identify(session)

    def identify(session: Session) -> int:
        return int(session.execute(ask).scalar_one())

    async def ask_all() -> list[int]:
        async with db.session() as session, plain.connect() as connection:
            return [
                await identify_async(session),
                int((await connection.execute(ask)).scalar_one()),
            ]

    async def identify_async(session: AsyncSession) -> int:
        return int((await session.execute(ask)).scalar_one())

    runner = asyncio.Runner()
    before = [ask_twin(), *runner.run(ask_all())]
    pool = weakref.ref(plain.pool)
    child = fork()
    if child == 0:
        gc.collect()
        assert pool() is not None  # collected, it would close what the parent goes on to use
        with asyncio.Runner() as own:
            ids = [ask_twin(), *own.run(ask_all())]
            assert backend == "sqlite" or not set(ids) & set(before), (ids, before)
            own.run(plain.dispose())
            own.run(db.aclose())
        db.sync.close()
        say("child fine")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    after = [ask_twin(), *runner.run(ask_all())]
    assert after == before, (after, before)
    runner.run(plain.dispose())
    runner.run(db.aclose())
    runner.close()
    say("parent fine")


def say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def fork() -> int:
    with warnings.catch_warnings():
        # aiosqlite's threads are not in the child: nobody waits for them there.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


main(sys.argv[1])
