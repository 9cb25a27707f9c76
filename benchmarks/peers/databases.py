"""The databases of a run: private servers, files of SQLite, and the tables in them."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from sqlalchemy import Engine, create_engine, insert, select, text
from sqlalchemy.engine import make_url
from targets import TESTS

from models import Base, Counter, Hero, Team

NAMES = ("sqlite", "postgresql", "mariadb")
HEROES = 1000
TEAMS = 10
_DATABASE = "fastdb_benchmark"
_MAX_CONNECTIONS = 1000  # all candidates keep theirs open at the same time
_SYNC_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}


class Databases:
    """What has been opened for a run.

    Args:
        directory: For the files of SQLite.
        servers: The URL of each server that runs, with its async driver, by the database's name.
    """

    def __init__(self, directory: Path, names: Sequence[str], servers: dict[str, str]) -> None:
        self._directory = directory
        self._servers = servers
        self._numbers = count()
        self.names = tuple(names)

    def new_url(self, name: str) -> str:
        """Return the URL of tables that are filled as at the start.

        On SQLite it is a file of its own, since the journal's mode belongs to the file. On a
        server all candidates share the tables, which are filled anew.
        """
        if name == "sqlite":
            url = f"sqlite+aiosqlite:///{self._directory}/{next(self._numbers)}.db"
        else:
            url = self._servers[name]
        fill(url)
        return url

    def versions(self) -> dict[str, str]:
        """Return the version of each server."""
        return {name: _version(url) for name, url in self._servers.items()}


@contextmanager
def open_databases(names: Sequence[str] = NAMES) -> Iterator[Databases]:
    """Start private servers, as the tests do, for those of the databases that need one."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="fastdb-benchmark-"))
        servers = {}
        if "postgresql" in names:
            servers["postgresql"] = stack.enter_context(_postgresql())
        if "mariadb" in names:
            servers["mariadb"] = stack.enter_context(_mariadb())
        yield Databases(Path(directory), names, servers)


@contextmanager
def _postgresql() -> Iterator[str]:
    _use_tests()
    import psycopg

    from servers import PostgreSQL

    # Without TLS: its cost is the same for all, and it would only blur the differences.
    settings = {"max_connections": str(_MAX_CONNECTIONS)}
    with PostgreSQL(tls=False, settings=settings) as server:
        with psycopg.connect(server.url(user="admin"), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE {_DATABASE} OWNER fastdb")
        yield server.url(_DATABASE).replace("://", "+asyncpg://", 1)


@contextmanager
def _mariadb() -> Iterator[str]:
    _use_tests()
    import pymysql

    from servers import MariaDB

    settings = {"max-connections": str(_MAX_CONNECTIONS)}
    with MariaDB(tls=False, settings=settings) as server:
        with pymysql.connect(
            host="127.0.0.1", port=server.port, user="admin", password="admin"
        ) as admin:
            admin.cursor().execute(f"CREATE DATABASE {_DATABASE} CHARACTER SET utf8mb4")
        yield server.url(_DATABASE).replace("://", "+aiomysql://", 1)


def _use_tests() -> None:
    if str(TESTS) not in sys.path:
        sys.path.append(str(TESTS))


def fill(url: str) -> None:
    """Make the tables anew, with what requests ask for."""
    engine = _sync_engine(url)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        teams = [{"id": n + 1, "name": f"Team {n}"} for n in range(TEAMS)]
        connection.execute(insert(Team), teams)
        heroes = [
            {"name": f"Hero {n}", "age": n % 90, "team_id": n % TEAMS + 1} for n in range(HEROES)
        ]
        connection.execute(insert(Hero), heroes)
        connection.execute(insert(Counter), {"id": 1, "value": 0})
    engine.dispose()


def counted(url: str) -> int:
    """Return how far the counter has come."""
    engine = _sync_engine(url)
    with engine.connect() as connection:
        value = connection.execute(select(Counter.value)).scalar_one()
    engine.dispose()
    return value


def _version(url: str) -> str:
    engine = _sync_engine(url)
    with engine.connect() as connection:
        version = str(connection.execute(text("SELECT version()")).scalar_one())
    engine.dispose()
    return version


def _sync_engine(url: str) -> Engine:
    parts = make_url(url)
    return create_engine(parts.set(drivername=_SYNC_DRIVERS[parts.get_backend_name()]))
