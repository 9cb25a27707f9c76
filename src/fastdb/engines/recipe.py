"""All that decides how the engines of one database are made."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Pool
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from fastdb.credentials import PasswordSource
from fastdb.errors import ConfigurationError, MissingDriver
from fastdb.options import (
    PoolOptions,
    SQLiteOptions,
    Timeouts,
    TLSOptions,
    normal_isolation,
)
from fastdb.tls import tls_connect_args
from fastdb.urls import Target, World, parse_url

# SQLite's transactions are serializable, which is all that these ask for, and more.
GIVEN_BY_SQLITE = frozenset({"READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A database, its driver in one world (async or sync), and how it is to be used."""

    target: Target
    pool: PoolOptions = field(default_factory=PoolOptions)
    timeouts: Timeouts | None = None
    tls: TLSOptions | None = None
    sqlite: SQLiteOptions = field(default_factory=SQLiteOptions)
    password: PasswordSource | None = None
    sqlalchemy_options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        url: str | URL,
        world: World,
        *,
        pool: PoolOptions | Pool | None,
        timeouts: Timeouts | None,
        tls: TLSOptions | None,
        sqlite: SQLiteOptions | None,
        sqlalchemy_options: Mapping[str, Any],
        password: str | PasswordSource | None = None,
        isolation: str | None = None,
    ) -> "Recipe":
        """Read the URL for that world, and import its driver.

        Raises:
            InvalidURL: The URL or one of its parameters cannot be used.
            MissingDriver: The driver is not installed, or cannot be imported.
            ConfigurationError: An option makes no sense for this database.
        """
        target = parse_url(url, world=world)
        _import_driver(target)
        if target.backend == "sqlite":
            _refuse_for_sqlite(pool, tls)
            isolation = None if normal_isolation(isolation) in GIVEN_BY_SQLITE else isolation
        if isolation is not None:
            sqlalchemy_options = {"isolation_level": isolation, **sqlalchemy_options}
        if isinstance(password, str):
            target = replace(target, url=target.url.set(password=password))
            password = None
        if pool is None and target.transaction_pooler:
            pool = PoolOptions.transaction_pooler()
        if isinstance(pool, Pool):
            # SQLAlchemy's own argument of the same name.
            sqlalchemy_options = {**sqlalchemy_options, "pool": pool}
            pool = None
        return cls(
            target=target,
            pool=pool or PoolOptions(),
            timeouts=timeouts,
            tls=tls,
            sqlite=sqlite or SQLiteOptions(),
            password=password,
            sqlalchemy_options=dict(sqlalchemy_options),
        )

    @property
    def waits(self) -> Timeouts:
        """The time limits in force."""
        return self.timeouts or Timeouts()

    @property
    def isolation(self) -> str | None:
        """The isolation level of transactions that are given none; None for the server's."""
        options = self.sqlalchemy_options
        level: str | None = {**options, **(options.get("execution_options") or {})}.get(
            "isolation_level"
        )
        return level

    @property
    def autocommits(self) -> bool:
        """Whether transactions are none, unless they are given an isolation level."""
        return normal_isolation(self.isolation) == "AUTOCOMMIT"

    def in_file(self, path: Path) -> "Recipe":
        """Return this recipe for the SQLite file at `path`, in place of one in memory."""
        url = self.target.url.set(database=str(path), query={})
        options = dict(self.sqlalchemy_options)
        # What SQLAlchemy's documents give for databases in memory: here it would put all sessions
        # on one connection, and so into one transaction, for nothing.
        if options.get("poolclass") in (StaticPool, SingletonThreadPool):
            del options["poolclass"]
        target = replace(self.target, url=url, in_memory=False)
        return replace(self, target=target, sqlalchemy_options=options)


def _import_driver(target: Target) -> None:
    try:
        target.url.get_dialect().import_dbapi()
    except ImportError as error:
        raise MissingDriver(
            f"The driver {target.driver} is installed but cannot be imported: {error}"
        ) from error


def _refuse_for_sqlite(pool: PoolOptions | Pool | None, tls: TLSOptions | None) -> None:
    if tls is not None:
        tls_connect_args("aiosqlite", tls)  # refuses, and says why
    if isinstance(pool, PoolOptions) and pool.mode == "transaction_pooler":
        raise ConfigurationError(
            "PoolOptions.transaction_pooler() is for PostgreSQL and MySQL; SQLite has no server"
            " and no pooler. Leave `pool` out."
        )


# In the words of the drivers.
_PLACES = frozenset(
    {"host", "hostaddr", "port", "dsn", "database", "dbname", "db", "user", "username", "password"}
    | {"passwd", "unix_socket", "service", "passfile", "read_default_file", "conninfo"}
)


def refuse_what_names_a_place(options: Mapping[str, Any], where: str) -> None:
    """Refuse SQLAlchemy's arguments that win over a URL when they say where to connect to.

    Raises:
        ConfigurationError: One of them does.
    """
    found = [name for name in ("creator", "async_creator", "pool") if options.get(name)]
    arguments = options.get("connect_args") or {}
    found += [f"connect_args[{name!r}]" for name in sorted(_PLACES & set(arguments))]
    if found:
        raise ConfigurationError(
            f"Database({where}=…) has {', '.join(found)}, which would connect to the same database"
            " wherever the URL leads, so tests would reach it. Put the place into the URL, and what"
            " is secret into `password`."
        )
