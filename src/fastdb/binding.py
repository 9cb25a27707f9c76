"""Which Database belongs to which app.

The answer hangs on the app itself, so that two apps in one process never see each other.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from starlette.requests import HTTPConnection

from fastdb.errors import ConfigurationError, DatabaseNotBound
from fastdb.routes import mounted_apps

D = TypeVar("D")

_STATE = "fastdb"
_STAND_IN = "fastdb_stand_in"


class _Databases(Generic[D]):
    """The databases of one app: its own, and those of the apps that it is mounted in."""

    def __init__(self) -> None:
        self.own: list[D] = []
        self.inherited: list[D] = []

    def choices(self) -> list[D]:
        """Return the candidates, without repetition; an app's own go before inherited ones."""
        return list(dict.fromkeys(self.own or self.inherited))


@contextmanager
def bound(app: Any, database: D) -> Iterator[None]:
    """Let requests to `app`, and to the apps mounted in it, find `database` meanwhile."""
    lists = [_databases(app).own]
    lists += [_databases(mounted).inherited for mounted in mounted_apps(app)]
    for databases in lists:
        databases.append(database)
    try:
        yield
    finally:
        for databases in lists:
            databases.remove(database)


class _StandIn:
    """A Database that is to serve in the place of an app's own, and whose place it has taken."""

    def __init__(self, database: object) -> None:
        self.database = database
        self.replaced: object = None


@contextmanager
def stood_in_for(app: Any, database: object) -> Iterator[None]:
    """Let `database` serve meanwhile in the place of the one whose lifespan runs for `app`."""
    before = getattr(app.state, _STAND_IN, None)
    setattr(app.state, _STAND_IN, _StandIn(database))
    try:
        yield
    finally:
        setattr(app.state, _STAND_IN, before)


def stand_in_of(app: Any) -> Any:
    """Return the Database that is to serve in the place of the app's own; None for its own."""
    stand_in: _StandIn | None = getattr(app.state, _STAND_IN, None)
    return None if stand_in is None else stand_in.database


def take_stand_in(app: Any, database: object) -> Any:
    """Return what is to serve `app` in the place of `database`; None for that itself.

    Raises:
        ConfigurationError: Another one of the app's has it already.
    """
    stand_in: _StandIn | None = getattr(app.state, _STAND_IN, None)
    if stand_in is None or stand_in.database is database:
        return None
    if stand_in.replaced not in (None, database):
        raise ConfigurationError(
            f"bind(): the app opens {stand_in.replaced!r} and {database!r}, and it is unclear which"
            " one is meant: write bind(app, db, instead_of=…)."
        )
    stand_in.replaced = database
    return stand_in.database


def databases_of(app: Any) -> Sequence[Any]:
    """Return the databases that are bound to `app` now."""
    return _databases(app).choices()


def database_of(connection: HTTPConnection) -> Any:
    """Return the one database of the app that serves `connection`.

    Raises:
        DatabaseNotBound: There is none, or more than one.
    """
    app = connection.scope["app"]
    databases = _databases(app)
    if len(databases.own) == 1:  # nearly always: without making lists at each request
        return databases.own[0]
    choices = databases.choices() or [it for it in [stand_in_of(app)] if it is not None]
    if len(choices) == 1:
        return choices[0]
    title = getattr(app, "title", type(app).__name__)
    if not choices:
        raise DatabaseNotBound(
            f"No database is bound to the app {title!r}, or its lifespan did not run. Write"
            " `FastAPI(lifespan=db.lifespan)`, or `async with db.lifespan(app): yield` in a"
            " lifespan of your own. A test client runs the lifespan only inside `with"
            " TestClient(app)`; httpx.ASGITransport never does."
        )
    raise DatabaseNotBound(
        f"The app {title!r} has {len(choices)} databases ({', '.join(map(repr, choices))}), and"
        " get_session cannot know which one is meant. Depend on the method of the one you mean:"
        " `Depends(db.get_session)`; a mounted app of its own can be bound to one, with `async"
        " with db.lifespan(mounted_app)`."
    )


def _databases(app: Any) -> _Databases[Any]:
    databases = getattr(app.state, _STATE, None)
    if databases is None:
        databases = _Databases()
        setattr(app.state, _STATE, databases)
    return databases
