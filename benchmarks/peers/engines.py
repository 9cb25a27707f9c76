"""The engines of candidates that take SQLAlchemy's: as they come, or tuned alike."""

from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from peers.places import Place

_SYNC_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "mariadb": "mysql+pymysql"}


def engine_options(place: Place) -> dict[str, Any]:
    """Return the keyword arguments for `create_async_engine`: none where nothing is tuned."""
    if not place.tuned:
        return {}
    options: dict[str, Any] = {
        "pool_size": place.pool_size,
        "max_overflow": place.max_overflow,
        "pool_timeout": place.pool_timeout,
    }
    if place.database == "sqlite":
        # The same as event.listen(engine.sync_engine, "connect", set_pragmas), for libraries that
        # make the engine themselves.
        options["pool_events"] = [(set_pragmas, "connect")]
    return options


def make_engine(place: Place) -> AsyncEngine:
    return create_async_engine(place.url, **engine_options(place))


def make_sync_engine(place: Place) -> Engine:
    url = make_url(place.url).set(drivername=_SYNC_DRIVERS[place.database])
    return create_engine(url, **engine_options(place))


def set_pragmas(dbapi_connection: Any, _record: Any) -> None:
    """Set what SQLite needs in order to serve, as fastdb has it."""
    cursor = dbapi_connection.cursor()
    for pragma in (
        "journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "busy_timeout = 5000",
    ):  # fmt: skip
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
