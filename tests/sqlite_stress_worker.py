"""Write to an SQLite file from many tasks until told to stop, and keep a log of what became of it.

    python sqlite_stress_worker.py URL NAME LOG accelerated|plain

The log has one line for each unit of work before it begins ("?"), and one when it was acknowledged
("+") or has certainly failed ("-"). What has none of these, because its task was cancelled or the
process killed, may have happened or not. Each unit adds a row and one to the counter.
"""

import asyncio
import random
import sys
import threading
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TextIO

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from fastdb import Database, SQLiteOptions
from models import Counter, Hero, Team

TASKS = 8


class Failed(Exception):
    """What a unit of work raises on purpose."""


class Log:
    """Lines that outlive the process: each is handed to the system at once."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def note(self, what: str, key: str) -> None:
        """Write a line."""
        self._file.write(f"{what} {key}\n")
        self._file.flush()


class Worker:
    """The tasks of this process."""

    def __init__(self, db: Database, name: str, log: Log) -> None:
        self._db = db
        self._name = name
        self._log = log
        self._stopped = asyncio.Event()
        self._numbers = count()

    async def run(self) -> None:
        """Work until standard input is closed."""
        loop = asyncio.get_running_loop()

        def wait() -> None:
            sys.stdin.read()
            loop.call_soon_threadsafe(self._stopped.set)

        threading.Thread(target=wait, daemon=True).start()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(TASKS):
                tasks.create_task(self._write())
            tasks.create_task(self._write_in_thread())
            tasks.create_task(self._read())

    async def _write(self) -> None:
        while not self._stopped.is_set():
            key = self._new_key()
            choice = random.random()  # noqa: S311
            if choice < 0.2:
                await self._cancel(key)
                continue
            try:
                await self._unit(key, fails=choice > 0.9)
            except Failed:
                self._log.note("-", key)
            else:
                self._log.note("+", key)

    async def _cancel(self, key: str) -> None:
        """Begin a unit of work and cancel it at any moment, its COMMIT included."""
        task = asyncio.create_task(self._unit(key, fails=False))
        await asyncio.wait({task}, timeout=random.random() * 0.02)  # noqa: S311
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
            self._log.note("+", key)

    async def _unit(self, key: str, *, fails: bool) -> None:
        async with self._db.session() as session:
            counter = await session.get_one(Counter, 1)
            await asyncio.sleep(0)
            counter.value += 1
            session.add(Hero(name=key, team=await session.get_one(Team, 1)))
            if fails:
                await session.flush()
                raise Failed

    async def _write_in_thread(self) -> None:
        while not self._stopped.is_set():
            key = self._new_key()
            await asyncio.to_thread(self._unit_of_twin, key)
            self._log.note("+", key)

    def _unit_of_twin(self, key: str) -> None:
        with self._db.sync.session() as session:
            counter = session.get_one(Counter, 1)
            counter.value += 1
            session.add(Hero(name=key, team=session.get_one(Team, 1)))

    async def _read(self) -> None:
        """Look whether what belongs together is seen together."""
        while not self._stopped.is_set():
            async with self._db.read_session() as session:
                await self._compare(session)
            await asyncio.sleep(0.001)

    async def _compare(self, session: AsyncSession) -> None:
        value = await session.scalar(select(Counter.value).where(Counter.id == 1))
        rows = await session.scalar(select(func.count()).select_from(Hero))
        if value != rows:
            raise AssertionError(f"the counter says {value}, and there are {rows} rows")

    def _new_key(self) -> str:
        key = f"{self._name}-{next(self._numbers)}"
        self._log.note("?", key)
        return key


async def main(url: str, name: str, log: str, dialect: str) -> None:
    """Run a worker."""
    sqlite = SQLiteOptions(accelerate=dialect == "accelerated")
    with Path(log).open("a", encoding="ascii") as file:
        async with Database(url, sqlite=sqlite) as db:
            await Worker(db, name, Log(file)).run()


def set_up(session: Session) -> None:
    """Write what the workers start from."""
    session.add_all([Counter(id=1, value=0), Team(id=1, name="all")])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
