"""Creating tables when several processes start at once.

`MetaData.create_all` looks which tables are missing and then creates them: two processes that
look at the same time both create, and one of them dies. Here one works while the others wait.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, MetaData, text

from fastdb.errors import ConfigurationError

_WAIT_SECONDS = 60

# An arbitrary constant that means "fastdb creates tables" in PostgreSQL's advisory locks, which
# belong to one database of the server.
_ADVISORY_KEY = 0x_FA57_DB00_0001


def create_all(connection: Connection, metadata: MetaData) -> None:
    """Create the missing tables of `metadata` while no other process does the same.

    Args:
        connection: In a transaction; on SQLite one that was begun IMMEDIATE.
        metadata: The tables.
    """
    with _one_at_a_time(connection):
        metadata.create_all(connection)


@contextmanager
def _one_at_a_time(connection: Connection) -> Iterator[None]:
    if connection.dialect.name == "postgresql":
        # Until the end of the transaction, so it works through a transaction pooler too.
        connection.execute(
            text("SELECT set_config('lock_timeout', :wait, true)"), {"wait": f"{_WAIT_SECONDS}s"}
        )
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_KEY})
        yield
    elif connection.dialect.name == "sqlite":
        yield  # BEGIN IMMEDIATE is the lock
    else:
        with _mysql_lock(connection):
            yield


@contextmanager
def _mysql_lock(connection: Connection) -> Iterator[None]:
    # Names belong to the whole server and have at most 64 characters.
    name = "CONCAT('fastdb.create_all.', SHA1(DATABASE()))"
    got = connection.scalar(text(f"SELECT GET_LOCK({name}, :wait)"), {"wait": _WAIT_SECONDS})
    if got is None:  # there is no name without a database
        raise ConfigurationError(
            "create_all() makes tables in a database, and the URL names none: mysql://…/name."
        )
    if got != 1:
        raise ConfigurationError(
            f"create_all() waited {_WAIT_SECONDS} seconds for another process that creates"
            " tables in the same database. Look for it with SHOW PROCESSLIST."
        )
    try:
        yield
    finally:
        connection.execute(text(f"DO RELEASE_LOCK({name})"))
