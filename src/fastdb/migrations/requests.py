"""What a command hands to the `run()` of env.py, in `Config.attributes`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Event
from typing import Any, NamedTuple

from sqlalchemy import Connection

from fastdb.database import Database
from fastdb.errors import ConfigurationError
from fastdb.options import Timeouts

ATTRIBUTE = "fastdb"
"""The key in `Config.attributes`."""


class VersionTable(NamedTuple):
    """Alembic's own table, by which one project of a database is told from another.

    Attributes:
        name: Its name.
        schema: Its schema; None for the one that the connection looks into first.
    """

    name: str = "alembic_version"
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """How env.py calls `run()`.

    Attributes:
        options: Alembic's options, such as `version_table`.
        wait: Seconds to wait for another worker that migrates.
        timeouts: Time limits of the statements.
    """

    options: Mapping[str, Any]
    wait: float
    timeouts: Timeouts

    @property
    def version_table(self) -> VersionTable:
        """Where the version is kept."""
        table = VersionTable(schema=self.options.get("version_table_schema"))
        return table._replace(name=str(self.options.get("version_table", table.name)))


@dataclass(slots=True)
class Question:
    """Asks env.py how it calls `run()`; nothing is done then.

    Attributes:
        answer: None while nobody has answered.
    """

    answer: Settings | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """Says on which database env.py is to work, whichever it names itself.

    Attributes:
        db: The database.
        wait: Seconds to wait for another worker that migrates; None for what env.py says.
        stop: Set when no further revision is to begin.
        connection: One that holds the lock already; None where env.py is to see to that.
    """

    db: Database
    wait: float | None = None
    stop: Event = field(default_factory=Event)
    connection: Connection | None = None


class Stopped(Exception):
    """No further revision was begun, as the order was to stop."""


# Of the context, not of the thread: an env.py that calls `asyncio.run()` gets another one.
_is_inside = ContextVar("fastdb_is_inside_migrations", default=False)


@contextmanager
def inside() -> Iterator[None]:
    """Mark what is called within the block as called by migrations."""
    token = _is_inside.set(True)
    try:
        yield
    finally:
        _is_inside.reset(token)


def refuse_inside() -> None:
    """Raise where migrations call for migrations: they would wait for themselves.

    Raises:
        ConfigurationError: They do.
    """
    if _is_inside.get():
        raise ConfigurationError(
            "env.py or a revision asks for migrations itself, while it is run by them. Alembic can"
            " do one thing at a time: call it before or afterwards."
        )
