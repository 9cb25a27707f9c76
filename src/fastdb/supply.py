"""What a Database gets its engines from.

A Database is named all over an app: at module level, in dependencies, in background tasks. Where
other engines are to serve it (in tests, those of another database), they are put here, and every
name still leads to the same object.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from sqlalchemy import Engine, Pool
from sqlalchemy.ext.asyncio import AsyncEngine

from fastdb.engines import Engines, Recipe, async_engines, sync_engines
from fastdb.loops import EnginesByLoop
from fastdb.sqlite.memory import TemporaryDatabase
from fastdb.sync import SyncDatabase


@dataclass(slots=True, eq=False)
class Supply:
    """Engines for each event loop, and for the synchronous twin.

    Attributes:
        recipe: How the async engines are made.
        make: Makes another set of the async ones.
        loops: The async engines.
        make_twin: Reads how those of the twin are made; raises where its driver is missing.
        twin: The twin, once it was asked for.
        memory: The file of a database in memory, once it was made.
    """

    recipe: Recipe
    make: Callable[[], Engines[AsyncEngine]]
    loops: EnginesByLoop
    make_twin: Callable[[], tuple[Callable[[], Engines[Engine]], bool]]
    # Filled with `setdefault`, which lets one of several threads win, and needs no lock that a
    # fork could leave locked. What the others have made is used by nobody.
    twin: dict[str, SyncDatabase] = field(default_factory=dict)
    memory: dict[str, TemporaryDatabase] = field(default_factory=dict)

    def pools(self) -> Iterator[Pool]:
        """List the pools of all engines there are."""
        return chain(self.loops.pools(), *(twin.pools() for twin in self.twin.values()))


def own_supply(name: str, recipe: Recipe, read_sync_recipe: Callable[[], Recipe]) -> Supply:
    """Return the engines of the database that `recipe` is for.

    Args:
        name: Of the Database, for messages.
        recipe: How the async engines are made.
        read_sync_recipe: Returns how those of the twin are made; called when it is first used.
    """

    def in_place(read: Recipe) -> Recipe:
        """Give an in-memory database the one file that all its engines share."""
        if not read.target.in_memory:
            return read
        memory = supply.memory.get("memory")
        memory = memory or supply.memory.setdefault("memory", TemporaryDatabase())
        return read.in_file(memory.path)

    def make_twin() -> tuple[Callable[[], Engines[Engine]], bool]:
        twins = read_sync_recipe()
        return lambda: sync_engines(in_place(twins)), twins.pool.mode == "transaction_pooler"

    def make() -> Engines[AsyncEngine]:
        return async_engines(in_place(recipe))

    supply = Supply(recipe, make, EnginesByLoop(name, make), make_twin)
    return supply
