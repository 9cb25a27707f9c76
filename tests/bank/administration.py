"""What an administrator does on a server that may just have been killed: a connection each time."""

from collections.abc import Sequence
from typing import Any

import psycopg
import pymysql
from sqlalchemy.engine import make_url

from databases import mysql_sessions, postgresql_sessions, wait_until_none
from servers import MariaDB, PostgreSQL


def create_database(server: PostgreSQL | MariaDB, name: str) -> None:
    """Make an empty database for the user `fastdb`."""
    if isinstance(server, PostgreSQL):
        with psycopg.connect(server.url(), autocommit=True) as session:
            session.execute(f"CREATE DATABASE {name}")
    else:
        with _mysql(server) as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")


def wait_until_left(server: PostgreSQL | MariaDB, name: str) -> Sequence[Any]:
    """Wait until nobody is connected to a database; return who still is after some seconds."""
    if isinstance(server, PostgreSQL):
        with psycopg.connect(server.url(user="admin"), autocommit=True) as session:
            return wait_until_none(lambda: postgresql_sessions(session, name), seconds=5)
    with _mysql(server) as connection, connection.cursor() as cursor:
        return wait_until_none(lambda: mysql_sessions(cursor, name), seconds=5)


def _mysql(server: MariaDB) -> "pymysql.Connection[Any]":
    url = make_url(server.url(user="admin"))
    return pymysql.connect(
        host=str(url.host),
        port=url.port or 0,
        user=url.username,
        password=url.password or "",
        autocommit=True,
    )
