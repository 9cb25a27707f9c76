"""SQLite's foreign keys: off while tables are rebuilt, and looked after before each COMMIT.

Alembic's batch mode copies a table, drops it and renames the copy. With foreign keys on, the DROP
would delete or refuse what refers to it. `PRAGMA foreign_keys` has no effect inside of a
transaction, and belongs to the connection.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from fastdb.errors import ConfigurationError

logger = logging.getLogger("fastdb.migrations")

Orphans = Counter[tuple[str, str]]
"""How many rows of a table refer to no row of another one."""


@dataclass(frozen=True, slots=True)
class References:
    """Who refers to nothing at one moment.

    Attributes:
        orphans: How many rows of which table.
        tables: The names of all tables there are.
    """

    orphans: Orphans
    tables: frozenset[str]

    def came_after(self, before: "References") -> Orphans:
        """Return who has come to refer to nothing; not who did before, under another name."""
        more = self.orphans - before.orphans
        for new, count in list(more.items()):
            old = next((old for old in before.orphans if self._was_renamed(before, old, new)), None)
            if old is not None and count <= before.orphans[old]:
                del more[new]
        return more

    def _was_renamed(
        self, before: "References", old: tuple[str, str], new: tuple[str, str]
    ) -> bool:
        # Either of them or both; it is one and the same where a table refers to itself.
        changed = [pair for pair in zip(old, new, strict=True) if pair[0] != pair[1]]
        return bool(changed) and all(
            name not in self.tables and now not in before.tables for name, now in changed
        )


@contextmanager
def foreign_keys_off(connection: Connection) -> Iterator[References | None]:
    """Turn foreign keys off within the block, where they are on; give who refers to nothing before.

    None where there is nothing to check: on servers, and where foreign keys are off anyway.

    Raises:
        ConfigurationError: The connection is inside of somebody's transaction, where they stay on.
    """
    if connection.dialect.name != "sqlite" or _pragma(connection, "foreign_keys") != 1:
        yield None
        return
    if connection.in_transaction():
        raise ConfigurationError(
            "A connection to SQLite was handed over inside of a transaction, where foreign keys"
            " cannot be turned off: to rebuild a table would delete what refers to it. Hand over"
            " `engine.connect()` in place of `engine.begin()`, or call `upgrade(db)` without it."
        )
    _pragma(connection, "foreign_keys = OFF")
    try:
        yield _references_before(connection)
    finally:
        if not connection.closed and not connection.invalidated:
            _pragma(connection, "foreign_keys = ON")
            if _pragma(connection, "foreign_keys") != 1:  # a COMMIT has failed and left all open
                connection.invalidate()


def references(connection: Connection) -> References:
    """Look at all foreign keys of all tables."""
    rows = connection.exec_driver_sql("PRAGMA foreign_key_check")
    orphans = Counter((str(row[0]), str(row[2])) for row in rows)
    tables = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")
    return References(orphans, frozenset(tables.scalars()))


def _references_before(connection: Connection) -> References | None:
    try:
        found = references(connection)
    except OperationalError as error:
        # A foreign key without a unique column to refer to. It may be what a revision mends.
        logger.warning("Foreign keys are not checked after each revision: %s", error.orig)
        return None
    finally:
        connection.rollback()
    if found.orphans:
        logger.warning("Before any revision: %s", describe(found.orphans))
    return found


def describe(found: Orphans) -> str:
    """Say who refers to nothing."""
    return "; ".join(
        f"{count} row(s) of {table} refer to no row of {parent}"
        for (table, parent), count in sorted(found.items())
    )


def _pragma(connection: Connection, text: str) -> int | None:
    # Past SQLAlchemy's events, which would begin a transaction.
    cursor = connection.connection.cursor()
    try:
        row = cursor.execute(f"PRAGMA {text}").fetchone()
        return None if row is None else int(row[0])
    finally:
        cursor.close()
