"""What is compared: each candidate is a small module with a function `make_app(place)`.

To add one, write `candidates/<name>.py` and list it below. `make_app` returns a FastAPI app with
the routes of `by_hand`, written as the library's own documentation would; its lifespan closes what
it opened. Where there are engines, `app.state.engines()` returns them while the app is open, so
that the connections which were not given back can be counted.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from fastapi import FastAPI

from peers.places import Place

Kind = Literal["fastdb", "by hand", "peer", "limit", "unguarded"]
_ALL = ("sqlite", "postgresql", "mariadb")


@dataclass(frozen=True)
class Candidate:
    """One way to give an endpoint its session.

    Attributes:
        name: As in the report.
        module: In this package. It is imported when the app is made, and not before.
        kind: `limit` is what no library can be faster than, or the way not to go; `unguarded` is
            compared with fastdb only.
        package: The distribution to install.
        databases: Those that it serves.
        tunings: The values of `Place.tuned` that it is compared with.
        pool_size: What it needs in place of the pool that all share, if anything.
    """

    name: str
    module: str
    kind: Kind
    package: str
    databases: tuple[str, ...] = _ALL
    tunings: tuple[bool, ...] = (False, True)
    pool_size: int | None = None

    @property
    def version(self) -> str | None:
        """Return the installed version; None where it is not installed."""
        try:
            return version(self.package)
        except PackageNotFoundError:
            return None

    def make_app(self, place: Place) -> FastAPI:
        app: FastAPI = import_module(f"peers.candidates.{self.module}").make_app(place)
        return app


_LISTED = (
    Candidate("fastdb", "fastdb", "fastdb", "fastapi-fastdb"),
    Candidate("fastdb, SessionDep", "fastdb_session", "fastdb", "fastapi-fastdb", tunings=(False,)),
    Candidate(
        "fastdb on asyncmy", "fastdb_asyncmy", "fastdb", "asyncmy", ("mariadb",), tunings=(False,)
    ),
    Candidate(
        "fastdb without guards",
        "fastdb_unguarded",
        "unguarded",
        "fastapi-fastdb",
        tunings=(False,),
    ),
    Candidate("by hand", "by_hand", "by hand", "sqlalchemy"),
    Candidate("FastSQLA", "fastsqla", "peer", "FastSQLA"),
    Candidate(
        "fastapi-async-sqlalchemy", "fastapi_async_sqlalchemy", "peer", "fastapi-async-sqlalchemy"
    ),
    Candidate(
        "context-async-sqlalchemy", "context_async_sqlalchemy", "peer", "context-async-sqlalchemy"
    ),
    Candidate("advanced-alchemy", "advanced_alchemy", "peer", "advanced-alchemy"),
    Candidate("fastapi-sqla", "fastapi_sqla", "peer", "fastapi-sqla"),
    Candidate("no database", "no_database", "limit", "fastapi", tunings=(True,)),
    Candidate("raw aiosqlite", "raw_aiosqlite", "limit", "aiosqlite", ("sqlite",), (True,)),
    Candidate("raw asyncpg", "raw_asyncpg", "limit", "asyncpg", ("postgresql",), (True,)),
    Candidate("raw psycopg", "raw_psycopg", "limit", "psycopg-pool", ("postgresql",), (True,)),
    Candidate("raw aiomysql", "raw_aiomysql", "limit", "aiomysql", ("mariadb",), (True,)),
    Candidate("raw asyncmy", "raw_asyncmy", "limit", "asyncmy", ("mariadb",), (True,)),
    Candidate("sync inline", "sync_inline", "limit", "sqlalchemy", tunings=(True,)),
    Candidate(
        "sync in threads",
        "sync_threads",
        "limit",
        "sqlalchemy",
        tunings=(True,),
        # A connection for every client: between the threads in which a request runs it keeps its
        # connection, and threads that wait for one keep out those that would give it back.
        pool_size=260,
    ),
)

CANDIDATES = {candidate.name: candidate for candidate in _LISTED}
BASELINE = "by hand"
