"""Where the databases of tests are: made from one template, which is prepared once.

Names are random, so that several runs, and several workers of one, can use one server.
"""

import asyncio
import secrets
import shutil
import sqlite3
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from fastdb.engines import create_async_engine
from fastdb.errors import ConfigurationError
from fastdb.options import PoolOptions
from fastdb.urls import parse_url

PREFIX = "fastdb_test_"


class Place(ABC):
    """A template, and the databases that are made from it.

    Attributes:
        template: The URL of the template, with its password. Nobody is connected to it when a
            copy is made.
    """

    template: str

    @abstractmethod
    async def open(self) -> None:
        """Make the template, empty."""

    @abstractmethod
    async def copy(self) -> str:
        """Make a database that is like the template, and return its URL."""

    async def copy_to_roll_back(self) -> str:
        """Return a database that stays like the template, as all that is done there is undone."""
        return await self.copy()

    @abstractmethod
    async def drop(self, url: str) -> None:
        """Take such a database back."""

    @abstractmethod
    async def close(self) -> None:
        """Remove all of them."""


def place_for(url: str) -> Place:
    """Return where tests find their databases.

    Args:
        url: Of a server, whose databases stay as they are; any SQLite URL means temporary files.

    Raises:
        InvalidURL: The URL cannot be used.
        MissingDriver: Its driver is not installed.
    """
    backend = parse_url(url, world="async").backend
    if backend == "sqlite":
        return SQLiteFiles()
    return PostgreSQLDatabases(url) if backend == "postgresql" else MySQLDatabases(url)


class SQLiteFiles(Place):
    """Files in a temporary directory, copied with SQLite's backup."""

    def __init__(self) -> None:
        self._directory: Path | None = None

    async def open(self) -> None:
        """Make the template, empty."""
        self._directory = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=PREFIX))
        self.template = self._url("template")

    async def copy(self) -> str:
        """Make a file that is like the template, and return its URL."""
        url = self._url(secrets.token_hex(6))
        await asyncio.to_thread(_back_up, _path(self.template), _path(url))
        return url

    async def drop(self, url: str) -> None:
        """Delete such a file."""
        await asyncio.to_thread(_delete, _path(url))

    async def close(self) -> None:
        """Remove all of them."""
        if self._directory is not None:
            await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    def _url(self, name: str) -> str:
        return f"sqlite:///{self._directory}/{name}.db"


def _path(url: str) -> Path:
    return Path(str(make_url(url).database))


def _back_up(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def _delete(path: Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)


class _OnServer(Place):
    """Databases on a server, made and dropped with the rights of the URL's user.

    Args:
        url: Of any database of the server.
    """

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._admin: AsyncEngine = create_async_engine(
            self._url, pool=PoolOptions.null(), isolation_level="AUTOCOMMIT"
        )
        self._made: list[str] = []

    async def open(self) -> None:
        """Make the template, empty."""
        self.template = self._place_of(await self._create())

    async def close(self) -> None:
        """Drop all of them."""
        if self._made:
            async with self._admin.connect() as connection:
                for name in self._made:
                    await self._drop(connection, name)
            self._made.clear()
        await self._admin.dispose()

    async def _create(self, suffix: str = "") -> str:
        name = PREFIX + secrets.token_hex(6)
        async with self._admin.connect() as connection:
            try:
                await connection.execute(text(f"CREATE DATABASE {name}{suffix}"))
            except Exception as error:
                raise ConfigurationError(
                    f"No database could be made for the tests: {_shown(self._url)} has to be of a"
                    f" user who may create databases named {PREFIX}…, and on PostgreSQL the app"
                    f" must not keep a connection open since its start: {error}"
                ) from error
        self._made.append(name)
        return name

    async def _drop(self, connection: AsyncConnection, name: str) -> None:
        raise NotImplementedError

    def _place_of(self, name: str) -> str:
        return self._url.set(database=name).render_as_string(hide_password=False)


class PostgreSQLDatabases(_OnServer):
    """Databases on a PostgreSQL server, copied as it does it by itself."""

    async def copy(self) -> str:
        """Make a database that is like the template, and return its URL."""
        template = make_url(self.template).database
        async with self._admin.connect() as connection:
            version: Any = connection.dialect.server_version_info or (0,)
        # Since 15, the default is to write all of it to the log.
        strategy = " STRATEGY FILE_COPY" if version[0] >= 15 else ""
        return self._place_of(await self._create(f" TEMPLATE {template}{strategy}"))

    async def drop(self, url: str) -> None:
        """Drop such a database, whoever is connected to it."""
        name = str(make_url(url).database)
        async with self._admin.connect() as connection:
            await self._drop(connection, name)
        self._made.remove(name)

    async def _drop(self, connection: AsyncConnection, name: str) -> None:
        await connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


class MySQLDatabases(_OnServer):
    """Databases on a MySQL or MariaDB server.

    It cannot copy one, and takes long to make tables. So what was used is emptied, with its foreign
    keys off, filled again from the template, and used again.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._free: list[str] = []

    async def copy(self) -> str:
        """Make or clean a database that is like the template, and return its URL."""
        if self._free:
            return self._free.pop()
        template, name = str(make_url(self.template).database), await self._create()
        async with self._admin.connect() as connection:
            await connection.execute(text("SET SESSION foreign_key_checks = 0"))
            for sequence in await _tables(connection, template, "SEQUENCE"):
                await _make_like(connection, template, name, sequence, "SEQUENCE")
                await _restart(connection, template, name, sequence)
            for table in await _tables(connection, template):
                await _make_like(connection, template, name, table)
                await _fill(connection, template, name, table)
        return self._place_of(name)

    async def copy_to_roll_back(self) -> str:
        """Return the template: it has views, triggers and procedures, which are not copied."""
        return self.template

    async def drop(self, url: str) -> None:
        """Make such a database like the template again; drop it where its tables have changed."""
        if url == self.template:
            return
        name, template = str(make_url(url).database), str(make_url(self.template).database)
        async with self._admin.connect() as connection:
            await _disconnect(connection, name)
            if await _shape(connection, name) != await _shape(connection, template):
                await self._drop(connection, name)
                self._made.remove(name)
                return
            await connection.execute(text("SET SESSION foreign_key_checks = 0"))
            for table in await _used(connection, name, template):
                await connection.execute(text(f"DELETE FROM `{name}`.`{table}`"))
                await connection.execute(text(f"ALTER TABLE `{name}`.`{table}` AUTO_INCREMENT = 1"))
                await _fill(connection, template, name, table)
            for sequence in await _tables(connection, template, "SEQUENCE"):
                # Anew: a test may have altered it, which no column tells.
                await _make_like(connection, template, name, sequence, "SEQUENCE")
                await _restart(connection, template, name, sequence)
        self._free.append(url)

    async def _drop(self, connection: AsyncConnection, name: str) -> None:
        await _disconnect(connection, name)
        await connection.execute(text(f"DROP DATABASE IF EXISTS {name}"))


_COLUMNS = text(
    "SELECT table_name, column_name, column_type, is_nullable,"
    " REPLACE(column_default, CONCAT('`', :name, '`.'), ''), column_key, extra"
    " FROM information_schema.columns WHERE table_schema = :name ORDER BY 1, ordinal_position"
)
_CONNECTED = text("SELECT id FROM information_schema.processlist WHERE db = :name")
_STORED = text(
    "SELECT column_name FROM information_schema.columns WHERE table_schema = :name"
    " AND table_name = :table AND extra NOT LIKE '%GENERATED%' ORDER BY ordinal_position"
)
_TABLES = text(
    "SELECT table_name FROM information_schema.tables"
    " WHERE table_schema = :name AND table_type = :type ORDER BY 1"
)


async def _disconnect(connection: AsyncConnection, name: str) -> None:
    """End who is connected to it: a session that a test has left open would keep its locks."""
    for number in (await connection.execute(_CONNECTED, {"name": name})).scalars().all():
        with suppress(DBAPIError):  # it may have gone by itself
            await connection.execute(text(f"KILL {number}"))


async def _shape(connection: AsyncConnection, name: str) -> Sequence[Any]:
    return (await connection.execute(_COLUMNS, {"name": name})).all()


async def _tables(
    connection: AsyncConnection, name: str, kind: str = "BASE TABLE"
) -> Sequence[str]:
    """Return the tables of a database; those of MariaDB's that are sequences are another kind."""
    return (await connection.execute(_TABLES, {"name": name, "type": kind})).scalars().all()


async def _make_like(
    connection: AsyncConnection, template: str, name: str, table: str, kind: str = "TABLE"
) -> None:
    shown = await connection.execute(text(f"SHOW CREATE {kind} `{template}`.`{table}`"))
    # A column that takes its values from a sequence names the sequence's database.
    statement = shown.one()[1].replace(f"`{template}`.", "").replace("%", "%%")
    if kind == "SEQUENCE":  # which may be there, and altered
        statement = statement.replace("CREATE", "CREATE OR REPLACE", 1)
    await connection.exec_driver_sql(f"USE `{name}`")
    await connection.exec_driver_sql(statement)


async def _restart(connection: AsyncConnection, template: str, name: str, sequence: str) -> None:
    at = text(f"SELECT next_not_cached_value FROM `{template}`.`{sequence}`")
    value = (await connection.execute(at)).scalar_one()
    await connection.execute(text(f"ALTER SEQUENCE `{name}`.`{sequence}` RESTART WITH {value}"))


async def _used(connection: AsyncConnection, *names: str) -> Iterable[str]:
    """Return the tables that have rows in any of these databases."""
    looks = [
        f"SELECT '{table}' FROM DUAL WHERE EXISTS (SELECT 1 FROM `{name}`.`{table}`)"
        for name in names
        for table in await _tables(connection, name)
    ]
    if not looks:
        return ()
    return set((await connection.execute(text(" UNION ALL ".join(looks)))).scalars())


async def _fill(connection: AsyncConnection, template: str, name: str, table: str) -> None:
    found = await connection.execute(_STORED, {"name": template, "table": table})
    columns = ", ".join(f"`{column}`" for column in found.scalars())
    await connection.execute(
        text(
            f"INSERT INTO `{name}`.`{table}` ({columns})"
            f" SELECT {columns} FROM `{template}`.`{table}`"
        )
    )


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)
