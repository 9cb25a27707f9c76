"""Which Database belongs to which app.

The answer hangs on the app itself, so that two apps in one process never see each other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from starlette.requests import HTTPConnection

from fastdb.errors import DatabaseNotBound
from fastdb.routes import mounted_apps

D = TypeVar("D")

_STATE = "fastdb"


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


def database_of(connection: HTTPConnection) -> Any:
    """Return the one database of the app that serves `connection`.

    Raises:
        DatabaseNotBound: There is none, or more than one.
    """
    app = connection.scope["app"]
    databases = _databases(app)
    if len(databases.own) == 1:  # nearly always: without making lists at each request
        return databases.own[0]
    choices = databases.choices()
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
