"""A fresh database for each test, and who is still connected to it afterwards."""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
import pymysql
from pymysql.cursors import Cursor
from sqlalchemy.engine import URL

from servers import MariaDB, PgBouncer, PostgreSQL

PostgreSQLConnection: TypeAlias = psycopg.Connection[Any]
MySQLConnection: TypeAlias = "pymysql.Connection[Any]"


@contextmanager
def new_postgresql_database(
    admin: PostgreSQLConnection, *, owner: str, may_stay_connected: bool = False
) -> Iterator[str]:
    """Give an empty database; fail if anyone is still connected to it at the end."""
    name = new_name()
    # Copying files is quicker than writing them to the log, the default since PostgreSQL 15.
    strategy = "STRATEGY FILE_COPY" if admin.info.server_version >= 150000 else ""
    admin.execute(f'CREATE DATABASE {name} TEMPLATE template0 OWNER "{owner}" {strategy}')
    try:
        yield name
        if not may_stay_connected:
            left = wait_until_none(lambda: postgresql_sessions(admin, name))
            assert not left, f"the test left sessions on the server: {left}"
    finally:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def new_mysql_database(admin: MySQLConnection) -> Iterator[str]:
    """Give an empty database; fail if anyone is still connected to it at the end."""
    name = new_name()
    with admin.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        try:
            yield name
            left = wait_until_none(lambda: mysql_sessions(cursor, name))
            assert not left, f"the test left sessions on the server: {left}"
        finally:
            for session in mysql_sessions(cursor, name):
                with suppress(pymysql.err.OperationalError):  # it has gone by itself meanwhile
                    cursor.execute("KILL %s", [session[0]])  # its locks would stop the DROP
            cursor.execute(f"DROP DATABASE {name}")


def add_database(server: PostgreSQL | MariaDB) -> str:
    """Make a database on a private server, which lives as long as that; return its URL."""
    if isinstance(server, PostgreSQL):
        server.administer("CREATE DATABASE fastdb_private OWNER fastdb")
    else:
        server.administer("CREATE DATABASE fastdb_private CHARACTER SET utf8mb4")
    return server.url("fastdb_private")


def new_name() -> str:
    """Return a name for a database that nothing else has."""
    return f"fastdb_{secrets.token_hex(6)}"


def render(url: URL) -> str:
    """Write a URL with its password."""
    return url.render_as_string(hide_password=False)


def wait_until_none(look: Callable[[], Sequence[Any]], seconds: float = 2) -> Sequence[Any]:
    """Look until nothing is found; return what is found in the end."""
    # A server notices only after a while that a client has said goodbye.
    deadline = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return found


def postgresql_sessions(admin: PostgreSQLConnection, database: str) -> Sequence[Any]:
    """List who is connected to a database."""
    return admin.execute(
        "SELECT pid, usename, application_name, state, query FROM pg_stat_activity"
        " WHERE datname = %s AND backend_type = 'client backend'",
        [database],
    ).fetchall()


def mysql_sessions(cursor: Cursor, database: str) -> Sequence[Any]:
    """List who is connected to a database."""
    cursor.execute(
        "SELECT id, user, command, time, info FROM information_schema.processlist WHERE db = %s",
        [database],
    )
    return cursor.fetchall()


def pgbouncer_clients(pgbouncer: PgBouncer, database: str) -> Sequence[Any]:
    """List who is connected to a database through PgBouncer."""
    with psycopg.connect(pgbouncer.url("pgbouncer", user="admin"), autocommit=True) as console:
        clients = console.execute("SHOW CLIENTS").fetchall()
    return [client for client in clients if database in client]


def open_files(path: Path) -> Sequence[str]:
    """List what this process has open of an SQLite database; nothing where there is no /proc."""
    found = []
    for descriptor in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):
            target = str(descriptor.readlink())
            if target.startswith(str(path)):
                found.append(target)
    return found
