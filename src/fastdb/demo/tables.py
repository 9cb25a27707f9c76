"""The demo's tables, seen from outside the app: through the synchronous twin."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, func, select

from fastdb import Database, SyncDatabase, Timeouts
from fastdb.demo.app import Account, Base, Counter, Entry, Summary
from fastdb.demo.checks import Contents
from fastdb.demo.plan import REFUSED
from fastdb.urls import parse_url

_TIMEOUTS = Timeouts(connect=5, lock=10)


def url_or_file(url: str | None, directory: Path) -> str:
    """Return `url`, or that of a new SQLite file where it names no place that two can open.

    Raises:
        InvalidURL: The URL cannot be used.
        MissingDriver: Its driver is not installed.
    """
    if url is None or parse_url(url, world="async").in_memory:
        return f"sqlite:///{(directory / 'demo.db').as_posix()}"
    return url


@contextmanager
def demo_tables(url: str) -> Iterator[SyncDatabase]:
    """Open the database, and see to it that no table of the demo is there before or afterwards."""
    with Database(url, timeouts=_TIMEOUTS).sync as twin:
        _drop(twin.engine)
        try:
            yield twin
        finally:
            _drop(twin.engine)


def name_of(engine: Engine) -> str:
    """Name the database for people, without the user and the password."""
    url = engine.url
    if engine.dialect.name == "sqlite":
        return f"SQLite, {url.database}"
    name = {"postgresql": "PostgreSQL", "mysql": "MySQL", "mariadb": "MariaDB"}[engine.dialect.name]
    if getattr(engine.dialect, "is_mariadb", False):
        name = "MariaDB"
    version = ".".join(str(part) for part in (engine.dialect.server_version_info or ())[:2])
    return f"{name} {version}, database {url.database}"


def read_back(twin: SyncDatabase) -> Contents:
    """Count what is there."""
    with twin.read_session(snapshot=True) as session:
        counted, accounts, entries, refused, orphans = (
            int(session.scalar(query) or 0)
            for query in (
                select(func.sum(Counter.value)),
                select(func.count(Account.id)),
                select(func.count(Entry.id)),
                select(func.count(Entry.id)).where(Entry.memo == REFUSED),
                select(func.count(Entry.id)).where(Entry.account_id.not_in(select(Account.id))),
            )
        )
    summary = Summary(counted=counted, accounts=accounts, entries=entries)
    return Contents(summary, refused, orphans)


def _drop(engine: Engine) -> None:
    with engine.begin() as connection:
        if connection.dialect.name in {"mysql", "mariadb"}:
            # Another program that uses the tables would be waited for as long as a day.
            connection.exec_driver_sql("SET SESSION lock_wait_timeout = 10")
        Base.metadata.drop_all(connection)
