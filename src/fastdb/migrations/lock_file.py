"""SQLite's lock on migrations: a second database beside the first, whose write lock it is.

The database's own write lock is free between two revisions. SQLite's locking of a second file
works wherever it works for the first, ends with the process, and its rows say who holds it.
"""

import os
import socket
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote
from uuid import uuid4

from sqlalchemy import Connection

from fastdb.errors import ConfigurationError
from fastdb.migrations.requests import VersionTable

_SUFFIX = "-migrations"
_TABLE = (
    "CREATE TABLE IF NOT EXISTS lock (id INTEGER PRIMARY KEY, token TEXT, holder TEXT,"
    " failed_at REAL, failed TEXT)"
)


class FileLock:
    """The lock of one SQLite database; see `lock.MigrationLock`.

    Args:
        path: Of the lock file, which is made where it is missing and stays afterwards: to delete it
            would give two workers a lock each.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # From Python 3.12 on there is `autocommit`; this is what all versions have.
            self._file = sqlite3.connect(path, timeout=0, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from error
        self._token = uuid4().hex
        self._since = time.time()
        self._myself = f"process {os.getpid()} on {socket.gethostname()}"

    @classmethod
    def beside(cls, connection: Connection, version_table: VersionTable) -> Self:
        """Return the lock of a project on the database that `connection` has open."""
        cursor = connection.connection.cursor()
        try:
            cursor.execute("PRAGMA database_list")
            path = next(str(row[2]) for row in cursor.fetchall() if row[1] == "main")
        finally:
            cursor.close()
        name, schema = version_table
        known_as = name if schema in (None, "main") else f"{schema}.{name}"
        usual = known_as == VersionTable().name
        project = "" if usual else f"-{quote(known_as, safe='')}"
        return cls(Path(path + _SUFFIX + project))

    def take(self) -> bool:
        """Take it if it is free, and return whether it was.

        Raises:
            ConfigurationError: The file cannot be written.
        """
        try:
            self._begin()
            self._file.execute(_TABLE)
            self._file.execute("INSERT OR IGNORE INTO lock (id) VALUES (1)")
            # Others can read only what is committed, and COMMIT frees the lock for a moment, in
            # which somebody else may have taken it and written himself down.
            while self._column("token") != self._token:
                self._write(token=self._token, holder=self._myself)
                self._commit()
                self._begin()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise self._unusable(error) from error
            self._roll_back()
            return False
        return True

    def _unusable(self, error: sqlite3.OperationalError) -> ConfigurationError:
        return ConfigurationError(
            f"{self._path} cannot be written, the file that lets one worker migrate at a time"
            f" ({error}). Let this account write in the directory of the database, as SQLite's own"
            " files beside it need, too."
        )

    def holder(self) -> str | None:
        """Describe who holds it; None if that cannot be seen."""
        with suppress(sqlite3.OperationalError):  # no table yet, or somebody is writing
            holder: str | None = self._column("holder")
            return holder
        return None

    def failure(self) -> str | None:
        """Describe who has failed while this one waited; None for nobody."""
        failed_at = self._column("failed_at")
        if failed_at is None or failed_at < self._since:
            return None
        return str(self._column("failed"))

    def tell_failure(self) -> None:
        """Let those who wait know that a revision has failed, and free the lock."""
        self._write(failed_at=time.time(), failed=self._myself)
        self._commit()

    def free(self) -> None:
        """Free the lock, and close the file."""
        self._roll_back()
        self._file.close()

    def _begin(self) -> None:
        self._file.execute("BEGIN IMMEDIATE")

    def _commit(self) -> None:
        # Those who ask for the lock read the file for a moment.
        self._file.execute("PRAGMA busy_timeout = 5000")
        self._file.execute("COMMIT")
        self._file.execute("PRAGMA busy_timeout = 0")

    def _roll_back(self) -> None:
        if self._file.in_transaction:
            self._file.execute("ROLLBACK")

    def _column(self, name: str) -> Any:
        row = self._file.execute(f"SELECT {name} FROM lock").fetchone()  # noqa: S608 - our own names
        return None if row is None else row[0]

    def _write(self, **values: object) -> None:
        columns = ", ".join(f"{name} = ?" for name in values)
        self._file.execute(f"UPDATE lock SET {columns}", tuple(values.values()))  # noqa: S608
