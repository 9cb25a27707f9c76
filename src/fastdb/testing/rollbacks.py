"""Tests that are rolled back: a Database whose sessions share one transaction meanwhile."""

import asyncio
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from sqlalchemy.ext.asyncio import AsyncEngine

from fastdb.database import Database
from fastdb.engines import Engines
from fastdb.pools import watch_nobody
from fastdb.supply import Supply
from fastdb.testing.guest_engines import GuestEngines
from fastdb.testing.home import Home
from fastdb.testing.shared import SharedTransaction


class Rollbacks:
    """One connection to a database, and transactions around one test after the other.

    Args:
        home: Where the connection lives.
        supply: What real engines come from.
    """

    def __init__(self, home: Home, supply: Supply) -> None:
        self._home = home
        self._real = supply
        self._engines: Engines[AsyncEngine] | None = None
        self._shared: SharedTransaction | None = None
        self._guests: GuestEngines | None = None

    def begin(self) -> GuestEngines:
        """Begin a test, and return the engines of its guests."""
        if self._shared is None or self._guests is None:
            self._shared, self._guests = self._home.run(self._connect())
        self._shared.begin()
        return self._guests

    async def _connect(self) -> tuple[SharedTransaction, GuestEngines]:
        if self._engines is None:
            self._engines = self._real.make()
            watch_nobody(self._engines.main.sync_engine)  # one connection is held, for good
        engine = self._engines.main
        if self._real.recipe.autocommits and engine.dialect.name != "sqlite":
            # Its guests do, and their transaction does not.
            engine = engine.execution_options(isolation_level="READ COMMITTED")
        shared = SharedTransaction(engine)
        await shared.connect()
        dialect = self._engines.main.sync_engine.dialect
        return shared, GuestEngines(self._home, shared, dialect, self._real.recipe)

    def roll_back(self) -> None:
        """Undo all that was done since `begin`.

        Raises:
            NotUndone: Something has ended the transaction.
        """
        if self._shared is not None:
            self._home.run(self._shared.roll_back())

    def close(self) -> None:
        """Close the connection."""
        self._home.run(self._close())

    async def _close(self) -> None:
        if self._shared is not None:
            await self._shared.close()
        if self._engines is not None:
            await self._engines.read.dispose()
            await self._engines.main.dispose()
        self._shared = self._engines = self._guests = None


class rolled_back:  # noqa: N801 - used as a function
    """Undo at the end of the block whatever is done through the databases in it.

        with rolled_back(db):
            with TestClient(app) as client:
                client.post("/heroes", json={"name": "Deadpond"})

    Also what was committed, by whichever session, engine or twin, in any event loop or thread: a
    COMMIT releases a savepoint. `with` is for synchronous code, `async with` for what runs on an
    event loop. For tests without pytest; with it, there are fixtures.

    Args:
        db: What it is connected to stays as it is.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            home = Home()
            stack.callback(home.close)
            rollbacks = Rollbacks(home, self._db.supply)
            stack.callback(rollbacks.close)
            guests = rollbacks.begin()
            stack.callback(rollbacks.roll_back)
            stack.enter_context(self._db.supplied_by(guests.supply()))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.to_thread(self._stack.close)
