"""The databases and drivers that the tests run on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backend:
    """A database of a test: empty at its start, gone after its end.

    Attributes:
        id: As in the name of the test, `postgresql-asyncpg`.
        url: With the driver's name, as SQLAlchemy wants it.
        name: `sqlite`, `postgresql` or `mysql`.
        driver: `aiosqlite`, `asyncpg`, `psycopg`, `aiomysql` or `asyncmy`.
    """

    id: str
    url: str
    name: str
    driver: str


BACKENDS = {
    "sqlite-file": ("sqlite", "aiosqlite"),
    "sqlite-memory": ("sqlite", "aiosqlite"),
    "postgresql-asyncpg": ("postgresql", "asyncpg"),
    "postgresql-psycopg": ("postgresql", "psycopg"),
    "mysql-aiomysql": ("mysql", "aiomysql"),
    "mysql-asyncmy": ("mysql", "asyncmy"),
}
DRIVERS = ("sqlite", "asyncpg", "psycopg", "aiomysql", "asyncmy")
