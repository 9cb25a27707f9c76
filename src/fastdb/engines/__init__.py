"""Make SQLAlchemy engines that are right for the database behind a URL.

`create_async_engine` and `create_sync_engine` are drop-in for SQLAlchemy's functions;
`async_engines` and `sync_engines` make the set that a Database holds.
"""

from typing import Any
from weakref import finalize

from sqlalchemy import URL, Engine, Pool
from sqlalchemy.ext.asyncio import AsyncEngine

from fastdb.engines.make import make_async_engine, make_sync_engine
from fastdb.engines.recipe import Recipe, refuse_what_names_a_place
from fastdb.engines.sets import Engines, async_engines, sync_engines
from fastdb.failover import leave_demoted_primary
from fastdb.options import PoolOptions, SQLiteOptions, Timeouts, TLSOptions
from fastdb.sqlite.memory import TemporaryDatabase

__all__ = [
    "Engines",
    "Recipe",
    "async_engines",
    "create_async_engine",
    "create_sync_engine",
    "refuse_what_names_a_place",
    "sync_engines",
]


def create_async_engine(
    url: str | URL,
    *,
    pool: PoolOptions | Pool | None = None,
    timeouts: Timeouts | None = None,
    tls: TLSOptions | None = None,
    sqlite: SQLiteOptions | None = None,
    **sqlalchemy_options: Any,
) -> AsyncEngine:
    """Create an `AsyncEngine` for any spelling of a SQLite, PostgreSQL or MySQL URL.

    Drop-in for `sqlalchemy.ext.asyncio.create_async_engine`. It chooses and configures the
    driver, enforces foreign keys on SQLite and makes its transactions real, bounds waiting, and
    replaces dead connections before they are handed out.

    Args:
        url: The database, with whichever driver or none: `sqlite:///app.db`, `postgres://…`.
        pool: How many connections are kept. Default `PoolOptions()`.
        timeouts: How long is waited, in seconds. Default `Timeouts()`.
        tls: Encryption; overrides what the URL says. Default: what the URL says.
        sqlite: How SQLite is opened. Default `SQLiteOptions()`.
        **sqlalchemy_options: SQLAlchemy's own arguments; they win over an option that says the
            same.

    Raises:
        InvalidURL: The URL or one of its parameters cannot be used; the message names it.
        MissingDriver: No driver that fits is installed; the message names the extra.
        ConfigurationError: Options that contradict one another, or a TLS file that is missing.
    """
    recipe = Recipe.read(
        url,
        "async",
        pool=pool,
        timeouts=timeouts,
        tls=tls,
        sqlite=sqlite,
        sqlalchemy_options=sqlalchemy_options,
    )
    recipe, memory = _in_place(recipe)
    engine = make_async_engine(recipe)
    leave_demoted_primary(engine.sync_engine)
    _keep(memory, engine.sync_engine)
    return engine


def create_sync_engine(
    url: str | URL,
    *,
    pool: PoolOptions | Pool | None = None,
    timeouts: Timeouts | None = None,
    tls: TLSOptions | None = None,
    sqlite: SQLiteOptions | None = None,
    **sqlalchemy_options: Any,
) -> Engine:
    """Create a synchronous `Engine` for the same URLs, as `create_async_engine` does.

    Drop-in for `sqlalchemy.create_engine`; arguments and errors as for `create_async_engine`.
    """
    recipe = Recipe.read(
        url,
        "sync",
        pool=pool,
        timeouts=timeouts,
        tls=tls,
        sqlite=sqlite,
        sqlalchemy_options=sqlalchemy_options,
    )
    recipe, memory = _in_place(recipe)
    engine = make_sync_engine(recipe)
    leave_demoted_primary(engine)
    _keep(memory, engine)
    return engine


def _in_place(recipe: Recipe) -> tuple[Recipe, TemporaryDatabase | None]:
    if not recipe.target.in_memory:
        return recipe, None
    memory = TemporaryDatabase()
    return recipe.in_file(memory.path), memory


def _keep(memory: TemporaryDatabase | None, engine: object) -> None:
    """Let an in-memory database live as long as the engine that it belongs to."""
    if memory is not None:
        finalize(engine, memory.delete)
