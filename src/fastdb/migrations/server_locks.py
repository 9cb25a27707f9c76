"""The locks on migrations that PostgreSQL and MySQL give a session."""

import time
from contextlib import suppress
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from fastdb.errors import ConfigurationError
from fastdb.migrations.requests import VersionTable

# How long a failure can be seen by those who wait: many times their pause.
_TELL_SECONDS = 2.0

_MIGRATES = "migrate"
_HAS_FAILED = "failed"

_POSTGRESQL_HOLDER = """
    SELECT a.pid, a.application_name, a.client_addr, a.backend_start
    FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (l.classid::bigint << 32 | l.objid::bigint) = :key
"""

# Names belong to the whole server and have at most 64 characters.
_MYSQL_NAME = "SELECT SHA1(CONCAT(COALESCE(:schema, DATABASE()), '.', :name))"
_MYSQL_HOLDER = """
    SELECT id, user, host, time FROM information_schema.processlist
    WHERE id = IS_USED_LOCK(:name)
"""


class PostgreSQLLock:
    """A session's advisory lock; see `lock.MigrationLock`.

    Args:
        connection: The one that migrates, in no transaction.
        version_table: Of the project.
    """

    def __init__(self, connection: Connection, version_table: VersionTable) -> None:
        self._connection = connection
        name, schema = version_table
        if schema is None:  # asked for once: a revision may set another search path
            (schema,) = self._row("SELECT current_schema()")
        self._migrates = _postgresql_key(_MIGRATES, f"{schema}.{name}")
        self._has_failed = _postgresql_key(_HAS_FAILED, f"{schema}.{name}")
        self._prepared = False

    def take(self) -> bool:
        """Take it if it is free, and return whether it was.

        Raises:
            ConfigurationError: There is a pooler in between.
        """
        if not self._prepared:
            # Before anything is taken, which a pooler would give back to another connection.
            self._refuse_pooler()
            _notice_death(self._connection)
            self._prepared = True
        (taken,) = self._row("SELECT pg_try_advisory_lock(:key)", key=self._migrates)
        return bool(taken)

    def _refuse_pooler(self) -> None:
        (process,) = self._row("SELECT pg_backend_pid()")
        # Both drivers know what they were told at connecting. A pooler tells them its own number.
        driver_connection: Any = self._connection.connection.driver_connection
        if process != driver_connection.info.backend_pid:
            raise ConfigurationError(through_pooler("this one goes through a pooler"))

    def holder(self) -> str | None:
        """Describe who holds it; None if that cannot be seen."""
        return self._who(self._migrates)

    def failure(self) -> str | None:
        """Describe who has failed a moment ago; None for nobody."""
        return self._who(self._has_failed)

    def tell_failure(self) -> None:
        """Let those who wait know that a revision has failed, and free the lock."""
        self._row("SELECT pg_advisory_lock_shared(:key)", key=self._has_failed)
        self._row("SELECT pg_advisory_unlock(:key)", key=self._migrates)
        time.sleep(_TELL_SECONDS)

    def free(self) -> None:
        """Free the lock."""
        self._row("SELECT pg_advisory_unlock_all()")

    def _who(self, key: int) -> str | None:
        row = self._row(_POSTGRESQL_HOLDER, key=key)
        if row is None:
            return None
        process, application, address, since = row
        name = f" {application!r}" if application else ""
        return f"server process {process}{name} of {address or 'this host'}, since {since}"

    def _row(self, statement: str, **values: object) -> Any:
        return _row(self._connection, statement, **values)


class MySQLLock:
    """A named lock, which DDL does not free; see `lock.MigrationLock`.

    Args:
        connection: The one that migrates, in no transaction.
        version_table: Of the project.
    """

    def __init__(self, connection: Connection, version_table: VersionTable) -> None:
        self._connection = connection
        # Asked for once: a revision may say USE.
        (name,) = _row(connection, _MYSQL_NAME, **version_table._asdict())
        self._migrates = f"fastdb.{_MIGRATES}.{name}"
        self._has_failed = f"fastdb.{_HAS_FAILED}.{name}"

    def take(self) -> bool:
        """Take it if it is free, and return whether it was."""
        (taken,) = self._row("SELECT GET_LOCK(:name, 0)", self._migrates)
        return bool(taken)

    def holder(self) -> str | None:
        """Describe who holds it; None if that cannot be seen."""
        return self._who(self._migrates)

    def failure(self) -> str | None:
        """Describe who has failed a moment ago; None for nobody."""
        (holder,) = self._row("SELECT IS_USED_LOCK(:name)", self._has_failed)
        if holder is None:
            return None
        return self._who(self._has_failed) or f"connection {holder}"

    def tell_failure(self) -> None:
        """Let those who wait know that a revision has failed, and free the lock."""
        self._row("SELECT GET_LOCK(:name, 0)", self._has_failed)
        self._row("SELECT RELEASE_LOCK(:name)", self._migrates)
        time.sleep(_TELL_SECONDS)

    def free(self) -> None:
        """Free the lock."""
        for name in (self._migrates, self._has_failed):
            self._row("SELECT RELEASE_LOCK(:name)", name)

    def _who(self, name: str) -> str | None:
        row = self._row(_MYSQL_HOLDER, name)
        if row is None:
            return None
        number, user, host, seconds = row
        return f"connection {number} of {user}@{host}, in its state for {seconds} s"

    def _row(self, statement: str, name: str) -> Any:
        return _row(self._connection, statement, name=name)


def _postgresql_key(what: str, version_table: str) -> int:
    """Return one of the 64-bit numbers that advisory locks have, which belong to one database."""
    digest = sha256(f"fastdb.{what}.{version_table}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def through_pooler(what: str) -> str:
    """Say why a connection that is not the server's own cannot be had for migrations."""
    return (
        f"Migrations hold a lock that belongs to one connection to the server, and {what}. Give"
        " them a Database with the server's own URL: `run(Database(DIRECT_URL), …)` in env.py,"
        " `async with Database(DIRECT_URL) as direct: await upgrade(direct)` in the app."
    )


def _notice_death(connection: Connection) -> None:
    """Let PostgreSQL, from 14 on, end a statement whose client was killed, and free its lock."""
    statement = (
        "SELECT set_config(name, '1s', false) FROM pg_settings"
        " WHERE name = 'client_connection_check_interval'"
    )
    # Not every system that a server runs on can tell.
    with suppress(DBAPIError), connection.begin():
        connection.execute(text(statement))


def _row(connection: Connection, statement: str, **values: object) -> Any:
    # A session's locks outlive a ROLLBACK, which is possible after a COMMIT that has failed, too.
    with connection.begin() as transaction:
        row = connection.execute(text(statement), values).first()
        transaction.rollback()
    return row
