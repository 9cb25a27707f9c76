"""Another Database in the place of the app's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastdb.binding import databases_of, stood_in_for
from fastdb.database import Database
from fastdb.errors import ConfigurationError


@contextmanager
def bind(app: Any, db: Database, *, instead_of: Database | None = None) -> Iterator[None]:
    """Let `db` serve `app` in the block, in the place of the app's own Database.

        with bind(app, Database("sqlite://")), TestClient(app) as client:
            client.post("/heroes", json={"name": "Deadpond"})

    The app's code stays as it is: its dependencies, and everything that its own Database is asked
    for, lead to `db`. Its lifespan may run in the block, or be running already. Where it does not
    run at all, nobody knows what the app's own Database is: then `SessionDep` and the like lead to
    `db`, and for `db.get_session` or `db.session()` of the app's own, say `instead_of`.
    With `rolled_back(db)`, begin that before.

    Args:
        app: The FastAPI app.
        db: Closed by whoever has opened it.
        instead_of: Which of the app's Databases. Default: the one that its lifespan opens.

    Raises:
        ConfigurationError: The app's lifespan is running and has opened several; say which.
    """
    running = databases_of(app)
    if instead_of is not None:
        with instead_of.supplied_by(db.supply):
            yield
    elif not running:
        with stood_in_for(app, db):
            yield
    elif len(running) == 1:
        with running[0].supplied_by(db.supply):
            yield
    else:
        raise ConfigurationError(
            f"bind(): the app has {len(running)} Databases ({', '.join(map(repr, running))}), and"
            " it is unclear which one is meant: write bind(app, db, instead_of=…)."
        )
