"""The databases to measure on: files of SQLite, servers of yours, or private ones."""

import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from models import Base, Hero

TESTS = Path(__file__).parent.parent / "tests"


@dataclass(frozen=True, slots=True)
class Target:
    """A database to measure on.

    Attributes:
        name: As in the report.
        backend: `sqlite`, `postgresql` or `mysql`.
        new_url: Returns the URL, with the driver's name, for one more candidate.
    """

    name: str
    backend: str
    new_url: Callable[[], str]


@contextmanager
def sqlite() -> Iterator[Target]:
    """Give each candidate a file of its own: the journal's mode belongs to the file."""
    with tempfile.TemporaryDirectory(prefix="fastdb-benchmark-") as directory:
        numbers = count()
        yield Target(
            "sqlite file, aiosqlite",
            "sqlite",
            lambda: f"sqlite+aiosqlite:///{directory}/{next(numbers)}.db",
        )


def given(text: str) -> Target:
    """Return the server behind a URL; all candidates share one table there."""
    url = make_url(text)
    backend = url.get_backend_name().replace("mariadb", "mysql")
    return Target(f"{backend}, {url.get_driver_name()}", backend, lambda: text)


@contextmanager
def private_servers() -> Iterator[list[Target]]:
    """Start a PostgreSQL and a MariaDB, as the tests do, for each of their drivers."""
    sys.path.append(str(TESTS))
    import psycopg
    import pymysql

    from databases import new_mysql_database, new_postgresql_database
    from servers import MariaDB, PostgreSQL

    with ExitStack() as stack:
        # Without TLS: its cost is the same for all, and it would only blur the differences.
        postgresql = stack.enter_context(PostgreSQL(tls=False))
        mariadb = stack.enter_context(MariaDB(tls=False))
        postgresql_admin = stack.enter_context(
            psycopg.connect(postgresql.url(user="admin"), autocommit=True)
        )
        mysql_admin = stack.enter_context(
            pymysql.connect(
                host="127.0.0.1", port=mariadb.port, user="admin", password="admin", autocommit=True
            )
        )
        urls = [
            postgresql.url(
                stack.enter_context(new_postgresql_database(postgresql_admin, owner="fastdb"))
            ),
            mariadb.url(stack.enter_context(new_mysql_database(mysql_admin))),
        ]
        drivers = (("asyncpg", "psycopg"), ("aiomysql", "asyncmy"))
        yield [
            given(url.replace("://", f"+{driver}://", 1))
            for url, names in zip(urls, drivers, strict=True)
            for driver in names
        ]


@asynccontextmanager
async def table(url: str) -> AsyncIterator[None]:
    """Make the table with its first row, and drop it in the end."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session:
        session.add(Hero(name="Deadpond", age=30))
        await session.commit()
    await engine.dispose()
    try:
        yield
    finally:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
        await engine.dispose()
