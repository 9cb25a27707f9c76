"""One worker migrates, the others wait: a lock that ends with the process that holds it.

Who waits asks again and again, between two transactions. To wait inside of one statement would
keep a snapshot open, for which PostgreSQL's CREATE INDEX CONCURRENTLY waits: for ever, as its own
worker holds the lock.

When a revision has failed, those who wait must not try it again; when the holder was killed, one
of them must. So a failure is told: on servers by a second lock, held for a moment after the first
one is freed; on SQLite in the lock file.
"""

import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event
from typing import Protocol

from sqlalchemy import Connection

from fastdb.errors import MigrationFailed, MigrationLocked
from fastdb.migrations.lock_file import FileLock
from fastdb.migrations.requests import Stopped, VersionTable
from fastdb.migrations.server_locks import MySQLLock, PostgreSQLLock

logger = logging.getLogger("fastdb.migrations")

_PAUSE_SECONDS = 0.1


class MigrationLock(Protocol):
    """A lock on the migrations of one database."""

    def take(self) -> bool:
        """Take it if it is free, and return whether it was."""
        ...

    def holder(self) -> str | None:
        """Describe who holds it; None if that cannot be seen."""
        ...

    def failure(self) -> str | None:
        """Describe who has failed while this one waited, or a moment ago; None for nobody."""
        ...

    def tell_failure(self) -> None:
        """Let those who wait know that a revision has failed, and free the lock."""
        ...

    def free(self) -> None:
        """Free the lock, and let go of what it is made of."""
        ...


@contextmanager
def one_at_a_time(
    connection: Connection, version_table: VersionTable, *, wait: float, stop: Event
) -> Iterator[str | None]:
    """Hold the lock on migrations within the block, and give who has failed meanwhile, if one has.

    Args:
        connection: The one that migrates, in no transaction; to be closed, not kept, afterwards.
        version_table: Of the project: another one in the same database has a lock of its own.
        wait: For how many seconds others may go on.
        stop: Ends the waiting.

    Raises:
        MigrationLocked: Others have gone on for longer.
        ConfigurationError: The connection goes through a pooler, or to no database.
        Stopped: It was told to stop.
    """
    lock = _lock_of(connection, version_table)
    try:
        _wait_for(lock, wait, stop)
        failed = lock.failure()
        try:
            yield failed
        except MigrationFailed as error:
            if error.revision is None:  # somebody else's
                raise
            # Its own error is what counts, not that the others could not be told.
            with suppress(Exception):
                connection.rollback()  # a block of Alembic's may have left its transaction open
                lock.tell_failure()
            raise
    finally:
        with suppress(Exception):  # it ends with the connection
            connection.rollback()
            lock.free()


def _lock_of(connection: Connection, version_table: VersionTable) -> MigrationLock:
    match connection.dialect.name:
        case "postgresql":
            return PostgreSQLLock(connection, version_table)
        case "sqlite":
            return FileLock.beside(connection, version_table)
        case _:
            return MySQLLock(connection, version_table)


def _wait_for(lock: MigrationLock, wait: float, stop: Event) -> None:
    deadline = time.monotonic() + wait
    told = False
    while not lock.take():
        if time.monotonic() >= deadline:
            holder = lock.holder() or "another worker, which cannot be seen from here"
            raise MigrationLocked(
                f"Waited {wait:g} seconds for {holder}, which migrates this database. Wait for"
                " longer (`wait=…`), or look at what it does."
            )
        if not told:
            logger.info("Another worker migrates (%s): waiting", lock.holder() or "just now")
            told = True
        if stop.wait(_PAUSE_SECONDS * random.uniform(0.5, 1.5)):  # noqa: S311 - no secret
            raise Stopped
